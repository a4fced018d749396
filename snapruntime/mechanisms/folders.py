"""Folders that appear whole and go whole: made under a passing name, renamed when all is on the disk, removed when
nobody has a lock on them. A lock is flock(2) on the folder itself: it ends with the process that holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from snapruntime.mechanisms.manifest import walk
from snapruntime.values.errors import HostError

#: How the name of a folder begins that is being made or removed; not locked means that whoever did so is dead.
STAGING = ".new-"

#: How often a lock that somebody else has is asked for again, seconds.
_LOCK_INTERVAL_S = 0.02

#: Why nobody else may write to the folder of all snapshots.
SNAPSHOTS_REASON = "what is in a snapshot is executed"

#: Where in the data folder the code of versions is, each in a folder of its own.
CODE = "functions/code"


def own(folder: Path, reason: str) -> None:
    """Make a folder of the data folder where it does not exist; nobody else may write to it.

    Args:
        reason: why that matters.

    Raises:
        HostError: it cannot be made, or others than its owner may write to it.
    """
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise unusable(folder.parent, error) from error
    check_own(folder, reason)


def unusable(home: Path, error: OSError) -> HostError:
    return HostError(
        f"The data folder {home} cannot be used: {error}",
        hint="Make room or give access, or name another folder with SNAPRUNTIME_HOME.",
    )


def check_own(folder: Path, reason: str) -> None:
    """The same of a folder that should be there already: only look."""
    try:
        status = folder.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    except OSError as error:
        raise unusable(folder.parent, error) from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise HostError(
            f"{folder} must belong to the user who runs snapruntime, and be writable by nobody else: {reason}.",
            hint=f"chown {os.geteuid()} {folder}; chmod 700 {folder}",
        )


def disk_hint(error: OSError) -> str:
    """What to do where the disk does not take something."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free disk space (`snapruntime gc`), or name a folder on a larger disk with SNAPRUNTIME_HOME."
    return "Check the disk that SNAPRUNTIME_HOME is on."


def make_staging(parent: Path) -> tuple[Path, int]:
    """A new folder, and the lock on it. Somebody who clears up may have seen it before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=parent))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if try_lock(lock, fcntl.LOCK_EX) and os.path.samestat(os.fstat(lock), folder.stat()):
                    return folder, lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)


def fsync(path: Path) -> None:
    """Bring a file or the names in a folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_tree(folder: Path) -> None:
    """Bring a folder with all that is in it to the disk."""
    for name, status in walk(folder):
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            fsync(folder / name)
    fsync(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder, however deep: what is in a snapshot's /tmp was made by a function. What cannot be, stays."""
    # Of folders in folders Python comes to an end of its own: of recursion, and from 3.13 on of descriptors.
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)


def remove_if_unused(folder: Path, *, unless: Callable[[], bool] = lambda: False, dry_run: bool = False) -> bool:
    """Remove a folder that nobody has a lock on; it loses its name first, so that nobody can take one meanwhile.

    Args:
        unless: asked under the lock, when nobody can begin to use it any more: whether it is needed after all.
        dry_run: only find out.

    Returns:
        Whether it was, or would be, removed.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # Somebody else removes it too; or it is a file.
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if try_lock(lock, fcntl.LOCK_EX) and os.path.samestat(os.fstat(lock), folder.stat()) and not unless():
                if not dry_run:
                    # By a name of its own: code that came again goes again, while the first is still being removed.
                    doomed = folder.with_name(f"{STAGING}{uuid.uuid4().hex}")
                    folder.rename(doomed)
                    remove_tree(doomed)
                return True
        finally:
            os.close(lock)
    return False


def try_lock(fd: int, kind: int) -> bool:
    """Take a lock (`fcntl.LOCK_SH` or `LOCK_EX`) if nobody's is in the way; says whether."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take_lock(fd: int, kind: int, patience: float) -> bool:
    """The same, but wait for whoever is in the way, `patience` seconds at most: flock(2) itself knows no deadline."""
    deadline = time.monotonic() + patience
    while not try_lock(fd, kind):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOCK_INTERVAL_S)
    return True
