"""What came of a run: a short log per machine, and a table of all logs. Nothing is in the table that is in no log."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from machines.boot import Result
from machines.catalogue import FACTS, Machine
from machines.image import ROOT, run

#: Where what is to be kept goes: the logs, and the table beside them.
FOLDER = ROOT / "docs" / "platforms"
TABLE = FOLDER / "machines.md"

_HEAD = """\
# Virtual machines

Debian's stock kernels, each with the CRIU that `setup` chose there, in QEMU without hardware's help (TCG): what is
shown is that it works, not how fast. Made by `make test-kernels` and `make test-arm64` with `ARGS=--record` from the
logs in this folder; each runs `doctor`, `run` with hooks and dropped memory of init, and a part of the suite in which
no test may fail or be skipped.

| machine | kernel | pages | CRIU | init | cgroups | outcome | tests | date | command |
|---|---|---|---|---|---|---|---|---|---|
"""
#: Lines of a test run that say how it went; tracebacks are in the console's log only.
_TOLD = re.compile(r"^(FAILED|ERROR) |\b(passed|failed|error)\b.* in [\d.]+s")


def log_text(machine: Machine, target: str, results: Sequence[Result]) -> str:
    """The short log: cells of the table, one per line, and what each step printed."""
    cells = {
        "machine": f"{machine.name}: {machine.about}",
        "date": time.strftime("%Y-%m-%d"),
        "commit": run("git", "describe", "--always", "--dirty", folder=ROOT).strip(),
        "command": f"make {target} ARGS={machine.name}",
        "emulator": run(machine.emulator, "--version").partition("\n")[0],
        "processor": machine.cpu,
        "outcome": outcome(results),
        "used CRIU": _found(results, r"^Ready: CRIU ([^,]*)", "none") + ")",
        "tests": f"{max(result.passed for result in results)} passed",
    }
    text = "".join(f"{name}: {value}\n" for name, value in cells.items())
    for result in results:
        shown = [line for line in result.lines if not result.step.passes or _TOLD.search(line)]
        if result.step == FACTS:
            text += "".join(f"{line}\n" for line in shown)
            continue
        command = " ".join(result.step.argv)
        text += f"\n# {command}\n" + "".join(f"{line}\n" for line in shown)
        text += f"-> {result.trouble or 'ok'}, status {result.status}, {result.seconds:.0f} s\n"
    return text


def outcome(results: Iterable[Result]) -> str:
    """One of: works; degraded, by what `doctor` says; not, or unfinished, with the step that it is for."""
    results = list(results)
    for result in results:
        if result.status is None:
            return f"unfinished ({result.step.name})"
        if result.trouble:
            return f"not ({result.step.name}: {result.trouble})"
    lost = [match[1] for result in results for line in result.lines if (match := re.match(r" *degraded +(.*)", line))]
    return f"degraded ({'; '.join(re.sub(r'  +', ': ', line, count=1).strip() for line in lost)})" if lost else "works"


def _found(results: Iterable[Result], pattern: str, otherwise: str) -> str:
    text = "\n".join(line for result in results for line in result.lines)
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else otherwise


def record(machine: Machine, text: str) -> None:
    """Keep a log, and make the table anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{machine.name}.log").write_text(text, "utf-8")
    TABLE.write_text(table(FOLDER), "utf-8")


def table(folder: Path) -> str:
    """The page of all machines whose logs are in `folder`."""
    text = _HEAD
    for path in sorted(folder.glob("*.log")):
        lines = path.read_text("utf-8").partition("\n\n")[0].splitlines()
        cells = dict(line.split(": ", 1) for line in lines if ": " in line)
        if "machine" not in cells:
            continue  # The log of something else.
        names = ("kernel", "pages", "used CRIU", "init", "cgroups", "outcome", "tests", "date")
        row = [f"[{cells['machine']}]({path.name})", *(cells.get(name, "") for name in names), f"`{cells['command']}`"]
        text += f"| {' | '.join(row)} |\n"
    return text
