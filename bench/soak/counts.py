"""What must be the same at the end as at the start: processes, mounts, descriptors, cgroups, files, memory."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
from pathlib import Path

import psutil

#: Of supervisors that were killed: what the start of the next has not taken away.
STUCK = "cgroups that the next start leaves"
#: Counts that may fall, and how far they may rise: of resident memory, KiB, since the soak's own book of 10,000
#: requests is in it too, and a short soak has not gone every way when it begins to count (9 MB more after 300 requests,
#: 4 after 1,200).
_SLACK = {"supervisor RSS, KiB": 16 << 10, "spawner RSS, KiB": 2 << 10}


def spawner_of(supervisor: psutil.Process) -> psutil.Process:
    """The spawner's inner process, which has all others below it; StopIteration where there is none (yet)."""
    for outer in supervisor.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # Another child, which has ended meanwhile.
            for inner in outer.children():
                if inner.name() == "snap-spawner":
                    return inner
    raise StopIteration


def count(home: Path) -> dict[str, int]:
    """Count everything that is ours, in this process and its spawner."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # Another C library than glibc.
        ctypes.CDLL(None).malloc_trim(0)  # Each thread that ever was left it an arena with memory that is free.
    me = psutil.Process()
    spawner = spawner_of(me)
    rooms = Path(f"/proc/{spawner.pid}/root")
    below = me.children(recursive=True)
    return {
        "processes": len(below),
        "of them zombies": sum(process.status() == psutil.STATUS_ZOMBIE for process in below),
        "supervisor descriptors": len(os.listdir("/proc/self/fd")),
        "spawner descriptors": len(os.listdir(f"/proc/{spawner.pid}/fd")),
        "supervisor threads": me.num_threads(),
        # Other mounts of the host's may go meanwhile, and with them those of their kind in each mount namespace.
        "mounts of the host": _mounts("self", str(home), "/run/snapruntime/"),
        "mounts of the spawner": _mounts(str(spawner.pid), "/run/snapruntime/"),
        "cgroups": len(_own_groups()),
        "files in /tmp": sum("criu" in name or "snapruntime" in name for name in os.listdir("/tmp")),
        "files in the spawner's /tmp": len(os.listdir(rooms / "tmp")),
        "folders of the spawner's sandboxes": len(list((rooms / "run/snapruntime").glob("*/copies/*"))),
        "files in /dev/shm": len(os.listdir("/dev/shm")),
        "snapshots in the making": len(list(home.glob("snapshots/*/.new-*"))),
        "supervisor RSS, KiB": me.memory_info().rss >> 10,
        "spawner RSS, KiB": spawner.memory_info().rss >> 10,
    }


def _mounts(pid: str, *folders: str) -> int:
    points = (line.split()[1] for line in Path(f"/proc/{pid}/mounts").read_text().splitlines())
    return sum(point.startswith(folders) and not point.startswith("/run/snapruntime/host-") for point in points)


def _own_groups() -> list[Path]:
    """The groups of copies, in the folders that this supervisor holds open to lock them."""
    links = (os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
    held = (Path(link) for link in links if link.startswith("/sys/fs/cgroup/") and "/snapruntime/" in link)
    return [group for run in held for group in run.iterdir() if group.is_dir()]


def abandoned_groups() -> set[Path]:
    """The folders of supervisors that have ended, which the start of the next takes away."""
    found = set()
    # By os.walk, which bears what disappears while it looks: other supervisors come and go.
    runs = [
        Path(top, name) for top, names, _ in os.walk("/sys/fs/cgroup") if top.endswith("/snapruntime") for name in names
    ]
    for run in runs:
        with contextlib.suppress(OSError):  # Somebody else's, who has just taken it away.
            lock = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                found.add(run)
            finally:
                os.close(lock)
    return found


def differences(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Which counts are not as they were, in words."""
    return [
        f"{name}: {before[name]} at the start, {number} at the end"
        for name, number in after.items()
        if (number > before[name] + _SLACK[name] if name in _SLACK else number != before[name])
    ]
