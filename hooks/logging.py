"""Close the sockets of logging handlers before the snapshot, and let them connect anew.

Without it: the first record that a `SocketHandler`, or a `SysLogHandler` by TCP, sends from a copy is lost, since that
is how it learns that its connection is gone.
"""

from __future__ import annotations

from typing import Any

from snapruntime import register_after_restore, register_before_snapshot
from snapruntime.hooks._living import instances

_syslog: list[Any] = []


@register_before_snapshot
def close() -> None:
    """A `SocketHandler` without a socket makes one for its next record."""
    _syslog[:] = [one for one in instances("logging.handlers", "SysLogHandler") if getattr(one, "socket", None)]
    for handler in instances("logging.handlers", "SocketHandler"):
        if handler.sock is not None:
            handler.sock.close()
            handler.sock = None
    for handler in _syslog:
        handler.socket.close()


@register_after_restore
def connect() -> None:
    """As the constructor of `SysLogHandler` does; before Python 3.11 nothing else would."""
    for handler in _syslog:
        if handler.unixsocket:
            handler._connect_unixsocket(handler.address)
        elif hasattr(handler, "createSocket"):
            handler.createSocket()
        else:
            handler.__init__(handler.address, handler.facility, handler.socktype)
