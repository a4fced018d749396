"""The host of functions: the one way in for invocations. Whose turn it is, by which process, with which answer.

A request passes three gates, each of which serves functions in turn: concurrency (its function's reserved one, or what
all others share), a turn to start a process, memory for it. Who finds a copy that is parked, or that may answer again,
needs only the first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Self

from snapruntime.mechanisms.event_queue import EventQueue, QueuedEvent
from snapruntime.mechanisms.log_store import LogStore
from snapruntime.values.answer import UNHANDLED, Answer, Limits, Way
from snapruntime.values.errors import FunctionError, SnapruntimeError, UsageError
from snapruntime.values.model import Function, Invocation
from snapruntime.values.service_errors import (
    InvalidRequestContentException,
    ServiceError,
    ServiceException,
    ServiceUnavailableException,
)
from snapruntime.workflows.ask import Ask
from snapruntime.workflows.concurrency import Concurrency
from snapruntime.workflows.events import Events
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.journal import Journal
from snapruntime.workflows.launch import milliseconds_since
from snapruntime.workflows.metrics import Metrics
from snapruntime.workflows.pool import Pool
from snapruntime.workflows.request import Request
from snapruntime.workflows.supply import SHARED, StaleError, Supply
from snapruntime.workflows.versions import Versions

_RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"

DEFAULT_LIMITS = Limits()

#: How often a version is opened for one request, where its copies turn out to be of no use.
_ATTEMPTS = 3


class FunctionHost:
    """Answers invocations of named functions. Thread-safe; use it as a context manager, or close it.

    Args:
        functions: what there is.
        versions: opens them.
        limits: what it may use.
        deliver: whether events that wait are tried, where no other process does that; the queue takes them anyway.

    Attributes:
        functions: what there is.
        metrics: what can be seen of it.
    """

    def __init__(
        self, functions: Functions, versions: Versions, limits: Limits = DEFAULT_LIMITS, *, deliver: bool = True
    ) -> None:
        self.functions = functions
        self.metrics = Metrics()
        self._limits = limits
        self._concurrency = Concurrency(limits.concurrency, functions.reserved)
        self._supply = Supply(versions, limits, self.metrics)
        self._logs = LogStore(functions.home)
        self._draining = False
        self._running = 0
        self._ended = threading.Condition()
        self._queue = EventQueue(functions.home)
        self._events: Events | None = None
        if deliver:
            self._events = Events(
                self._queue,
                functions.home,
                self._try_event,
                functions.settings,
                limits,
                lambda name: self.metrics.stranded.labels(name).inc(),
            )
        self._measure()

    # What callers use.

    def invoke(
        self,
        name: str,
        qualifier: str | None,
        payload: bytes,
        *,
        client_context: str | None = None,
        request_id: str | None = None,
        tell: Callable[[Answer], None] = lambda _: None,
    ) -> Answer:
        """Have a function answer; blocks until it has, and all that comes after it has been done.

        Args:
            name: the function's, plain.
            qualifier: version or alias; None for `$LATEST`.
            payload: the event, JSON.
            client_context: JSON text.
            request_id: a new UUID by default.
            tell: is told the answer as soon as there is one: the log has no report yet, and `Answer.log_tail` neither.

        Raises:
            ResourceNotFoundException: there is no such function, version or alias.
            TooManyRequestsException: its turn did not come within `Limits.queue_s`.
            SnapStartException: an after-restore hook failed; SnapStartTimeoutException: it took too long.
            ServiceError: what `Versions.open` raises; ServiceException for what this host cannot.
        """
        if self._draining:
            raise ServiceUnavailableException("The server is shutting down.")
        return self._run(name, qualifier, payload, client_context, request_id or str(uuid.uuid4()), tell)

    def enqueue(
        self,
        name: str,
        qualifier: str | None,
        payload: bytes,
        *,
        client_context: str | None = None,
        request_id: str | None = None,
    ) -> str:
        """Accept an event, to be delivered in the background: it is on the disk when this returns. The request's id.

        Raises:
            ResourceNotFoundException: there is no such function, version or alias.
            ServiceException: the disk does not take it.
        """
        self.functions.target(name, qualifier)
        now, request_id = time.time(), request_id or str(uuid.uuid4())
        self._queue.add(QueuedEvent(0, request_id, name, qualifier, payload, client_context, now), now)
        if self._events is not None:
            self._events.added()
        return request_id

    def drain(self, seconds: float) -> bool:
        """Take no more invocations; wait for those that run. Whether all have ended."""
        deadline = time.monotonic() + seconds
        self._draining = True
        done = self._events is None or self._events.drain(seconds)
        with self._ended:
            left = max(0.0, deadline - time.monotonic())
            return self._ended.wait_for(lambda: not self._running, left) and done

    def close(self) -> None:
        """End all processes, and give everything back. Requests must have ended; those of events are waited for."""
        self._draining = True
        if self._events is not None:
            self._events.close()
        self._queue.close()
        self._supply.keeper.close()
        self._logs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The way of a request.

    def _try_event(self, event: QueuedEvent) -> Answer:
        return self._run(event.function, event.qualifier, event.payload, event.client_context, event.request_id)

    def _run(
        self,
        name: str,
        qualifier: str | None,
        payload: bytes,
        client_context: str | None,
        request_id: str,
        tell: Callable[[Answer], None] = lambda _: None,
    ) -> Answer:
        began = time.monotonic()
        target = self.functions.target(name, qualifier)
        function = target.version.function()
        request = Request(
            target,
            _ask(function, payload, client_context, request_id, target.invoked_arn),
            began,
            began + self._limits.queue_s,
            Journal(self._logs, target.version, function, request_id),
        )
        with self._ended:
            self._running += 1
        try:
            with request.rest:
                request.rest.callback(self._supply.keeper.nudge)
                request.rest.callback(request.journal.flush)
                with self._turn(request):
                    answer = self._answer(request)
                tell(answer)
            return dataclasses.replace(answer, log_tail=request.journal.tail)
        except ServiceError as error:
            self.metrics.failures.labels(error.name).inc()
            raise
        except SnapruntimeError as error:
            self.metrics.failures.labels(ServiceException.__name__).inc()
            raise ServiceException(error.message, hint=error.hint) from error
        finally:
            with self._ended:
                self._running -= 1
                self._ended.notify_all()

    @contextlib.contextmanager
    def _turn(self, request: Request) -> Iterator[None]:
        """The function's turn: of its reserved concurrency, or of what the others share."""
        name, reserved = request.target.version.name, request.target.settings.reserved_concurrency
        turns, started = self._concurrency.turns(name, reserved), time.monotonic()
        with self._supply.in_time(SHARED if reserved is None else _RESERVED):
            turns.take(name, request.deadline if turns.limit else started)
        request.queued_ms += milliseconds_since(started)
        try:
            yield
        finally:
            turns.give()

    def _answer(self, request: Request) -> Answer:
        """Have one of the version's processes answer; a pool that is not to be used any more is replaced."""
        for _ in range(_ATTEMPTS):
            try:
                with self._supply.pool(request) as pool:
                    return self._answer_by(pool, request)
            except StaleError as stale:
                error = stale
        raise ServiceException(f"No copy came to life: {error}", hint="`snapruntime doctor` says what this host lacks.")

    def _answer_by(self, pool: Pool, request: Request) -> Answer:
        try:
            held, way = self._supply.obtain(pool, request)
        except FunctionError as error:  # Of a cold start's init.
            return self._failed(request, error, "cold")
        instance, reuse = held.copy, request.target.settings.reuse == "reuse"
        assert isinstance(instance, Instance)
        with contextlib.ExitStack() as at_once:  # One that may answer again is there for who has its answer.
            after = at_once if reuse else request.rest
            after.callback(self._supply.give_back, pool, held, reuse=reuse)
            request.journal.invoked()
            invocation = instance.answer(request.ask, sink=request.journal.sink, measure=False)
            if way == "reused":  # What it took to start was an earlier invocation's.
                invocation = dataclasses.replace(invocation, restore_ms=None, hooks_ms=None, init_ms=None)
            answer = self._answered(request, invocation, way)
            after.callback(self._report, request, instance, invocation, answer)
            return answer

    def _failed(self, request: Request, error: FunctionError, way: Way) -> Answer:
        """The answer of a function whose init failed: to its caller it is the function's error, as on AWS."""
        document = dict(error.document)
        # Init knows of no request; Lambda's documents name the one that they answer.
        if other := document.get("requestId"):
            document["errorMessage"] = str(document.get("errorMessage", "")).replace(str(other), request.id)
        document["requestId"] = request.id
        return self._counted(request, way, json.dumps(document).encode(), document, 0.0, 0.0)

    def _report(self, request: Request, instance: Instance, invocation: Invocation, answer: Answer) -> None:
        request.journal.answered(instance.measured(invocation), answer.way, answer.total_ms)

    def _answered(self, request: Request, invocation: Invocation, way: Way) -> Answer:
        error = dict(invocation.error) if invocation.error is not None else None
        payload = invocation.payload or b"null" if error is None else json.dumps(error).encode()
        return self._counted(request, way, payload, error, invocation.hooks_ms or 0.0, invocation.duration_ms or 0.0)

    def _counted(
        self,
        request: Request,
        way: Way,
        payload: bytes,
        error: dict[str, Any] | None,
        hooks_ms: float,
        duration_ms: float,
    ) -> Answer:
        version = request.target.version
        answer = Answer(
            payload=payload,
            function_error=None if error is None else UNHANDLED,
            executed_version=version.version,
            log_tail=request.journal.tail,
            request_id=request.id,
            way=way,
            queued_ms=request.queued_ms,
            start_ms=request.start_ms,
            hooks_ms=hooks_ms,
            duration_ms=duration_ms,
            total_ms=milliseconds_since(request.began),
        )
        self.metrics.answered(version.name, answer, None if error is None else str(error.get("errorType")))
        return answer

    # What is seen of it.

    def _measure(self) -> None:
        gauge, supply = self.metrics.gauge, self._supply
        pools, memory = supply.keeper.pools, supply.memory
        gauge("copies_parked", "Copies restored ahead.", lambda: sum(pool.parked for pool in pools()))
        gauge("copies_idle", "Processes that wait for another event.", lambda: sum(pool.idle for pool in pools()))
        gauge("requests_running", "Requests that are past their limits.", lambda: sum(pool.busy for pool in pools()))
        gauge("versions_open", "Versions that are in use.", lambda: len(pools()))
        gauge("waiting_for_turn", "Requests that wait for their function's turn.", lambda: self._concurrency.waiting)
        gauge(
            "waiting_for_start",
            "Requests that wait to have a process started.",
            lambda: supply.starts.waiting + supply.inits.waiting,
        )
        gauge("memory_bytes", "Memory that copies are charged.", lambda: memory.used)
        gauge("memory_limit_bytes", "Memory that copies may have together.", lambda: memory.limit)
        gauge("events_waiting", "Events that wait to be delivered.", lambda: len(self._queue))


def _ask(function: Function, payload: bytes, client_context: str | None, request_id: str, arn: str) -> Ask:
    context = json.loads(client_context) if client_context else None
    try:
        return Ask(function, payload, request_id=request_id, client_context=context, arn=arn)
    except UsageError as error:
        raise InvalidRequestContentException(error.message, hint=error.hint) from error
