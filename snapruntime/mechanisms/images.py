"""What is in CRIU's images: the only user of `pycriu.images`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snapruntime.mechanisms.criu import import_pycriu
from snapruntime.values.host import Criu


def half_connections(criu: Criu, images: Path) -> list[tuple[int, int]]:
    """The unix sockets in the images whose other end is not in them: inode, inode of the other end.

    CRIU saves such a socket without complaint when it is told that some sockets are external, as ours is, and only
    the restore fails ("Peer unresolved"). A socket declared external has an entry for its other end.
    """
    with open(images / "files.img", "rb") as file:
        entries: list[dict[str, Any]] = import_pycriu(criu).images.load(file)["entries"]
    sockets = [entry["usk"] for entry in entries if entry["type"] == "UNIXSK"]
    known = {socket["ino"] for socket in sockets}
    return [(socket["ino"], socket["peer"]) for socket in sockets if socket["peer"] and socket["peer"] not in known]


class UnknownImageError(Exception):
    """An image has something in it that `pycriu` cannot write back as it was."""


def load(criu: Criu, path: Path) -> dict[str, Any]:
    """An image that is to be changed, as `pycriu` shows it.

    Raises:
        UnknownImageError: not all that is in it would survive; a newer CRIU's fields, for instance.
    """
    images = import_pycriu(criu).images
    data = path.read_bytes()
    try:
        document: dict[str, Any] = images.loads(data)
        same = images.dumps(document) == data
    except Exception as error:  # pycriu raises whatever its parser meets.
        raise UnknownImageError(f"{path.name} cannot be read: {error}") from error
    if not same:
        raise UnknownImageError(f"{path.name} has fields that this pycriu does not know")
    return document


def dump(criu: Criu, document: dict[str, Any], path: Path) -> None:
    """Write an image."""
    path.write_bytes(import_pycriu(criu).images.dumps(document))
