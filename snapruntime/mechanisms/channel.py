"""The host's end of the control channel, with the log pipe and the life of the process watched beside it.

A worker that floods its log, dies, or falls silent must not stop us: every wait is one poll on the control socket, the
log pipe and the pidfd, until a deadline.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

from snapruntime.mechanisms.process import Exit, NotStartedError, Process, SpawnerError
from snapruntime.worker import wire

#: How much of a function's output is kept in memory; what comes after is passed on, but not kept.
LOG_LIMIT = 1 << 20

#: How much of it is passed on while one event is answered: a flood shall fill no disk. Lambda's own log has a limit for
#: each line only.
LOG_PASSED_LIMIT = 256 << 20

#: How often something else is looked at while a process is waited for, seconds.
WATCH_INTERVAL_S = 0.05

LogSink = Callable[[bytes], None]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e9


def _is_phase(value: Any) -> bool:
    return value in ("init", "before_snapshot")


def _is_text_or_nothing(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_document(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"errorType", "errorMessage", "requestId", "stackTrace"}  # No NaN nor megabytes beside.
        and _is_text(value.get("errorType"))
        and _is_text(value.get("errorMessage"))
        and _is_text(value.get("requestId"))
        and _is_list_of_text(value.get("stackTrace"))
    )


#: What must be in a worker's messages. The function's code can write to the channel too, so nothing is taken on trust.
_FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "ready": {"init_ms": _is_duration, "before_hooks_ms": _is_duration},
    "init_error": {"phase": _is_phase, "error": _is_document, "hook": _is_text_or_nothing},
    "rehearsed": {},
    "restored": {"hooks_ms": _is_duration},
    "restore_error": {"error": _is_document, "hook": _is_text_or_nothing},
    "result": {"request_id": _is_text},
    "error": {"request_id": _is_text, "error": _is_document},
    "checked": {},
    "fd_owner": {"owners": _is_list_of_text, "library": _is_text, "opened_at": _is_text_or_nothing},
}


class Disconnected(Exception):
    """The worker closed the channel or ended, which it may at any time.

    Attributes:
        exit: how it ended; None where it still runs, with the channel closed.
    """

    def __init__(self, exit: Exit | None) -> None:
        super().__init__(str(exit) if exit else "the control channel was closed")
        self.exit = exit


class ChannelEnds:
    """The descriptors of a channel before there is a process at its far end.

    Attributes:
        far_control, far_log: what the process gets as descriptors 3, and 1 and 2.
    """

    def __init__(self) -> None:
        self.log, self.far_log = os.pipe2(os.O_CLOEXEC)
        try:
            self.control, self.far_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # Sockets would close themselves, in the end; a pipe's numbers do not.
            os.close(self.log)
            os.close(self.far_log)
            raise
        self._control_inode = os.fstat(self.far_control.fileno()).st_ino
        self._set_up()

    def _set_up(self) -> None:
        self.control.setblocking(False)
        os.set_blocking(self.log, False)

    def take_socket(self, process: Process) -> None:
        """Let the socket that `process` has made itself, in its own network namespace, be the control socket."""
        assert process.socket is not None
        self.control.close()
        self.far_control.close()
        self.control, self._control_inode = process.socket, process.socket_inode
        process.socket = None
        self._set_up()

    def identities(self) -> tuple[str, str]:
        """CRIU's names of the far ends: control socket, log pipe."""
        return f"socket:[{self._control_inode}]", f"pipe:[{os.fstat(self.far_log).st_ino}]"

    def close_far(self) -> None:
        """To be called once the process has its own: end of file must mean its end."""
        if self.far_log >= 0:
            self.far_control.close()
            os.close(self.far_log)
            self.far_log = -1

    def close(self) -> None:
        """Give all descriptors back."""
        self.close_far()
        if self.log >= 0:
            self.control.close()
            os.close(self.log)
            self.log = -1


class Channel:
    """Messages to and from one process, and its output.

    Attributes:
        sink: receives the output.
        watch: is called every `WATCH_INTERVAL_S` while the process is waited for; what it raises ends the wait.
    """

    def __init__(self, ends: ChannelEnds, process: Process, sink: LogSink | None = None) -> None:
        self.watch: Callable[[], None] | None = None
        self._ends = ends
        self._process = process
        self._reader = wire.FrameReader()
        self._frames: list[tuple[dict[str, Any], bytes]] = []
        self._log_open = True
        self.sink = sink
        self._kept = bytearray()
        self._dropped = self._passed = 0

    def send(self, *frames: wire.Frame, deadline: float) -> None:
        """Send messages, one after the other.

        Args:
            deadline: `time.monotonic()` until which it must have been taken.

        Raises:
            TimeoutError: the process did not read it in time.
            Disconnected: there is nobody to read it.
            NotStartedError: there never was: its surroundings could not be made.
        """
        data = memoryview(b"".join(wire.encode(*frame) for frame in frames))
        while data:
            try:
                data = data[self._ends.control.send(data) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            except OSError:
                self._raise_disconnected(deadline)

    def receive(self, *expected: str, deadline: float) -> tuple[dict[str, Any], bytes]:
        """The next message, one of the types `expected`, with the fields that such a message must have.

        Raises:
            TimeoutError: none came until `deadline`.
            Disconnected: none will come.
            NotStartedError: as of `send`.
            snapruntime.worker.wire.WireError: what came is no message, or not one of those.
        """
        while not self._frames:
            try:
                data = self._ends.control.recv(1 << 18)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline)
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                self._raise_disconnected(deadline)
            self._frames += self._reader.feed(data)
            if not self._frames and time.monotonic() > deadline:
                raise TimeoutError  # It sends and sends, and no message comes of it.
        header, body = self._frames.pop(0)
        by = header.get("signal")
        if header["type"] == "signalled" and isinstance(by, int) and by in signal.valid_signals():
            self._raise_disconnected(deadline, by)
        if header["type"] not in expected:
            raise wire.WireError(f"message {header['type']!r} where {' or '.join(expected)} was due")
        for name, is_proper in _FIELDS[header["type"]].items():
            if not is_proper(header.get(name)):
                raise wire.WireError(f"message {header['type']!r} without a proper {name!r}")
        return header, body

    def _wait(self, event: int, deadline: float) -> None:
        """Until the control socket has `event`, passing on the process's output meanwhile."""
        poll = select.poll()
        poll.register(self._ends.control, event)
        if self._log_open:
            poll.register(self._ends.log, select.POLLIN)
        watched = time.monotonic()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if self.watch is not None:
                if time.monotonic() - watched >= WATCH_INTERVAL_S:
                    self.watch()
                    watched = time.monotonic()
                left = min(left, WATCH_INTERVAL_S)
            for fd, _ in poll.poll(left * 1000):
                if fd == self._ends.control.fileno():
                    return
                self._read_log()
                if not self._log_open:
                    poll.unregister(self._ends.log)

    def _raise_disconnected(self, deadline: float, by: int | None = None) -> NoReturn:
        """Args: by: the signal that it says to have sent itself."""
        # The socket closes a moment before the process can be waited for; its children may hold it open for longer.
        try:
            exit = self._process.wait(min(1.0, max(0.0, deadline - time.monotonic())))
        except NotStartedError:
            raise
        except SpawnerError:
            exit = Exit(None, signal.SIGKILL, 0)  # The spawner has ended; the kernel kills all below it.
        if by is not None and exit is not None and exit.status == 128 + by:
            exit = Exit(None, by, exit.max_rss_kb)
        raise Disconnected(exit)

    def _read_log(self) -> None:
        try:
            data = os.read(self._ends.log, 1 << 18)
        except BlockingIOError:
            return
        if not data:
            self._log_open = False
            return
        room = max(0, LOG_LIMIT - len(self._kept))
        self._kept += data[:room]
        self._dropped += max(0, len(data) - room)
        if self.sink is not None and self._passed < LOG_PASSED_LIMIT:
            self._passed += len(data)
            if self._passed > LOG_PASSED_LIMIT:
                data += f"\n[snapruntime: more was written than {LOG_PASSED_LIMIT} bytes, and is not shown]\n".encode()
            self.sink(data)

    def drain_log(self) -> None:
        """Read what the process has written so far, without waiting for more.

        What it wrote before a message is in the pipe by the time the message is here. The bound is for a process that
        writes as fast as we read.
        """
        for _ in range(16):
            before = len(self._kept) + self._dropped
            if self._log_open:
                self._read_log()
            if len(self._kept) + self._dropped == before:
                return

    def take_logs(self) -> str:
        """What was written since the last call, with a note of how much could not be kept."""
        self.drain_log()
        text = bytes(self._kept).decode("utf-8", "replace")
        if self._dropped:
            text += f"\n[snapruntime: {self._dropped} more bytes were written and not kept]\n"
        self._kept.clear()
        self._dropped = self._passed = 0
        return text

    def close(self) -> None:
        """Give the descriptors back; the worker ends by itself where it can."""
        self._ends.close()
