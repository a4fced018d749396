"""Signals and a command's work: the main thread only waits, so that no clean-up is ever cut in two by a Ctrl-C."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: How long what was begun may take to clean up after itself, seconds. What is left then, the kernel ends with us, and
#: half-made files are removed by the next run.
_GRACE_S = 10.0


def of_signal(number: int) -> int:
    """The exit code of a program that a signal ended, as shells count."""
    return 128 + number


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
        self._codes: collections.deque[int] = collections.deque()
        # Both ends of a pipe that the main thread sleeps on. A lock or queue will not do: a signal that comes just
        # before the thread goes to sleep would leave it asleep, as CPython runs handlers only when it wakes.
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._closers: list[Callable[[], None]] = []

    @property
    def stopping(self) -> bool:
        """Whether whatever fails now fails because we stop."""
        return self._stopping.is_set()

    def request(self, code: int) -> None:
        """Ask for the end with an exit code, from any thread. Returns at once."""
        self._codes.append(code)
        self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(BlockingIOError):  # Full: it will wake up.
            os.write(self._waker, b"\0")

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
        """Do `work` in a thread, and return its exit code; or end it by a signal or `request`, and return that code.

        To be called from the main thread, once.
        """
        # Not above: it takes longer to import than all else here, and until then a Ctrl-C would find no handler set.
        from concurrent.futures import Future

        outcome: Future[int] = Future()

        def body() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)
            finally:
                self._notify()

        worker = threading.Thread(target=body, name="run", daemon=True)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        on_signals(lambda *_: None)  # What counts is the byte in the pipe.
        try:
            worker.start()
        except RuntimeError as error:  # What CPython makes of pthread_create's EAGAIN.
            from snapruntime.values.errors import HostError

            raise HostError(f"Cannot start a thread: {os.strerror(errno.EAGAIN)}.") from error
        code = self._await_end(outcome)
        if code is None:
            return outcome.result()
        closing = threading.Thread(target=self._stop, name="stop", daemon=True)
        closing.start()
        closing.join(_GRACE_S)
        worker.join(_GRACE_S)
        if worker.is_alive():
            abandon(code)
        return code

    def _await_end(self, outcome: Future[int]) -> int | None:
        """The exit code that was asked for first; None where the work came to its own end before that."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        while True:
            poll.poll()
            for number in os.read(self._wake, 4096):
                if number in SIGNALS:
                    return of_signal(number)
            if self._codes:
                return self._codes.popleft()
            if outcome.done():
                return None


def abandon(code: int) -> None:
    """Leave without waiting for threads. All processes and mounts of ours end with us; that is the spawner's work."""
    with contextlib.suppress(OSError):
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h")  # A spinner may have hidden the cursor.
    os._exit(code)
