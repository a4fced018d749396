"""Events: accepted for good, tried again, given up; and what happens when the process dies over them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import wait_until

from pool.conftest import OpenHost, Publish
from snapruntime.mechanisms import linux
from snapruntime.mechanisms.event_queue import EventQueue, QueuedEvent
from snapruntime.values.answer import Answer, Limits
from snapruntime.values.function import FunctionSettings
from snapruntime.values.service_errors import (
    ResourceNotFoundException,
    ServiceError,
    SnapStartException,
    SnapStartTimeoutException,
    TooManyRequestsException,
)
from snapruntime.workflows import events as events_module
from snapruntime.workflows.events import Events


def answer(payload: bytes = b"1", error: str | None = None) -> Answer:
    return Answer(payload, error, "1", b"", "r", "on demand", 0, 0, 0, 0, 0)


def event(name: str = "f", payload: bytes = b"{}") -> QueuedEvent:
    return QueuedEvent(0, f"id-{name}", name, None, payload, None, time.time())


FAILED = answer(b'{"errorType": "ValueError"}', "Unhandled")


class Lab:
    """A queue, and what tries its events in place of functions."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.queue = EventQueue(home)
        self.tried: list[QueuedEvent] = []
        self.given_up: list[str] = []
        self.settings = FunctionSettings(maximum_retries=2)
        self.outcome: Callable[[QueuedEvent], Answer] = lambda _: answer()

    def _invoke(self, one: QueuedEvent) -> Answer:
        self.tried.append(one)
        return self.outcome(one)

    def start(self, **limits: Any) -> Events:
        given = Limits(**{"retry_s": (0.01, 0.02), **limits})
        self.events = Events(self.queue, self.home, self._invoke, lambda _: self.settings, given, self.given_up.append)
        return self.events

    def done(self) -> None:
        wait_until(lambda: len(self.queue) == 0, "the queue is empty")

    def dead_letters(self, name: str = "f") -> list[dict[str, Any]]:
        path = self.home / "dead-letters" / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(events_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(events_module, "_LONGEST_PAUSE_S", 0.05)
    lab = Lab(tmp_path)
    yield lab
    lab.events.close()
    lab.queue.close()


def test_slow_events_of_one_function_delay_no_others(lab: Lab) -> None:
    go_on = threading.Event()
    lab.outcome = lambda one: answer() if one.function == "quick" or go_on.wait(30) else FAILED
    lab.start()
    try:
        for _ in range(40):
            lab.queue.add(event("slow"), time.time())
        lab.events.added()
        wait_until(lambda: len(lab.tried) == 16, "as many are on their way as one function may have")
        lab.queue.add(event("quick"), time.time())
        lab.events.added()
        wait_until(lambda: "quick" in [one.function for one in lab.tried], "the other function's is tried")
        assert [one.function for one in lab.tried].count("slow") == 16
    finally:
        go_on.set()
    lab.done()
    assert len(lab.tried) == 41


def test_what_succeeds_is_delivered_once(lab: Lab) -> None:
    lab.start()
    for number in range(30):
        lab.queue.add(event(f"f{number % 3}"), time.time())
    lab.events.added()
    lab.done()
    assert len(lab.tried) == 30
    assert not lab.given_up


def test_what_fails_is_tried_again_and_then_given_up(lab: Lab) -> None:
    lab.outcome = lambda _: FAILED
    lab.start()
    lab.queue.add(event(payload=b'{"order": 7}'), time.time())
    lab.done()
    assert [one.attempts for one in lab.tried] == [0, 1, 2]
    assert len({one.request_id for one in lab.tried}) == 1
    (letter,) = lab.dead_letters()
    assert letter["requestContext"]["condition"] == "RetriesExhausted"
    assert letter["requestContext"]["approximateInvokeCount"] == 3
    assert letter["requestContext"]["requestId"] == "id-f"
    assert letter["requestContext"]["functionArn"] == "arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST"
    assert letter["requestPayload"] == {"order": 7}
    assert letter["responsePayload"] == {"errorType": "ValueError"}
    assert letter["responseContext"]["functionError"] == "Unhandled"
    assert lab.given_up == ["f"]


@pytest.mark.parametrize("kind", [SnapStartException, SnapStartTimeoutException])
def test_a_failing_hook_is_the_functions_failure(lab: Lab, kind: type[ServiceError]) -> None:
    """Each time again for six hours, as where the host is busy, would restore a copy that cannot work."""

    def outcome(_: QueuedEvent) -> Answer:
        raise kind("LookupError: no key")

    lab.outcome = outcome
    lab.start()
    lab.queue.add(event(), time.time())
    wait_until(lambda: bool(lab.given_up), "it is given up")
    assert [one.attempts for one in lab.tried] == [0, 1, 2]
    (letter,) = lab.dead_letters()
    assert letter["requestContext"]["condition"] == "RetriesExhausted"
    assert letter["responsePayload"] == {"errorType": kind.__name__, "errorMessage": "LookupError: no key"}


@pytest.mark.parametrize("attempts", [0, 1])
def test_events_of_a_stopped_function_are_given_up_at_once(lab: Lab, attempts: int) -> None:
    """As on AWS: they neither wait for hours, nor come all at once when it may run again."""
    lab.settings = FunctionSettings(reserved_concurrency=0)
    lab.queue.add(event(payload=b'{"order": 7}'), time.time())
    if attempts:
        (waiting,) = lab.queue.due(time.time(), set(), 1, [])
        lab.queue.postpone(waiting, time.time(), failed=True)
    lab.start()
    lab.done()
    assert not lab.tried
    (letter,) = lab.dead_letters()
    assert letter["requestContext"]["condition"] == "ZeroReservedConcurrency"
    assert letter["requestContext"]["approximateInvokeCount"] == attempts
    assert letter["requestPayload"] == {"order": 7}
    assert "responseContext" not in letter
    assert lab.given_up == ["f"]


def test_what_fails_first_may_succeed_then(lab: Lab) -> None:
    lab.outcome = lambda one: answer() if one.attempts else FAILED
    lab.start()
    lab.queue.add(event(), time.time())
    lab.done()
    assert len(lab.tried) == 2
    assert not lab.dead_letters()


def test_what_cannot_be_tried_waits_and_is_no_failure(lab: Lab) -> None:
    """Throttled as often as may be: it does not count as an attempt."""

    def outcome(one: QueuedEvent) -> Answer:
        if one.throttled < 6:
            raise TooManyRequestsException("Rate Exceeded.", reason="ConcurrentInvocationLimitExceeded")
        return answer()

    lab.outcome = outcome
    lab.start()
    lab.queue.add(event(), time.time())
    lab.done()
    assert [(one.attempts, one.throttled) for one in lab.tried] == [(0, count) for count in range(7)]
    assert not lab.dead_letters()


def test_what_is_too_old_is_given_up_untried(lab: Lab) -> None:
    lab.settings = FunctionSettings(maximum_event_age_s=60)
    lab.start()
    lab.queue.add(dataclasses.replace(event(), accepted=time.time() - 61), time.time())
    lab.done()
    assert not lab.tried
    (letter,) = lab.dead_letters()
    assert letter["requestContext"]["condition"] == "EventAgeExceeded"


def test_a_function_that_is_gone(lab: Lab) -> None:
    def gone(_: QueuedEvent) -> Answer:
        raise ResourceNotFoundException("Function not found")

    lab.outcome = gone
    lab.start()
    lab.queue.add(event(), time.time())
    lab.done()
    assert len(lab.tried) == 1


def test_one_function_does_not_hold_up_anothers_events(lab: Lab) -> None:
    """A hundred of one function's come first, and none of them ends: the other's is among the first that are tried."""
    over = threading.Event()

    def outcome(one: QueuedEvent) -> Answer:
        if one.function == "flood":
            over.wait(20)
        return answer()

    lab.outcome = outcome
    for _ in range(100):
        lab.queue.add(event("flood"), time.time())
    lab.queue.add(event("quiet"), time.time())
    lab.start()
    wait_until(lambda: any(one.function == "quiet" for one in lab.tried), "it is tried")
    over.set()
    lab.done()


def test_what_was_accepted_outlives_the_process(lab: Lab) -> None:
    """The next start delivers it, also what was being tried when the last one ended."""
    lab.queue.add(event(), time.time())
    lab.queue.close()
    lab.queue = EventQueue(lab.home)
    lab.start()
    lab.done()
    assert [one.request_id for one in lab.tried] == ["id-f"]


def test_one_process_delivers_and_others_add(lab: Lab) -> None:
    other = EventQueue(lab.home)
    assert other.deliver()
    lab.start()
    lab.queue.add(event(), time.time())
    assert [one.request_id for one in other.due(time.time(), set(), 5)] == ["id-f"]
    assert not lab.tried
    other.close()
    lab.done()
    assert len(lab.tried) == 1, "once that one has ended"


class Full:
    """A lab on a small disk, which becomes full while the first event is tried.

    Attributes:
        refused: released each time the disk does not take what came of an event.
    """

    def __init__(self, folder: Path, outcome: Answer) -> None:
        self.lab, self.refused = Lab(folder), threading.Semaphore(0)
        self._filler = folder / "filler"
        self._outcome = outcome
        self.lab.settings = FunctionSettings(maximum_retries=1)
        self.lab.outcome = self._fill
        self.lab.queue.done = partial(self._told, self.lab.queue.done)  # type: ignore[method-assign]
        self.lab.queue.postpone = partial(self._told, self.lab.queue.postpone)  # type: ignore[method-assign]
        self.lab.queue.add(event(payload=b'"%s"' % (b"x" * 40_000)), time.time())
        self.lab.start()

    def _fill(self, _: QueuedEvent) -> Answer:
        if len(self.lab.tried) == 1:
            with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
        return self._outcome

    def _told(self, change: Callable[..., None], *arguments: Any, **options: Any) -> None:
        try:
            change(*arguments, **options)
        except ServiceError:
            self.refused.release()
            raise

    def free(self) -> None:
        self._filler.unlink()

    def close(self) -> None:
        self.lab.events.close()
        self.lab.queue.close()


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(events_module, "_FULL_PAUSE_S", 0.01)
    linux.mount("tmpfs", str(tmp_path), "tmpfs", data="size=256k,mode=0700")
    yield tmp_path
    linux.umount(str(tmp_path))


@pytest.mark.parametrize("outcome", [answer(), FAILED], ids=["done", "to be tried again"])
def test_a_full_disk_has_no_event_tried_over_and_over(
    small_disk: Path, caplog: pytest.LogCaptureFixture, outcome: Answer
) -> None:
    full = Full(small_disk, outcome)
    for _ in range(5):
        assert full.refused.acquire(timeout=10)
    assert len(full.lab.tried) == 1
    full.free()
    full.lab.done()
    full.close()
    assert len(full.lab.tried) == (1 if outcome.function_error is None else 2)
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "What comes of events cannot be kept",
        "What comes of events is kept again.",
    ]


def test_what_a_full_disk_did_not_take_is_tried_after_the_next_start(small_disk: Path) -> None:
    full = Full(small_disk, answer())
    assert full.refused.acquire(timeout=10)
    full.close()
    full.free()
    again = Lab(small_disk)
    again.start()
    again.done()
    assert (len(full.lab.tried), len(again.tried)) == (1, 1)
    again.events.close()
    again.queue.close()


def test_draining_leaves_the_rest_for_later(lab: Lab) -> None:
    begun, over = threading.Event(), threading.Event()

    def outcome(_: QueuedEvent) -> Answer:
        begun.set()
        over.wait(20)
        return answer()

    lab.outcome = outcome
    lab.start()
    lab.queue.add(event(), time.time())
    assert begun.wait(10)
    assert not lab.events.drain(0.01)
    lab.queue.add(event("later"), time.time())
    over.set()
    assert lab.events.drain(10)
    assert len(lab.queue) == 1


def test_a_real_function(publish: Publish, open_host: OpenHost, criu_home: Path) -> None:
    publish("f", "def lambda_handler(event, context):\n    print('got', event)\n    if event: raise ValueError(event)")
    host = open_host(retry_s=(0.01, 0.02))
    host.enqueue("f", "1", b"{}", request_id="fine")
    host.enqueue("f", "1", b'"bad"', request_id="bad")
    wait_until(lambda: len(host._queue) == 0, "both are done with", seconds=30)
    (letter,) = [json.loads(line) for line in (criu_home / "dead-letters" / "f.jsonl").read_text().splitlines()]
    assert letter["requestContext"]["requestId"] == "bad"
    assert letter["responsePayload"]["errorMessage"] == "bad"
    starts = [r["record"]["requestId"] for r in host._logs.read("f") if r["type"] == "platform.start"]
    assert sorted(starts) == ["bad", "bad", "bad", "fine"]
    assert host.metrics.registry.get_sample_value("snapruntime_events_given_up_total", {"function": "f"}) == 1
