"""What comes over the control channel in each phase is understood or a clear error; the stopped and the killed too."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import Census, Write, wait_until

from snapruntime import FunctionError, HostError, Instance, Runtime, SnapruntimeError
from snapruntime.mechanisms import kernel_probes
from snapruntime.mechanisms.criu import CriuWorker
from snapruntime.values.host import Criu
from snapruntime.worker import wire

#: What is written to the channel in place of, or before, what is due.
JUNK = {
    "garbage": b"\xff" * 64,
    "oversized header": struct.pack("!II", 1 << 31, 0) + b"x" * 100,
    "oversized body": struct.pack("!II", 20, 1 << 31) + b"x" * 100,
    "half a frame": struct.pack("!II", 100, 0) + b'{"type": "result"',
    "half a length": b"\0\0\0",
    "a message that is not due": wire.encode({"type": "restored", "hooks_ms": 1}) * 2,
    "a message without its fields": wire.encode({"type": "ready"}),
    "an answer never asked for": wire.encode({"type": "result", "request_id": "other"}, b"1"),
    "a signal that is none": wire.encode({"type": "signalled", "signal": [9]}),
    "an unknown message": wire.encode({"type": "nonsense", "x": [{}]}),
}

AT = {
    "init": "junk()\ndef handler(event, context): return 1",
    "before_snapshot": "register_before_snapshot(junk)\ndef handler(event, context): return 1",
    "after_restore": "register_after_restore(junk)\ndef handler(event, context): return 1",
    "invoke": "def handler(event, context):\n    junk()\n    return 1",
    # After READY, that is while it is dumped or waits for its restore.
    "afterwards": "import threading\nthreading.Timer(0.02, junk).start()\ndef handler(event, context): return 1",
}

CASES = [(phase, junk) for phase in ("init", "before_snapshot", "invoke") for junk in JUNK] + [
    (phase, junk) for phase in ("after_restore", "afterwards") for junk in ("garbage", "half a frame", "oversized body")
]


def source(phase: str, junk: bytes, then: str = "") -> str:
    return (
        "import os, time\nfrom snapruntime import register_after_restore, register_before_snapshot\n"
        f"def junk(): os.write(3, {junk!r}){then}\n{AT[phase]}\n"
    )


@pytest.mark.parametrize(("phase", "junk"), CASES)
def test_junk_on_the_channel(runtime: Runtime, write: Write, phase: str, junk: str, nothing_left: Census) -> None:
    """Never a wrong answer, a traceback of Python's own, or a wait for more than the limit of that phase."""
    function = write(source(phase, JUNK[junk]), timeout_s=1.0)
    began = time.monotonic()
    failed_in, error_type, result = "", "", None
    try:
        with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
            answer = copy.invoke({})
            failed_in = answer.phase if answer.error is not None else ""
            error_type, result = (answer.error or {}).get("errorType", ""), answer.payload
    except FunctionError as error:
        failed_in, error_type = error.phase, error.code
    except SnapruntimeError as error:
        failed_in, error_type = "dump", error.code
    assert time.monotonic() - began < 12
    if phase == "afterwards":  # Where it strikes is a matter of time; where it does not, the answer is right.
        assert failed_in or result == b"1"
    else:
        assert failed_in == ("init" if phase == "before_snapshot" else phase)
    assert error_type in ("", "Runtime.Unknown", "Runtime.ExitError", "Sandbox.Timedout", "Snapruntime.Snapshot")


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param('{"type": "result", "content_type": "text/plain"}, b"1" * (7 << 20)', id="a long response"),
        pytest.param('{"type": "error", "error": {**DOCUMENT, "more": float("nan")}}', id="more of an error"),
    ],
)
def test_answers_that_the_worker_would_not_give(runtime: Runtime, write: Write, junk: str) -> None:
    """Its limits hold for a handler that writes to the channel itself, too: what we print must be JSON, and no more."""
    function = write(
        f"""
        import json, socket, struct
        DOCUMENT = {{"errorType": "E", "errorMessage": "e", "requestId": "", "stackTrace": []}}

        def send(request_id, header, body=b""):
            head = json.dumps({{**header, "request_id": request_id}}).encode()
            socket.socket(fileno=3).sendall(struct.pack("!II", len(head), len(body)) + head + body)

        def handler(event, context):
            send(context.aws_request_id, {junk})
        """
    )
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        answer = copy.invoke({})
    assert answer.error is not None
    assert answer.error["errorType"] == "Runtime.Unknown"


def test_who_repeats_himself_has_a_time_limit_too(runtime: Runtime, write: Write) -> None:
    """An earlier request's answer, as a forked child of it may give again, is passed over; but not for ever."""
    function = write(
        """
        import os, struct
        first = None
        def handler(event, context):
            global first
            if first is None:
                first = context.aws_request_id.encode()
                return 1
            more = b'"duration_ms": 1, "more": [' + b"{}," * 99 + b"{}]"
            header = b'{"type": "result", "request_id": "' + first + b'", ' + more + b"}"
            frame = (struct.pack("!II", len(header), 1) + header + b"1") * 20
            for _ in range(8):
                if os.fork() == 0:
                    break
            while True:
                os.write(3, frame)
        """,
        timeout_s=1.0,
    )
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == 1
        began = time.monotonic()
        error = copy.invoke({}).error or {}
        assert error["errorType"] in ("Sandbox.Timedout", "Runtime.Unknown")
        assert time.monotonic() - began < 5


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda's limits for init and restore, a hundred times shorter."""
    monkeypatch.setattr("snapruntime.values.model.INIT_LIMIT_S", 0.8)
    monkeypatch.setattr("snapruntime.workflows.restore.RESTORE_LIMIT_S", 0.8)
    monkeypatch.setattr("snapruntime.workflows.checkpoint.CHECKPOINT_LIMIT_S", 0.8)


def below(runtime: Runtime) -> list[psutil.Process]:
    """The workers, copies and CRIUs of a runtime."""
    (outer,) = (process for process in psutil.Process().children() if process.pid == runtime._spawner._process.pid)
    (inner,) = outer.children()
    return inner.children()


def do_to_worker(runtime: Runtime, number: signal.Signals) -> Callable[[bytes], None]:
    """A sink that sends the signal to the worker, or copy, at its first word."""

    def sink(_: bytes) -> None:
        for process in below(runtime):
            if process.name() != "criu":
                process.send_signal(number)

    return sink


PHASED = {
    "init": "print('here', flush=True)\ntime.sleep(60)\ndef handler(event, context): pass",
    "before_snapshot": """
@register_before_snapshot
def before():
    print('here', flush=True)
    time.sleep(60)
def handler(event, context): pass""",
    "after_restore": """
@register_after_restore
def after():
    print('here', flush=True)
    time.sleep(60)
def handler(event, context): pass""",
    "invoke": """
def handler(event, context):
    print('here', flush=True)
    time.sleep(60)""",
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("phase", PHASED)
@pytest.mark.usefixtures("short_limits")
def test_the_process_is_killed_or_stopped_in_each_phase(
    own_runtime: Runtime, write: Write, phase: str, number: signal.Signals
) -> None:
    header = "import time\nfrom snapruntime import register_after_restore, register_before_snapshot\n"
    function = write(header + PHASED[phase], timeout_s=0.8)
    sink = do_to_worker(own_runtime, number)
    expected = "Runtime.ExitError" if number == signal.SIGKILL else "Sandbox.Timedout"
    if phase == "invoke":
        with own_runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
            error = copy.invoke({}, sink=sink).error
            assert error is not None
            assert error["errorType"] == expected
    else:
        with (
            pytest.raises(FunctionError) as caught,
            own_runtime.snapshot(function, sink=sink if phase != "after_restore" else None) as snapshot,
        ):
            snapshot.restore(sink=sink)
        assert caught.value.code == expected
        # One that is stopped never comes to say in which hook it was.
        assert caught.value.phase == ("init" if phase == "before_snapshot" else phase)
    wait_until(lambda: not below(own_runtime), "nothing of it is left")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("kind", [1, 2], ids=["dump", "restore"])
@pytest.mark.usefixtures("short_limits")
def test_the_process_is_killed_or_stopped_while_criu_is_at_it(
    own_runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch, kind: int, number: signal.Signals
) -> None:
    """An error or an answer, in time, and nothing is left; and the next attempt works."""
    function = write("memory = bytearray(20 << 20)\ndef handler(event, context): return 1", timeout_s=0.8)
    call = CriuWorker._call

    def striking(self: CriuWorker, request: Any, *rest: Any) -> Any:
        if request.type == kind:
            for process in below(own_runtime):
                if kind == 1 and process.name() != "criu":
                    process.send_signal(number)
        answer = call(self, request, *rest)
        if request.type == kind == 2:
            for process in below(own_runtime):
                if process.name() != "criu":
                    process.send_signal(number)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(CriuWorker, "_call", striking)
        began = time.monotonic()
        with pytest.raises(SnapruntimeError), own_runtime.snapshot(function) as snapshot:
            snapshot.restore()
        assert time.monotonic() - began < 8
    wait_until(lambda: not below(own_runtime), "nothing of it is left")
    with own_runtime.snapshot(function, rebuild=True) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == 1


def test_the_spawner_is_stopped(own_runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of it meanwhile fails in time; when it goes on, so does everything."""
    function = write("def handler(event, context): return 1")
    monkeypatch.setattr("snapruntime.mechanisms.process.REQUEST_DEADLINE_S", 0.2)
    with own_runtime.snapshot(function) as snapshot:
        copy: Instance = snapshot.restore()
        (inner,) = psutil.Process(own_runtime._spawner._process.pid).children()
        inner.suspend()
        try:
            with pytest.raises(SnapruntimeError, match="did not answer in time"):
                snapshot.restore()
            assert copy.invoke({}).result == 1, "who lives does not need it"
            # Requests that nobody reads: until the socket takes no more, and then too.
            for _ in range(3):
                with pytest.raises(SnapruntimeError):
                    own_runtime._spawner.run([])
            began = time.monotonic()
            copy.close()
            assert time.monotonic() - began < 3
        finally:
            inner.resume()
        monkeypatch.undo()
        with snapshot.restore() as copy:
            assert copy.invoke({}).result == 1
    wait_until(lambda: not below(own_runtime), "what was asked for and given up is ended")


def test_the_spawner_is_killed_while_the_runtime_starts(
    criu_home: Path, nothing_left: Census, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall = kernel_probes.recall

    def killing(home: Path, criu: Criu) -> bytes | None:
        spawner = max(psutil.Process().children(), key=lambda process: process.create_time())
        spawner.kill()
        wait_until(lambda: spawner.status() == psutil.STATUS_ZOMBIE, "it has ended, and its mounts are gone")
        return recall(home, criu)

    monkeypatch.setattr(kernel_probes, "recall", killing)
    with pytest.raises(HostError):
        Runtime(criu_home)


def test_a_full_socket_to_a_stopped_spawner(own_runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    spawner = own_runtime._spawner
    monkeypatch.setattr("snapruntime.mechanisms.process.REQUEST_DEADLINE_S", 0.001)
    (inner,) = psutil.Process(spawner._process.pid).children()
    inner.suspend()
    try:
        began = time.monotonic()
        for _ in range(400):  # The kernel queues some hundred packets, by default (net.unix.max_dgram_qlen, SO_SNDBUF).
            with pytest.raises(SnapruntimeError, match="did not answer in time"):
                spawner.run([])
        assert time.monotonic() - began < 10
    finally:
        inner.resume()
    monkeypatch.undo()
    spawner.run([])
    assert len(os.listdir(f"/proc/{inner.pid}/fd")) < 16, "it kept none of the requests that were given up"
