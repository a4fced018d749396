"""Behind the requests: copies are parked ahead, the dead are noticed, used copies are taken away, idle ones given up.

Three kinds of thread, none of which a request waits for. Requests come first: a copy is made ahead only in a turn that
nobody waits for, with memory that nobody needs, and there is always a turn left for the next request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable

from snapruntime.mechanisms.process import REQUEST_DEADLINE_S
from snapruntime.values.errors import SnapruntimeError
from snapruntime.workflows.memory import Memory
from snapruntime.workflows.metrics import Metrics
from snapruntime.workflows.pool import Held, Key, Pool
from snapruntime.workflows.turns import Turns

_log = logging.getLogger("snapruntime.pool")
#: How often idle copies and paused pools are looked at, seconds.
_ROUND_S = 0.5
#: The same for pools to be filled while requests run, and what is left to those that have just been served before there
#: is work beside them, seconds: on few processors, a restore at the same time doubles the time of an answer.
_BUSY_ROUND_S, _FIRST_S = 0.02, 0.002


class Keeper:
    """Keeps pools filled and clean. Thread-safe.

    Args:
        starts: the turns of restores and cold starts.
        memory: the budget.
        metrics: is told of deaths and restores.
        threads: how many copies are made ahead at once.
    """

    def __init__(self, starts: Turns, memory: Memory, metrics: Metrics, threads: int) -> None:
        self._starts = starts
        self._memory = memory
        self._metrics = metrics
        self._changed = threading.Condition()
        self._pools: dict[Key, Pool] = {}
        self._nudged = False
        self._closed = False
        self._waiting: dict[int, tuple[Pool, Held]] = {}  # pidfd -> whose death is to be noticed
        self._deaths = select.epoll()
        self._wake, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._deaths.register(self._wake, select.EPOLLIN)
        self._over: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._fill, name="snapruntime-fill", daemon=True) for _ in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._watch, name="snapruntime-watch", daemon=True))
        self._burying = threading.Thread(target=self._bury, name="snapruntime-bury", daemon=True)
        for thread in (*self._threads, self._burying):
            thread.start()

    def add(self, pool: Pool) -> None:
        """Keep this pool."""
        with self._changed:
            self._pools[pool.key] = pool
        os.write(self._wake_write, b".")
        self.nudge()

        for other in self.pools():
            if other.key[:2] == pool.key[:2] and other is not pool:
                self.retire(other)  # The same version as it was before a change.

    def find(self, key: Key) -> Pool | None:
        """The pool that goes by this key."""
        return self._pools.get(key)

    def pools(self) -> list[Pool]:
        """All that are kept."""
        with self._changed:
            return list(self._pools.values())

    def nudge(self) -> None:
        """Something was taken or given: look whether copies are to be made ahead."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def guard(self, pool: Pool, held: Held) -> None:
        """A copy waits from now on: notice its end, and give it up where a request lacks its memory."""
        self._waiting[held.copy.pidfd] = pool, held
        with contextlib.suppress(FileExistsError):  # It was parked before.
            self._deaths.register(held.copy.pidfd, select.EPOLLIN)
        self._memory.relieve()

    def forget(self, held: Held) -> None:
        """It has ended, and is closed."""
        if self._waiting.get(held.copy.pidfd, (None, None))[1] is held:
            del self._waiting[held.copy.pidfd]

    def bury(self, pool: Pool, held: Held) -> None:
        """Take a copy away in the background."""

        def job() -> None:
            self.forget(held)
            held.close()
            self._memory.give(held.charge)

        self._over.put(job)

    def retire(self, pool: Pool, *, unless_used_since: float | None = None) -> bool:
        """Let nobody use a pool any more, and close it after its last user. False where it is used after all."""
        retired = pool.retire(unless_used_since=unless_used_since)
        if retired is None:
            return False
        with self._changed:
            if self._pools.get(pool.key) is pool:
                del self._pools[pool.key]
        gone, over = retired
        for held in gone:
            self.bury(pool, held)
        if over:
            self.end(pool)
        return True

    def end(self, pool: Pool) -> None:
        """Close a pool of which nothing is used any more, after the copies that are still to be taken away."""
        self._over.put(pool.opened.close)

    def make_room(self, size: int) -> None:
        """Give up copies that wait, those of the version that was used least lately first."""
        with self._changed:
            pools = sorted(self._pools.values(), key=lambda pool: pool.used)
        for pool in pools:
            for held in pool.waiting():
                if size <= 0:
                    return
                if pool.remove(held):
                    size -= held.charge
                    self.bury(pool, held)

    # The threads.

    def _fill(self) -> None:
        turn = 0
        while True:
            with self._changed:
                # With pools there may be one whose pause is over; without, there is nothing to do before a nudge.
                pools = list(self._pools.values())
                pause = _BUSY_ROUND_S if any(pool.busy for pool in pools) else _ROUND_S if pools else None
                self._changed.wait_for(lambda: self._nudged or self._closed, pause)
                if self._closed:
                    return
                self._nudged = False
                pools = list(self._pools.values())
            time.sleep(_FIRST_S)
            # One of each in turn, so that no function's want holds up another's.
            again = True
            while again:
                turn += 1
                again = False
                for pool in pools[turn % max(1, len(pools)) :] + pools[: turn % max(1, len(pools))]:
                    if self._closed:
                        return
                    again |= self._park(pool)

    def _park(self, pool: Pool) -> bool:
        """Park one copy, if one is wanted and nobody needs what it takes."""
        if not pool.wanted(time.monotonic()):
            return False
        snapshot, charge = pool.opened.snapshot, pool.copy_bytes
        assert snapshot is not None
        if not self._starts.take_spare(leave=1):
            pool.not_now()
            self._end_if_over(pool)
            return False
        parked = False
        try:
            if not self._memory.take_spare(charge):
                pool.not_now()
                return False
            try:
                copy = snapshot.park()
            except (SnapruntimeError, OSError) as error:
                self._memory.give(charge)
                self._metrics.restores.labels("failed").inc()
                _log.warning("No copy of %s:%s could be parked: %s", *pool.key[:2], error)
                pool.failed()
                return False
            self._metrics.restores.labels("parked").inc()
            held = Held(copy, charge, time.monotonic())
            parked = pool.add(held)
            if parked:
                self.guard(pool, held)
            else:
                self.bury(pool, held)
            return parked
        finally:
            self._starts.give()
            self._end_if_over(pool)

    def _end_if_over(self, pool: Pool) -> None:
        if pool.made():
            self.end(pool)

    def _watch(self) -> None:
        while not self._closed:
            for fd, _ in self._deaths.poll(_ROUND_S if self._pools else -1):
                if fd == self._wake:
                    os.read(self._wake, 64)
                    continue
                with contextlib.suppress(OSError):
                    self._deaths.unregister(fd)
                pool, held = self._waiting.pop(fd, (None, None))
                if pool is not None and held is not None and pool.remove(held):
                    self._metrics.deaths.inc()
                    _log.warning("A copy of %s:%s ended while it waited.", *pool.key[:2])
                    pool.failed(made=True)
                    self.bury(pool, held)
            now = time.monotonic()
            for pool in self.pools():
                for held in pool.shrink(now):
                    self.bury(pool, held)
                if pool.is_idle(now):
                    self.retire(pool, unless_used_since=pool.used)

    def _bury(self) -> None:
        while (job := self._over.get()) is not None:
            if not self._closed and self._over.empty():  # Else there is much to take away.
                time.sleep(_FIRST_S)
            try:
                job()
            except (SnapruntimeError, OSError) as error:
                _log.warning("Something could not be taken away: %s", error)

    def close(self) -> None:
        """Retire all pools, and end. Requests must have ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        os.write(self._wake_write, b".")
        for thread in self._threads:
            thread.join(REQUEST_DEADLINE_S)
        for pool in list(self._pools.values()):
            self.retire(pool)
        self._over.put(None)
        self._burying.join(REQUEST_DEADLINE_S)
        self._deaths.close()
        os.close(self._wake)
        os.close(self._wake_write)
