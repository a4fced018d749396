"""What systemd and a service say to each other: sd_notify(3) is a datagram, sd_listen_fds(3) two variables."""

from __future__ import annotations

import contextlib
import os
import socket
import time

_FIRST_FD = 3


def notify(*lines: str) -> None:
    """Tell systemd, where it started us: "READY=1", "STATUS=…", "STOPPING=1", "WATCHDOG=1"."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.sendto("\n".join(lines).encode(), address)


def reloading() -> tuple[str, ...]:
    """What to say before a reload; "READY=1" ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def watchdog_s() -> float | None:
    """How often to say "WATCHDOG=1", seconds: twice as often as systemd wants to hear it; None where it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    wanted = os.environ.get("WATCHDOG_USEC", "")
    return int(wanted) / 2e6 if wanted.isdigit() and int(wanted) else None


def activated_sockets() -> list[socket.socket]:
    """The listening sockets that systemd opened for us. They are ours now: no process of ours inherits them."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    os.environ.pop("LISTEN_FDNAMES", None)
    found = []
    for fd in range(_FIRST_FD, _FIRST_FD + count):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    return found
