"""Where a request's process comes from: one that is there, or one that is started when it is its function's turn."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from snapruntime.mechanisms.criu import CriuError
from snapruntime.values.answer import Limits, Way
from snapruntime.values.errors import FunctionError, RestoreError
from snapruntime.values.service_errors import (
    ServiceException,
    SnapStartException,
    SnapStartTimeoutException,
    TooManyRequestsException,
)
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.keeper import Keeper
from snapruntime.workflows.launch import milliseconds_since
from snapruntime.workflows.memory import SHARE, Memory
from snapruntime.workflows.metrics import Metrics
from snapruntime.workflows.parked import Parked
from snapruntime.workflows.pool import Held, Key, Pool, key_of
from snapruntime.workflows.request import Request
from snapruntime.workflows.turns import Turns
from snapruntime.workflows.versions import Versions

#: The API's ThrottleReason where what all functions share is used up.
SHARED = "ConcurrentInvocationLimitExceeded"


class StaleError(Exception):
    """A pool's copies are not to be used any more; another pool of the version is to be opened.

    Attributes:
        rebuild: whether its snapshot has to be made anew, though it looks as it should.
    """

    def __init__(self, message: str, *, rebuild: bool) -> None:
        super().__init__(message)
        self.rebuild = rebuild


class _DiedError(Exception):
    """A parked copy ended in the moment when it was to be handed over."""


def _stale(error: RestoreError) -> Exception:
    """What follows from a copy that did not come back, or is not to be used.

    Where CRIU failed, the snapshot is of no use; where a library has changed (no cause), opening it anew finds that
    out. What the host refused (descriptors, processes) says nothing about the snapshot.
    """
    if error.__cause__ is not None and not isinstance(error.__cause__, CriuError):
        return ServiceException(error.message, hint=error.hint)
    return StaleError(error.message, rebuild=error.__cause__ is not None)


class Supply:
    """Opens versions, and has their processes. Thread-safe.

    Attributes:
        keeper: keeps the pools.
        starts: the turns of restores.
        inits: those of cold starts.
        memory: the budget.
    """

    def __init__(self, versions: Versions, limits: Limits, metrics: Metrics) -> None:
        processors = len(os.sched_getaffinity(0))
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.starts = Turns(limits.starts or 2 * processors)
        # Of their own: an init that takes a minute must not hold up a restore of 10 ms.
        self.inits = Turns(limits.starts or 4 * processors)
        self.memory = Memory(limits.memory_bytes or int(total * SHARE), lambda size: self.keeper.make_room(size))
        self.keeper = Keeper(self.starts, self.memory, metrics, threads=max(1, processors // 2))
        self._versions = versions
        self._limits = limits
        self._metrics = metrics
        self._lock = threading.Lock()
        self._rebuild: set[Key] = set()
        self._opening: dict[Key, threading.Lock] = {}

    @contextlib.contextmanager
    def pool(self, request: Request) -> Iterator[Pool]:
        """The pool of the version, for one request and its rest. One that turns out to be of no use is given up.

        Raises:
            ServiceError: what `Versions.open` raises.
            StaleError: try again.
        """
        while not (pool := self._open(request)).enter():
            continue
        request.rest.callback(self._left, pool)
        try:
            yield pool
        except StaleError as error:
            if error.rebuild:
                self._rebuild.add(pool.key)
            self.keeper.retire(pool)
            raise
        finally:
            pool.leave()

    def _left(self, pool: Pool) -> None:
        if pool.left():
            self.keeper.end(pool)

    def _open(self, request: Request) -> Pool:
        """The pool of the version; who comes first opens it, the others wait for that."""
        version = request.target.version
        key = key_of(version)
        if (pool := self.keeper.find(key)) is not None:
            return pool
        with self._lock:
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:
            if (pool := self.keeper.find(key)) is not None:
                return pool
            try:
                opened = self._versions.open(version, sink=request.journal.sink, rebuild=key in self._rebuild)
                self._rebuild.discard(key)
                pool = Pool(key, opened, self._limits)
                self.keeper.add(pool)
            finally:
                with self._lock:
                    self._opening.pop(key, None)
            return pool

    def obtain(self, pool: Pool, request: Request) -> tuple[Held, Way]:
        """A process that is ready for the event: one that is there, or one that is started when there is a turn."""
        if (found := self._take(pool, request)) is not None:
            return found
        cold = pool.opened.snapshot is None
        turns, started = self.inits if cold else self.starts, time.monotonic()
        with self.in_time(SHARED):
            turns.take(pool.name, request.deadline)
        try:
            if (found := self._take(pool, request)) is not None:  # One came back, or was parked, meanwhile.
                return found
            charge = pool.copy_bytes
            with self.in_time(SHARED):
                self.memory.take(charge, request.deadline)
            request.queued_ms += milliseconds_since(started)
            try:
                held = Held(self._start(pool, request), charge, time.monotonic())
            except BaseException:
                self.memory.give(charge)
                raise
        finally:
            turns.give()
        # Its hooks may take long: no other start has to wait for them.
        return (held, "cold") if cold else (self._resume(held, request), "on demand")

    def _take(self, pool: Pool, request: Request) -> tuple[Held, Way] | None:
        """A process that is there; None where there is none."""
        while (found := pool.take()) is not None:
            held, used = found
            if used and request.target.settings.reuse == "reuse":
                return held, "reused"
            if used:  # It has waited since before the function's copies were to answer but once.
                self.keeper.bury(pool, held)
                continue
            with contextlib.suppress(_DiedError):
                return self._resume(held, request, parked=True), "parked"
        return None

    def _start(self, pool: Pool, request: Request) -> Parked | Instance:
        """Restore a copy, or start a fresh process."""
        opened, began = pool.opened, time.monotonic()
        try:
            if opened.snapshot is not None:
                copy: Parked | Instance = opened.snapshot.park(ahead=False)
                self._metrics.restores.labels("on demand").inc()
            else:
                assert opened.cold is not None
                request.journal.starting(cold=True)
                copy = opened.cold.start(sink=request.journal.sink)
                request.journal.started(copy.init_ms or 0.0, cold=True)
                self._metrics.restores.labels("cold").inc()
        except (FunctionError, RestoreError) as error:
            self._metrics.restores.labels("failed").inc()
            if isinstance(error, FunctionError):
                request.journal.not_started(milliseconds_since(began), error.document, error.phase)
                raise
            raise _stale(error) from error
        request.start_ms = milliseconds_since(began)
        return copy

    def _resume(self, held: Held, request: Request, *, parked: bool = False) -> Held:
        """Hand a restored copy over. Raises _DiedError where one that was parked has ended in the very moment."""
        copy, journal, began = held.copy, request.journal, time.monotonic()
        assert isinstance(copy, Parked)

        def sink(data: bytes) -> None:
            # Only where hooks write: of a copy that turns out to be of no use before, the log says nothing.
            journal.starting(cold=False)
            journal.sink(data)

        try:
            held.copy = copy.resume(request_id=request.id, sink=sink, first=request.ask)
        except BaseException as error:
            self.keeper.forget(held)
            self.memory.give(held.charge)
            if isinstance(error, RestoreError):
                raise _stale(error) from error
            if not isinstance(error, FunctionError):
                raise
            if parked and error.code == "Runtime.ExitError":
                raise _DiedError from error
            journal.starting(cold=False)
            journal.not_started(request.start_ms + milliseconds_since(began), error.document, error.phase)
            kind = SnapStartTimeoutException if error.code == "Sandbox.Timedout" else SnapStartException
            raise kind(f"{error.code}: {error.message}", hint=error.hint) from error
        journal.starting(cold=False)
        journal.started(request.start_ms + milliseconds_since(began), cold=False)
        return held

    def give_back(self, pool: Pool, held: Held, *, reuse: bool) -> None:
        """A process has answered. It waits for another event where it may; else it is taken away in the background."""
        if isinstance(held.copy, Instance) and (size := held.copy.own_bytes):
            pool.learn(size)
            if size > held.charge:
                self.memory.grow(size - held.charge)
                held.charge = size
        if reuse and pool.keep(held):
            self.keeper.guard(pool, held)
        else:
            self.keeper.bury(pool, held)

    @contextlib.contextmanager
    def in_time(self, reason: str) -> Iterator[None]:
        """What does not come in time is refused."""
        try:
            yield
        except TimeoutError:
            self._metrics.throttled.labels(reason).inc()
            raise TooManyRequestsException("Rate Exceeded.", reason=reason) from None
