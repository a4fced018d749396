"""Signals and a command's work: the main thread only waits, so that no clean-up is ever cut in two by a Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType

from snapruntime.edges.exits import of_signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: How long what was begun may take to clean up after itself, seconds. What is left then, the kernel ends with us, and
#: half-made files are removed by the next run.
_GRACE_S = 10.0


def on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Let `handler` have the signals that end a program; those ignored from the start (nohup, `&`) stay so."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def leave(number: int, _: FrameType | None) -> None:
    """A signal handler: unwind and exit. Further signals do not disturb the unwinding."""
    on_signals(lambda *_: None)
    raise SystemExit(of_signal(number))


class Stopper:
    """Tells the work that it is to stop, and ends what it waits for."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._closers: list[Callable[[], None]] = []

    @property
    def stopping(self) -> bool:
        """Whether whatever fails now fails because we stop."""
        return self._stopping.is_set()

    def request(self, code: int) -> None:
        """Ask for the end; to be called from anywhere, signal handlers too. Returns at once."""
        self._news.put(code)

    def on_stop(self, closer: Callable[[], None]) -> None:
        """Have `closer` called, in another thread, when it is time to stop; at once, where that was before."""
        with self._lock:
            if not self.stopping:
                self._closers.append(closer)
                return
        closer()

    def _stop(self) -> None:
        with self._lock:
            self._stopping.set()
        for closer in reversed(self._closers):
            closer()

    def run(self, work: Callable[[], int]) -> int:
        """Do `work` in a thread, and return its exit code; or end it by a signal or `request`, and return that code."""
        outcome: Future[int] = Future()

        def body() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)
            finally:
                self._news.put(None)

        worker = threading.Thread(target=body, name="run", daemon=True)
        on_signals(lambda number, _: self.request(of_signal(number)))
        worker.start()
        code = self._news.get()
        if code is None:
            return outcome.result()
        closing = threading.Thread(target=self._stop, name="stop", daemon=True)
        closing.start()
        closing.join(_GRACE_S)
        worker.join(_GRACE_S)
        if worker.is_alive():
            abandon(code)
        return code


def abandon(code: int) -> None:
    """Leave without waiting for threads. All processes and mounts of ours end with us; that is the spawner's work."""
    with contextlib.suppress(OSError):
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h")  # A spinner may have hidden the cursor.
    os._exit(code)
