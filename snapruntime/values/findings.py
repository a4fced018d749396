"""What `snapruntime check` has to say: rules, findings, and the report of one check. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: How bad a finding is, worst first. Notes are things to know; they are no alarms.
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of thing that goes wrong in copies of a snapshot.

    Attributes:
        id: stable: "SR001".
        name: the same for people: "shared-generator".
        severity: one of `SEVERITIES`.
        title: what is found, in a line.
        why: what that does after a restore.
        mend: what to do about it.
        hook: the ready-made hook in `hooks/` that does it, where that is one and the same for all findings.
    """

    id: str
    name: str
    severity: str
    title: str
    why: str
    mend: str
    hook: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of the function's code.

    Attributes:
        file: relative to the folder of the function, or as it was given.
        line: from 1.
    """

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        rule: which kind.
        message: what was seen, with names and numbers.
        path: the object or value that it is about: "handler.rng", "response.id"; empty where there is none.
        place: the line that made it; None where it is not known.
        found_by: "static", "state", "differential" or "dynamic".
        suppressed: the reason that a comment gives; None where it counts.
        special: the ready-made hook for this very object, where the rule's own is not it.
        advice: what to do about this very finding, where what the rule says is not it.
    """

    rule: Rule
    message: str
    path: str = ""
    place: Place | None = None
    found_by: str = "state"
    suppressed: str | None = None
    special: str = ""
    advice: str = ""

    @property
    def mend(self) -> str:
        """What to do about it."""
        return self.advice or self.rule.mend

    @property
    def hook(self) -> str:
        """The ready-made hook that mends it; empty where there is none."""
        return self.special or self.rule.hook

    @property
    def counts(self) -> bool:
        return self.suppressed is None


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one check.

    Attributes:
        handler: what was checked.
        task_root: the folder that places are relative to; absolute.
        findings: worst first; suppressed ones too.
        figures: what was measured: times in ms, memory in KB, counts.
    """

    handler: str
    task_root: str
    findings: tuple[Finding, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def handler_error(self) -> str:
        """How the handler failed in each process, so that there was nothing to compare; empty where it answered."""
        return str(self.figures.get("handler_error", ""))

    def of(self, severity: str) -> list[Finding]:
        """The findings that count, of one severity."""
        return [finding for finding in self.findings if finding.counts and finding.rule.severity == severity]

    def fails(self, at: str) -> bool:
        """Whether there is a finding that counts and is `at` least so bad."""
        return any(self.of(severity) for severity in SEVERITIES[: SEVERITIES.index(at) + 1])
