"""Asynchronous invocations: accepted at once, tried in the background, tried again, given up to a dead-letter file.

As on AWS: an event that the function fails at is tried again, after one minute and then two; one that cannot be tried
(429, 500s) is tried again for as long as its maximum age allows, with pauses from one second to five minutes; one for a
function that is stopped (a reserved concurrency of 0) is not tried at all. What was given up is a line of JSON in
HOME/dead-letters/NAME.jsonl, of the form that AWS's on-failure destinations get.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from snapruntime.mechanisms.event_queue import EventQueue, QueuedEvent
from snapruntime.mechanisms.folders import fsync
from snapruntime.mechanisms.threads import Threads
from snapruntime.values.answer import Answer, Limits
from snapruntime.values.function import LATEST, FunctionSettings, function_arn
from snapruntime.values.service_errors import (
    ResourceNotFoundException,
    ServiceError,
    SnapStartException,
    SnapStartTimeoutException,
)

_log = logging.getLogger("snapruntime.events")
#: The pauses after which what could not be tried is tried again, seconds: from the first to the longest, doubled.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
#: After so long the queue is asked once more to take an outcome that it could not, seconds.
_FULL_PAUSE_S = 1.0
#: Events on their way at once: of one function, so that those of others do not wait for its slow ones; and of all. Each
#: waits for its function's turn like a request, and takes one of its turns.
_OF_ONE, _AT_ONCE = 16, 256

Invoke = Callable[[QueuedEvent], Answer]


class Events:
    """Delivers the events of one data folder, where no other process does.

    Args:
        queue: where they wait.
        home: the data folder.
        invoke: tries one.
        settings: a function's, for the number of retries and the maximum age.
        limits: has the pauses.
        given_up: is told the function of each event that was.
    """

    def __init__(
        self,
        queue: EventQueue,
        home: Path,
        invoke: Invoke,
        settings: Callable[[str], FunctionSettings],
        limits: Limits,
        given_up: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._dead_letters = home / "dead-letters"
        self._invoke = invoke
        self._settings = settings
        self._limits = limits
        self._given_up = given_up
        self._changed = threading.Condition()
        self._trying: dict[int, str] = {}  # An event's id, and its function.
        self._ending = self._full = False
        self._writing = threading.Lock()
        self._pool = Threads(_AT_ONCE, "snapruntime-event")
        self._thread = threading.Thread(target=self._work, name="snapruntime-events", daemon=True)
        self._thread.start()

    def added(self) -> None:
        """There is another event."""
        with self._changed:
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Begin with no more; wait for those that are being tried. What is left is tried after the next start."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._trying, seconds)

    def close(self) -> None:
        """End; what is being tried has to come to its end."""
        self.drain(0)
        self._pool.shutdown()
        self._thread.join()

    def _work(self) -> None:
        while True:
            try:
                if not self._hand_out():
                    return
            except ServiceError as error:
                _log.error("%s %s", error.message, error.hint)
                with self._changed:
                    self._changed.wait_for(lambda: self._ending, _LONGEST_PAUSE_S)

    def _hand_out(self) -> bool:
        """Begin with what is due, and wait for what comes next. False at the end."""
        if not self._queue.deliver():  # Another process does: it may end before we do.
            with self._changed:
                return not self._changed.wait_for(lambda: self._ending, _FIRST_PAUSE_S)
        with self._changed:
            begun = dict(self._trying)
        for event in self._queue.due(time.time(), set(begun), min(_OF_ONE, _AT_ONCE - len(begun)), _busy(begun)):
            if event.function in _busy(begun):
                continue
            begun[event.id] = event.function
            with self._changed:
                if self._ending:
                    return False
                self._trying[event.id] = event.function
            self._pool.submit(self._try, event)
        with self._changed:
            begun = dict(self._trying)
        due = None if len(begun) >= _AT_ONCE else self._queue.next_due(set(begun), _busy(begun))
        with self._changed:
            if self._ending:
                return False
            if self._trying == begun:
                # Other processes add to the queue without telling us.
                self._changed.wait(
                    min(_FIRST_PAUSE_S, max(0.0, due - time.time())) if due is not None else _FIRST_PAUSE_S
                )
            return not self._ending

    def _try(self, event: QueuedEvent) -> None:
        try:
            self._deliver(event)
        except ServiceError as error:  # The queue's own, at the end.
            _log.error("The event %s will be tried once more: %s", event.request_id, error.message)
        except Exception:
            _log.exception("A mistake in snapruntime itself, at the event %s", event.request_id)
        finally:
            with self._changed:
                self._trying.pop(event.id, None)
                self._changed.notify_all()

    def _note(self, outcome: Callable[[], None]) -> None:
        """Have the queue take an outcome. Where the disk is full, that is waited for, else the event would be due again
        at once: what it does would be done over and over.

        Raises:
            ServiceException: the queue could not take it before the end.
        """
        while True:
            try:
                outcome()
            except ServiceError as error:
                if not self._full:
                    _log.error("What comes of events cannot be kept, which is tried again: %s", error.message)
                self._full = True
                with self._changed:
                    if self._changed.wait_for(lambda: self._ending, _FULL_PAUSE_S):
                        raise
            else:
                if self._full:
                    _log.warning("What comes of events is kept again.")
                self._full = False
                return

    def _deliver(self, event: QueuedEvent) -> None:
        try:
            settings = self._settings(event.function)
            if settings.reserved_concurrency == 0:  # It is stopped: there is nothing to wait for.
                self._give_up(event, "ZeroReservedConcurrency", event.attempts)
                return
            if time.time() - event.accepted > settings.maximum_event_age_s:
                self._give_up(event, "EventAgeExceeded", event.attempts)
                return
            answer = self._invoke(event)
        except ResourceNotFoundException:
            _log.warning("The event %s was for %s, which is gone.", event.request_id, event.function)
            self._note(partial(self._queue.done, event))
            return
        except (SnapStartException, SnapStartTimeoutException) as error:  # Of a hook: the function's own.
            payload = {"errorType": error.name, "errorMessage": error.message}
            self._failed(event, settings, {"responseContext": {"statusCode": error.status}, "responsePayload": payload})
            return
        except ServiceError as error:
            _log.info("The event %s cannot be delivered now: %s", event.request_id, error.message)
            pause = min(_FIRST_PAUSE_S * 2**event.throttled, _LONGEST_PAUSE_S)
            self._note(partial(self._queue.postpone, event, time.time() + pause, failed=False))
            return
        if answer.function_error is None:
            self._note(partial(self._queue.done, event))
            return
        context = {
            "statusCode": 200,
            "executedVersion": answer.executed_version,
            "functionError": answer.function_error,
        }
        response = {"responseContext": context, "responsePayload": json.loads(answer.payload)}
        self._failed(event, settings, response)

    def _failed(self, event: QueuedEvent, settings: FunctionSettings, response: dict[str, Any]) -> None:
        """The function failed at it: once more later, or not again."""
        if event.attempts >= settings.maximum_retries:
            self._give_up(event, "RetriesExhausted", event.attempts + 1, response)
        else:
            pauses = self._limits.retry_s
            due = time.time() + pauses[min(event.attempts, len(pauses) - 1)]
            self._note(partial(self._queue.postpone, event, due, failed=True))

    def _give_up(
        self, event: QueuedEvent, condition: str, attempts: int, response: dict[str, Any] | None = None
    ) -> None:
        document: dict[str, Any] = {
            "version": "1.0",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "requestContext": {
                "requestId": event.request_id,
                "functionArn": function_arn(event.function, event.qualifier or LATEST),
                "condition": condition,
                "approximateInvokeCount": attempts,
            },
            "requestPayload": json.loads(event.payload),
            **(response or {}),
        }
        path = self._dead_letters / f"{event.function}.jsonl"
        try:
            with self._writing:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                with path.open("ab") as file:
                    file.write(json.dumps(document).encode() + b"\n")
                fsync(path)
        except OSError as error:
            _log.error("The event %s cannot be written to %s and is kept: %s", event.request_id, path, error)
            self._note(partial(self._queue.postpone, event, time.time() + _LONGEST_PAUSE_S, failed=False))
            return
        self._note(partial(self._queue.done, event))
        self._given_up(event.function)


def _busy(trying: Mapping[int, str]) -> list[str]:
    """The functions that have as many events on their way as one may have."""
    return [function for function, count in Counter(trying.values()).items() if count >= _OF_ONE]
