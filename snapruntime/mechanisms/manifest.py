"""A snapshot's manifest: what the snapshot says of itself, and an inventory of every file that belongs to it.

Two lines of JSON. The first, {"format", "sha256"}, can be read by every version; the second is the manifest proper,
which the digest is of. What cannot be read, differs from its digest, or lacks a field is damaged: never half-used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from snapruntime.values.errors import DamagedSnapshotError, SnapshotError

FORMAT = 5
NAME = "manifest.json"

#: The code of the error for a snapshot that another version of snapruntime made: no damage, but not for us.
OTHER_FORMAT = "Snapruntime.OtherFormat"

#: How deep folders may be nested in a snapshot, and how long their paths in it may be, bytes: within what our own walk
#: of them can bear, and the kernel with the path of the snapshot before it (PATH_MAX is 4096).
MAX_DEPTH, MAX_PATH = 128, 2048

_KINDS = {stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_lists(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, list) for item in value.values())


def _is_inputs(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("names"), dict)
        and all(_is_entries(value.get(kind)) for kind in ("files", "listed"))
        and isinstance(value.get("absent"), dict)
    )


def _is_entries(value: Any) -> bool:
    return _is_lists(value) and all(value.values())


#: What the rest of the program reads from a manifest without asking.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "wire": lambda value: type(value) is int,
    "identity": lambda value: isinstance(value, dict),
    "inputs": _is_inputs,
    "channel": lambda value: _is_texts(value) and len(value) == 2,
    "memory": lambda value: isinstance(value, dict) and type(value.get("mapped")) is bool,
    "interpreter": lambda value: isinstance(value, dict) and _is_texts(value.get("folders")),
    "init_ms": lambda value: type(value) in (int, float),
    "files": _is_entries,
}


def damaged(folder: Path, what: str, code: str = "") -> DamagedSnapshotError:
    """The error for the snapshot in `folder`, of which something is not as it was published."""
    return DamagedSnapshotError(
        f"The snapshot {folder.name} is damaged: {what}.",
        hint="It will not be used. `--rebuild` makes a new one.",
        code=code,
    )


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of the snapshot in `folder`, with an inventory of what is there. Raises OSError."""
    path = folder / NAME
    path.touch(0o600)  # Before it is looked at: its own mode and owner are part of what it says.
    body = json.dumps(manifest | {"files": _everything(folder)}, separators=(",", ":")).encode()
    head = {"format": FORMAT, "sha256": hashlib.sha256(body).hexdigest()}
    path.write_bytes(json.dumps(head).encode() + b"\n" + body)


def read(folder: Path) -> dict[str, Any]:
    """The manifest of the snapshot in `folder`.

    Raises:
        DamagedSnapshotError: it is damaged, or of a format that this version does not know.
        FileNotFoundError: there is no such snapshot (any more).
    """
    try:
        head_line, _, body = _content(folder / NAME).partition(b"\n")
    except OSError as error:
        if _is_ours(error) or (isinstance(error, FileNotFoundError) and not folder.exists()):
            raise
        raise damaged(folder, f"{NAME} cannot be read ({error.strerror})") from error
    try:
        head = json.loads(head_line)
        if head["format"] != FORMAT:
            format = f"its format is {head['format']}, this version of snapruntime reads {FORMAT}"
            raise damaged(folder, format, code=OTHER_FORMAT)
        if head["sha256"] != hashlib.sha256(body).hexdigest():
            raise damaged(folder, f"{NAME} is not as it was written")
        manifest = json.loads(body)
        lacking = [name for name, is_proper in _FIELDS.items() if not is_proper(manifest.get(name))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(folder, f"{NAME} cannot be read ({error})") from error
    if lacking:
        raise damaged(folder, f"{NAME} has no proper {' and no proper '.join(lacking)}")
    return dict(manifest)


def verify(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare everything in `folder` with the manifest's inventory.

    Raises:
        DamagedSnapshotError: something is missing, was added, or differs in content, kind, mode or owner.
    """
    expected: dict[str, list[Any]] = manifest["files"]
    try:
        found = _everything(folder)
    except (OSError, SnapshotError) as error:
        if isinstance(error, OSError) and _is_ours(error):
            raise
        raise damaged(folder, f"it cannot be read ({error})") from error
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            what = "is not as it was written" if name in found else "is missing"
            raise damaged(folder, f"{name} {what if name in expected else 'does not belong to it'}")


def _everything(folder: Path) -> dict[str, list[Any]]:
    """The inventory, and of the manifest itself what its digest does not tell of: its mode, owner and group."""
    status = (folder / NAME).lstat()
    own = ["manifest", stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
    return {**inventory(folder, leave_out=NAME), NAME: own}


def inventory(folder: Path, *, leave_out: str = "") -> dict[str, list[Any]]:
    """What is in a folder: path -> kind, mode, owner, group; size and SHA-256 of a file, or where a link leads.

    Args:
        leave_out: the path of one that shall not be in it.

    Raises:
        OSError: something cannot be read.
        SnapshotError: folders are nested deeper than `MAX_DEPTH`, or their paths longer than `MAX_PATH`.
    """
    entries = {name: status for name, status in walk(folder) if name != leave_out}

    def describe(name: str) -> list[Any]:
        status, path = entries[name], folder / name
        known = [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
        if stat.S_ISREG(status.st_mode):
            return ["file", *known, *digest_of(path)]
        if stat.S_ISLNK(status.st_mode):
            return ["link", *known, os.readlink(path)]
        return [_KINDS.get(stat.S_IFMT(status.st_mode), "device"), *known]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(entries, pool.map(describe, entries), strict=True))


def digest_of(path: Path) -> list[Any]:
    """Size in bytes and SHA-256 of a regular file."""
    with _open(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [os.fstat(file.fileno()).st_size, digest]


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `folder`: its path relative to it, and its lstat.

    Raises:
        SnapshotError: folders are nested deeper than `MAX_DEPTH`, or their paths longer than `MAX_PATH`.
    """
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        check_nesting(parent)
        with os.scandir(folder / parent) as entries:
            for entry in entries:
                name = f"{parent}/{entry.name}" if parent else entry.name
                yield name, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)


def check_nesting(path: str) -> None:
    """Raises SnapshotError: a folder lies too deep, by its path in the snapshot or in /tmp."""
    if path.count("/") > MAX_DEPTH or len(os.fsencode(path)) > MAX_PATH:
        raise SnapshotError(
            f"In /tmp of the function, folders are nested more than {MAX_DEPTH} deep, or {MAX_PATH} bytes."
        )


def _open(path: Path) -> Any:
    # Without links, and without waiting for a writer where a pipe has taken the file's place.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK))


def _content(path: Path) -> bytes:
    with _open(path) as file:
        content: bytes = file.read()
    return content


def _is_ours(error: OSError) -> bool:
    """Whether it is we who lack something: that says nothing about the snapshot."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
