"""What this host offers: the CRIU to use, and the answer of each capability probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: The oldest CRIU that is taken without a question: the first that knows the vvar_vclock mapping of Linux 6.13.
CRIU_MINIMUM = (4, 1, 0)
#: The first CRIU whose restored processes have no_new_privs where they had it (CRIU's commit a605cc9f3).
CRIU_KEEPS_NO_NEW_PRIVS = (3, 19, 0)
#: The oldest CRIU on arm64 CPUs with pointer authentication: restores by 4.1.1 hang there ("Restoring PAC keys").
CRIU_MINIMUM_PAC = (4, 2, 0)
#: Taken where it is to be had: skips guard pages (MADV_GUARD_INSTALL), knows shadow stacks.
CRIU_PREFERRED = (4, 2, 0)

CriuSource = Literal["system", "prefix", "path"]
Status = Literal["ok", "degraded", "missing"]


def dotted(version: tuple[int, ...]) -> str:
    """`(4, 2, 1)` as "4.2.1"."""
    return ".".join(str(part) for part in version)


@dataclass(frozen=True, slots=True)
class Criu:
    """A CRIU that was found, and how to start it.

    Attributes:
        binary: the ELF file.
        argv: how to start it: `(binary,)`, or the prefix's own dynamic loader with its library path before it.
        version: major, minor, sub-level.
        pycriu: the directory that contains the package `pycriu`, and nothing else that could be imported.
        source: "system" (found on PATH), "prefix" (installed by setup), "path" (named by the user).
    """

    binary: Path
    argv: tuple[str, ...]
    version: tuple[int, int, int]
    pycriu: Path | None
    source: CriuSource

    def describe(self) -> str:
        """For people: "CRIU 4.2.1 (prefix, /path/to/criu)"."""
        return f"CRIU {dotted(self.version)} ({self.source}, {self.binary})"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What `criu check` said.

    Attributes:
        passed: whether CRIU finds everything it needs in this kernel, for this process's privileges.
        output: CRIU's own lines, those that name an error first.
    """

    passed: bool
    output: str


@dataclass(frozen=True, slots=True)
class SetupProgress:
    """One report of a running setup.

    Attributes:
        step: what is being done; stays the same during one step.
        detail: what came out of it so far.
        fraction: how much of the step is done, 0 to 1; None where that is not known.
    """

    step: str
    detail: str = ""
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer of one capability probe.

    Attributes:
        name: stable, for programs: "kernel", "criu_check", …
        status: "ok"; "degraded": works, with a loss that `detail` names; "missing".
        detail: what was seen.
        fix: what to do about it; None when there is nothing to mend.
        required: whether `run` cannot work where this is missing.
    """

    name: str
    status: Status
    detail: str
    fix: str | None
    required: bool

    @property
    def blocks(self) -> bool:
        """Whether `run` cannot work because of this."""
        return self.required and self.status == "missing"
