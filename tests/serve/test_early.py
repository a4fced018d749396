"""A reply that is told before its call has ended is taken at once; what comes after is done all the same."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import pytest

from snapruntime.edges.serve.early import Early
from snapruntime.edges.serve.exchange import Call, Reply

CALL = Call("1", "POST", {}, "/", "", {}, {}, b"", "")
REPLY = Reply(200, b"first")


def test_what_comes_after_the_reply_keeps_nobody_waiting() -> None:
    rest = threading.Event()

    def answer(call: Call) -> None:
        call.tell(REPLY)
        assert rest.wait(30)

    early = Early(answer, CALL)
    thread = threading.Thread(target=early.run)
    thread.start()
    early.sent.set()
    assert early.reply.result(30) is REPLY
    assert thread.is_alive()
    rest.set()
    thread.join()


def test_a_call_that_tells_nothing() -> None:
    early = Early(lambda _: REPLY, CALL)
    early.run()
    assert early.reply.result() is REPLY


def test_what_is_raised_is_the_reply_or_logged_after_it(caplog: pytest.LogCaptureFixture) -> None:
    def answer(call: Call) -> Reply:
        if call.request_id == "late":
            call.tell(REPLY)
        raise RuntimeError("a mistake")

    before, after = (Early(answer, replace(CALL, request_id=name)) for name in ("early", "late"))
    before.run()
    with pytest.raises(RuntimeError, match="a mistake"):
        before.reply.result()
    assert not caplog.records
    after.sent.set()
    with caplog.at_level(logging.ERROR):
        after.run()
    assert after.reply.result() is REPLY
    assert "after the answer to late" in caplog.text


def test_a_call_without_a_reply_is_a_mistake() -> None:
    early = Early(lambda _: None, CALL)
    early.run()
    with pytest.raises(RuntimeError, match="without a reply"):
        early.reply.result()


def test_nobody_waits_for_it_any_more() -> None:
    early = Early(lambda _: pytest.fail("it has been cancelled"), CALL)
    early.reply.cancel()
    early.run()


def test_a_call_that_no_thread_can_be_had_for_gives_its_place_back() -> None:
    """Each such call kept its place: a host short of threads for a moment answered 429 ever after."""

    class Exhausted(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise RuntimeError("can't start new thread")

    early, given_back = Early(lambda _: REPLY, CALL), threading.Event()
    early.reply.add_done_callback(lambda _: given_back.set())
    with pytest.raises(RuntimeError, match="new thread"):
        early.begin(Exhausted())
    assert given_back.is_set()
