"""Control groups: what a worker and each copy may take of the host's memory, processors and processes.

One group per process and hierarchy, below a folder of this supervisor's own:

    OWN CGROUP/snapruntime/RUN/COPY      v1, in each controller's hierarchy
    NEAREST ABOVE/snapruntime/RUN/COPY   v2: a group with processes of its own, as ours, may not give controllers on

so that limits that were put on us hold for the copies too. A process is in its group from before its first instruction:
it enters, or the CRIU that makes it is in there and it inherits that. RUN is locked (flock) for as long as its
supervisor lives; the next start takes away those that nobody holds. Sources: cgroups(7), cgroup-v2.rst, cgroup-v1/.

Memory that copies share, such as the snapshot's memory file, is counted for whoever brought it into the page cache
first; that is never a reason to be killed, since the kernel takes such pages away before it kills.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapruntime.mechanisms.plan import Plan, remove_cgroup

#: The controllers that limits are set in.
CONTROLLERS = ("memory", "cpu", "pids")
#: What each of them limits, in words.
LIMITED = {"memory": "memory", "cpu": "share of the processors", "pids": "number of processes"}

#: Memory at which Lambda gives a function one whole processor, MB (developer guide, "Configure memory").
ONE_PROCESSOR_MB = 1769
#: Processes and threads that a Lambda function may have (developer guide, "Lambda quotas").
PROCESSES = 1024
#: What is allowed beside the function's own memory, bytes: CRIU is in the group while it makes a copy (2 MB were seen),
#: and the kernel's own memory for its processes counts too.
ALLOWANCE = 4 << 20

#: By version: where a process writes "0" to enter a group. With v1's `tasks` only the thread that asks moves, all that
#: there is of a process just forked; for that the kernel does not wait until all processors know, some 10 ms
#: (cgroup_procs_write_start, since Linux 5.5). v2's `cgroup.threads` leads to threaded groups only.
_JOIN = {1: "tasks", 2: "cgroup.procs"}

_FOLDER = "snapruntime"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted hierarchy, and where in it our groups can be.

    Attributes:
        version: 1 or 2.
        controllers: those of `CONTROLLERS` that it has.
        parent: the folder of the group below which ours are to be made.
    """

    version: int
    controllers: tuple[str, ...]
    parent: Path


def find_hierarchies(root: Path = Path("/")) -> list[Hierarchy]:
    """The hierarchies that have a controller we use and let us make groups; v2's controllers are enabled on the way.

    Args:
        root: for tests.
    """
    mounted: dict[str, tuple[str, Path]] = {}  # controller of v1, or "" for v2 -> root of the mount, its place
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        _, _, _, top, point, *_ = fields.split()
        kind, _, options = rest.split()[:3]
        names = [""] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []
        for name in names:
            mounted.setdefault(name, (top, root / point.lstrip("/")))
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, own = line.split(":", 2)
        for name in controllers.split(","):
            if name and name not in CONTROLLERS:
                continue
            top, place = mounted.get(name, ("", Path()))
            if not top or not _is_below(own, top):
                continue  # Not mounted here, or we are outside of what is.
            parent = place / own[len(top.rstrip("/")) :].lstrip("/")
            if name and os.access(parent, os.W_OK):
                found.append(Hierarchy(1, (name,), parent))
            elif not name and (unified := _unified(place, parent)):
                found.append(unified)
    return found


def _unified(top: Path, own: Path) -> Hierarchy | None:
    """The nearest group at or above `own` that can give controllers on; only the root can while it has processes."""
    for parent in (own, *own.parents):
        enabled = []
        if not _is_inhabited(parent):
            offered = _words(parent / "cgroup.controllers")
            enabled = [name for name in CONTROLLERS if name in offered and _enable(parent, name)]
        if enabled:
            return Hierarchy(2, tuple(enabled), parent)
        if parent == top:
            break
    return None


def _is_inhabited(group: Path) -> bool:
    """Whether it has processes of its own, and is not the root of all, which alone has no type.

    The kernel would enable cpu and pids in it, if not memory; but that makes it a threaded domain, and no process can
    enter the groups below such a one (EOPNOTSUPP).
    """
    return (group / "cgroup.type").exists() and bool(_words(group / "cgroup.procs"))


def _enable(group: Path, controller: str) -> bool:
    if controller in _words(group / "cgroup.subtree_control"):
        return os.access(group, os.W_OK)
    try:
        (group / "cgroup.subtree_control").write_text(f"+{controller}")
    except OSError:
        return False
    return True


class Cgroups:
    """The groups of one supervisor. Closing it takes them away; all their processes must have ended, or end now.

    Where the host has no hierarchy for us there are no groups, no limits, and no measurements.
    """

    def __init__(self, hierarchies: Sequence[Hierarchy]) -> None:
        self._hierarchies: list[tuple[Hierarchy, Path]] = []
        self._locks: list[int] = []
        run = uuid.uuid4().hex[:12]
        for hierarchy in hierarchies:
            base = hierarchy.parent / _FOLDER
            try:
                base.mkdir(exist_ok=True)
                _clear(base)
                if (lock := _make_locked(base / run)) is None:
                    continue
            except OSError:
                continue  # Not for us after all. `snapruntime doctor` says so.
            self._locks.append(lock)
            self._hierarchies.append((hierarchy, base / run))
            if hierarchy.version == 2:
                for group in (base, base / run):
                    for controller in hierarchy.controllers:
                        _enable(group, controller)
            if "cpu" in hierarchy.controllers:
                name, weight = _weight(hierarchy, os.cpu_count() or 1)
                for group in (base, base / run):
                    with contextlib.suppress(OSError):  # A share is a wish: without it, it is the kernel's default.
                        (group / name).write_text(weight)

    @property
    def unlimited(self) -> tuple[str, ...]:
        """The controllers that no group has here: what they limit, functions may take as much of as there is."""
        return tuple(name for name in CONTROLLERS if not any(name in one.controllers for one, _ in self._hierarchies))

    def surround(self, name: str, memory_mb: int) -> Plan:
        """Make the group `name` and put the process that runs this plan into it.

        Args:
            memory_mb: the function's memory size, MB of 2**20 bytes.
        """
        plan: Plan = []
        for hierarchy, run in self._hierarchies:
            plan.append(["mkdir", str(run / name), 0o755])
            plan += [
                ["write", str(run / name / file), value]
                for file, value in _limits(hierarchy, memory_mb)
                if (run / file).exists()  # Not all kernels count swap, or can kill a whole group at once.
            ]
            plan.append(["write", str(run / name / _JOIN[hierarchy.version]), "0"])
        return plan

    def remove(self, name: str) -> Plan:
        """Take the group `name` away, and end whatever is still in it."""
        return [["remove_cgroup", str(run / name)] for _, run in self._hierarchies]

    def meter(self, name: str) -> Meter | None:
        """What tells how much memory the group `name` has taken; None where there is nothing that does."""
        for hierarchy, run in self._hierarchies:
            if "memory" in hierarchy.controllers:
                return Meter(hierarchy.version, run / name)
        return None

    def close(self) -> None:
        """Take all groups away."""
        for _, run in self._hierarchies:
            with contextlib.suppress(OSError):
                _remove(run)
                run.parent.rmdir()  # Fails where another supervisor has groups in there.
        self._hierarchies.clear()
        while self._locks:
            os.close(self._locks.pop())


def _limits(hierarchy: Hierarchy, memory_mb: int) -> Iterator[tuple[str, str]]:
    """The files of a group, and what is to be written to them, in this order."""
    memory, v2 = str((memory_mb << 20) + ALLOWANCE), hierarchy.version == 2
    if "memory" in hierarchy.controllers:
        yield ("memory.max" if v2 else "memory.limit_in_bytes"), memory
        # No swap on top of it: v1 counts both together.
        yield ("memory.swap.max" if v2 else "memory.memsw.limit_in_bytes"), "0" if v2 else memory
        yield "memory.oom.group", "1"  # v1 has none: there, `Meter.oom_kills` is looked at after each answer.
    if "pids" in hierarchy.controllers:
        yield "pids.max", str(PROCESSES)
    if "cpu" in hierarchy.controllers:
        # A share and no ceiling: a copy has what the others leave, and Lambda's proportions where all want more.
        yield _weight(hierarchy, memory_mb / ONE_PROCESSOR_MB)


def _weight(hierarchy: Hierarchy, processors: float) -> tuple[str, str]:
    """The file, and the value, by which a group counts for as much as busy processes on so many processors.

    The groups above the copies' count for as many as there are: by default they would count for one process together,
    and a copy on its way would have to wait for all else that the host does (restores took twice as long).
    """
    name, least, one, most = (
        ("cpu.weight", 1, 100, 10_000) if hierarchy.version == 2 else ("cpu.shares", 2, 1024, 1 << 18)
    )
    return name, str(min(most, max(least, round(one * processors))))


@dataclass(frozen=True, slots=True)
class Meter:
    """What a group has used of memory. Its answers are there until the group is taken away.

    Attributes:
        version: 1 or 2.
        folder: the group's, in the hierarchy with the memory controller.
    """

    version: int
    folder: Path

    def oom_kills(self) -> int:
        """How many of its processes were killed because it was at its limit."""
        text = self._read("memory.events" if self.version == 2 else "memory.oom_control")
        return _value(text, b"oom_kill")

    def peak_bytes(self, least: int = 0) -> int | None:
        """The most it has used, without the pages of files that it holds now; None where the kernel does not tell.

        Files in /tmp are memory, and count.

        Args:
            least: a peak of no more than this is not looked into: what is returned is then perhaps too much, but no
                more than this.
        """
        peak = self._read("memory.peak" if self.version == 2 else "memory.max_usage_in_bytes")
        if not peak.strip().isdigit():
            return None
        if int(peak) <= least:
            return int(peak)
        text = self._read("memory.stat")  # Which takes the kernel longest.
        cached = _value(text, b"file" if self.version == 2 else b"cache") - _value(text, b"shmem")
        return max(0, int(peak) - cached)

    def _read(self, name: str) -> bytes:
        """A file's content; empty where it cannot be had. Every answer waits for this: a few system calls, no more."""
        try:
            fd = os.open(f"{self.folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.read(fd, 1 << 16)
        except OSError:
            return b""
        finally:
            os.close(fd)


def _value(text: bytes, key: bytes) -> int:
    """The number after `key` in lines of "key number"; 0 where it is not there."""
    found = re.search(rb"^" + key + rb" (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _make_locked(folder: Path) -> int | None:
    """Make a folder, and lock it for as long as the returned descriptor is open; None where another took it away."""
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # Between the two, one who clears up may have had it for a moment, and have taken it away.
    if _take(lock) and folder.exists():
        return lock
    os.close(lock)
    return None


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(base: Path) -> None:
    """Take away the groups of supervisors that have ended without doing so: nobody holds their locks."""
    for run in base.iterdir():
        with contextlib.suppress(OSError):  # Someone else clears up too, or it is no group.
            lock = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if _take(lock):
                    _remove(run)
            finally:
                os.close(lock)


def _remove(run: Path) -> None:
    for entry in run.iterdir():
        if entry.is_dir():
            remove_cgroup(str(entry))
    remove_cgroup(str(run))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
