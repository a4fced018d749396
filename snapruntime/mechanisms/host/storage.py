"""Probes of where files go: the data folder, the room on its disk, and /tmp."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from snapruntime.mechanisms import folders
from snapruntime.mechanisms.host.container import Container
from snapruntime.mechanisms.host.facts import existing_folder, file_system
from snapruntime.mechanisms.store import SNAPSHOTS
from snapruntime.values.errors import HostError
from snapruntime.values.host import Probe

_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "virtiofs")
#: Bytes: what the snapshot of a function that imports nothing takes, and what leaves room for many.
_SPACE_LEAST, _SPACE_COMFORT = 12_000_000, 1_000_000_000


def data_folder_probe(home: Path, container: Container) -> Probe:
    name, kind = "data_folder", file_system(str(existing_folder(home)))
    snapshots = home / SNAPSHOTS
    if os.geteuid() == 0 and os.path.lexists(snapshots):
        try:
            folders.check_own(snapshots, folders.SNAPSHOTS_REASON)
        except HostError as error:
            return Probe(name, "missing", error.message.rstrip("."), error.hint, True)
    if trouble := _unwritable(existing_folder(snapshots)):
        if container.engine and os.geteuid() != 0:
            fix = container.become_root()
        else:
            better = (container.volume(home) or "Run as root.").removesuffix(".")
            fix = f"{better}, or name another with SNAPRUNTIME_HOME."
        return Probe(name, "missing", f"{home} cannot be written: {trouble}", fix, True)
    if kind in _NETWORK_FILE_SYSTEMS:
        fix = "Name a folder on a local disk with SNAPRUNTIME_HOME."
        return Probe(name, "degraded", f"{home} is on {kind}: restores wait for the network", fix, True)
    if kind == "tmpfs":
        fix = "Name a folder on a disk with SNAPRUNTIME_HOME."
        return Probe(name, "degraded", f"{home} is in memory (tmpfs): gone after a restart", fix, True)
    return Probe(name, "ok", f"{home} on {kind}", None, True)


def disk_space_probe(home: Path) -> Probe:
    free = shutil.disk_usage(existing_folder(home)).free
    fix = f"Make room on the disk of {home}, or name another with SNAPRUNTIME_HOME."
    detail = f"{free / 1e9:.1f} GB free" if free >= _SPACE_COMFORT else f"{free / 1e6:.0f} MB free"
    if free < _SPACE_LEAST:
        return Probe("disk_space", "missing", detail, fix, True)
    if free < _SPACE_COMFORT:
        return Probe("disk_space", "degraded", f"{detail}; a snapshot can take 300 MB", fix, True)
    return Probe("disk_space", "ok", detail, None, True)


def tmp_probe(container: Container, *, check_passed: bool, tmp: Path = Path("/tmp")) -> Probe:
    """CRIU makes its own temporary folders in /tmp, whatever $TMPDIR says; its check has the last word."""
    trouble = _unwritable(tmp)
    if trouble is None:
        return Probe("tmp", "ok", f"{tmp} can be written", None, True)
    fix = container.tmpfs(tmp) or f"Make {tmp} writable: `mount -t tmpfs tmpfs {tmp}`, or chmod 1777."
    detail = f"{tmp} cannot be written, where CRIU makes its temporary files: {trouble}"
    return Probe("tmp", "degraded" if check_passed else "missing", detail, fix, True)


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be made in `folder`; None where that can. Root is told only by trying: access(2) knows no /proc.

    What is tried with is gone at once.
    """
    try:
        os.rmdir(tempfile.mkdtemp(prefix=folders.STAGING, dir=folder))
    except OSError as error:
        return error.strerror
    return None
