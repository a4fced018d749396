"""What is on disk and nobody can use any more is removed: snapshots, code, and what those who died left unfinished.

Never what somebody has a lease on: a copy's snapshot and code stay as long as it may be restored from. Whether
something is still referred to is asked under its lock, when nobody can begin to use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snapruntime.mechanisms import folders
from snapruntime.mechanisms import manifest as manifests
from snapruntime.mechanisms.functions.code import disk_usage
from snapruntime.mechanisms.store import Store
from snapruntime.values.errors import DamagedSnapshotError
from snapruntime.values.function import Removed
from snapruntime.workflows.functions import Functions


def collect(functions: Functions, *, dry_run: bool = False, other_versions: bool = False) -> Iterator[Removed]:
    """Remove what is of no use.

    Of a version, the snapshot that it is answered from is kept; of a handler that `run` was given, all that its slot
    keeps, as long as its folder is there.

    Args:
        dry_run: only tell what would be removed.
        other_versions: also snapshots that another version of snapruntime made, which that one could use.

    Yields:
        Each thing, once it has been removed.

    Raises:
        HostError: the data folder cannot be used.
    """
    yield from _snapshots(functions, Store(functions.home), dry_run, other_versions)
    yield from functions.code.unused(lambda folder: _uses_code(functions, folder), dry_run=dry_run)
    if not dry_run:
        functions.makers.clear()


def _uses_code(functions: Functions, folder: str) -> bool:
    with functions.database.reading() as tables:
        return tables.uses_code(folder)


def _snapshots(functions: Functions, store: Store, dry_run: bool, other_versions: bool) -> Iterator[Removed]:
    for folder in store.all():
        if folder.name.startswith(folders.STAGING):
            kind, reason = "unfinished", "its maker has died"
        else:
            kind, reason = "snapshot", _useless(functions, folder, other_versions)
            if not reason:
                continue
        size = disk_usage(folder)

        def needed(folder: Path = folder, kind: str = kind) -> bool:
            return kind == "snapshot" and not _useless(functions, folder, other_versions)

        if folders.remove_if_unused(folder, unless=needed, dry_run=dry_run):
            yield Removed(kind, str(folder), size, reason)


def _useless(functions: Functions, folder: Path, other_versions: bool) -> str:
    """Why no later run can use a snapshot; empty where one might."""
    try:
        manifest = manifests.read(folder)
    except FileNotFoundError:
        return ""  # Somebody else has removed it.
    except DamagedSnapshotError as error:
        if error.code != manifests.OTHER_FORMAT:
            return "it is damaged"
        return "another version of snapruntime made it" if other_versions else ""
    owner = _owner(manifest)
    if owner is None:
        return "it is damaged"
    task_root, name, version = owner
    if not Path(task_root).is_relative_to(functions.home / folders.CODE):
        return "" if Path(task_root).is_dir() else f"{task_root} is gone"
    with functions.database.reading() as tables:
        found = tables.version(name, version)
    if found is None or found.code.folder != task_root:
        return f"version {version} of {name} was deleted"
    return "" if found.snapshot == folder.name else f"version {version} of {name} does not use it"


def _owner(manifest: dict[str, Any]) -> tuple[str, str, str] | None:
    """Code folder, name and version of the function that a snapshot is of."""
    try:
        options = manifest["identity"]["options"]
        return str(manifest["identity"]["handler"][0]), str(options["name"]), str(options["version"])
    except (KeyError, TypeError, IndexError):
        return None
