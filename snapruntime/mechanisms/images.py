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
