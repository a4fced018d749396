"""So many at once. Who waits is served by its function's turn, not by when it came.

A function that sends a thousand requests waits behind itself: each time there is room, the next of the functions that
wait gets it, one request of each in turn.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque


class _Waiter:
    """One request that waits."""

    def __init__(self) -> None:
        self.granted = threading.Event()


class Turns:
    """Room for so many at once. Thread-safe.

    Args:
        limit: how many.
    """

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._taken = 0
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @property
    def limit(self) -> int:
        """How many at once. Lowering it ends nobody's turn."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with self._lock:
            self._limit = limit
            self._grant()

    @property
    def taken(self) -> int:
        """How many have a turn."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        with self._lock:
            return sum(map(len, self._waiting.values()))

    def take(self, name: str, deadline: float) -> None:
        """Wait for a turn.

        Args:
            name: whose: the function's name.
            deadline: `time.monotonic()` until which to wait.

        Raises:
            TimeoutError: there was none until then.
        """
        with self._lock:
            if not self._waiting and self._taken < self._limit:
                self._taken += 1
                return
            waiter = _Waiter()
            self._waiting.setdefault(name, deque()).append(waiter)
        if waiter.granted.wait(max(0.0, deadline - time.monotonic())):
            return
        with self._lock:
            if waiter.granted.is_set():  # In the moment between.
                return
            self._waiting[name].remove(waiter)
            if not self._waiting[name]:
                del self._waiting[name]
        raise TimeoutError

    def take_spare(self, leave: int) -> bool:
        """A turn for what can wait: only where nobody waits, and `leave` more could still have one at once."""
        with self._lock:
            spare = not self._waiting and self._taken + leave < self._limit
            self._taken += spare
            return spare

    def give(self) -> None:
        """End a turn."""
        with self._lock:
            self._taken -= 1
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self._taken < self._limit:
            name, queue = self._waiting.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                self._waiting[name] = queue  # Behind the others.
            self._taken += 1
            waiter.granted.set()
