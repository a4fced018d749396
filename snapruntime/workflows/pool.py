"""The processes of one version: parked copies, those that wait for their next event, and how many there should be.

A pool decides nothing about others: turns, memory and who is served first are `snapruntime.workflows.host`'s; making
copies ahead and taking away is `snapruntime.workflows.keeper`'s.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass

from snapruntime.values.answer import Limits
from snapruntime.values.function import FunctionVersion
from snapruntime.values.life import State
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.memory import UNKNOWN
from snapruntime.workflows.parked import Parked
from snapruntime.workflows.versions import OpenVersion

#: For so long a burst is remembered, seconds: as many copies are kept parked as were in use at once.
_REMEMBERED_S = 10.0
#: The pause before another copy is parked where one failed to come to life, or died while it waited, seconds; it
#: doubles each time, up to the longest.
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0

#: A version, told from another that may have had its name before.
Key = tuple[str, str, str]


def key_of(version: FunctionVersion) -> Key:
    """What a version's pool is known by: a change of `$LATEST` is another one's."""
    return version.name, version.version, version.revision_id if not version.published else version.code.folder


@dataclass(slots=True, eq=False)
class Held:
    """A copy of a pool.

    Attributes:
        copy: restored and parked, or ready for events.
        charge: the bytes that it is charged.
        born: `time.monotonic()` of its first moment.
        used: of the end of its last event.
    """

    copy: Parked | Instance
    charge: int
    born: float
    used: float = 0.0

    def close(self) -> None:
        self.copy.close()


class Pool:
    """The processes of one opened version. Thread-safe.

    Attributes:
        key: see `key_of`.
        opened: where its processes come from.
        copy_bytes: what one of its copies takes of memory, as far as is known.
    """

    def __init__(self, key: Key, opened: OpenVersion, limits: Limits) -> None:
        self.key = key
        self.opened = opened
        self.copy_bytes = UNKNOWN
        self._limits = limits
        self._lock = threading.Lock()
        self._parked: list[Held] = []
        self._idle: list[Held] = []
        self._busy = self._leaving = self._making = 0
        self._most = 0
        self._most_at = 0.0
        self._used = time.monotonic()
        self._pause, self._not_before = _PAUSE_S, 0.0
        self._retired = self._closed = False

    @property
    def name(self) -> str:
        """Its function's."""
        return self.key[0]

    @property
    def parked(self) -> int:
        return len(self._parked)

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        return self._busy

    @property
    def used(self) -> float:
        """`time.monotonic()` of the last request."""
        return self._used

    def enter(self) -> bool:
        """A request begins. False where the pool is not to be used any more."""
        with self._lock:
            if self._retired:
                return False
            self._busy += 1
            now = self._used = time.monotonic()
            if self._busy >= self._most or now - self._most_at > _REMEMBERED_S:
                self._most, self._most_at = self._busy, now
            return True

    def leave(self) -> None:
        """A request has its answer. What it had of the pool is still in use: see `left`."""
        with self._lock:
            self._used = time.monotonic()
            if 2 * self._busy >= self._most:
                self._most_at = self._used  # The load is still about what it was at most.
            self._busy -= 1
            self._leaving += 1

    def left(self) -> bool:
        """A request that has its answer has given back what it had; whether the pool is to be closed now."""
        with self._lock:
            self._leaving -= 1
            return self._is_over()

    def take(self) -> tuple[Held, bool] | None:
        """A copy that is there, and whether it has answered before: that which was used last, so that others can go."""
        with self._lock:
            for place, used in ((self._idle, True), (self._parked, False)):
                for held in [*reversed(place)]:
                    if held.copy.alive():  # Else whoever notices its end takes it away.
                        place.remove(held)
                        return held, used
            return None

    def keep(self, held: Held) -> bool:
        """A copy has answered and may answer again. False where it is to be closed."""
        assert isinstance(held.copy, Instance)
        with self._lock:
            now = time.monotonic()
            young = now - held.born < self._limits.reuse_age_s
            if not young or self._retired or held.copy.state is not State.READY:
                return False
            held.used = now
            self._idle.append(held)
            return True

    # What is made ahead.

    def wanted(self, now: float) -> bool:
        """Whether a further copy is to be parked, and if so, that somebody begins with it now: see `add`, `failed`."""
        with self._lock:
            if self.opened.snapshot is None or self._retired or now < self._not_before:
                return False
            if now - self._used > self._limits.idle_s:
                return False
            target = max(self._limits.warm, self._most if now - self._most_at < _REMEMBERED_S else 0)
            if len(self._parked) + len(self._idle) + self._making >= min(target, self._limits.warm_most):
                return False
            self._making += 1
            return True

    def add(self, held: Held) -> bool:
        """A copy has been parked. False where it is not needed any more."""
        with self._lock:
            self._making -= 1
            self._pause = _PAUSE_S
            if self._retired:
                return False
            self._parked.append(held)
            return True

    def failed(self, *, made: bool = False) -> None:
        """A copy did not come to life, or (made) died while it waited: pause before there is another."""
        with self._lock:
            self._making -= not made
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)

    def not_now(self) -> None:
        """There is no room for another copy."""
        with self._lock:
            self._making -= 1

    # What goes.

    def waiting(self) -> list[Held]:
        """The copies that wait."""
        with self._lock:
            return [*self._parked, *self._idle]

    def remove(self, held: Held) -> bool:
        """Take one out that is not to be used any more; False where somebody has it already."""
        with self._lock:
            for place in (self._parked, self._idle):
                with contextlib.suppress(ValueError):
                    place.remove(held)
                    return True
            return False

    def shrink(self, now: float) -> list[Held]:
        """Take out what is too old, or all where nobody has come for long."""
        with self._lock:
            over = now - self._used > self._limits.idle_s and not self._busy
            gone = [one for one in self._idle if over or now - one.born >= self._limits.reuse_age_s]
            gone += [*self._parked] if over else []
            for held in gone:
                (self._idle if held in self._idle else self._parked).remove(held)
            return gone

    def is_idle(self, now: float) -> bool:
        """Whether nobody has come for long, so that it can be closed."""
        return not self._busy and now - self._used > self._limits.idle_s

    def learn(self, size: int) -> None:
        """A copy of it was seen with so many bytes of its own."""
        with self._lock:
            self.copy_bytes = size if self.copy_bytes == UNKNOWN else max(self.copy_bytes, size)

    def retire(self, *, unless_used_since: float | None = None) -> tuple[list[Held], bool] | None:
        """Let nobody in any more. Returns what is to be closed, and whether the pool can be too; None where used."""
        with self._lock:
            if unless_used_since is not None and (self._busy or self._making or self._used > unless_used_since):
                return None
            self._retired = True
            gone = [*self._parked, *self._idle]
            self._parked.clear()
            self._idle.clear()
            return gone, self._is_over()

    def _is_over(self) -> bool:
        """Whether the last of its users has gone: true once."""
        used = self._busy or self._leaving or self._making
        over = self._retired and not used and not self._closed
        self._closed |= over
        return over

    def made(self) -> bool:
        """What was being made is done with; whether the pool is to be closed now."""
        with self._lock:
            return self._is_over()
