"""A process that is ready for events, be it a restored copy or a cold worker: give it events, take answers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from snapruntime.mechanisms.channel import Disconnected, LogSink
from snapruntime.mechanisms.process import REQUEST_DEADLINE_S, SpawnerError
from snapruntime.values.errors import UsageError
from snapruntime.values.life import Event, IllegalTransitionError, State
from snapruntime.values.model import FUNCTION_LIMIT_S, PAYLOAD_LIMIT, Function, Invocation
from snapruntime.worker import wire
from snapruntime.workflows.ask import Ask
from snapruntime.workflows.launch import Launched, broken_channel, out_of_memory, timed_out
from snapruntime.workflows.life import Life

#: So many of the last requests of a copy are known again; a copy may answer millions.
_REMEMBERED = 1000


class Instance:
    """A process that is ready for events: a restored copy, or a cold worker. Closing it ends the process.

    Attributes:
        restore_ms: from the request until CRIU had restored it; None for a cold worker.
        hooks_ms: its after-restore hooks; None for a cold worker.
        init_ms: its init; None for a copy.
        pid: its PID, as the host sees it.
        pidfd: readable once it has ended.
        own_bytes: the memory that its process had to itself when it last answered; 0 before, or where it has ended.
    """

    def __init__(
        self,
        function: Function,
        launched: Launched,
        life: Life,
        *,
        requested: float,
        snapshot: str | None,
        restore_ms: float | None = None,
        hooks_ms: float | None = None,
        along: Ask | None = None,
        init_ms: float | None = None,
        on_first_answer: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._function = function
        self._launched = launched
        self._life = life
        self._requested = requested
        self._snapshot = snapshot
        self._along = along  # What it has been asked already, with its hand-over.
        self.restore_ms = restore_ms
        self.hooks_ms = hooks_ms
        self.init_ms = init_ms
        self.pid = launched.process.pid
        self.pidfd = launched.process.pidfd
        self.own_bytes = 0
        self._answered: deque[str] = deque(maxlen=_REMEMBERED)
        self._on_first_answer = on_first_answer
        self._remains = contextlib.ExitStack()
        self._remains.callback(on_close)
        self._remains.callback(launched.close)
        self._closing = threading.Lock()
        launched.process.spawner.at_end(self.close)

    @property
    def state(self) -> State:
        """Where in its life it is."""
        return self._life.state

    def alive(self) -> bool:
        """Whether its process has not ended."""
        return self._launched.process.alive()

    def invoke(
        self,
        event: Any,
        *,
        request_id: str | None = None,
        sink: LogSink | None = None,
        client_context: Mapping[str, Any] | None = None,
        arn: str | None = None,
    ) -> Invocation:
        """Give one event to the handler and wait for its answer, or for the function's time limit.

        One event at a time, as on Lambda: who comes while it is busy waits until it has answered.

        Args:
            event: bytes of JSON, or anything that `json.dumps` takes.
            request_id: a new UUID by default.
            sink: receives what the function writes meanwhile.
            client_context: the mobile SDKs' context object.
            arn: what it was invoked as; the function's own ARN by default.

        Raises:
            UsageError: the event or the client context is no JSON, or too large; or the copy has been closed or has
                ended. Whatever the function does wrong is in the result instead.
        """
        ask = Ask(self._function, event, request_id=request_id, client_context=client_context, arn=arn)
        return self.answer(ask, sink=sink)

    def answer(self, ask: Ask, *, sink: LogSink | None = None, measure: bool = True) -> Invocation:
        """The same for an event that has been looked at, and perhaps has gone along with the hand-over.

        Args:
            measure: whether to look how much memory it took; else `measured` does, when nobody waits for the answer.

        Raises:
            UsageError: the copy has been closed or has ended.
        """
        self._occupy()
        try:
            invocation, outcome = self._invoke(ask, sink)
            invocation = self.measured(invocation) if measure else invocation
        except BaseException:  # A sink's, for instance. Nobody knows what the process is at then.
            self._launched.process.kill()
            self._life.on(Event.FAILED)
            raise
        if outcome is Event.ANSWERED and len(self._answered) == 1:
            self._on_first_answer()
        self._life.on(outcome)
        return invocation

    def _occupy(self) -> None:
        """Have it busy with what its caller asks next, once it has answered what it was asked before."""
        try:
            self._life.on(Event.INVOKED, patience=FUNCTION_LIMIT_S)
        except IllegalTransitionError as error:
            if self._launched.process.spawner.closed:
                raise UsageError(
                    "The runtime of this copy has been closed, and the copy has ended with it.",
                    hint="Keep the Runtime open for as long as its copies are used.",
                ) from None
            raise UsageError(f"This copy is {error.state}: it takes no more events.", hint="Restore another.") from None

    def _invoke(self, ask: Ask, sink: LogSink | None) -> tuple[Invocation, Event]:
        channel, request_id = self._launched.channel, ask.request_id
        requested, self._requested = self._requested, 0.0
        along, self._along = self._along, None
        channel.sink = sink
        payload: bytes | None = None
        error: dict[str, Any] | None = None
        outcome = Event.FAILED
        try:
            if along is not ask:
                ask.send(channel)
            payload, error = self._answer(request_id, ask.deadline)
            if self._launched.ran_out_of_memory():  # A child of its, perhaps: no copy goes on after that.
                payload, error = None, out_of_memory(request_id)
            else:
                outcome = Event.ANSWERED
        except TimeoutError:
            error = timed_out(request_id, self._function.timeout_s)
        except Disconnected as gone:
            error = self._launched.ended(request_id, gone.exit)
        except wire.WireError as trouble:
            error = broken_channel(request_id, trouble)
        if outcome is Event.FAILED:
            self._launched.process.kill()  # A late answer must not be taken for that of the next event.
        self._answered.append(request_id)
        ended = time.monotonic()
        invocation = Invocation(
            request_id=request_id,
            snapshot=self._snapshot,
            cold=self._snapshot is None,
            pid=self.pid,
            restore_ms=self.restore_ms,
            init_ms=self.init_ms,
            hooks_ms=self.hooks_ms,
            duration_ms=round((ended - ask.sent) * 1000, 3),
            total_ms=round((ended - (requested or ask.sent)) * 1000, 3),
            max_memory_mb=None,
            payload=payload,
            error=error,
            phase="invoke",
            logs=channel.take_logs(),
        )
        return invocation, outcome

    def _answer(self, request_id: str, deadline: float) -> tuple[bytes | None, dict[str, Any] | None]:
        """The response, or the error document, for one request.

        A child that the handler forked may answer an earlier one again; that is passed over.
        """
        while True:
            header, body = self._launched.channel.receive("result", "error", deadline=deadline)
            if header["request_id"] == request_id:
                break
            if header["request_id"] not in self._answered:
                raise wire.WireError("an answer to a request that was never made")
            if time.monotonic() > deadline:
                raise TimeoutError  # Else who repeats himself fast enough has no limit.
        if header["type"] == "error":
            return None, header["error"] | {"requestId": request_id}  # Whatever the function says it is.
        if len(body) > PAYLOAD_LIMIT:  # The worker would have said so; this is the function's own doing.
            raise wire.WireError(f"a response of {len(body)} bytes: the limit is {PAYLOAD_LIMIT}")
        if header.get("content_type") == "application/json":
            try:
                json.loads(body)
            except (ValueError, RecursionError) as error:
                raise wire.WireError(f"the response is not JSON: {error}") from error
        return body, None

    def look(self, what: str, *, limit_s: float = 30.0) -> Any:
        """Have the worker's check module do something; see `snapruntime.worker.check.answer`. None where it cannot.

        Args:
            limit_s: the longest that it may take, seconds.
        """
        message = {"type": "check", "do": what, "task_root": self._function.task_root}
        try:
            self._occupy()
        except UsageError:
            return None  # It has ended.
        deadline, outcome, answer = time.monotonic() + limit_s, Event.FAILED, None
        try:
            self._launched.channel.send((message, b""), deadline=deadline)
            answer = json.loads(self._launched.channel.receive("checked", deadline=deadline)[1])
            outcome = Event.ANSWERED
        except (TimeoutError, Disconnected, wire.WireError, ValueError, RecursionError):
            pass  # The function can answer what it likes, or nothing.
        finally:
            if outcome is Event.FAILED:
                self._launched.process.kill()  # Its late answer must not be taken for that of the next event.
            self._life.on(outcome)
        return answer

    def measured(self, invocation: Invocation) -> Invocation:
        """The invocation, with the most memory that there was so far."""
        return dataclasses.replace(invocation, max_memory_mb=self._max_memory_mb())

    def _max_memory_mb(self) -> int | None:
        """The most memory it had so far, MB as Lambda counts them (2**20 bytes), rounded up.

        What its processes had together to themselves, by the control group; or what the first of them had resident, if
        that is more, as it can be with the memory that copies share.
        """
        resident = self._resident_kb() or 0
        together = self._launched.peak_bytes(resident << 10) or 0
        return -(-max(resident, together >> 10) // 1024) or None

    def _resident_kb(self) -> int | None:
        process, exit = self._launched.process, None
        gone = SpawnerError, OSError, ValueError  # The latter two where it has been closed meanwhile.
        with contextlib.suppress(*gone):
            exit = process.wait(0)
        if exit is None:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{self.pid}/status").read_text("ascii", "replace")
                found = re.search(r"^VmHWM:\s*(\d+).*^RssAnon:\s*(\d+)", status, re.MULTILINE | re.DOTALL)
                if found and process.alive():  # Else the PID may have been another's by then.
                    self.own_bytes = int(found[2]) << 10
                    return int(found[1])
            with contextlib.suppress(*gone):
                exit = process.wait(1.0)  # Without memory of its own it is about to end.
        return exit.max_rss_kb if exit is not None else None

    def close(self) -> None:
        """End the process and take away what was made for it.

        Raises:
            UsageError: an event is being answered, and its `sink` does not return.
        """
        self._life.on(Event.CLOSED)  # No more events from here on.
        with self._closing:
            self._launched.process.kill()  # Whoever waits for its answer learns of it at once.
            if not self._life.wait_for(State.DEAD, REQUEST_DEADLINE_S):
                raise UsageError(
                    f"The copy with PID {self.pid} was ended, but who waits for its answer does not come back.",
                    hint="A log sink must not wait for whoever closes the copy.",
                )
            self._remains.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
