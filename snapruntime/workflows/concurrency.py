"""How many invocations at once: of all functions together, and of those that have a number of their own.

As on AWS, what is reserved for one function is all that it gets, and is taken from what the others share, whether it is
in use or not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from snapruntime.workflows.reservations import least_unreserved
from snapruntime.workflows.turns import Turns

_log = logging.getLogger("snapruntime.concurrency")
#: How old what is known of others' reservations may be, seconds: they are changed by other processes too.
_KNOWN_S = 2.0


class Concurrency:
    """The turns of functions. Thread-safe.

    Args:
        total: of all functions together.
        reservations: what is reserved now, by function.
    """

    def __init__(self, total: int, reservations: Callable[[], Mapping[str, int]]) -> None:
        self._total = total
        self._reservations = reservations
        self._lock = threading.Lock()
        self._shared = Turns(total)
        self._own: dict[str, Turns] = {}
        self._read = 0.0
        self._know(reservations())  # What they leave too little for is said at the start.

    def turns(self, name: str, reserved: int | None) -> Turns:
        """Those that a function takes its turns from.

        Args:
            name: the function's.
            reserved: what is reserved for it, as its caller has just read.
        """
        with self._lock:
            if time.monotonic() - self._read > _KNOWN_S:
                self._know(self._reservations())
                self._read = time.monotonic()
            own = self._own.get(name)
            if reserved != (None if own is None else own.limit):
                known = {one: turns.limit for one, turns in self._own.items() if one != name}
                self._know(known if reserved is None else {**known, name: reserved})
            return self._shared if reserved is None else self._own[name]

    def _know(self, reservations: Mapping[str, int]) -> None:
        for name in self._own.keys() - reservations.keys():
            del self._own[name]  # Who has a turn of it, or waits for one, goes on with it.
        for name, count in reservations.items():
            if name not in self._own:
                self._own[name] = Turns(count)
            elif self._own[name].limit != count:
                self._own[name].limit = count
        shared = max(0, self._total - sum(reservations.values()))
        if self._shared.limit != shared:
            self._shared.limit = shared
            # `publish` does not know how many there are here.
            if shared < max(1, least_unreserved(self._total)) and reservations:
                names = ", ".join(sorted(name for name, count in reservations.items() if count))
                _log.warning(
                    "Of %d invocations at once, %d are reserved for %s: all other functions have %d.",
                    *(self._total, sum(reservations.values()), names, shared),
                )

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        with self._lock:
            return self._shared.waiting + sum(turns.waiting for turns in self._own.values())
