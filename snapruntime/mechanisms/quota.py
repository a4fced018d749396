"""What a function's init may put on the disk: its /tmp, which lies there until the snapshot is taken, and its images.

A copy's /tmp is a file system in memory, with a size of its own. Init's cannot be one: what its processes have open
must keep its inode when it becomes part of the snapshot (SQLite refuses to write otherwise). So it is looked at again
and again while init runs, which ends a moment after it has taken too much.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from snapruntime.mechanisms.manifest import check_nesting
from snapruntime.mechanisms.pids import host_pids
from snapruntime.values.errors import SnapshotError
from snapruntime.values.model import TMP_LIMIT

#: What images may take: so many times the function's memory, and so many bytes. What processes have in common since a
#: fork counts once as memory, but is saved for each of them.
_IMAGES_TIMES, _IMAGES_MORE = 4, 1 << 30

#: Files that may be in it: as many as there are pages of 4 KiB, as in a copy.
FILES_LIMIT = TMP_LIMIT >> 12


class Quota:
    """Looks after the folder that init writes to.

    Args:
        folder: init's /tmp.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._device = os.stat(folder).st_dev
        # Files without a name that no process shows (on their way through a socket) only show in what is free: they
        # shall leave the disk as much as a copy may have.
        self._reserve = min(TMP_LIMIT, self._free() // 2)

    def check(self, pid: int) -> None:
        """Look at it, and at what the processes at and below `pid` hold there without a name.

        Raises:
            SnapshotError: it holds more than is allowed, is nested too deeply, or the disk is nearly full.
        """
        size, files = self._used()
        nameless = self._nameless(pid)
        size, files = size + sum(nameless.values()), files + len(nameless)
        if size > TMP_LIMIT or files > FILES_LIMIT:
            raise SnapshotError(
                f"Init and the before-snapshot hooks wrote {size >> 20} MB in {files} files to /tmp; "
                f"as on Lambda, {TMP_LIMIT >> 20} MB are allowed, and {FILES_LIMIT} files.",
                hint="Have the function write less, or remove what it does not need any more.",
            )
        if self._free() < self._reserve:
            raise SnapshotError(
                f"While init ran, less than {self._reserve >> 20} MB were left on the disk of {self._folder}.",
                hint="Free disk space, or name a folder on a larger disk with SNAPRUNTIME_HOME.",
                code="Snapruntime.DiskFull",
            )

    def _free(self) -> int:
        status = os.statvfs(self._folder)
        return status.f_bavail * status.f_frsize

    def _used(self) -> tuple[int, int]:
        """Bytes on the disk, and files; of what is renamed or removed meanwhile, some may be missed."""
        size, files, waiting = 0, 0, [""]
        while waiting and files <= FILES_LIMIT:
            parent = waiting.pop()
            check_nesting(parent)  # No snapshot could have it; further down, its paths would not be found any more.
            try:
                with os.scandir(self._folder / parent) as entries:
                    for entry in entries:
                        files += 1
                        try:
                            size += entry.stat(follow_symlinks=False).st_blocks * 512
                        except OSError:
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(f"{parent}/{entry.name}" if parent else entry.name)
            except OSError:
                continue
        return size, files

    def _nameless(self, pid: int) -> dict[int, int]:
        """Of files that are open or mapped, but have no name (O_TMPFILE, or removed): inode -> bytes on the disk."""
        found: dict[int, int] = {}
        for process in host_pids(pid).values():
            with contextlib.suppress(OSError):  # It has ended.
                for held in _held(f"/proc/{process}"):
                    with contextlib.suppress(OSError):
                        status = os.stat(held)
                        if status.st_nlink == 0 and status.st_dev == self._device and stat.S_ISREG(status.st_mode):
                            found[status.st_ino] = status.st_blocks * 512
        return found


def check_images(folder: Path, memory_mb: int) -> None:
    """Look at the images that are being written to `folder` of a function with so much memory.

    Raises:
        SnapshotError: they take more of the disk than is allowed.
    """
    with os.scandir(folder) as entries:
        size = sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    limit = _IMAGES_TIMES * (memory_mb << 20) + _IMAGES_MORE
    if size > limit:
        raise SnapshotError(
            f"The snapshot takes more than {limit >> 20} MB of the disk, which is {_IMAGES_TIMES} times the function's "
            f"{memory_mb} MB of memory, and {_IMAGES_MORE >> 20} MB: memory that processes share since a fork is saved "
            "for each of them.",
            hint="Start child processes in the handler or an after-restore hook, or give the function more --memory.",
        )


def _held(process: str) -> Iterator[str]:
    """What leads to the files that a process has open, and to those that it has mapped and which have no name."""
    with os.scandir(f"{process}/fd") as entries:
        yield from (entry.path for entry in entries)
    with open(f"{process}/maps", "rb") as maps:
        for line in maps:
            if line.endswith(b" (deleted)\n"):
                yield f"{process}/map_files/{line.split()[0].decode('ascii')}"
