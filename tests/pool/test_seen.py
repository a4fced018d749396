"""What is seen of the host of functions from outside: its log, as Lambda writes it, and its metrics."""

from __future__ import annotations

import json

import pytest
from prometheus_client import generate_latest

from pool.conftest import OpenHost, Publish, metric, parked, said
from snapruntime.values.service_errors import SnapStartException
from snapruntime.workflows.instance import Instance


def test_the_log_of_each_invocation_has_the_same_order(publish: Publish, open_host: OpenHost) -> None:
    """Of the first it is not known whether there are hooks; the others are asked along with their hand-over."""
    publish("f", "def lambda_handler(event, context):\n    print('one')\n    return event")
    host = open_host(warm=0)
    for number in range(3):
        answer = host.invoke("f", "1", str(number).encode())
        assert answer.payload == str(number).encode()
        assert [line.split()[0] for line in answer.log_tail.decode().splitlines()] == [
            "RESTORE_START", "RESTORE_REPORT", "START", "one", "END", "REPORT",
        ]  # fmt: skip


def test_the_log_is_lambdas(publish: Publish, open_host: OpenHost) -> None:
    publish("f", "def lambda_handler(event, context):\n    print('one')\n    print('two')\n    raise KeyError(event)")
    host = open_host(warm=0)
    answer = host.invoke("f", "1", b'"gone"', request_id="rid")
    lines = answer.log_tail.decode().splitlines()
    assert [line.split()[0] for line in lines if line.split()] [:5] == [
        "RESTORE_START", "RESTORE_REPORT", "START", "one", "two",
    ]  # fmt: skip
    assert lines[-2] == "END RequestId: rid"
    assert lines[-1].startswith("REPORT RequestId: rid\tDuration: ")
    records = host._logs.read("f")
    assert [record["type"] for record in records if record["type"] != "function"] == [
        "platform.restoreStart", "platform.restoreReport", "platform.start", "platform.report",
    ]  # fmt: skip
    assert [record["record"] for record in records if record["type"] == "function"][:2] == ["one", "two"]
    report = records[-1]["record"]
    assert (report["status"], report["errorType"]) == ("error", "KeyError")
    assert report["metrics"]["memorySizeMB"] == 512


def test_no_more_memory_is_logged_than_there_is(
    publish: Publish, open_host: OpenHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("f", memory_mb=512)
    host = open_host(warm=0)
    monkeypatch.setattr(Instance, "_max_memory_mb", lambda _: 516)
    said(host.invoke("f", "1", b"{}"))
    assert host._logs.read("f")[-1]["record"]["metrics"]["maxMemoryUsedMB"] == 512


@pytest.mark.parametrize("warm", [0, 1])
def test_what_after_restore_hooks_write_is_of_the_restore(publish: Publish, open_host: OpenHost, warm: int) -> None:
    publish(
        "f",
        """
        from snapruntime import register_after_restore
        @register_after_restore
        def connect():
            print("connecting", flush=True)
            print("connected", flush=True)
        def lambda_handler(event, context): pass
        """,
    )
    host = open_host(warm=warm)
    if warm:
        host.invoke("f", "1", b"{}")
        parked(host, "f")
    answer = host.invoke("f", "1", b"{}")
    assert answer.way == ("parked" if warm else "on demand")
    assert [line.split()[0] for line in answer.log_tail.decode().splitlines()] == [
        "RESTORE_START", "connecting", "connected", "RESTORE_REPORT", "START", "END", "REPORT",
    ]  # fmt: skip


def test_the_log_of_a_hook_that_fails(publish: Publish, open_host: OpenHost) -> None:
    publish(
        "f",
        """
        from snapruntime import register_after_restore
        @register_after_restore
        def connect():
            print("connecting", flush=True)
            raise LookupError("nowhere")
        def lambda_handler(event, context): pass
        """,
    )
    host = open_host(warm=0)
    with pytest.raises(SnapStartException):
        host.invoke("f", "1", b"{}")
    said = [record.get("text") or record["record"] for record in host._logs.read("f")]
    assert [line.split()[0] for line in said][:2] == ["RESTORE_START", "connecting"]
    assert said[-1].startswith("RESTORE_REPORT ")
    assert sum("RESTORE_START" in line for line in said) == 1


def test_the_log_of_who_runs_out_of_memory(publish: Publish, open_host: OpenHost) -> None:
    publish("f", "def lambda_handler(e, c): return len(bytearray(b'x') * (300 << 20))", memory_mb=128)
    answer = open_host(warm=0).invoke("f", "1", b"1")
    assert json.loads(answer.payload)["errorType"] == "Runtime.OutOfMemory"
    assert b" Error: Runtime exited with error: signal: killed\nRuntime.OutOfMemory\nEND " in answer.log_tail
    assert answer.log_tail.endswith(b"\tStatus: error\tError Type: Runtime.OutOfMemory\n")


def test_a_log_in_json(publish: Publish, open_host: OpenHost) -> None:
    publish(
        "f",
        "import logging\ndef lambda_handler(e, c):\n    logging.warning('careful')\n    logging.info('chatter')",
        log_format="JSON",
        application_log_level="WARN",
    )
    host = open_host(warm=0)
    tail = [json.loads(line) for line in host.invoke("f", "1", b"{}").log_tail.splitlines()]
    assert [line.get("type") or line["message"] for line in tail] == [
        "platform.restoreStart", "platform.restoreReport", "platform.start", "careful", "platform.report",
    ]  # fmt: skip
    assert [r["record"]["level"] for r in host._logs.read("f") if r["type"] == "function"] == ["WARNING"]


def test_error_types_that_a_function_calls_like_ours(publish: Publish, open_host: OpenHost) -> None:
    """Each that is told apart takes memory of the server's for good, so functions may not think of more."""
    publish("f", "def lambda_handler(event, context):\n    raise type('Runtime.Exit' + event, (Exception,), {})")
    host = open_host(warm=0)
    for name in ("Error", "One", "Two"):
        host.invoke("f", "1", json.dumps(name).encode())
    assert metric(host, "function_errors_total", function="f", type="Runtime.ExitError") == 1
    assert metric(host, "function_errors_total", function="f", type="the function's own") == 2


def test_metrics(publish: Publish, open_host: OpenHost) -> None:
    publish("f", "def lambda_handler(event, context):\n    if event: raise ValueError(event)")
    host = open_host(warm=1)
    host.invoke("f", "1", b"1")
    parked(host, "f")
    host.invoke("f", "1", b"{}")
    assert metric(host, "function_errors_total", function="f", type="the function's own") == 1
    assert metric(host, "starts_total", how="on demand") == 1
    parked(host, "f")
    assert metric(host, "copies_parked") == 1
    text = generate_latest(host.metrics.registry).decode()
    for name in ("memory_bytes", "events_waiting", "waiting_for_start", "requests_running"):
        assert f"\nsnapruntime_{name} " in text
    assert host._supply.memory.used > 0
