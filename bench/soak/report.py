"""The soak's report: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .book import Entry


@dataclass(frozen=True, slots=True)
class Result:
    """How a soak went.

    Attributes:
        command: what it was started by.
        host: kernel, machine, processors.
        seed: decided what was done to which request.
        wanted: how many requests were to be made.
        limit: how long it might take, seconds.
        seconds: how long it took.
        kills: how many supervisors or spawners were killed, each while it made, restored or ran a snapshot.
        entries: what became of the requests, and of how many.
        wrong: requests that ended as they should not.
        unaccounted: requests without an end.
        before: counts after the warm-up.
        after: counts at the end.
        leaked: those that grew.
    """

    command: str
    host: dict[str, Any]
    seed: int
    wanted: int
    limit: float
    seconds: float
    kills: int
    entries: dict[Entry, int]
    wrong: list[str]
    unaccounted: list[str]
    before: dict[str, int]
    after: dict[str, int]
    leaked: list[str]

    @property
    def made(self) -> int:
        """Requests that have an end."""
        return sum(self.entries.values())

    @property
    def passed(self) -> bool:
        """Whether all were made, in time, none was lost or wrong, and nothing was left."""
        complete = self.made == self.wanted and self.seconds <= self.limit
        return complete and not (self.wrong or self.unaccounted or self.leaked)


def write(result: Result, path: Path | None) -> str:
    """The report as Markdown; written to `path`.md and `path`.json too where one is given."""
    text = "\n".join(_lines(result)) + "\n"
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".md").write_text(text, "utf-8")
        entries = [asdict(entry) | {"requests": number} for entry, number in sorted_entries(result)]
        document = {field.name: getattr(result, field.name) for field in fields(result)}
        document |= {"entries": entries, "made": result.made, "passed": result.passed}
        path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return text


def sorted_entries(result: Result) -> list[tuple[Entry, int]]:
    """By fault, function and outcome."""
    return sorted(result.entries.items(), key=lambda item: (item[0].fault, item[0].function, item[0].outcome))


def _lines(result: Result) -> Iterator[str]:
    outcomes: Counter[str] = Counter()
    for entry, number in result.entries.items():
        outcomes[entry.outcome] += number
    yield f"# Soak: {'passed' if result.passed else 'FAILED'}"
    yield ""
    yield f"`{result.command}` (seed {result.seed}), {', '.join(f'{k} {v}' for k, v in result.host.items())}."
    yield ""
    yield (
        f"{result.made} of {result.wanted} requests in {result.seconds} s (limit {result.limit:.0f} s): "
        f"{outcomes['answered']} answered, {outcomes['failed']} failed by a named error, "
        f"{outcomes['refused']} refused; "
        f"{len(result.unaccounted)} not accounted for, {len(result.wrong)} ended as they should not have. "
        f"{result.kills} supervisors or spawners were killed while they made or used a snapshot."
    )
    for title, lines in (
        ("Wrong", result.wrong[:50]),
        ("Not accounted for", result.unaccounted[:50]),
        ("Left behind", result.leaked),
    ):
        if lines:
            yield from ("", f"## {title}", "", *(f"- {line}" for line in lines))
    yield from ("", "## What was done to requests, and how they ended", "")
    yield from ("| fault | function | outcome | requests |", "|---|---|---|---:|")
    for entry, number in sorted_entries(result):
        outcome = f"{entry.outcome}: {entry.error}" if entry.error else entry.outcome
        yield f"| {entry.fault} | {entry.function} | {outcome} | {number} |"
    yield from ("", "## Counts", "", "| | start | end |", "|---|---:|---:|")
    for name, number in result.after.items():
        yield f"| {name} | {result.before[name]} | {number} |"
    yield from ("", "Start is after a warm-up of one in twenty requests, which are among those above.")
