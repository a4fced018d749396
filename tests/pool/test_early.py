"""The answer is told before its report is written and its process taken away; what others count on holds by then."""

from __future__ import annotations

import json

import pytest

from pool.conftest import OpenHost, Publish
from snapruntime.values.answer import Answer
from snapruntime.values.function import FunctionSettings
from snapruntime.workflows.host import FunctionHost


def kinds(host: FunctionHost) -> list[str]:
    return [record["type"] for record in host._logs.read("f")]


def test_the_report_comes_after_the_answer(publish: Publish, open_host: OpenHost) -> None:
    publish("f")
    host = open_host(warm=0)
    told: list[tuple[Answer, list[str]]] = []
    answer = host.invoke("f", "1", b"1", tell=lambda answer: told.append((answer, kinds(host))))
    [(early, logged)] = told
    assert json.loads(early.payload)["event"] == 1
    assert (early.payload, early.way, early.total_ms) == (answer.payload, answer.way, answer.total_ms)
    assert "platform.report" not in logged
    assert b"REPORT RequestId" not in early.log_tail
    assert kinds(host)[-1] == "platform.report"
    assert b"REPORT RequestId" in answer.log_tail


def test_who_has_the_answer_can_ask_again(publish: Publish, open_host: OpenHost) -> None:
    """Also where one at a time may, and nobody waits for a turn."""
    publish("f", settings=FunctionSettings(reserved_concurrency=1))
    host, again = open_host(warm=0, queue_s=0.0), []
    host.invoke("f", "1", b"1", tell=lambda _: again.append(host.invoke("f", "1", b"2")))
    assert len(again) == 1
    assert again[0].function_error is None
    assert host._supply.keeper.pools()[0]._most == 1, "one at a time is no burst"


def test_a_process_that_answers_again_is_there_by_then(publish: Publish, open_host: OpenHost) -> None:
    publish("f", settings=FunctionSettings(reuse="reuse"))
    host, again = open_host(warm=0), []
    host.invoke("f", "1", b"1", tell=lambda _: again.append(host.invoke("f", "1", b"2")))
    assert [answer.way for answer in again] == ["reused"]


def test_what_fails_is_told_likewise(publish: Publish, open_host: OpenHost) -> None:
    publish("f", "import os\ndef lambda_handler(event, context): os._exit(3)")
    told: list[Answer] = []
    answer = open_host(warm=0).invoke("f", "1", b"1", tell=told.append)
    assert [early.payload for early in told] == [answer.payload]
    assert json.loads(answer.payload)["errorType"] == "Runtime.ExitError"
    assert b"Status: error" in answer.log_tail


def test_a_listener_that_fails_leaves_nothing_behind(publish: Publish, open_host: OpenHost) -> None:
    publish("f")
    host = open_host(warm=0)

    def gone(_: Answer) -> None:
        raise ConnectionError("nobody listens any more")

    with pytest.raises(ConnectionError):
        host.invoke("f", "1", b"1", tell=gone)
    assert kinds(host)[-1] == "platform.report"
    assert host.drain(0.0)
