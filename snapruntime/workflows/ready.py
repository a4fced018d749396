"""Copies on their way ahead of need: what a restore takes, made before it is asked for.

A thread of its own makes them and takes away what is over, so that neither is part of anybody's answer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from snapruntime.mechanisms.process import REQUEST_DEADLINE_S
from snapruntime.values.errors import SnapruntimeError

T = TypeVar("T")


class Ready(Generic[T]):
    """So many things, made ahead and made anew after use. Safe for use by several threads.

    Args:
        make: makes one. Where it fails, no more are made ahead: who needs one then makes it, and sees the error.
        discard: takes away one that was not used.
    """

    def __init__(self, make: Callable[[], T], discard: Callable[[T], None]) -> None:
        self._make = make
        self._discard = discard
        self._changed = threading.Condition()
        self._ready: deque[T] = deque()
        self._count = 0
        self._uses: int | None = None
        self._over: deque[Callable[[], None]] = deque()
        self._closed = self._making = self._waiting = False
        self._thread: threading.Thread | None = None

    def keep(self, count: int, uses: int | None = None) -> None:
        """Have `count` ready from now on; make `uses` at most, None for no limit. What is over is taken away."""
        with self._changed:
            self._count, self._uses = count, uses
            over = [self._ready.popleft() for _ in range(len(self._ready) - count)]
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._work, name="snapruntime-ready", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # No more threads are to be had: then all is made when it is asked for.
                    self._count = 0
                else:
                    self._thread = thread
            self._changed.notify_all()
        for one in over:
            self._discard(one)

    def wait(self) -> int:
        """Wait until as many are ready as are to be; returns how many are."""
        with self._changed:
            limit = REQUEST_DEADLINE_S * max(1, self._count)
            # The last of those that are to be made at most is not wanting any more, but not there yet.
            self._changed.wait_for(lambda: self._closed or not (self._wanting() or self._making), limit)
            return len(self._ready)

    def take(self) -> T:
        """One that is ready, or about to be; one made now where there is none."""
        with self._changed:
            if self._making and not self._ready and not self._waiting:
                self._waiting = True
                self._changed.wait_for(lambda: self._ready or not self._making, REQUEST_DEADLINE_S)
                self._waiting = False
            if self._ready:
                taken = self._ready.popleft()
                self._changed.notify_all()
                return taken
        return self._make()

    def afterwards(self, job: Callable[[], None]) -> None:
        """Have `job` done in the background; now, where there is none."""
        with self._changed:
            if self._thread is not None and not self._closed:
                self._over.append(job)
                self._changed.notify_all()
                return
        job()

    def close(self) -> None:
        """Take away all that is ready."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            # One that is later than this is held up by the spawner; what it makes ends with that.
            self._thread.join(REQUEST_DEADLINE_S)
        while self._ready:
            self._discard(self._ready.popleft())

    def _wanting(self) -> bool:
        return len(self._ready) < self._count and self._uses != 0

    def _work(self) -> None:
        while True:
            with self._changed:
                # Without a deadline: it waits for work, and `close` wakes it.
                self._changed.wait_for(lambda: self._over or self._closed or self._wanting())
                job = self._over.popleft() if self._over else None
                if job is None and self._closed:
                    return
                if job is None:
                    self._making = True
                    self._uses = None if self._uses is None else self._uses - 1
            if job is not None:
                job()
                continue
            try:
                made = self._make()
            except (SnapruntimeError, OSError):
                with self._changed:
                    self._count, self._making = 0, False
                    self._changed.notify_all()
                continue
            with self._changed:
                # Fewer may be wanted by now; but whoever waits for this one gets it.
                kept = self._waiting or len(self._ready) < self._count
                if kept:
                    self._ready.append(made)
            if not kept:
                self._discard(made)
            with self._changed:
                self._making = False
                self._changed.notify_all()
