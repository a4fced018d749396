"""Lambda's log lines: their form, their order, and that each can be told to belong to its request."""

from __future__ import annotations

import json
import re
import sys
from itertools import groupby
from pathlib import Path

from support import write_files

from edges.conftest import Cli, Several
from snapruntime.edges.output import RequestLog, json_line
from snapruntime.mechanisms.channel import LOG_LIMIT
from snapruntime.values.model import Function, Invocation
from snapruntime.workflows import lambda_log

_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_MS = r"\d+\.\d\d ms"
_RUNTIME = r"Runtime Version: python:3\.\d+\tRuntime Version ARN: arn:aws:lambda:us-east-1::runtime:[0-9a-f]{64}"
_USED = rf"Duration: {_MS}\tBilled Duration: \d+ ms\tMemory Size: 512 MB\tMax Memory Used: [1-9]\d* MB"
_RESTORED = rf"Restore Duration: {_MS}\tBilled Restore Duration: \d+ ms"

INIT_START = rf"INIT_START {_RUNTIME}"
INIT_REPORT = rf"INIT_REPORT Init Duration: {_MS}"
RESTORE_START = rf"RESTORE_START {_RUNTIME}"
RESTORE_REPORT = rf"RESTORE_REPORT Restore Duration: {_MS}"
START = rf"START RequestId: {_ID} Version: \$LATEST"
END = rf"END RequestId: {_ID}"
REPORT = rf"REPORT RequestId: {_ID}\t{_USED}\t{_RESTORED}\t"
REPORT_COLD = rf"REPORT RequestId: {_ID}\t{_USED}\tInit Duration: {_MS}\t"

_FUNCTION = Function("f", "handler", None, "/task", "/usr/bin/python3", memory_mb=3009)


def _matches(log: str, *patterns: str) -> None:
    lines = log.splitlines()
    assert len(lines) == len(patterns), log
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern}"


def test_a_snapshot_and_a_copy(cli: Cli) -> None:
    done = cli("run", "waits.py", "--rebuild", "--event", '{"seconds": 0}')
    _matches(
        done.stderr,
        "Making a snapshot: .*",
        INIT_START,
        "init is over",
        INIT_REPORT,
        r"Snapshot \S+ made in \d+\.\d s\.",
        RESTORE_START,
        RESTORE_REPORT,
        START,
        "handler is waiting",
        END,
        REPORT,
    )


def test_what_a_handler_leaves_unfinished_does_not_run_into_our_lines(cli: Cli) -> None:
    done = cli("run", "echo.py")
    log = done.stderr[done.stderr.index("RESTORE_START") :]
    _matches(log, RESTORE_START, RESTORE_REPORT, START, "to std(out|err)", "to std(out|err)", "unfinished", END, REPORT)


def test_a_cold_start(cli: Cli) -> None:
    _matches(cli("run", "waits.py", "--cold", "--event", '{"seconds": 0}').stderr, INIT_START, "init is over", START,
             "handler is waiting", END, REPORT_COLD)  # fmt: skip


def test_failures(all_at_once: Several) -> None:
    names = ["raises.py", "waits.py", "exits.py", "bad_init.py", "bad_before.py", "bad_after.py"]
    runs = all_at_once([["run", name, "--timeout", "0.5"] for name in names])
    raised, waited, exited, bad_init, bad_before, bad_after = (done.stderr for done in runs)
    error = "Error: .*"
    trace = [r"about to fail\[ERROR\] ValueError: broken on purpose", "Traceback .*", ".*", ".*"]
    _matches(raised[raised.index("START Req") :], START, *trace, END, REPORT, error)

    late = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z {_ID} Task timed out after 0.50 seconds"
    report = REPORT + "Status: timeout"
    _matches(waited[waited.index("START Req") :], START, "handler is waiting", late, END, report, error)

    lines = [f"RequestId: {_ID} Error: Runtime exited with error: exit status 7", r"Runtime\.ExitError"]
    report = REPORT + r"Status: error\tError Type: Runtime\.ExitError"
    _matches(exited[exited.index("START Req") :], START, *lines, END, report, error)

    lines = ["loading", r"\[ERROR\] Runtime.ImportModuleError: .*", "Traceback .*"]
    report = INIT_REPORT + r"\tPhase: init\tStatus: error\tError Type: Runtime\.ImportModuleError"
    _matches(
        bad_init, "Making .*", INIT_START, *lines, report, error, "a_module_that_is_nowhere is .*--python names .*"
    )

    report = INIT_REPORT + r"\tPhase: init\tStatus: error\tError Type: Runtime\.BeforeSnapshotError\n"
    assert re.search(report, bad_before)

    assert re.search(rf"{RESTORE_REPORT}\tStatus: error\tError Type: Runtime\.AfterRestoreError\n", bad_after)
    assert "START RequestId" not in bad_after
    assert "\nconnecting" in bad_after


def test_with_several_copies_at_once_each_block_is_of_one_request(cli: Cli) -> None:
    done = cli("run", "echo.py", "-n", "6", "--concurrency", "3")
    log = done.stderr[done.stderr.index("RESTORE_START") :]
    blocks = log.split("RESTORE_START")[1:]
    assert len(blocks) == 6
    for block in blocks:
        assert len(set(re.findall(_ID, block))) == 1
        assert block.count("\nunfinished\n") == 1
    order = [request for request, _ in groupby(re.findall(rf"(?:START|END|REPORT) RequestId: ({_ID})", log))]
    assert len(order) == 6


def test_a_flood_is_cut_where_it_is_kept_and_passed_on_where_it_is_not(cli: Cli) -> None:
    done = cli("run", "floods.py", "--json", "--concurrency", "2", "--timeout", "30")
    assert len(json.loads(done.stdout)["logs"]) < LOG_LIMIT + 200
    assert len(done.stderr) < LOG_LIMIT + 10_000
    assert "not shown" in done.stderr
    done = cli("run", "floods.py", "--timeout", "30")
    assert done.stdout == '"done"\n'
    assert len(done.stderr) > 10_000_000
    assert re.search(END, done.stderr[-1000:])


def _invocation(**changes: object) -> Invocation:
    values: dict[str, object] = {
        "request_id": "ID", "snapshot": "S", "cold": False, "pid": 1, "restore_ms": 217.1, "init_ms": None,
        "hooks_ms": 181.87, "duration_ms": 2338.66, "total_ms": 2800.0, "max_memory_mb": 173, "payload": b"1",
        "error": None, "phase": "invoke", "logs": "",
    }  # fmt: skip
    return Invocation(**(values | changes))  # type: ignore[arg-type]


def test_the_captured_report_line() -> None:
    # lambda-facts: recorded from AWS.
    assert lambda_log.report(_invocation(), _FUNCTION) == (
        "REPORT RequestId: ID\tDuration: 2338.66 ms\tBilled Duration: 2521 ms\tMemory Size: 3009 MB\t"
        "Max Memory Used: 173 MB\tRestore Duration: 398.97 ms\tBilled Restore Duration: 182 ms\t"
    )


def test_no_more_memory_is_reported_than_there_is() -> None:
    function = Function("f", "handler", None, "/task", "/usr/bin/python3", memory_mb=128)
    assert "\tMemory Size: 128 MB\tMax Memory Used: 128 MB\t" in lambda_log.report(_invocation(), function)


def test_the_billed_duration_of_a_cold_start_has_its_init() -> None:
    # AWS's announcement of billing init (August 2025) has these numbers.
    cold = _invocation(cold=True, restore_ms=None, hooks_ms=None, init_ms=836.30, duration_ms=250.06)
    assert "\tDuration: 250.06 ms\tBilled Duration: 1087 ms\t" in lambda_log.report(cold, _FUNCTION)


def test_good_and_failing_init_are_measured_from_the_same_start(all_at_once: Several, code_root: Path) -> None:
    # An interpreter that starts late, each time: when it is asked what it is, and in the sandbox.
    script = f'#!/bin/sh\nsleep 1\nexec {sys.executable} "$@"\n'
    write_files(code_root / "late", {"python": script})
    (code_root / "late" / "python").chmod(0o755)
    late = ["--python", f"{code_root}/late/python", "--timeout", "9"]
    runs = [["run", name, *late, *cold] for name in ("echo.py", "bad_init.py") for cold in ([], ["--cold"])]
    took = [each for done in all_at_once(runs) for each in re.findall(r"Init Duration: ([\d.]+) ms", done.stderr)]
    assert len(took) == 4
    assert all(1000 < float(each) < 1900 for each in took), took


def test_the_captured_lines_of_failures() -> None:
    error = {"errorType": "Extension.Crash"}
    assert lambda_log.init_failed(1236.04, error, "init") == (
        "INIT_REPORT Init Duration: 1236.04 ms\tPhase: init\tStatus: error\tError Type: Extension.Crash"
    )
    timeout = {"errorType": "Sandbox.Timedout"}
    assert lambda_log.restore_report(398.97, timeout, "after_restore") == (
        "RESTORE_REPORT Restore Duration: 398.97 ms\tStatus: timeout"
    )


def test_a_platform_line_begins_a_line() -> None:
    log = RequestLog(None)
    log.lines("START")
    log.sink(b"a")
    log.sink(b"b")
    log.lines("END")
    log.sink(b"c\n")
    log.lines("REPORT", "more")
    assert log.block == b"START\nab\nEND\nc\nREPORT\nmore\n"
    assert log.text == "abc\n"


def test_json_lines_hold_any_payload() -> None:
    for payload, result in {
        b'{"a": 1.10}': {"a": 1.1},
        b'{\n"a":\r\n1}': {"a": 1},
        b"NaN": "NaN",
        b"\xff": "\ufffd",
        b"": "",
        b"[" * 100_000: "[" * 100_000,
    }.items():
        line = json_line(_invocation(payload=payload))
        assert b"\n" not in line
        assert json.loads(line)["result"] == result
    assert b'{"a": 1.10}' in json_line(_invocation(payload=b'{"a": 1.10}'))  # Its digits are the function's.
    assert json.loads(json_line(_invocation(payload=None, error={"errorType": "\udc80"})))["error"]["errorType"]
