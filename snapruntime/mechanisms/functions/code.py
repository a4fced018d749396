"""The code of functions on disk: immutable folders, named after what is in them.

    HOME/functions/code/ID/        the files; ID is from their digest, so that the same code is there once
    HOME/functions/code/.new-*/    code in the making; not locked means that its maker is dead

Whoever uses a folder holds a shared lock on it (a lease), from before anybody else can know of it.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from snapruntime.mechanisms import folders
from snapruntime.mechanisms.functions.unpack import copy_folder, unpack_zip
from snapruntime.mechanisms.manifest import inventory
from snapruntime.values.errors import SnapshotError
from snapruntime.values.function import Code, CodeSource, Removed
from snapruntime.values.service_errors import InvalidZipFileException, ServiceException

#: How much of the digest is in a folder's name, hexadecimal digits.
_DIGITS = 32

#: How long to wait for another process that stores the same code, seconds.
_PATIENCE_S = 30.0


class CodeStore:
    """All code below one data folder. Safe for several threads and processes at once.

    Args:
        root: the folder; it must exist.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def adding(self, source: CodeSource) -> Iterator[Code]:
        """Store code; it is leased until the end of the block, by when the database is to name it.

        Raises:
            RequestEntityTooLargeException, InvalidParameterValueException: the zip file cannot be used.
            UsageError: the folder cannot be used.
            OSError: the disk does not take it.
        """
        folder, lock = folders.make_staging(self._root)
        lease = -1
        try:
            folder.chmod(0o755)  # What mkdtemp makes is closed to the function's user.
            if isinstance(source, bytes):
                unpack_zip(source, folder)
                sha256, size = hashlib.sha256(source).digest(), len(source)
                digest = _digest(inventory(folder))
            else:
                copy_folder(source, folder)
                entries = inventory(folder)
                sha256 = digest = _digest(entries)
                size = sum(entry[4] for entry in entries.values() if entry[0] == "file")
            folders.fsync_tree(folder)
            final = self._root / digest.hex()[:_DIGITS]
            while lease < 0:
                lease = self._settle(folder, lock, final)
            yield Code(str(final), base64.b64encode(sha256).decode(), size)
        finally:
            os.close(lock)
            if lease >= 0:
                os.close(lease)
            folders.remove_tree(folder)

    def _settle(self, folder: Path, lock: int, final: Path) -> int:
        """Give staged code its name, or take what has it already; returns a lease, or -1 to try again."""
        try:
            folder.rename(final)
        except OSError as error:
            # POSIX leaves open which of them says that a folder is in the way; it may have gone again by now.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            with contextlib.suppress(FileNotFoundError):
                return _lease(final)
            return -1
        folders.fsync(self._root)
        return os.dup(lock)

    def lease(self, code: Code) -> int:
        """A descriptor that keeps the code's folder from being removed until it is closed.

        Raises:
            InvalidZipFileException: it is not there.
        """
        try:
            return _lease(Path(code.folder))
        except FileNotFoundError:
            raise _damaged(code, "it is not there") from None

    def verify(self, code: Code) -> None:
        """Compare the files with what was stored. Code is run only from a folder that is as it was published.

        Raises:
            InvalidZipFileException: they differ.
        """
        try:
            found = _digest(inventory(Path(code.folder))).hex()[:_DIGITS]
        except (OSError, SnapshotError) as error:  # The latter for folders nested deeper than any code's.
            raise _damaged(code, str(error)) from error
        if found != Path(code.folder).name:
            raise _damaged(code, "it is not as it was stored")

    def unused(self, is_used: Callable[[str], bool], *, dry_run: bool) -> Iterator[Removed]:
        """Remove code that nothing refers to and nobody has a lease on.

        Args:
            is_used: whether a folder is referred to; asked under its lock.
            dry_run: only tell what would be removed.
        """
        for folder in sorted(path for path in self._root.iterdir() if path.is_dir()):
            size = disk_usage(folder)
            staging = folder.name.startswith(folders.STAGING)
            if folders.remove_if_unused(folder, unless=lambda path=folder: is_used(str(path)), dry_run=dry_run):  # type: ignore[misc]
                yield Removed("unfinished" if staging else "code", str(folder), size)


def disk_usage(folder: Path) -> int:
    """Bytes on the disk of all that is in a folder; what vanishes meanwhile does not count."""
    used = 0
    for parent, names, files in os.walk(folder):
        for name in (*names, *files):
            with contextlib.suppress(OSError):
                used += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return used


def _lease(folder: Path) -> int:
    """Raises FileNotFoundError where it is not there, or is about to go."""
    lease = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By who adds the same code, for a moment; or by who removes it, and then it has another name.
        if not folders.take_lock(lease, fcntl.LOCK_SH, _PATIENCE_S):
            raise ServiceException(
                f"Another process has been storing {folder} for {_PATIENCE_S:.0f} s.",
                hint=f"`fuser -v {folder}` names it; end it if it hangs.",
            )
        if os.path.samestat(os.fstat(lease), folder.stat()):
            return lease
        raise FileNotFoundError(folder)
    except BaseException:
        os.close(lease)
        raise


def _digest(entries: dict[str, list[Any]]) -> bytes:
    """Of names, kinds, modes and contents; neither of times nor of owners."""
    digest = hashlib.sha256()
    for name, (kind, mode, _, _, *content) in sorted(entries.items()):
        digest.update(repr((name, kind, mode, content)).encode("utf-8", "surrogateescape"))
    return digest.digest()


def _damaged(code: Code, what: str) -> InvalidZipFileException:
    return InvalidZipFileException(
        f"The code in {code.folder} cannot be used: {what}.", hint="Publish the function again from its source."
    )
