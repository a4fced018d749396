"""Where the server listens: addresses, unix sockets, sockets from systemd; and whether it may."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from snapruntime.edges.serve.systemd import activated_sockets
from snapruntime.values.errors import UsageError

#: Where it listens unless told otherwise; the port of `sam local start-lambda`.
DEFAULT = "127.0.0.1:3001"
_UNIX = "unix:"
#: Connections that wait to be accepted.
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that is listened on.

    Attributes:
        socket: it; non-blocking.
        file: the unix socket's file, where that is ours to remove.
    """

    socket: socket.socket
    file: Path | None = None

    def describe(self) -> str:
        """The address as a client writes it."""
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return f"{_UNIX}{name}"
        host, port = name[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def port(self) -> int | None:
        """The TCP port; None for a unix socket."""
        return None if self.socket.family == socket.AF_UNIX else int(self.socket.getsockname()[1])

    @property
    def near(self) -> bool:
        """Whether only this machine reaches it."""
        if self.socket.family == socket.AF_UNIX:
            return True
        return ip_address(self.socket.getsockname()[0].partition("%")[0]).is_loopback

    def close(self) -> None:
        self.socket.close()
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def open_listeners(places: Sequence[str], *, anyone: bool) -> list[Listener]:
    """The sockets to listen on: those of `places`, else those that systemd opened, else the default one.

    Args:
        places: HOST:PORT or unix:PATH.
        anyone: whether any client may call: because it has to sign, or because that is wanted.

    Raises:
        UsageError: one cannot be had, or is open to other machines though anybody may call.
    """
    listeners = [] if places else [Listener(one) for one in activated_sockets()]
    try:
        for place in places or ([] if listeners else [DEFAULT]):
            if place.startswith(_UNIX):
                listeners.append(_unix(Path(place.removeprefix(_UNIX)).absolute()))
            else:
                listeners.extend(_tcp(place))
        for listener in listeners:
            if not anyone and not listener.near:
                raise UsageError(
                    f"{listener.describe()} can be reached from other machines, whoever is there: they could run any "
                    "code here.",
                    hint="Let only holders of a key call, with --keys FILE; or say --let-anyone-run-code.",
                )
            listener.socket.setblocking(False)
            listener.socket.listen(_BACKLOG)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _tcp(place: str) -> list[Listener]:
    host, colon, port = place.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--listen {place} is neither HOST:PORT nor unix:PATH.")
    found: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in addresses:
            listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            found.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
    except (OSError, UnicodeError) as error:
        for listener in found:
            listener.close()
        raise UsageError(
            f"It is not possible to listen on {place}: {error}",
            hint="Another program may have it; --listen HOST:PORT names another, port 0 any that is free.",
        ) from error
    return [Listener(listener) for listener in found]


def _unix(path: Path) -> Listener:
    """A unix socket that its owner may connect to. One that a server left behind is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
                if client.connect_ex(str(path)) == 0:
                    raise UsageError(f"Somebody listens on {path} already.", hint="Name another with --listen.")
            path.unlink()
        mask = os.umask(0o177)  # It must not be open to others for a moment either.
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
    except OSError as error:
        listener.close()
        raise UsageError(f"It is not possible to listen on {path}: {error}") from error
    except BaseException:
        listener.close()
        raise
    return Listener(listener, path)
