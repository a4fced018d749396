"""Snapshots on disk: their names, their manifest, and how they come and go.

    HOME/snapshots/SLOT/ID/manifest.json   what the snapshot is, and the digest of every other file
                          /images/         CRIU's images
                          /tmp/            what /tmp held at the checkpoint
    HOME/snapshots/SLOT/lock               held by whoever makes a snapshot for the slot
    HOME/logs/                             logs of restores that failed, the latest few
    HOME/snapshots/SLOT/.new-*/            a snapshot in the making; not locked means that its maker is dead

A slot is all snapshots of one handler. A snapshot appears by one rename, after everything in it is on the disk, and is
never changed. Whoever uses one holds a shared lock on its folder (a lease); only without leases may it be removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapruntime.values.errors import DamagedSnapshotError, HostError, SnapshotError
from snapruntime.values.model import TMP_LIMIT

FORMAT = 2
#: Snapshots kept per slot: who goes back and forth between two settings finds both again.
KEEP = 3

#: The code of the error for a snapshot that another version of snapruntime made: no damage, but not for us.
OTHER_FORMAT = "Snapruntime.OtherFormat"

#: Logs kept in all.
KEEP_LOGS = 10

#: How deep folders may be nested in a snapshot: within what paths and our own walk of them can bear.
MAX_DEPTH = 128

IMAGES, TMP, MANIFEST = "images", "tmp", "manifest.json"


def data_home() -> Path:
    """Where snapshots and CRIU live: $SNAPRUNTIME_HOME, or `snapruntime` in the XDG data folder."""
    if named := os.environ.get("SNAPRUNTIME_HOME"):
        return Path(named).absolute()
    base = os.environ.get("XDG_DATA_HOME") or ""
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share") / "snapruntime"


@dataclass(frozen=True, slots=True)
class Staged:
    """A snapshot in the making.

    Attributes:
        folder: where; it has `images` and `tmp`.
        lock: a descriptor that holds the lock which says that its maker lives.
    """

    folder: Path
    lock: int


class StoredSnapshot:
    """A published snapshot under a lease. Closing it gives the lease back.

    Attributes:
        id: its name, unique on this host.
        folder: where it is.
        manifest: what it says of itself.
    """

    def __init__(self, folder: Path, lease: int, manifest: dict[str, Any]) -> None:
        self.id = folder.name
        self.folder = folder
        self.manifest = manifest
        self._lease = lease

    def verify(self) -> None:
        """Compare every file with the manifest's digests. A snapshot is code: nothing of it runs before this.

        Raises:
            DamagedSnapshotError: a file is missing, was added, or differs.
        """
        expected: dict[str, list[Any]] = self.manifest["files"]
        found = {name for name, status in _walk(self.folder) if name != MANIFEST and stat.S_ISREG(status.st_mode)}
        for name in sorted(expected.keys() ^ found):
            what = "is missing" if name in expected else "does not belong to it"
            raise _damaged(self.folder, f"{name} {what}")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, digest in zip(
                expected, pool.map(lambda name: digest_of(self.folder / name), expected), strict=True
            ):
                if digest != expected[name]:
                    raise _damaged(self.folder, f"{name} is not as it was written")

    def close(self) -> None:
        """Give the lease back."""
        if self._lease >= 0:
            os.close(self._lease)
            self._lease = -1


class Store:
    """All snapshots below one data folder. Safe for several processes at once."""

    def __init__(self, home: Path) -> None:
        """Open the store, making it where it does not exist.

        Raises:
            HostError: it cannot be made, or others than its owner may write to it.
        """
        self.home = home
        self._snapshots = home / "snapshots"
        try:
            self._snapshots.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = self._snapshots.stat()
        except OSError as error:
            raise HostError(
                f"The data folder {home} cannot be used: {error}",
                hint="Make room or give access, or name another folder with SNAPRUNTIME_HOME.",
            ) from error
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise HostError(
                f"{self._snapshots} must belong to the user who runs snapruntime, and be writable by nobody else: "
                "what is in a snapshot is executed.",
                hint=f"chown {os.geteuid()} {self._snapshots}; chmod 700 {self._snapshots}",
            )

    def slot_of(self, *parts: str) -> str:
        """The slot for what `parts` name; readable, and without collisions."""
        readable = "".join(char if char.isalnum() else "-" for char in parts[-1])[:32]
        return f"{readable}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"

    @contextlib.contextmanager
    def making(self, slot: str) -> Iterator[None]:
        """Keep others from making a snapshot for the same slot meanwhile; waits for one that does."""
        folder = self._snapshots / slot
        folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder / "lock"):
            for leftover in self._snapshots.glob("*/.new-*"):
                _remove_if_unused(leftover)
            yield

    def newest_first(self, slot: str) -> list[Path]:
        """The folders of the slot's snapshots."""
        return sorted((path for path in (self._snapshots / slot).glob("[!.]*/") if path.is_dir()), reverse=True)

    def open(self, folder: Path) -> StoredSnapshot:
        """Take a lease on the snapshot in `folder` and read its manifest.

        Raises:
            DamagedSnapshotError: its manifest is damaged, or of a format that this version does not know.
            FileNotFoundError: there is no such snapshot (any more).
        """
        lease = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lease, fcntl.LOCK_SH)
            return StoredSnapshot(folder, lease, _read_manifest(folder))
        except BaseException:
            os.close(lease)
            raise

    @contextlib.contextmanager
    def staging(self, slot: str) -> Iterator[Staged]:
        """A folder to make a snapshot in: with an empty `images` and `tmp`; removed where it is not published."""
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=self._snapshots / slot))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / IMAGES).mkdir(mode=0o700)
            (folder / TMP).mkdir()
            (folder / TMP).chmod(0o1777)
            yield Staged(folder, lock)
        finally:
            os.close(lock)
            _remove_tree(folder)

    def publish(self, staging: Staged, manifest: dict[str, Any], timestamp: str) -> StoredSnapshot:
        """Write the manifest, bring everything to the disk, and let the snapshot appear.

        Args:
            staging: from `staging`.
            manifest: what the snapshot says of itself; `format` and `files` are added.
            timestamp: sorts by age.

        Raises:
            SnapshotError: the disk is full or fails; or init left more in /tmp than is allowed.
        """
        staged = staging.folder
        _check_tmp(staged / TMP)
        try:
            names = [name for name, status in _walk(staged) if stat.S_ISREG(status.st_mode)]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                digests = list(pool.map(lambda name: digest_of(staged / name), names))
            manifest = manifest | {"files": dict(zip(names, digests, strict=True))}
            body = json.dumps(manifest, separators=(",", ":")).encode()
            head = {"format": FORMAT, "sha256": hashlib.sha256(body).hexdigest()}
            (staged / MANIFEST).write_bytes(json.dumps(head).encode() + b"\n" + body)
            _fsync_tree(staged)
            published = staged.parent / f"{timestamp}-{uuid.uuid4().hex[:8]}"
            staged.rename(published)
            _fsync(staged.parent)
            fcntl.flock(staging.lock, fcntl.LOCK_SH)  # From its maker's own to a lease like any other.
        except OSError as error:
            raise cannot_write(error, staged.parent) from error
        for path in self.newest_first(staged.parent.name)[KEEP:]:
            _remove_if_unused(path)
        return self.open(published)

    def keep_log(self, name: str, text: str) -> Path:
        """Write a log for people; only the latest few are kept. Returns its path, whether or not that worked."""
        path = self.home / "logs" / f"{name}.log"
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(0o600)
            path.write_text(text, "utf-8")
            for old in sorted(path.parent.glob("*.log"), key=lambda log: log.stat().st_mtime_ns)[:-KEEP_LOGS]:
                old.unlink(missing_ok=True)
        return path

    def discard(self, folder: Path) -> None:
        """Remove a snapshot that turned out to be of no use, unless somebody still has a lease on it."""
        _remove_if_unused(folder)


def cannot_write(error: OSError, folder: Path) -> SnapshotError:
    """The error for a snapshot that the disk does not take."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return SnapshotError(
        f"The snapshot could not be written to {folder}: {error.strerror or error}",
        hint="Free disk space, or name a folder on a larger disk with SNAPRUNTIME_HOME."
        if full
        else "Check the disk that SNAPRUNTIME_HOME is on.",
        code="Snapruntime.DiskFull" if full else "",
    )


def _check_tmp(tmp: Path) -> None:
    size = sum(status.st_size for _, status in _walk(tmp) if stat.S_ISREG(status.st_mode))
    if size > TMP_LIMIT:
        raise SnapshotError(
            f"Init and the before-snapshot hooks left {size >> 20} MB in /tmp; "
            f"as on Lambda, {TMP_LIMIT >> 20} MB are allowed.",
            hint="Remove from /tmp what the handler does not need, in a before-snapshot hook. "
            "Sparse files count in full.",
        )


def digest_of(path: Path) -> list[Any]:
    """Size in bytes and SHA-256 of a file, as the manifest has them."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [os.fstat(file.fileno()).st_size, digest]


def _damaged(folder: Path, what: str, code: str = "") -> DamagedSnapshotError:
    return DamagedSnapshotError(
        f"The snapshot {folder.name} is damaged: {what}.",
        hint="It will not be used. `--rebuild` makes a new one.",
        code=code,
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        head_line, _, body = (folder / MANIFEST).read_bytes().partition(b"\n")
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.exists():
            raise
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error.strerror})") from error
    try:
        head = json.loads(head_line)
        if head["format"] != FORMAT:
            format = f"its format is {head['format']}, this version of snapruntime reads {FORMAT}"
            raise _damaged(folder, format, code=OTHER_FORMAT)
        if head["sha256"] != hashlib.sha256(body).hexdigest():
            raise _damaged(folder, f"{MANIFEST} is not as it was written")
        manifest: dict[str, Any] = json.loads(body)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error})") from error
    return manifest


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `folder`: its path relative to it, and its lstat.

    Raises:
        SnapshotError: folders are nested deeper than `MAX_DEPTH`.
    """
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        if parent.count("/") > MAX_DEPTH:
            raise SnapshotError(f"Folders are nested more than {MAX_DEPTH} deep in the function's /tmp.")
        with os.scandir(folder / parent) as entries:
            for entry in entries:
                name = f"{parent}/{entry.name}" if parent else entry.name
                yield name, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _fsync_tree(folder: Path) -> None:
    for name, status in _walk(folder):
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            _fsync(folder / name)
    _fsync(folder)


def _remove_tree(folder: Path) -> None:
    """Remove a folder, however deep: what is in a snapshot's /tmp was made by a function. What cannot be, stays."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)


def _remove_if_unused(folder: Path) -> None:
    """Remove a folder that nobody has a lock on; it loses its name first, so that nobody can take one meanwhile."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doomed = folder.with_name(f".new-{folder.name.removeprefix('.new-')}")
        folder.rename(doomed)
        _remove_tree(doomed)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
