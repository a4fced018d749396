"""What is done to processes, files and disks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def pidfd_of(pid: int) -> Iterator[int]:
    """A pidfd of a process that is known to live."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def send(pidfd: int, number: signal.Signals) -> None:
    """A signal; to one that has ended already it is none."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def fill(balloon: Path, spare: int) -> None:
    """Take all the room there is, but for `spare` bytes."""
    free = os.statvfs(balloon.parent)
    size = free.f_bavail * free.f_frsize - spare
    with open(balloon, "wb") as file:
        while size > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                return
            except OSError:  # Somebody else took some of it meanwhile.
                size -= 1 << 20


def damage(path: Path, dice: random.Random) -> None:
    """Flip a bit of a file, cut it, or remove it."""
    size = path.stat().st_size
    match dice.choice(["flip", "flip", "flip", "cut", "remove"]):
        case "flip" if size:
            with open(path, "r+b") as file:
                at = dice.randrange(size)
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1 << dice.randrange(8)]))
        case "cut" if size:
            os.truncate(path, dice.randrange(size))
        case _:
            path.unlink()
