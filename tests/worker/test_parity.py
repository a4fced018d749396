"""Side by side with awslambdaric, AWS's own runtime. Where the worker differs on purpose, the test says why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from .harness import Worker
from .lambda_reference import Reference

pytest.importorskip("awslambdaric")

Pair = Callable[..., tuple[Reference, Worker]]
SNAP_START = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """One task root, both runtimes started on it; ours not initialised yet."""
    started: list[Reference | Worker] = []

    def start(
        source: str, handler: str = "handler.handler", env: dict[str, str] | None = None
    ) -> tuple[Reference, Worker]:
        root = tmp_path / "task"
        root.mkdir(exist_ok=True)
        (root / "handler.py").write_text(dedent(source))
        theirs, ours = Reference(root, handler, env), Worker(root, env=env)
        started.extend((theirs, ours))
        return theirs, ours

    yield start
    for runtime in started:
        runtime.close()


def same_log(text: str) -> str:
    """Without the time, and with a plain line end.

    Different on purpose: to a plain stdout awslambdaric ends the lines of an error with \\r, which in a terminal writes
    them over each other; through the pipe that Lambda really gives it, with \\n, as the worker does.
    """
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", "TIME", text)
    return re.sub(r"repeated \d+ more", "repeated N more", text.replace("\r", "\n"))


# -- initialisation

INIT_ERRORS = {
    "no dot": ("nodot", "def handler(e, c): ..."),
    "empty": ("", "def handler(e, c): ..."),
    "no module name": (".handler", "def handler(e, c): ..."),
    "parent folder": ("../handler.handler", "def handler(e, c): ..."),
    "built-in module": ("sys.exit", ""),
    "built-in package": ("time.sub.fn", ""),
    "no such module": ("absent.handler", ""),
    "no such package": ("a/b/absent.handler", ""),
    "import inside": ("handler.handler", "import not_there_at_all"),
    "import by name": ("handler.handler", "from json import not_there"),
    "syntax": ("handler.handler", "def handler(e, c)\n    pass"),
    "indentation": ("handler.handler", "def handler(e, c):\npass"),
    "no such function": ("handler.other", "def handler(e, c): ..."),
    "a value error": ("handler.handler", "def f():\n    raise ValueError('bad ü')\nf()"),
    "no message": ("handler.handler", "raise KeyError"),
    "own class": ("handler.handler", "class Mine(Exception): ...\nraise Mine(1, 2)"),
    "chained": ("handler.handler", "try: 1/0\nexcept Exception as e: raise RuntimeError('later') from e"),
    "recursion": ("handler.handler", "def f(): f()\nf()"),
    "assertion": ("handler.handler", "assert 1 == 2, 'sums'"),
    "getattr": ("handler.name", "def __getattr__(name): raise RuntimeError(name)"),
    "exit": ("handler.handler", "import sys; sys.exit(7)"),
    "exit text": ("handler.handler", "import sys; sys.exit('text')"),
    "base exception": ("handler.handler", "class Stop(BaseException): ...\nraise Stop"),
}


@pytest.mark.parametrize(
    ("name", "log"), [*((n, "") for n in INIT_ERRORS), *((n, "JSON") for n in ("no dot", "syntax", "a value error"))]
)
def test_init_errors(pair: Pair, name: str, log: str) -> None:
    handler, source = INIT_ERRORS[name]
    env = {"AWS_LAMBDA_LOG_FORMAT": log}
    theirs, ours = pair(source, handler, env)
    expected = theirs.answer()
    ours.send("init", handler=handler, task_root=str(ours.root), initialization_type="on-demand")
    got = ours.receive()
    if expected is None:
        assert got is None
    else:
        assert got is not None
        assert got[0]["type"] == "init_error"
        assert expected["path"] == "init/error"
        # Different on purpose: awslambdaric posts errors of init as Latin-1 (and fails where that has no such letter).
        document = json.loads(expected["body"].decode("latin-1"))
        for d in (document, got[0]["error"]):  # how deep a recursion gets depends on the frames below it
            d["stackTrace"] = [re.sub(r"repeated \d+ more", "repeated N more", line) for line in d["stackTrace"]]
        assert got[0]["error"] == document
        assert list(got[0]["error"]) == list(document)
        assert got[0]["function_error_type"] == expected["headers"]["Lambda-Runtime-Function-Error-Type"]
    assert ours.wait() == theirs.wait()
    # Different on purpose: no warning that AWS may have patched the runtime underneath. Nobody did.
    lines = [line for line in same_log(theirs.log()).split("\n") if "LAMBDA_WARNING" not in line]
    if expected is None:
        assert lines[-2:] == ours.log().split("\n")[-2:]  # a traceback through each runtime's own files
    else:
        assert "\n".join(lines).lstrip("\n") == same_log(ours.log())


@pytest.mark.parametrize(
    "hook", ["def hook(): raise ValueError('x')", "import sys\ndef hook(): sys.exit(3)", "def hook(a): ..."]
)
@pytest.mark.parametrize("when", ["before_snapshot", "after_restore"])
def test_hook_errors(pair: Pair, hook: str, when: str) -> None:
    source = f"from snapshot_restore_py import *\n{hook}\nregister_{when}(hook)\ndef handler(e, c): ..."
    theirs, ours = pair(source, env=SNAP_START)
    expected = theirs.answer()
    got = ours.init(kind="snap-start")
    if when == "after_restore":
        assert expected == {"path": "ready"}
        assert got["type"] == "ready"
        expected = theirs.answer()
        ours.send("restore")
        got = ours.expect("restore_error")
    assert expected is not None
    document = json.loads(expected["body"])
    # Different on purpose: awslambdaric shows a frame of its own hook runner; the worker shows the user's frames only.
    document["stackTrace"] = [line for line in document["stackTrace"] if "lambda_runtime_hooks_runner" not in line]
    assert got["error"] == document
    assert got["function_error_type"] == expected["headers"]["Lambda-Runtime-Function-Error-Type"]
    assert ours.wait() == theirs.wait() == {"before_snapshot": 64, "after_restore": 65}[when]


def test_hook_order(pair: Pair) -> None:
    theirs, ours = pair(
        """
        from snapshot_restore_py import *
        from snapshot_restore_py import get_before_snapshot, get_after_restore
        assert "get_after_restore" not in __import__("snapshot_restore_py").__all__
        seen = []
        def before(name):
            seen.append(name)
            if name == "b2": register_before_snapshot(before, "late"); register_after_restore(seen.append, "a3")
        for name in ("b1", "b2"): register_before_snapshot(before, name)
        for name in ("a1", "a2"): register_after_restore(seen.append, name)
        def handler(e, c): return [seen, len(get_before_snapshot()), len(get_after_restore())]
        """,
        env=SNAP_START,
    )
    assert theirs.answer() == {"path": "ready"}
    expected = theirs.invoke()
    assert expected is not None
    ours.init(kind="snap-start")
    ours.send("restore")
    ours.expect("restored")
    assert ours.invoke()["body"] == expected["body"]


# -- events, results and errors

CASES = Path(__file__).with_name("parity_cases.py").read_text()


def comparable(answer: dict[str, Any]) -> tuple[str, Any, str]:
    if "path" in answer:
        kind, body = answer["path"].rsplit("/", 1)[1].replace("response", "result"), answer["body"]
        content_type = answer["headers"].get("Content-Type", "")
    else:
        kind, body, content_type = answer["type"], answer["body"], answer.get("content_type", "")
    if kind == "error":
        body = answer.get("error") or json.loads(body)
        body["errorMessage"] = re.sub(r"0x[0-9a-f]+", "0x", body["errorMessage"])
        # json names a bad key's type in full where it is written in C; not worth an encoder of our own
        body["errorMessage"] = body["errorMessage"].replace("not decimal.Decimal", "not Decimal")
        body["stackTrace"] = [re.sub(r"repeated \d+ more", "repeated N more", line) for line in body["stackTrace"]]
        return kind, body, ""
    return kind, body, content_type


def test_results_and_errors(pair: Pair) -> None:
    """Byte for byte, over many values and exceptions; one process each, so that an error leaves no trace either."""
    theirs, ours = pair(CASES, env={"PYTHONWARNINGS": "ignore"})  # of the coroutine: printed whenever it is freed
    assert ours.init()["type"] == "ready"
    values, raises = ours.result({"kind": "names"})
    different = []
    for event in (
        [{"kind": "value", "name": name} for name in values]
        + [{"kind": "raise", "name": name} for name in raises]
        + [{"kind": "coroutine"}, {"kind": "env"}, {"kind": "no such", "x": "ü"}, ["no kind"], None, {}]
    ):
        expected = theirs.invoke(event)
        assert expected is not None, (event, theirs.log())
        got = ours.invoke(event)
        if comparable(got) != comparable(expected):
            different.append((event, comparable(got), comparable(expected)))
    assert not different
    assert len(values) > 60
    logs = [same_log(r.log()).replace("not decimal.Decimal", "not Decimal") for r in (theirs, ours)]
    assert logs[0].count("[ERROR]") > 40
    assert re.sub("0x[0-9a-f]+", "0x", logs[1]) == re.sub("0x[0-9a-f]+", "0x", logs[0])


def test_events(pair: Pair) -> None:
    theirs, ours = pair("def handler(event, context): return [str(type(event)), event, repr(event)]")
    ours.init()
    valid = [
        b"null",
        b" {} ",
        b'{"a": 1, "a": 2}',
        b"[1.0, 1e3, 1e400, 12345678901234567890]",
        b'"\\u00fc\xc3\xbc"',
        b"\xef\xbb\xbf{}",
        b"-0",
    ]
    for raw in valid:
        expected = theirs.invoke(raw=raw)
        assert expected is not None
        assert comparable(ours.invoke(raw=raw)) == comparable(expected), raw
    for raw in [b"", b"{", b"nope", b"NaN", b"[Infinity]", b"\xff", b"{} x", b"'a'", b'"\n"', b"[1,]"]:
        expected = theirs.invoke(raw=raw)
        assert expected is not None
        theirs_document, document = json.loads(expected["body"]), ours.invoke(raw=raw)["error"]
        # Different on purpose: where exactly the JSON breaks is told in json's words, not simplejson's. (On Lambda the
        # Invoke API refuses such an event before a runtime sees it.)
        for d in (theirs_document, document):
            d["errorMessage"] = d["errorMessage"].split(":")[0]
        assert document == theirs_document, raw


def test_what_ends_awslambdaric_only_fails_the_invocation(pair: Pair) -> None:
    """Different on purpose: these two end AWS's runtime by accident. Here they are errors like others."""
    source = """
        class Odd(Exception):
            def __str__(self): raise ValueError
        def handler(event, context):
            if event: raise Odd
            return "\\ud800"
    """
    for event, error in ((0, "Runtime.MarshalError"), (1, "Odd")):
        theirs, ours = pair(source)
        assert theirs.invoke(event) is None
        ours.init()
        assert ours.invoke(event)["error"]["errorType"] == error
        assert ours.invoke(event)["error"]["requestId"] == "req-1"


# -- context

CONTEXT_ENV = {
    "AWS_LAMBDA_FUNCTION_NAME": "fn", "AWS_LAMBDA_FUNCTION_VERSION": "7", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
    "AWS_LAMBDA_LOG_GROUP_NAME": "group", "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
}  # fmt: skip
CLIENT = (
    '{"custom": {"a": 1}, "env": {"locale": "de"}, "client": {"installation_id": "i", "app_title": "t", "other": 1}}'
)
IDENTITY = '{"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"}'
CONTEXT_PROBE = """
    import os
    def show(thing):
        if thing is None or isinstance(thing, (str, int, dict)): return thing
        names = [n for n in dir(thing) if not n.startswith("_")]
        return {n: show(getattr(thing, n)) for n in names if not callable(getattr(thing, n))}
    def handler(event, context):
        os.environ["AWS_LAMBDA_FUNCTION_NAME"] = "changed"
        context.log("logged "); context.log(3)
        left = context.get_remaining_time_in_millis()
        public = sorted(name for name in dir(context) if name[1] != "_")
        return [show(context), repr(context), type(left).__name__, left > 0, os.environ.get("_X_AMZN_TRACE_ID"), public]
"""


@pytest.mark.parametrize("env", [{}, CONTEXT_ENV], ids=["bare", "full"])
def test_context(pair: Pair, env: dict[str, str]) -> None:
    theirs, ours = pair(CONTEXT_PROBE, env=env)
    ours.init()
    header = "Lambda-Runtime-"
    invocations: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({}, {}),
        (
            {header + "Client-Context": CLIENT, header + "Cognito-Identity": IDENTITY},
            {"client_context": CLIENT, "cognito_identity": IDENTITY},
        ),
        (
            {header + "Client-Context": "{}", header + "Cognito-Identity": "{}"},
            {"client_context": "{}", "cognito_identity": "{}"},
        ),
        (
            {header + "Client-Context": "null", header + "Cognito-Identity": "null"},
            {"client_context": "null", "cognito_identity": "null"},
        ),
        (
            {header + "Aws-Tenant-Id": "blue", header + "Trace-Id": "Root=1"},
            {"tenant_id": "blue", "trace_id": "Root=1"},
        ),
        ({}, {}),  # neither of the last two is left over
        ({header + "Client-Context": "{nope"}, {"client_context": "{nope"}),
        ({header + "Cognito-Identity": "[]"}, {"cognito_identity": "[]"}),
        ({header + "Client-Context": '{"client": 1}'}, {"client_context": '{"client": 1}'}),
        ({header + "Client-Context": "[1]"}, {"client_context": "[1]"}),
    ]
    for headers, fields in invocations:
        expected = theirs.invoke(headers=headers)
        assert expected is not None
        got = comparable(ours.invoke(deadline_ms=99999999999999, **fields))
        want = comparable(expected)
        if got[0] == want[0] == "error":
            for document in (got[1], want[1]):
                # the frames are each runtime's own; json words its errors differently from simplejson
                document["stackTrace"] = []
                document["errorMessage"] = document["errorMessage"].split(": ")[0]
        assert got == want, fields
    logs = [r.log().split("[ERROR]")[0] for r in (theirs, ours)]
    assert logs[0] == logs[1]


# -- logging

LOG_PROBE = """
    import logging, sys
    logging.getLogger().warning("at init %d", 1)
    class Custom(logging.Formatter): ...
    log = logging.getLogger("my.log")
    def fail():
        try: 1 / 0
        except ZeroDivisionError: log.exception("failed %s", "here")
    def handler(event, context):
        print("printed")
        for level in (5, 10, 15, 20, 25, 30, 40, 50, 60): log.log(level, "level %d ü", level)
        log.warning("two\\nlines")
        log.error("extra", extra={"color": "red", "n": 1, "none": None, "message_id": {"a": [1]}})
        log.error("stack", stack_info=False, exc_info=False)
        fail()
        log.critical("percent %")
        try: log.error("bad extra", extra={"x": object()})
        except TypeError as e: print("TypeError", e)
        log.setLevel(10); log.debug("debug now"); log.setLevel(0)
        logging.getLogger("other").info("info")
        print([type(h).__mro__[-2].__name__ for h in logging.getLogger().handlers], logging.getLogger().level)
        print(logging.Formatter("%(asctime)s", "%Z").format(logging.makeLogRecord({})))
        raise ValueError("in the end")
"""


LEVELS = [None, "DEBUG", "info", "TRACE", "FATAL", "nonsense", ""]


@pytest.mark.parametrize(
    ("format", "level"), [*((f, v) for f in ("", "JSON") for v in LEVELS), ("json", None), ("Text", None)]
)
def test_logs(pair: Pair, format: str, level: str | None) -> None:
    env = {"AWS_LAMBDA_LOG_FORMAT": format} if format else {}
    env |= {"AWS_LAMBDA_LOG_LEVEL": level} if level is not None else {}
    theirs, ours = pair(LOG_PROBE, env=env)
    assert theirs.invoke(headers={"Lambda-Runtime-Aws-Tenant-Id": "blue"}) is not None
    assert theirs.invoke() is not None
    ours.init()
    ours.invoke(tenant_id="blue")
    ours.invoke()
    expected, got = same_log(theirs.log()), same_log(ours.log())
    # Its sink for streams runs what does not end in a newline (a trace) together with the next record; that of Lambda
    # itself frames each. In ours each ends its line.
    assert got == expected.replace("division by zero[", "division by zero\n[")
    assert "req-1" in got
    assert ("blue" in got) == (format.upper() == "JSON")


def test_exc_info_without_an_exception(pair: Pair) -> None:
    """Different on purpose: awslambdaric's JSON formatter fails in the handler's own call of log.error."""
    source = "import logging\ndef handler(e, c): logging.error('nothing', exc_info=True)"
    theirs, ours = pair(source, env={"AWS_LAMBDA_LOG_FORMAT": "JSON"})
    expected = theirs.invoke()
    assert expected is not None
    assert comparable(expected)[0] == "error"
    ours.init()
    ours.result()
    assert [line["message"] for line in map(json.loads, ours.log().splitlines())] == ["nothing"]


@pytest.mark.parametrize("format", ["", "JSON"])
def test_records_of_the_functions_own_formatter_are_lines_of_their_own(pair: Pair, format: str) -> None:
    """awslambdaric's sink on Lambda frames each record; the one that writes to a stream runs them together."""
    source = """
        import logging
        logging.getLogger().handlers[0].setFormatter(logging.Formatter('{"m":"%(message)s"}'))
        def handler(event, context):
            logging.error("a")
            logging.error("b")
            print("plain")
    """
    _, ours = pair(source, env={"AWS_LAMBDA_LOG_FORMAT": format} if format else {})
    ours.init()
    ours.result()
    assert ours.log().splitlines() == ['{"m":"a"}', '{"m":"b"}', "plain"]
