"""What a process sends to others while it answers: the heads of HTTP requests, and uses of connections that died.

Python's own sockets are wrapped, just above the kernel and just above TLS, so whatever speaks HTTP/1.1 in Python is
seen in clear, be it http.client, urllib3, httpx, aiohttp or botocore. What libraries in C send (libpq, libcurl) is not.
"""

from __future__ import annotations

import gc
import os
import re
import socket
import sys
import threading

from .kinds import RECONNECTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_HEAD = re.compile(rb"([A-Z]{3,8}) (\S+) HTTP/1\.[01]\r\n")
_SENDS, _RECEIVES = ("send", "sendall"), ("recv", "recv_into")
_MAX_REQUESTS = 200

_requests: list[dict[str, Any]] = []
_dead: list[dict[str, Any]] = []
_inside = threading.local()


def begin(task_root: str) -> None:
    """Wrap the sockets. Those that exist by now come from before the snapshot, or from a hook."""
    older = {id(thing): thing for thing in gc.get_objects() if issubclass(type(thing), socket.socket)}
    classes: list[Any] = [socket.socket]
    try:
        import ssl

        classes += [ssl.SSLSocket, ssl.SSLObject]
    except ImportError:
        pass  # A Python without TLS.
    for kind in classes:
        for name in (*_SENDS, *_RECEIVES, "write"):
            if name in vars(kind) or (kind is socket.socket and name != "write"):
                setattr(kind, name, _wrapped(getattr(kind, name), older, task_root, name in (*_SENDS, "write")))


def seen() -> dict[str, Any]:
    """requests [{method, target, headers}], dead [{error, place}]"""
    return {"requests": _requests[:_MAX_REQUESTS], "dead": _dead}


def _wrapped(original: Callable[..., Any], older: dict[int, Any], task_root: str, sends: bool) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(_inside, "busy", False):
            return original(self, *args, **kwargs)
        _inside.busy = True
        try:
            if sends and args:
                _record(args[0])
            return original(self, *args, **kwargs)
        except OSError as error:
            if older.get(id(self)) is self and not isinstance(error, (BlockingIOError, TimeoutError)):
                _note_death(error, task_root)
            raise
        finally:
            _inside.busy = False

    return call


def _record(data: Any) -> None:
    raw = bytes(memoryview(data)[: 1 << 16])
    match = _HEAD.match(raw)
    if match is None or len(_requests) >= _MAX_REQUESTS:
        return
    head = raw[match.end() :].partition(b"\r\n\r\n")[0].decode("latin-1")
    pairs = [line.partition(":") for line in head.split("\r\n")]
    headers = {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}
    token = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    if token and headers.get("authorization") == token:
        return  # An SDK fetches credentials, which a cold start did at init: nothing of the handler's.
    method, target = (part.decode("latin-1") for part in match.groups())
    _requests.append({"method": method, "target": target, "headers": headers})


def _note_death(error: OSError, task_root: str) -> None:
    """Record the use of a dead connection, unless a library that connects again by itself is at it."""
    place = None
    frame: Any = sys._getframe(2)
    while frame:
        file = frame.f_code.co_filename
        if str(frame.f_globals.get("__name__")).split(".")[0] in RECONNECTING:
            return
        if place is None and file.startswith(task_root) and "-packages/" not in file:
            place = [file, frame.f_lineno]
        frame = frame.f_back
    _dead.append({"error": f"{type(error).__name__}: {error}", "place": place})
