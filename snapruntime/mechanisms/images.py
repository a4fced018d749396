"""What is in CRIU's images: the only user of `pycriu.images`."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snapruntime.mechanisms.criu import import_pycriu
from snapruntime.values.host import Criu

#: Python before 3.14 has the filters of warnings for all threads in one place, put back as they were at the end.
_filters = threading.Lock()


@contextmanager
def _images(criu: Criu) -> Iterator[Any]:
    """`pycriu.images`, without what newer protobufs say of it for each field: `label() is deprecated`.

    It is nothing that a user could mend, and under `-W error` it would end as a SystemError within protobuf.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield import_pycriu(criu).images


def open_files(criu: Criu, images: Path) -> list[dict[str, Any]]:
    """The entries of files.img: all that the processes have open or mapped."""
    with open(images / "files.img", "rb") as file, _images(criu) as pycriu:
        entries: list[dict[str, Any]] = pycriu.load(file)["entries"]
    return entries


def half_connections(files: list[dict[str, Any]]) -> list[int]:
    """The unix sockets among `open_files` whose other end is not in them, by their inodes.

    CRIU saves such a socket without complaint when it is told that some sockets are external, as ours is, and only
    the restore fails ("Peer unresolved"). A socket declared external has an entry for its other end.
    """
    sockets = [entry["usk"] for entry in files if entry["type"] == "UNIXSK"]
    known = {socket["ino"] for socket in sockets}
    return [socket["ino"] for socket in sockets if socket["peer"] and socket["peer"] not in known]


def rearm_timers(criu: Criu, images: Path, files: list[dict[str, Any]]) -> None:
    """Let periodic timerfds that have ticked unread go on in the copies.

    The kernel stops such a timer until its ticks are read, and says that no time is left. CRIU restores just that,
    and a timer set to no time never ticks again. The shortest time does what reading would have done.

    Args:
        files: `open_files` of the images.

    Raises:
        UnknownImageError: the image cannot be written back as it was.
    """
    if not any(map(_is_stopped, files)):
        return
    document = load(criu, images / "files.img")
    for entry in filter(_is_stopped, document["entries"]):
        entry["tfd"]["vnsec"] = 1
    dump(criu, document, images / "files.img")


def _is_stopped(entry: dict[str, Any]) -> bool:
    timer = entry.get("tfd")
    return bool(
        timer and timer["ticks"] and (timer["isec"] or timer["insec"]) and not (timer["vsec"] or timer["vnsec"])
    )


class UnknownImageError(Exception):
    """An image has something in it that `pycriu` cannot write back as it was."""


def load(criu: Criu, path: Path) -> dict[str, Any]:
    """An image that is to be changed, as `pycriu` shows it.

    Raises:
        UnknownImageError: not all that is in it would survive; a newer CRIU's fields, for instance.
    """
    data = path.read_bytes()
    try:
        with _images(criu) as images:
            document: dict[str, Any] = images.loads(data)
            same = images.dumps(document) == data
    except Exception as error:  # pycriu raises whatever its parser meets.
        raise UnknownImageError(f"{path.name} cannot be read: {error}") from error
    if not same:
        raise UnknownImageError(f"{path.name} has fields that this pycriu does not know")
    return document


def dump(criu: Criu, document: dict[str, Any], path: Path) -> None:
    """Write an image."""
    with _images(criu) as images:
        data = images.dumps(document)
    path.write_bytes(data)
