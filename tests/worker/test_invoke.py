"""Results, errors and limits of single invocations, where test_parity.py has no counterpart to compare with."""

from __future__ import annotations

import json
import time

import pytest

from snapruntime.worker import wire

from .conftest import Spawn

LIMIT = 6291556


def test_the_convention_for_a_module_given_alone(spawn: Spawn) -> None:
    both = spawn("def handler(e, c): return 'handler'\ndef lambda_handler(e, c): return 'lambda_handler'")
    both.init(None, module="handler")
    assert both.result() == "lambda_handler"
    only = spawn(files={"only.py": "def handler(e, c): return 'handler'"})
    only.init(None, module="only")
    assert only.result() == "handler"
    none = spawn(files={"none.py": "def main(e, c): ..."})
    error = none.init(None, module="none")["error"]
    assert error["errorType"] == "Runtime.HandlerNotFound"
    assert error["errorMessage"] == "Handler 'lambda_handler' missing on module 'none', and so is 'handler'"


@pytest.mark.parametrize(
    ("file", "handler"),
    [
        ("my-handler.py", "my-handler.handler"),
        ("pkg/sub/mod.py", "pkg/sub/mod.handler"),
        ("pkg/sub/mod.py", "pkg.sub.mod.handler"),
        ("pkg/with-dash/a b.py", "pkg/with-dash/a b.handler"),
    ],
)
def test_module_names(spawn: Spawn, file: str, handler: str) -> None:
    worker = spawn(files={file: "def handler(e, c): return __name__"})
    worker.init(handler)
    assert worker.result() == handler.rpartition(".")[0].replace("/", ".")


def test_a_class_instance_or_method_can_be_the_handler(spawn: Spawn) -> None:
    worker = spawn("class H:\n  def __call__(self, e, c): return e\nhandler = H()")
    worker.init()
    assert worker.result(1) == 1


def test_error_logged_before_it_is_sent(spawn: Spawn) -> None:
    worker = spawn("def handler(e, c):\n  print('first')\n  raise ValueError('bad')")
    worker.init()
    answer = worker.invoke(request_id="id-7")
    assert answer["type"] == "error"
    assert answer["request_id"] == "id-7"
    assert 0 < answer["duration_ms"] < 30_000
    assert answer["error"]["requestId"] == "id-7"
    assert worker.log().split("\n")[:2] == ["first", "[ERROR] ValueError: bad"]


def test_the_largest_response_and_one_byte_more(spawn: Spawn) -> None:
    worker = spawn("def handler(size, c): return 'x' * (size - 2)")
    worker.init()
    assert len(worker.invoke(LIMIT)["body"]) == LIMIT
    answer = worker.invoke(LIMIT + 1)
    assert answer["type"] == "error"
    assert answer["error"] == {
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        "errorType": "Function.ResponseSizeTooLarge",
        "requestId": "req-1",
        "stackTrace": [],
    }
    assert len(worker.invoke(LIMIT + 1, response_limit=wire.MAX_BODY)["body"]) == LIMIT + 1  # an Event invocation
    assert (
        worker.invoke(wire.MAX_BODY + 1, response_limit=1 << 30)["error"]["errorType"]
        == "Function.ResponseSizeTooLarge"
    )
    assert worker.invoke(11, response_limit=10)["error"]["errorMessage"].endswith("(10 bytes).")
    assert worker.result(10) == "x" * 8


def test_a_large_event(spawn: Spawn) -> None:
    worker = spawn("def handler(e, c): return len(e)")
    worker.init()
    assert worker.result("x" * (6 << 20)) == 6 << 20


def test_a_huge_error_fits_its_frame(spawn: Spawn) -> None:
    worker = spawn("""
        def handler(kind, c):
            if kind == "message": raise ValueError("x" * (3 << 20))
            if kind == "surrogate": raise ValueError("\\udcff")
            source = "\\n".join(f"def f{i}(): f{i + 1}()  # {'y' * 9000}" for i in range(300)) + "\\ndef f300(): 1/0"
            scope = {}; import linecache
            linecache.cache["big"] = (len(source), None, source.splitlines(True), "big")
            exec(compile(source, "big", "exec"), scope); scope["f0"]()
    """)
    worker.init()
    message = worker.invoke("message")["error"]
    assert message["errorMessage"] == "x" * 50_000
    trace = worker.invoke("trace")["error"]
    assert (len(trace["stackTrace"]), trace["errorType"]) == (50, "ZeroDivisionError")
    assert worker.invoke("surrogate")["error"]["errorMessage"] == "\\udcff"


def test_remaining_time(spawn: Spawn) -> None:
    worker = spawn("def handler(e, c): return c.get_remaining_time_in_millis()")
    worker.init()
    now = int(time.time() * 1000)
    assert 50_000 < worker.result(deadline_ms=now + 60_000) <= 60_000
    assert worker.result(deadline_ms=now - 1) == 0


def test_a_decimal_beside_every_kind_of_text_stays_a_number(spawn: Spawn) -> None:
    worker = spawn("""
        import os
        from decimal import Decimal as D
        def handler(e, c):
            return {"n": [D("1.10"), os.urandom(12).hex(), '"', "\\\\"], b"\\xc3\\xbc": D("-1E+400")}
    """)
    worker.init()
    body = worker.invoke()["body"].decode()
    assert body.startswith('{"n": [1.10, "')
    assert body.endswith('"\\"", "\\\\"], "ü": -1E+400}')


def test_plain_large_results_are_not_slow(spawn: Spawn) -> None:
    """The look for what json cannot write must cost less than the writing does."""
    worker = spawn("def handler(n, c): return [{'id': i, 'name': 'x' * 20, 'tags': ['a', 'b']} for i in range(n)]")
    worker.init()
    worker.result(10)
    assert worker.invoke(50_000)["duration_ms"] < 5000


def test_logging_after_restore_has_the_new_request_s_id(spawn: Spawn) -> None:
    source = """
        import logging
        log = logging.getLogger("mine"); log.error("init")
        from snapshot_restore_py import *
        register_before_snapshot(log.error, "before"); register_after_restore(log.error, "after")
        def handler(e, c): log.error("in")
    """
    worker = spawn(source, env={"AWS_LAMBDA_LOG_FORMAT": "JSON"})
    worker.init(kind="snap-start")
    worker.send("restore")
    worker.expect("restored")
    worker.result(request_id="a")
    worker.result(request_id="b")
    lines = [json.loads(line) for line in worker.log().splitlines()]
    found = [(line["message"], line["requestId"]) for line in lines]
    assert found == [("init", ""), ("before", ""), ("after", ""), ("in", "a"), ("in", "b")]
