"""Where a run writes: answers to stdout, everything else to stderr, whole blocks at a time from whichever thread."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.text import Text

from snapruntime.edges.console import Console
from snapruntime.edges.interrupt import Stopper, of_signal
from snapruntime.mechanisms.channel import LOG_LIMIT
from snapruntime.values.errors import HostError
from snapruntime.values.model import Invocation

if TYPE_CHECKING:
    from rich.progress import Progress

STDOUT, STDERR = 1, 2
#: How often a write that has to wait looks whether it still should.
_PATIENCE_MS = 100


class Output:
    """Both streams of one run. Safe for several threads.

    Args:
        quiet: only answers and errors are wanted.
        stopper: asked to end the run when nobody reads one of the streams any more.
    """

    def __init__(self, *, quiet: bool, stopper: Stopper) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._stopper = stopper
        self._lock = threading.Lock()
        self._gone = False
        self._progress: Progress | None = None

    def answer(self, line: bytes, block: bytes = b"") -> None:
        """Write one answer to stdout; `block` goes to stderr just before it."""
        with self._lock:
            self._end_progress()
            self._write(STDERR, block)
            self._write(STDOUT, line + b"\n")

    def log(self, data: bytes) -> None:
        """Write to stderr what a function wrote, or lines of the log."""
        with self._lock:
            self._end_progress()
            self._write(STDERR, data)

    def note(self, text: str) -> None:
        """Say what snapruntime does, in a line."""
        if not self.quiet:
            self.print(text, style="dim")

    def print(self, what: Any, style: str | None = None) -> None:
        """Write to stderr with rich."""
        with self._lock:
            self._end_progress()
            with self.console.capture() as captured:
                # Text as it is: what users call their files is no markup.
                self.console.print(Text(what) if isinstance(what, str) else what, style=style)
            self._write(STDERR, captured.get().encode("utf-8", "backslashreplace"))

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show on a terminal that something is being done, with its seconds; what is called with a text changes it.

        The first thing written otherwise ends it, so that the two never mix on one line.
        """
        if self.quiet or not self.console.is_terminal:
            yield lambda _: None
            return
        from snapruntime.edges import waiting

        def say(text: str) -> None:
            with self._lock:
                self._end_progress()
                self._progress = waiting.show(text, self.console)

        say(text)
        try:
            yield say
        finally:
            with self._lock:
                self._end_progress()

    def _end_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()

    def _write(self, fd: int, data: bytes) -> None:
        left = memoryview(data)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        try:
            while left and not self._gone:
                # A reader that does not read (a pager) must not keep a Ctrl-C waiting: never block in a write.
                if poll.poll(_PATIENCE_MS):
                    left = left[os.write(fd, left[: select.PIPE_BUF]) :]
                self._gone = self._stopper.stopping
        except BrokenPipeError:
            self._gone = True
            self._stopper.request(of_signal(signal.SIGPIPE))
        except OSError as error:
            self._gone = True
            name = "standard output" if fd == STDOUT else "standard error"
            raise HostError(f"Writing to {name} failed: {os.strerror(error.errno or errno.EIO)}.") from error


class RequestLog:
    """What one request leaves in the log: Lambda's lines, each at the start of a line, and the function's own output.

    Args:
        write: gets it piece by piece as it comes; None where it is to be kept for one block.
    """

    def __init__(self, write: Callable[[bytes], None] | None) -> None:
        self._write = write or self._keep
        self._block = bytearray()
        self._text = bytearray()
        self._dropped = 0
        self._unfinished = False
        self._noted = False

    def sink(self, data: bytes) -> None:
        """Take what the function wrote."""
        room = max(0, LOG_LIMIT - len(self._text))
        self._text += data[:room]
        self._dropped += max(0, len(data) - room)
        if self._write == self._keep:
            data = data[:room]  # Live output may be endless; what waits in memory may not.
        if data:
            self._write(data)
            self._unfinished = not data.endswith(b"\n")

    def lines(self, *lines: str) -> None:
        """Add lines of the platform's."""
        start = b"\n" if self._unfinished else b""
        self._unfinished = False
        if self._dropped and not self._noted and self._write == self._keep:
            self._noted = True
            start = start or b""
            start += f"[snapruntime: more was written than {LOG_LIMIT} bytes, and is not shown]\n".encode()
        self._write(start + "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))

    def _keep(self, data: bytes) -> None:
        self._block += data

    @property
    def block(self) -> bytes:
        """All of it, where it was kept."""
        return bytes(self._block)

    @property
    def text(self) -> str:
        """The function's own output."""
        text = bytes(self._text).decode("utf-8", "replace")
        return text + (f"\n[snapruntime: {self._dropped} more bytes were written and not kept]\n" * bool(self._dropped))


def payload_line(invocation: Invocation) -> bytes:
    """What Lambda's Invoke would have returned, as JSON on one line: the response, or the error document."""
    if invocation.payload is not None:
        return _as_json(invocation.payload)
    return _json(dict(invocation.error or {}))


def json_line(invocation: Invocation) -> bytes:
    """One invocation as one JSON object on one line."""
    head: dict[str, Any] = {
        "request_id": invocation.request_id,
        "snapshot": invocation.snapshot,
        "cold": invocation.cold,
        "pid": invocation.pid,
        "restore_ms": invocation.restore_ms,
        "hooks_ms": invocation.hooks_ms,
        "duration_ms": invocation.duration_ms,
        "total_ms": invocation.total_ms,
        "max_memory_mb": invocation.max_memory_mb,
    }
    if invocation.cold:
        head["init_ms"] = invocation.init_ms
    tail: dict[str, Any] = {"logs": invocation.logs}
    if invocation.error is not None:
        return _json(head | {"phase": invocation.phase, "error": dict(invocation.error)} | tail)
    # As the function wrote it: a number with many digits would not survive reading and writing.
    result = _as_json(invocation.payload or b"")
    return _json(head)[:-1] + b', "result": ' + result + b", " + _json(tail)[1:]


def _as_json(payload: bytes) -> bytes:
    """A payload on one line; as a string where it is no JSON, which bytes from a handler may be."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(str(payload, "utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return _json(payload.decode("utf-8", "replace"))
    return payload.replace(b"\n", b" ").replace(b"\r", b" ").strip()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def shortened(text: str, folders: Iterable[str]) -> str:
    """`text` with paths below `folders` relative to them."""
    for folder in folders:
        text = text.replace(folder.rstrip("/") + "/", "")
    return text
