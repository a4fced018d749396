"""What becomes of an invocation, whatever the handler does; in a cold process and in a restored copy alike.

Texts that Lambda shows are in `docs`' sources: LocalStack's recordings of AWS (Sandbox.Timedout, Runtime.ExitError,
Function.ResponseSizeTooLarge) and awslambdaric; tests/worker compares the latter side by side.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from support import Write, wait_until

from snapruntime import Function, Instance, Invocation, Runtime, Snapshot, UsageError

from .conftest import Start

LIMIT = 6291556


SOURCE = """
    import ctypes, json, os, signal, struct, subprocess, sys, threading, time

    def frame(header, body=b"", size=None):
        head = json.dumps(header).encode()
        os.write(3, struct.pack("!II", len(head), len(body) if size is None else size) + head + body)

    def fork(parent, child):
        if os.fork():
            return parent()
        return child()

    class Trouble(Exception):
        pass

    def handler(event, context):
        name = context.aws_request_id
        if isinstance(event, dict) and "do" in event:
            scope = {}
            exec(event["do"], globals() | {"event": event, "context": context, "name": name}, scope)
            return scope.get("result")
        return event
"""


@pytest.fixture(scope="module")
def contract(write: Write) -> Function:
    return write(SOURCE, timeout_s=5)


@pytest.fixture(scope="module")
def hasty(write: Write) -> Function:
    """The same with a short time limit, for what does not end."""
    return write(SOURCE, timeout_s=0.3)


def error_of(answer: Invocation) -> tuple[str, str]:
    """Type and message of an error document, which must name the request it belongs to."""
    assert answer.payload is None
    assert answer.error is not None
    with pytest.raises(ValueError, match="the invocation failed"):
        _ = answer.result
    message = str(answer.error["errorMessage"])
    assert set(answer.error) == {"errorMessage", "errorType", "requestId", "stackTrace"}
    assert answer.error["requestId"] == answer.request_id
    return str(answer.error["errorType"]), message.replace(answer.request_id, "ID")


EVENTS: list[Any] = [
    {},
    [],
    None,
    0,
    -1.5,
    True,
    "",
    "text",
    "\u2028 \U0001f600 \x00",
    {"deep": [[[[{"a": None}]]]]},
    list(range(1000)),
]


def test_events_come_back_as_they_were(start: Start, contract: Function) -> None:
    instance = start(contract)
    for event in EVENTS:
        answer = instance.invoke(event)
        assert answer.error is None
        assert answer.result == event
    assert instance.invoke(b' {"a": 1.0, "a": 2} ').result == {"a": 2}
    assert instance.invoke('"ü"'.encode()).result == "ü"


NO_JSON: list[Any] = [b"", b"{", b"nonsense", b"\xff\xfe", b"{'a': 1}", b"[1,]", b"NaN", float("nan"), {1}, {"a": b"b"}]


def test_events_that_are_no_json(start: Start, contract: Function) -> None:
    instance = start(contract)
    for event in NO_JSON:
        with pytest.raises(UsageError, match="not JSON"):
            instance.invoke(event)
    assert instance.invoke(1).result == 1, "the copy is none the worse for it"


def test_the_largest_event_and_one_byte_more(start: Start, contract: Function) -> None:
    instance = start(contract)
    text = "x" * (LIMIT - 2)
    assert instance.invoke(text).result == text
    with pytest.raises(UsageError, match=f"{LIMIT + 1} bytes"):
        instance.invoke(text + "x")
    assert instance.invoke(1).result == 1


def test_a_deeply_nested_event(start: Start, contract: Function) -> None:
    instance = start(contract)
    try:
        answer = instance.invoke(b"[" * 100_000 + b"]" * 100_000)
    except UsageError:
        answer = instance.invoke(b"[" * 900 + b"]" * 900)
    assert answer.error is None or answer.error["errorType"].startswith("Runtime.")


ENDS = {
    "raise Trouble('no')": ("Trouble", "no"),
    "raise Trouble": ("Trouble", ""),
    "1/0": ("ZeroDivisionError", "division by zero"),
    "result = {1, 2}": (
        "Runtime.MarshalError",
        "Unable to marshal response: Object of type set is not JSON serializable",
    ),
    "result = '\\ud800'": ("Runtime.MarshalError", "Unable to marshal response: "),
    "result = []; result.append(result)": ("Runtime.MarshalError", "Unable to marshal response: "),
    "result = object()": ("Runtime.MarshalError", "Unable to marshal response: Object of type object is not"),
    "os._exit(0)": ("Runtime.ExitError", "RequestId: ID Error: Runtime exited without providing a reason"),
    "os._exit(7)": ("Runtime.ExitError", "RequestId: ID Error: Runtime exited with error: exit status 7"),
    "os._exit(255)": ("Runtime.ExitError", "RequestId: ID Error: Runtime exited with error: exit status 255"),
    "sys.exit(3)": ("Runtime.ExitError", "RequestId: ID Error: Runtime exited with error: exit status 3"),
    "sys.exit()": ("Runtime.ExitError", "RequestId: ID Error: Runtime exited without providing a reason"),
    "raise KeyboardInterrupt": ("Runtime.ExitError", "RequestId: ID Error: Runtime exited with error: "),
    "ctypes.string_at(0)": (
        "Runtime.ExitError",
        "RequestId: ID Error: Runtime exited with error: signal: segmentation fault",
    ),
    **{
        body: ("Runtime.ExitError", f"RequestId: ID Error: Runtime exited with error: signal: {name}")
        for body, name in {
            "os.abort()": "aborted",
            "os.kill(os.getpid(), signal.SIGKILL)": "killed",
            "os.kill(os.getpid(), signal.SIGTERM)": "terminated",
            "os.kill(0, signal.SIGUSR1)": "user defined signal 1",
            "os.killpg(0, signal.SIGHUP)": "hangup",
            "signal.raise_signal(signal.SIGABRT)": "aborted",
            "signal.pthread_kill(threading.get_ident(), signal.SIGQUIT)": "quit",
            "t = threading.Thread(target=os.kill, args=(1, signal.SIGKILL)); t.start(); t.join()": "killed",
        }.items()
    },
    "os.closerange(0, 256)": ("Runtime.ExitError", "RequestId: ID Error: Runtime exited with error: exit status "),
    "result = 'x' * 6291555": (
        "Function.ResponseSizeTooLarge",
        "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    ),
    "result = 'x' * (40 << 20)": ("Function.ResponseSizeTooLarge", "Response payload size exceeded maximum allowed"),
    "raise Trouble('x' * (20 << 20))": ("Trouble", "xxxxx"),
    "raise Trouble('\\ud800')": ("Trouble", "\\ud800"),
}


#: What a function may do to the control channel, which it shares a process with.
TAMPERED = {
    "frame({'type': 'signalled', 'signal': 9}); time.sleep(60)": ("Runtime.Unknown", "broke its control channel"),
    "frame({'type': 'signalled', 'signal': 9}); os._exit(1)": ("Runtime.ExitError", "exit status 1"),
    "frame({'type': 'signalled', 'signal': 'x'})": ("Runtime.Unknown", "broke its control channel"),
    "os.write(3, b'garbage ' * 100)": ("Runtime.Unknown", "the function broke its control channel"),
    "os.write(3, struct.pack('!II', 0xffffffff, 0xffffffff))": ("Runtime.Unknown", "broke its control channel"),
    "os.write(3, bytes(8))": ("Runtime.Unknown", "broke its control channel"),
    "frame({'no': 'type'})": ("Runtime.Unknown", "broke its control channel"),
    "frame([1, 2])": ("Runtime.Unknown", "broke its control channel"),
    "frame({'type': 'ready'})": ("Runtime.Unknown", "broke its control channel"),
    "frame({'type': 'result'})": ("Runtime.Unknown", "broke its control channel"),
    "frame({'type': 'result', 'request_id': 5})": ("Runtime.Unknown", "broke its control channel"),
    "frame({'type': 'result', 'request_id': 'another'}, b'1')": ("Runtime.Unknown", "broke its control channel"),
    "frame({'type': 'error', 'request_id': name})": ("Runtime.Unknown", "broke its control channel"),
    "frame({'type': 'error', 'request_id': name, 'error': 5})": ("Runtime.Unknown", "broke its control channel"),
    "frame({'type': 'error', 'request_id': name, 'error': {}})": ("Runtime.Unknown", "broke its control channel"),
    "frame({'type': 'error', 'request_id': name, 'error': {'errorType': [], 'errorMessage': {}}})": (
        "Runtime.Unknown",
        "broke its control channel",
    ),
}


@pytest.mark.parametrize("body", ENDS)
def test_ways_to_fail(start: Start, contract: Function, body: str) -> None:
    check_failure(start(contract), body, *ENDS[body])


@pytest.fixture(scope="module")
def contract_snapshot(runtime: Runtime, contract: Function) -> Iterator[Snapshot]:
    with runtime.snapshot(contract) as snapshot:
        yield snapshot


@pytest.mark.parametrize("body", TAMPERED)
def test_a_tampered_channel(contract_snapshot: Snapshot, body: str) -> None:
    with contract_snapshot.restore() as copy:
        check_failure(copy, body, *TAMPERED[body])


def check_failure(instance: Instance, body: str, kind: str, message: str) -> None:
    """The failure is told as it should be, at once, and the instance serves on only if it may."""
    answer = instance.invoke({"do": body})
    seen = error_of(answer)
    assert seen[0] == kind
    assert message in seen[1]
    assert len(seen[1]) < 200_000
    assert answer.duration_ms is not None
    assert answer.duration_ms < 4000, "a failure is told at once, not by the time limit"
    if kind.startswith(("Runtime.Exit", "Runtime.Unknown")):
        with pytest.raises(UsageError, match="is dead"):  # A copy that broke is not used again.
            instance.invoke(1)
    else:
        assert instance.invoke(1).result == 1, "the process goes on after an error of its handler, as on Lambda"


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("os.kill(os.getpid(), 0); result = 1", 1),
        ("os.kill(os.getpid(), signal.SIGCHLD); signal.raise_signal(signal.SIGURG); result = 1", 1),
        (
            "n = []; signal.signal(signal.SIGTERM, lambda *_, n=n: n.append(1)); os.kill(1, 15); result = n",
            [1],
        ),
        ("signal.signal(signal.SIGUSR1, signal.SIG_IGN); os.kill(1, signal.SIGUSR1); result = 1", 1),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); os.kill(1, signal.SIGUSR2)\n"
            "result = signal.sigwait([signal.SIGUSR2])",
            12,
        ),
        ("p = os.fork()\nif not p: os.abort()\nresult = os.waitstatus_to_exitcode(os.waitpid(p, 0)[1])", -6),
        ("p = os.fork()\nif not p: os.kill(os.getpid(), 9)\nresult = os.waitstatus_to_exitcode(os.wait()[1])", -9),
    ],
)
def test_signals_that_end_nothing(start: Start, contract: Function, body: str, result: object) -> None:
    """Those that are handled, ignored, blocked or harmless; and those of a child to itself."""
    assert start(contract).invoke({"do": body}).result == result


def test_the_stack_trace_begins_in_the_handler(start: Start, write: Write) -> None:
    function = write("def inner():\n    raise KeyError('k')\n\ndef handler(event, context):\n    inner()\n")
    error = start(function).invoke({}).error
    assert error is not None
    assert [line.splitlines()[0].rpartition("/")[2] for line in error["stackTrace"]] == [
        'handler.py", line 5, in handler',
        'handler.py", line 2, in inner',
    ]


def test_killed_from_outside(start: Start, contract: Function) -> None:
    """As by the kernel when memory is out, or by an operator."""
    instance = start(contract)

    def kill(_: bytes) -> None:
        os.kill(instance.pid, signal.SIGKILL)

    answer = instance.invoke({"do": "print('running', flush=True); time.sleep(60)"}, sink=kill)
    assert error_of(answer) == (
        "Runtime.ExitError",
        "RequestId: ID Error: Runtime exited with error: signal: killed",
    )


TIMEOUT = ("Sandbox.Timedout", "RequestId: ID Error: Task timed out after 0.30 seconds")


ENDLESS = [
    "time.sleep(60)",
    "while True: pass",
    "while True: print('x' * 65536)",
    "signal.pause()",
    "os.read(3, 100000); time.sleep(60)",
    "fork(lambda: time.sleep(60), lambda: time.sleep(60))",
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(60)",
    "os.write(3, struct.pack('!II', 100, 100) + b'part'); time.sleep(60)",
    "re = __import__('re'); re.match('(a+)+$', 'a' * 60 + 'b')",
]


def check_timeout(instance: Instance, body: str) -> None:
    answer = instance.invoke({"do": body})
    assert error_of(answer) == TIMEOUT
    assert 300 <= (answer.duration_ms or 0) < 2000
    with pytest.raises(UsageError, match="is dead"):  # Its late answer must not be taken for another's.
        instance.invoke(1)


@pytest.mark.parametrize("body", ENDLESS[:3])
def test_never_ending(start: Start, hasty: Function, body: str) -> None:
    check_timeout(start(hasty), body)


@pytest.mark.parametrize("body", ENDLESS[3:])
def test_more_that_never_ends(runtime: Runtime, hasty: Function, body: str) -> None:
    with runtime.snapshot(hasty) as snapshot, snapshot.restore() as copy:
        check_timeout(copy, body)


def test_a_stopped_copy_times_out(start: Start, hasty: Function) -> None:
    instance = start(hasty)
    os.kill(instance.pid, signal.SIGSTOP)
    assert error_of(instance.invoke({})) == TIMEOUT
    instance.close()
    assert not psutil.pid_exists(instance.pid) or psutil.Process(instance.pid).status() == psutil.STATUS_ZOMBIE


def test_a_stopped_copy_with_an_event_too_large_for_the_socket(start: Start, hasty: Function) -> None:
    instance = start(hasty)
    os.kill(instance.pid, signal.SIGSTOP)
    assert error_of(instance.invoke("x" * 5_000_000)) == TIMEOUT


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("sys.stdout.close(); result = 1", 1),
        ("sys.stdout = sys.stderr = None; result = 1", 1),
        ("os.close(1); os.close(2); result = 1", 1),
        ("os.close(0); result = 1", 1),
        ("os.chdir('/'); result = os.getcwd()", "/"),
        ("os.environ.clear(); result = 1", 1),
        ("sys.path.clear(); sys.modules.clear(); result = 1", 1),
        ("threading.Thread(target=time.sleep, args=(60,)).start(); result = 1", 1),
        ("threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); result = 1", 1),
        ("subprocess.Popen(['sleep', '60']); result = 1", 1),
        ("subprocess.Popen(['sleep', '60'], start_new_session=True, close_fds=False); result = 1", 1),
        ("result = 'x' * (6291556 - 2)", "x" * (LIMIT - 2)),
        ("result = [fork(lambda: 'parent', lambda: os._exit(0))]", ["parent"]),
        ("import sys; sys.setrecursionlimit(60); result = 1", 1),
    ],
)
def test_odd_but_answered(start: Start, contract: Function, body: str, result: object) -> None:
    instance = start(contract)
    answer = instance.invoke({"do": body})
    assert answer.error is None
    if result is not None:
        assert answer.result == result
    assert instance.invoke(2).result == 2, "and once more"


def test_a_forked_child_answers_in_its_parents_place(start: Start, contract: Function) -> None:
    instance = start(contract)
    answer = instance.invoke({"do": "result = fork(lambda: os.waitpid(-1, 0) and 'parent', lambda: 'child')"})
    assert answer.error is None or answer.error["errorType"].startswith("Runtime.")
    # Two processes read from one channel now; whatever comes must be an answer to this event, or an error.
    after = instance.invoke("mine")
    assert after.error is not None or after.result == "mine"


def test_a_childs_late_answer_is_not_taken_for_the_next_events(start: Start, contract: Function) -> None:
    instance = start(contract)
    answer = instance.invoke({"do": "frame({'type': 'result', 'request_id': name}, b'1'); result = 2"})
    assert answer.result == 1
    assert instance.invoke("mine").result == "mine"


def test_children_end_with_the_copy(start: Start, contract: Function) -> None:
    instance = start(contract)
    instance.invoke({"do": "[subprocess.Popen(['sleep', '60'], start_new_session=True) for _ in range(5)]"})
    children = psutil.Process(instance.pid).children()
    assert len(children) == 5
    instance.close()
    wait_until(lambda: not any(child.is_running() for child in children), "the children have ended")


def test_a_hundred_megabytes_of_output(start: Start, contract: Function) -> None:
    instance = start(contract)
    seen = 0

    def count(data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    before = psutil.Process().memory_info().rss
    answer = instance.invoke({"do": "for _ in range(100): print('x' * (1 << 20))\nresult = 1"}, sink=count)
    assert answer.result == 1
    assert seen == 100 * ((1 << 20) + 1), "all of it is passed on"
    assert len(answer.logs) < 2 << 20
    assert f"{seen - (1 << 20)} more bytes were written and not kept" in answer.logs
    assert psutil.Process().memory_info().rss - before < 30 << 20, "our own memory is bounded"


def test_output_that_is_no_text(start: Start, contract: Function) -> None:
    answer = start(contract).invoke({"do": "os.write(1, bytes(range(256))); os.write(2, b'err')"})
    assert answer.error is None
    assert answer.logs.endswith("err")


def test_output_is_that_of_its_own_event(start: Start, contract: Function) -> None:
    instance = start(contract)
    logs = [instance.invoke({"do": f"print('event', {number}, flush=True)"}).logs for number in range(3)]
    assert logs == ["event 0\n", "event 1\n", "event 2\n"]


def test_a_failing_sink_does_not_break_the_copy(start: Start, contract: Function) -> None:
    instance = start(contract)

    def refuse(_: bytes) -> None:
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError):
        instance.invoke({"do": "print('x', flush=True); time.sleep(0.1)"}, sink=refuse)
    instance.close()


def test_a_runtime_serves_on_after_all_this(runtime: Runtime, contract: Function) -> None:
    with runtime.snapshot(contract) as snapshot, snapshot.restore() as copy:
        assert copy.invoke("still here").result == "still here"
