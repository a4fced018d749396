"""Runtime hooks around a real snapshot: order, arguments, names, failures, time limits."""

from __future__ import annotations

import pytest
from support import Write

from snapruntime import FunctionError, Runtime
from snapruntime.values import model
from snapruntime.workflows import parked, restore

HANDLER = "\ndef handler(event, context):\n    return log\n"


@pytest.mark.parametrize("package", ["snapshot_restore_py", "snapruntime"])
def test_order_arguments_and_names(runtime: Runtime, write: Write, package: str) -> None:
    function = write(
        f"""
from {package} import register_after_restore, register_before_snapshot
import os
log = []

def note(*args, **kwargs):
    log.append([*args, *sorted(kwargs.items())])

register_before_snapshot(note, "before 1", key="value")
register_before_snapshot(note, "before 2", 7)
register_after_restore(note, "after 1", key="value")
register_after_restore(note, "after 2", 7)

@register_before_snapshot
def before_3():
    note("before 3", os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"])
    open("/tmp/by-hook", "w").write("kept")

@register_after_restore
def after_3():
    note("after 3", open("/tmp/by-hook").read())
"""
        + HANDLER
    )
    expected = [
        ["before 3", "snap-start"],
        ["before 2", 7],
        ["before 1", ["key", "value"]],
        ["after 1", ["key", "value"]],
        ["after 2", 7],
        ["after 3", "kept"],
    ]
    with runtime.snapshot(function) as snapshot:
        for _ in range(2):
            with snapshot.restore() as copy:
                assert copy.invoke({}).result == expected
                assert copy.invoke({}).result == expected, "hooks run once per copy, not per event"
                assert copy.hooks_ms is not None


def test_cold_starts_run_no_hooks(runtime: Runtime, write: Write) -> None:
    function = write(
        """
from snapshot_restore_py import register_after_restore, register_before_snapshot
log = []
register_before_snapshot(log.append, "before")
register_after_restore(log.append, "after")
"""
        + HANDLER
    )
    with runtime.cold(function) as cold, cold.start() as instance:
        assert instance.invoke({}).result == []


FAILING = """
from snapshot_restore_py import register_{kind}
import os, signal, sys, time

@register_{kind}
def later():
    print("hook", "two")

def failing():
    print("about to fail")
    {body}

class Trouble(Exception):
    pass

register_{kind}(failing)
register_{kind}(print, "hook three")

def handler(event, context):
    return 1
"""


def test_a_failing_before_hook_means_no_snapshot(runtime: Runtime, write: Write) -> None:
    function = write(FAILING.format(kind="before_snapshot", body="raise Trouble('no', 5)"))
    output: list[bytes] = []
    with pytest.raises(FunctionError) as caught:
        runtime.snapshot(function, sink=output.append)
    error = caught.value
    assert error.phase == "before_snapshot"
    assert error.document["errorType"] == "Trouble"
    assert error.document["errorMessage"] == "('no', 5)"
    assert ", in failing\n" in error.document["stackTrace"][-1]
    assert "handler.failing" in error.hint
    text = b"".join(output)
    assert b"hook three" in text
    assert b"hook two" not in text, "the first exception stops the rest"


def test_a_failing_after_hook_fails_the_restore(runtime: Runtime, write: Write) -> None:
    function = write(FAILING.format(kind="after_restore", body="raise Trouble('no', 5)"))
    output: list[bytes] = []
    with runtime.snapshot(function) as snapshot:
        for _ in range(2):
            with pytest.raises(FunctionError) as caught:
                snapshot.restore(request_id="the-id", sink=output.append)
            error = caught.value
            assert error.phase == "after_restore"
            assert error.document["errorType"] == "Trouble"
            assert error.document["requestId"] == "the-id"
            assert "handler.failing" in error.hint
    text = b"".join(output)
    assert b"hook two" in text
    assert b"about to fail" in text
    assert b"hook three" not in text


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("sys.exit('over')", "SystemExit", "over"),
        ("sys.exit(0)", "SystemExit", "0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("os._exit(9)", "Runtime.ExitError", "Runtime exited with error: exit status 9"),
        ("os._exit(0)", "Runtime.ExitError", "Runtime exited without providing a reason"),
        ("os.close(3)", "Runtime.ExitError|Runtime.Unknown", ""),
        ("os.write(3, b'garbage ' * 9)", "Runtime.Unknown", "the function broke its control channel"),
    ],
)
@pytest.mark.parametrize("when", ["before_snapshot", "after_restore"])
def test_other_ends_of_a_hook(runtime: Runtime, write: Write, when: str, body: str, kind: str, message: str) -> None:
    function = write(FAILING.format(kind=when, body=body))
    if when == "before_snapshot":
        with pytest.raises(FunctionError) as caught:
            runtime.snapshot(function)
    else:
        with runtime.snapshot(function) as snapshot, pytest.raises(FunctionError) as caught:
            snapshot.restore()
    error = caught.value
    assert error.document["errorType"] in kind.split("|")
    assert message in error.document["errorMessage"]
    assert error.phase == "after_restore" if when == "after_restore" else error.phase in ("init", "before_snapshot")


@pytest.mark.parametrize(
    "source",
    ["import time\ntime.sleep(60)", "from snapruntime import *\nimport time\nregister_before_snapshot(time.sleep, 60)"],
    ids=["init", "before hook"],
)
def test_init_and_before_hooks_have_a_time_limit(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(model, "INIT_LIMIT_S", 0.3)
    function = write(f"{source}\ndef handler(event, context): pass", timeout_s=0.1)
    with pytest.raises(FunctionError, match=r"Task timed out after 0\.30 seconds") as caught:
        runtime.snapshot(function)
    assert caught.value.document["errorType"] == "Sandbox.Timedout"
    assert caught.value.phase in ("init", "before_snapshot")


def test_a_cold_init_has_a_time_limit(runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "INIT_LIMIT_S", 0.3)
    function = write("import time\ntime.sleep(60)\ndef handler(event, context): pass", timeout_s=0.1)
    with runtime.cold(function) as cold, pytest.raises(FunctionError, match=r"timed out after 0\.30 seconds"):
        cold.start()


def test_a_functions_own_timeout_raises_that_of_init(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "INIT_LIMIT_S", 0.1)
    function = write("import time\ntime.sleep(0.3)\ndef handler(event, context): return 1", timeout_s=20)
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == 1


@pytest.mark.parametrize("body", ["time.sleep(60)", "while True: pass", "signal.pause()"])
def test_after_hooks_have_a_time_limit(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    function = write(FAILING.format(kind="after_restore", body=body))
    with runtime.snapshot(function) as snapshot:
        for module in (restore, parked):
            # CRIU's part counts too: half a second is too little for it on an emulated processor.
            monkeypatch.setattr(module, "RESTORE_LIMIT_S", 2.0)
        with pytest.raises(FunctionError, match=r"Task timed out after 2\.00 seconds") as caught:
            snapshot.restore(request_id="the-id")
    assert caught.value.document["errorType"] == "Sandbox.Timedout"
    assert "the-id" in caught.value.document["errorMessage"]
    assert caught.value.phase == "after_restore"


def test_a_hook_may_print_much_and_register_more(runtime: Runtime, write: Write) -> None:
    function = write("""
        from snapruntime import register_after_restore
        more = []

        @register_after_restore
        def loud():
            print("x" * (8 << 20))
            register_after_restore(more.append, 1)

        def handler(event, context):
            return more
    """)
    seen = 0

    def count(data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    with runtime.snapshot(function) as snapshot, snapshot.restore(sink=count) as copy:
        answer = copy.invoke({})
    assert answer.result == [1]
    assert seen == (8 << 20) + 1


def test_reconnecting_in_hooks(runtime: Runtime, write: Write) -> None:
    """What hooks are for: closed before the snapshot, open again in every copy."""
    function = write("""
        import socket
        from snapshot_restore_py import register_after_restore, register_before_snapshot
        pair = socket.socketpair()

        @register_before_snapshot
        def close():
            for end in pair:
                end.close()

        @register_after_restore
        def open_again():
            global pair
            pair = socket.socketpair()

        def handler(event, context):
            pair[0].send(b"through")
            return pair[1].recv(100).decode()
    """)
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == "through"
