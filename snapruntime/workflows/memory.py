"""How much memory all copies together may have to themselves, and who has it.

Copies of a snapshot share what they have not written to, so what counts is what each has of its own. That is known once
the first of a version has answered; a copy is charged what the largest of its version was seen with.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: What a copy is taken to need before one of its version has been seen, bytes: a small handler's has 5 to 8 MiB.
UNKNOWN = 16 << 20
#: The share of the host's memory that copies may have together, where nothing else is said.
SHARE = 0.75


class Memory:
    """The budget. Thread-safe.

    Args:
        limit: bytes.
        make_room: asked for so many bytes where they are missing; gives up copies that nobody waits for.
    """

    def __init__(self, limit: int, make_room: Callable[[int], None]) -> None:
        self.limit = limit
        self._make_room = make_room
        self._changed = threading.Condition()
        self._used = 0
        self._wanted = 0

    @property
    def used(self) -> int:
        """Bytes that are charged."""
        return self._used

    def take(self, size: int, deadline: float) -> None:
        """Charge `size` bytes, once there is room. One copy may always be there, however large it is.

        Args:
            deadline: `time.monotonic()` until which to wait.

        Raises:
            TimeoutError: there was no room until then.
        """
        if self.take_spare(size):
            return
        with self._changed:
            self._wanted += size
        self.relieve()
        with self._changed:
            try:
                if not self._changed.wait_for(lambda: self._fits(size), max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                self._used += size
            finally:
                self._wanted -= size

    def relieve(self) -> None:
        """Make room for those who wait for it. To be called when there is a copy more that could be given up."""
        with self._changed:
            wanted, missing = self._wanted, self._used + self._wanted - self.limit
        if wanted:
            self._make_room(missing)

    def take_spare(self, size: int) -> bool:
        """Charge them if there is room now and nobody waits for it; says whether."""
        with self._changed:
            fits = not self._wanted and self._fits(size)
            self._used += size if fits else 0
            return fits

    def grow(self, size: int) -> None:
        """Charge what somebody has taken already."""
        with self._changed:
            self._used += size

    def give(self, size: int) -> None:
        """Give them back."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._used or self._used + size <= self.limit
