"""Which PID a process has: each PID namespace that it is in gives it one of its own (pid_namespaces(7))."""

from __future__ import annotations

import contextlib
from pathlib import Path


def host_pids(pid: int) -> dict[int, int]:
    """The processes at and below `pid`: from the PID that each has in its own PID namespace to the one it has here."""
    found: dict[int, int] = {}
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text("utf-8", "replace")
            inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
            found[int(inner)] = process
            for children in Path(f"/proc/{process}/task").glob("*/children"):
                waiting += map(int, children.read_text("ascii").split())
    return found


def pid_of(pidfd: int) -> int:
    """The PID, in this process's own PID namespace, of what `pidfd` refers to; -1 or 0 where that is unknown."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return 0
