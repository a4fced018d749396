"""Files of the host whose names a function gave: looked at without being led anywhere, nor held up, by them.

What init says that it read, and what its process has mapped, are names in its sandbox. Here, as root, the same names
may lead elsewhere: a link to /proc/kmsg waits for the next line of the kernel's log and takes it from whoever else
would read it, a device acts on being opened, and a file with holes may be longer than anybody can read.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from snapruntime.mechanisms.linux import filesystem_type

#: Files from this size on are known by their size, times and inode alone; bytes.
READ_LIMIT = 256 << 20
#: The longest that the files of one snapshot may take to be read, seconds; those left are known by the same.
READ_LIMIT_S = 10.0

#: Stands in place of a digest of what was not read: it equals nothing.
UNREAD = "not read"

#: The kernel's own (linux/magic.h): their files' content is made when it is asked for, and may be made by the asking.
_PROC, _SYSFS = 0x9FA0, 0x62656572
#: Where the sandbox has something of its own under names that the host has as well.
_PRIVATE = ("/tmp", "/proc", "/sys", "/dev", "/run", "/var")
_CHUNK = 1 << 20


def proper(path: str, shown: Collection[str]) -> str | None:
    """A path from a function as the host's name of the same file; None where there is no such.

    Args:
        shown: absolute paths of the host that the sandbox has as they are, wherever they lie.
    """
    if not path.startswith("/"):
        return None
    path = os.path.normpath("/" + path.lstrip("/"))  # Two slashes in front would be kept: POSIX leaves them open.
    private = _below(path, _PRIVATE) and not _below(path, shown)
    return None if private else path


def _below(path: str, folders: Collection[str]) -> bool:
    return any(f"{path}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)


@contextmanager
def opened(path: str, shown: Collection[str] | None = None) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor for a regular file (to read) or a folder (to list), and its state.

    Args:
        shown: as for `proper`, which the file's own path must be as well, links followed. None: it need not.

    Raises:
        OSError, ValueError: it is neither, is the kernel's, may not be used, or cannot be opened.
    """
    # By O_PATH nothing is done to the file; only what it has turned out to be is opened, by its descriptor.
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status, link = os.fstat(found), f"/proc/self/fd/{found}"
        folder = stat.S_ISDIR(status.st_mode)
        if not (folder or stat.S_ISREG(status.st_mode)) or filesystem_type(found) in (_PROC, _SYSFS):
            raise ValueError(f"{path} is no file of a disk")
        if shown is not None and proper(os.readlink(link), shown) is None:
            raise ValueError(f"{path} is not what the function has by that name")
        kind = os.O_DIRECTORY if folder else os.O_NONBLOCK | os.O_NOCTTY
        fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | kind)
    finally:
        os.close(found)
    try:
        yield fd, status
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Reading:
    """How long the reading of many files may go on; for several threads.

    Attributes:
        watch: called before each piece of a file; what it raises ends the reading.
    """

    watch: Callable[[], None] = lambda: None
    deadline: float = field(default_factory=lambda: time.monotonic() + READ_LIMIT_S)

    def digest(self, fd: int) -> str:
        """SHA-256 of a file; `UNREAD` where it is too large for that, or time is over. Raises OSError."""
        if os.fstat(fd).st_size >= READ_LIMIT:
            return UNREAD
        digest, left = hashlib.sha256(), READ_LIMIT  # It may grow meanwhile.
        while left > 0 and time.monotonic() < self.deadline:
            self.watch()
            piece = os.read(fd, _CHUNK)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)
            left -= len(piece)
        return UNREAD
