"""Snapshots on disk: their names, and how they come and go. What is in one: `snapruntime.mechanisms.manifest`.

    HOME/snapshots/SLOT/ID/manifest.json   what the snapshot is, and the digest of every other file
                          /images/         CRIU's images
                          /tmp/            what /tmp held at the checkpoint
    HOME/snapshots/SLOT/lock               held by whoever makes a snapshot for the slot
    HOME/snapshots/SLOT/of                 the path of the handler's file; its time is that of the slot's last use
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
import os
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from snapruntime.mechanisms import folders
from snapruntime.mechanisms import manifest as manifests
from snapruntime.values.errors import SnapshotError
from snapruntime.values.model import TMP_LIMIT

#: Snapshots kept per slot: who goes back and forth between two settings finds both again.
KEEP = 3

#: For how long the snapshots of a handler are kept that nobody uses, seconds.
KEEP_UNUSED_S = 30 * 24 * 3600

#: Logs kept in all.
KEEP_LOGS = 10

#: How a snapshot's name begins: sorts by age.
_STAMP = "%Y%m%dT%H%M%S%fZ"

#: The folder of all snapshots in the data folder, and what is in the folder of one.
SNAPSHOTS = "snapshots"
IMAGES, TMP = "images", "tmp"


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
        """Compare all there is with the manifest's inventory. A snapshot is code: nothing of it runs before this.

        Raises:
            DamagedSnapshotError: a file is missing, was added, or differs.
        """
        manifests.verify(self.folder, self.manifest)

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
        self._snapshots = home / SNAPSHOTS
        folders.own(self._snapshots, folders.SNAPSHOTS_REASON)

    def slot_of(self, *parts: str) -> str:
        """The slot for what `parts` name; readable, and without collisions."""
        readable = "".join(char if char.isalnum() else "-" for char in parts[-1])[:32]
        return f"{readable}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"

    @contextlib.contextmanager
    def making(self, slot: str, patience: float) -> Iterator[None]:
        """Keep others from making a snapshot for the same slot meanwhile.

        Args:
            patience: how long to wait for somebody who makes one already, seconds.

        Raises:
            SnapshotError: they were not done by then.
        """
        folder = self._snapshots / slot
        folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder / "lock", patience):
            for leftover in self._snapshots.glob(f"*/{folders.STAGING}*"):
                folders.remove_if_unused(leftover)
            yield

    def newest_first(self, slot: str) -> list[Path]:
        """The folders of the slot's snapshots."""
        return sorted((path for path in (self._snapshots / slot).glob("[!.]*/") if path.is_dir()), reverse=True)

    def all(self) -> list[Path]:
        """The folders of all snapshots; those in the making and those left unfinished begin with `folders.STAGING`."""
        found = [path for path in self._snapshots.glob("*/*/") if path.is_dir()]
        return sorted(path for path in found if path.name.startswith(folders.STAGING) or path.name[0] != ".")

    def note_use(self, slot: str, handler: Path) -> None:
        """Remember that a snapshot of the slot is used, and the file that it is of: `forget` goes by that."""
        mark = self._snapshots / slot / "of"
        with contextlib.suppress(OSError):  # A full disk must not matter to who only reads.
            if not mark.exists():
                mark.write_bytes(os.fsencode(handler))
            os.utime(mark)

    def note_use_of(self, snapshot: Path) -> None:
        """Remember that the snapshot in this folder is used again: of a slot, those used last are kept."""
        with contextlib.suppress(OSError):
            os.utime(snapshot)

    def forget(self) -> None:
        """Remove the snapshots of handlers that are gone, or that nobody has used for long; none that has a lease.

        Of the slot, a small folder stays, whose lock somebody may be waiting for.
        """
        for mark in self._snapshots.glob("*/of"):
            with contextlib.suppress(OSError):
                handler = Path(os.fsdecode(mark.read_bytes()))
                if handler.is_relative_to(self.home):
                    continue  # Code that is kept here: it is for those who keep it to say what is of use.
                if handler.exists() and time.time() - mark.stat().st_mtime < KEEP_UNUSED_S:
                    continue
                for folder in self.newest_first(mark.parent.name):
                    folders.remove_if_unused(folder)
                if not self.newest_first(mark.parent.name):
                    mark.unlink()

    def open(self, folder: Path) -> StoredSnapshot:
        """Take a lease on the snapshot in `folder` and read its manifest.

        Raises:
            DamagedSnapshotError: its manifest is damaged, or of a format that this version does not know.
            FileNotFoundError: there is no such snapshot (any more), or not yet.
        """
        lease = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not folders.try_lock(lease, fcntl.LOCK_SH):  # By whoever removes it, or has just given it its name.
                raise FileNotFoundError(errno.ENOENT, "is being removed or made", str(folder))
            return StoredSnapshot(folder, lease, manifests.read(folder))
        except BaseException:
            os.close(lease)
            raise

    @contextlib.contextmanager
    def staging(self, slot: str) -> Iterator[Staged]:
        """A folder to make a snapshot in: with an empty `images` and `tmp`; removed where it is not published."""
        folder, lock = folders.make_staging(self._snapshots / slot)
        try:
            (folder / IMAGES).mkdir(mode=0o700)
            (folder / TMP).mkdir()
            (folder / TMP).chmod(0o1777)
            yield Staged(folder, lock)
        finally:
            os.close(lock)
            folders.remove_tree(folder)

    def publish(self, staging: Staged, manifest: dict[str, Any]) -> StoredSnapshot:
        """Write the manifest, bring everything to the disk, and let the snapshot appear.

        Args:
            staging: from `staging`.
            manifest: what the snapshot says of itself; the inventory is added.

        Raises:
            SnapshotError: the disk is full or fails; or init left more in /tmp than is allowed.
        """
        staged = staging.folder
        _check_tmp(staged / TMP)
        try:
            manifests.write(staged, manifest)
            folders.fsync_tree(staged)
            published = staged.parent / f"{self._stamp(staged.parent.name)}-{uuid.uuid4().hex[:8]}"
            staged.rename(published)
            for folder in (staged.parent, self._snapshots, self.home):  # Each may be new as well.
                folders.fsync(folder)
            fcntl.flock(staging.lock, fcntl.LOCK_SH)  # From its maker's own to a lease like any other.
        except OSError as error:
            raise cannot_write(error, staged.parent) from error
        others = [path for path in self.newest_first(staged.parent.name) if path != published]
        for path in sorted(others, key=_last_use, reverse=True)[KEEP - 1 :]:
            folders.remove_if_unused(path)
        return self.open(published)

    def _stamp(self, slot: str) -> str:
        """The time now, or a moment after the slot's newest snapshot where the clock has been set back since."""
        now = datetime.now(UTC)
        for path in self.newest_first(slot)[:1]:
            with contextlib.suppress(ValueError, OverflowError):  # No stamp of ours, or the last that there can be.
                newest = datetime.strptime(path.name.partition("-")[0], _STAMP).replace(tzinfo=UTC)
                now = max(now, newest + timedelta(microseconds=1))
        return now.strftime(_STAMP)

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
        folders.remove_if_unused(folder)


def _last_use(snapshot: Path) -> float:
    try:
        return snapshot.stat().st_mtime
    except OSError:
        return 0.0  # Somebody else has just removed it.


def cannot_write(error: OSError, folder: Path) -> SnapshotError:
    """The error for a snapshot that the disk does not take."""
    return SnapshotError(
        f"The snapshot could not be written to {folder}: {error.strerror or error}",
        hint=folders.disk_hint(error),
        code="Snapruntime.DiskFull" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "",
    )


def _check_tmp(tmp: Path) -> None:
    size = sum(status.st_size for _, status in manifests.walk(tmp) if stat.S_ISREG(status.st_mode))
    if size > TMP_LIMIT:
        raise SnapshotError(
            f"Init and the before-snapshot hooks left {size >> 20} MB in /tmp; "
            f"as on Lambda, {TMP_LIMIT >> 20} MB are allowed.",
            hint="Remove from /tmp what the handler does not need, in a before-snapshot hook. "
            "Sparse files count in full.",
        )


@contextlib.contextmanager
def _locked(path: Path, patience: float) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not folders.take_lock(fd, fcntl.LOCK_EX, patience):
            raise SnapshotError(
                f"Another process has been making a snapshot for the same handler for {patience:.0f} s.",
                hint=f"`fuser -v {path}` names it; end it if it hangs.",
            )
        yield
    finally:
        os.close(fd)
