"""What only running shows: memory, hooks, connections, what cannot be saved; and that snapshots bear no scanner."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import pytest
from support import Write

from snapruntime import Runtime
from snapruntime.values.findings import Finding, Report
from snapruntime.values.model import Credentials
from snapruntime.workflows.check.checker import check
from snapruntime.workflows.instance import Instance

Check = Callable[..., Report]


@pytest.fixture
def report_on(runtime: Runtime, write: Write) -> Check:
    def call(source: str, **options: object) -> Report:
        return check(runtime, write(source, **options), runs=2)

    return call


def rules(report: Report) -> dict[str, Finding]:
    return {finding.rule.id: finding for finding in report.findings}


def test_memory_that_the_first_call_writes_to(report_on: Check) -> None:
    report = report_on("""
        table = bytearray(b"x") * (48 << 20)

        def handler(event, context):
            for page in range(0, len(table), 4096):
                table[page] = 121
            return len(table)
        """)
    assert list(rules(report)) == ["SR024"]
    assert 44 <= report.figures["first_call_dirtied_kb"] >> 10 <= 60
    assert report.figures["second_call_dirtied_kb"] < 1 << 10


def test_slow_hooks(report_on: Check) -> None:
    report = report_on("""
        import threading
        from snapshot_restore_py import register_after_restore

        register_after_restore(threading.Event().wait, 1.2)

        def handler(event, context):
            return 1
        """)
    assert list(rules(report)) == ["SR023"]
    assert "12" in rules(report)["SR023"].message


def test_a_failing_hook(report_on: Check) -> None:
    found = rules(
        report_on("""
        from snapshot_restore_py import register_after_restore

        @register_after_restore
        def connect():
            raise RuntimeError("no network")

        def handler(event, context):
            return 1
        """)
    )
    assert list(found) == ["SR021"]
    assert "RuntimeError: no network" in found["SR021"].message
    assert str(found["SR021"].place) == "handler.py:5"


def test_what_cannot_be_saved(report_on: Check, code_root: object) -> None:
    path = f"{code_root}/outside.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        os.chmod(path, 0o666)
        found = rules(
            report_on(
                f"""
                import socket

                line = socket.socket(socket.AF_UNIX)
                line.connect({path!r})

                def handler(event, context):
                    return 1
                """,
                writable=(path,),
            )
        )
    assert list(found) == ["SR025"]
    assert "handler.line" in found["SR025"].message
    assert str(found["SR025"].place) == "handler.py:3"


def test_a_connection_that_the_handler_makes_anew_by_itself_is_no_mistake(
    report_on: Check, servers: dict[str, str]
) -> None:
    """Not of SR022; that it is kept open at all still is."""
    report = report_on(
        """
        import os, socket

        def connect():
            return socket.create_connection(("127.0.0.1", int(os.environ["TCP_PORT"])), timeout=2)

        line = connect()

        def handler(event, context):
            global line
            try:
                line.sendall(b"ping\\n")
            except OSError:
                line = connect()
                line.sendall(b"ping\\n")
            return line.recv(10).decode()
        """,
        environment=servers,
    )
    assert list(rules(report)) == ["SR005"]


def test_a_connection_that_a_hook_closes_is_no_finding(report_on: Check, servers: dict[str, str]) -> None:
    source = """
        import http.client, os

        RAW = http.client.HTTPConnection(os.environ["HTTP_URL"].removeprefix("http://"), timeout=2)

        def ask():
            RAW.request("GET", "/prices")
            return RAW.getresponse().read().decode()

        RAW.request("GET", "/config")
        RAW.getresponse().read()

        def handler(event, context):
            return ask()
        """
    assert {"SR005", "SR022"} <= set(rules(report_on(source, environment=servers)))
    assert report_on(source, environment=servers, hooks=("http_client",)).findings == ()


def test_a_function_is_checked_as_it_is_run(runtime: Runtime, write: Write) -> None:
    function = write("""
        import os, random

        random.seed(42)

        def handler(event, context):
            return [os.environ["STAGE"], random.random()]
        """)
    report = check(runtime, function, runs=2)
    assert report.handler_error.startswith("KeyError")
    report = check(runtime, function, runs=2, environment={"STAGE": "blue"}, keep_seeds=True)
    assert report.handler_error == ""
    assert list(rules(report)) == []


def test_values_drawn_from_what_init_made_or_used(report_on: Check) -> None:
    report = report_on("""
        import random

        rng = random.Random()

        def handler(event, context):
            return {"order": rng.getrandbits(64)}
        """)
    drawn = rules(report)["SR020"]
    assert "drawn from handler.rng" in drawn.message
    assert (str(drawn.place), drawn.hook) == ("handler.py:3", "random")
    salted = """
        import hashlib, os, random

        rng = random.Random()
        SALT = os.urandom(16)

        def handler(event, context):
            return {"signature": hashlib.sha256(SALT).hexdigest()}
        """
    for source, named in (
        (salted, "handler.rng, handler.SALT"),
        (salted.replace("random.Random()", "0"), "handler.SALT"),
    ):
        computed = rules(report_on(source))["SR020"]
        assert f"It may come from {named}, which init made" in computed.message
        assert computed.hook == ""  # It would not help: the check would find the same again.
    source = """
        import sqlite3

        database = sqlite3.connect(":memory:")
        database.execute("select randomblob(8)").fetchone()

        def handler(event, context):
            return database.execute("select hex(randomblob(8))").fetchone()
        """
    assert rules(report_on(source))["SR020"].hook == "sqlite3"
    assert report_on(source, hooks=("sqlite3",)).findings == ()


def test_credentials_that_a_hook_renews(runtime: Runtime, write: Write) -> None:
    source = """
        import boto3

        client = boto3.client("s3", region_name="us-east-1")

        def handler(event, context):
            return client.meta.region_name
        """
    keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-real-secret-key"}
    found = check(runtime, write(source, environment=keys), runs=2).findings
    assert {finding.rule.id for finding in found} == {"SR011"}
    assert {finding.hook for finding in found} == {"boto3", ""}
    (left,) = check(runtime, write(source, environment=keys, hooks=("boto3",)), runs=2).findings
    assert left.hook == ""
    assert "--credentials" in left.mend
    assert check(runtime, write(source, hooks=("boto3",)), runs=2, environment=keys).findings == ()


def test_fetching_credentials_is_no_request_of_the_handlers(
    write: Write, criu_home: Path, servers: dict[str, str]
) -> None:
    """A client of init's fetches them again in each copy, before what it signs; at a cold start that was at init."""
    source = f"""
        import boto3

        client = boto3.client("s3", region_name="us-east-1", endpoint_url={servers["HTTP_URL"]!r})

        def handler(event, context):
            client.get_object(Bucket="any", Key="any")["Body"].read()
        """
    with Runtime(
        criu_home, credentials=lambda: Credentials("AKIAIOSFODNN7EXAMPLE", "not-a-real-key", None, None)
    ) as own:
        report = check(own, write(source), runs=2)
    assert report.findings == ()
    assert "handler_error" not in report.figures


def test_a_clock_that_is_read_in_the_handler_is_not_of_init(report_on: Check) -> None:
    """Copies follow each other within one second, which is the most that many clocks tell."""
    report = report_on("""
        import time

        def handler(event, context):
            return {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "signature": hash(str(int(time.time())))}
        """)
    assert report.findings == ()


def test_who_fails_now_and_then_is_compared_by_its_answers(runtime: Runtime, write: Write, tmp_path: Path) -> None:
    """One failure among the answers must not hide what the others have alike."""
    (tmp_path / "count").write_text("0")
    tmp_path.chmod(0o755)
    (tmp_path / "count").chmod(0o666)
    source = f"""
        import itertools, os

        tokens = itertools.repeat(getattr(os, "urandom")(9).hex())

        def handler(event, context):
            with open("{tmp_path}/count", "r+") as file:
                count = int(file.read())
                file.seek(0)
                file.write(str(count + 1))
            if count == 6:  # Three cold starts, a copy that is measured by two calls, and three more copies.
                raise ValueError("now and then")
            return {{"token": next(tokens)}}
        """
    found = rules(check(runtime, write(source, writable=[str(tmp_path / "count")]), runs=3))
    assert found["SR020"].path == "response.token"
    assert found["SR091"].message == "1 of 3 copies failed, and were not compared (ValueError: now and then)"


def test_values_drawn_by_chance_are_no_duplicates(report_on: Check) -> None:
    """Two copies agree on a coin half of the time; more copies are asked."""
    report = report_on("""
        import random

        def handler(event, context):
            return {"coins": [random.random() < 0.5 for _ in range(20)], "dice": random.randint(1, 6)}
        """)
    assert report.findings == ()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return event['missing']", "KeyError: "),
        ("import sys; sys.exit(3)", "Runtime.ExitError: Runtime exited"),
        ("import os; os._exit(3)", "Runtime.ExitError: Runtime exited"),
        ("import threading; threading.Event().wait()", "Sandbox.Timedout: Task timed out after 0.40 seconds"),
    ],
)
def test_a_handler_that_fails_everywhere_is_told(report_on: Check, body: str, said: str) -> None:
    report = report_on(f"def handler(event, context):\n    {body}\n", timeout_s=0.4)
    assert report.handler_error.startswith(said)
    assert report.findings == ()


def test_a_large_state_ends_the_scan_and_is_told(report_on: Check) -> None:
    report = report_on("""
        rows = {number: [[number]] * 2 for number in range(900)}
        table = [{key: [object() for _ in range(200)] for key in range(200)} for _ in range(5)]

        def handler(event, context):
            return len(rows) + len(table)
        """)
    assert report.figures["scan_truncated"] is True
    assert report.findings == ()


def test_objects_that_do_not_let_themselves_be_looked_at(report_on: Check) -> None:
    report = report_on("""
        import uuid

        class Stubborn:
            def __init__(self):
                self.inner = self
                self.token = uuid.uuid4()
            def __getattribute__(self, name):
                raise RuntimeError("do not look")
            def __eq__(self, other):
                raise RuntimeError("do not compare")
            __hash__ = None
            def __repr__(self):
                raise RuntimeError("do not print")

        things = [Stubborn(), {frozenset([1]): 1}]

        def handler(event, context):
            return len(things)
        """)
    assert [finding.path for finding in report.findings] == ["handler.things[0].token"]


def test_no_snapshot_carries_the_scanner(runtime: Runtime, write: Write) -> None:
    function = write("""
        import sys

        def handler(event, context):
            return [name for name in sys.modules if name.startswith("_snapruntime_worker.check")]
        """)
    with runtime.snapshot(function) as snapshot:
        with snapshot.restore() as copy:
            assert copy.invoke({}).result == []
        with snapshot.restore() as copy:
            assert copy.look("scan")["items"] == []
            assert len(copy.invoke({}).result) > 1


@pytest.mark.parametrize(
    ("scan", "seen"),
    [
        ("answer.update(files=['/dev/zero', '/usr/lib/os.py'])", "pass"),
        ("answer.update(files=[3])", "answer = {'requests': [{'target': 'x'}], 'dead': []}"),
        ("answer['items'] += [{'path': 1}]", "answer = [1]"),
        ("pass", "answer = [1]"),
        ("answer = 'x'", "answer = {'requests': [], 'dead': [{'a': 1}]}"),
    ],
)
def test_what_a_process_tells_of_itself_is_not_believed(report_on: Check, scan: str, seen: str) -> None:
    """The function's code can answer for the worker."""
    report = report_on(f"""
        import json, sys

        bootstrap = next(module for name, module in sys.modules.items() if name.endswith("worker.bootstrap"))

        def check(self, message, body):
            from _snapruntime_worker import check
            answer = json.loads(check.answer(message["do"], self.inputs, message["task_root"]))
            if message["do"] == "scan":
                {scan}
            elif message["do"] == "seen":
                {seen}
            bootstrap._send("checked", json.dumps(answer).encode())

        bootstrap.Worker.check = check

        def handler(event, context):
            raise ValueError('File "/a\\0b", line 1\\ud800')
        """)
    assert list(rules(report)) == ["SR091"]
    assert report.handler_error.startswith("ValueError: ")
    assert report.handler_error.isprintable()


@pytest.mark.parametrize(
    ("globals", "rules_found"),
    [
        ("import os\nclass Evil:\n    __repr__ = lambda self: os._exit(3)\nthings = {Evil(), 1}", {"SR020", "SR091"}),
        ("class Evil(dict):\n    def items(self):\n        raise SystemExit(3)\nthing = Evil(a=1)", {"SR003", "SR020"}),
        ("key = [10**400, 10**5000, float('nan'), -(10**310)]", {"SR003", "SR020"}),
    ],
)
def test_objects_that_end_who_looks_at_them(report_on: Check, globals: str, rules_found: set[str]) -> None:
    """A process without a scan is compared by what it does."""
    source = f"import uuid\n{globals}\nTOKEN = uuid.uuid4()\ndef handler(event, context):\n    return str(TOKEN)\n"
    assert set(rules(report_on(source))) - {"SR003"} == rules_found - {"SR003"}


def test_objects_that_make_who_looks_at_them_wait(report_on: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Instance, "look", partialmethod(Instance.look, limit_s=2.0))
    report = report_on("""
        import threading, uuid

        class Evil(dict):
            def items(self):
                threading.Event().wait()

        thing, token = Evil(a=1), uuid.uuid4().hex

        def handler(event, context):
            return token
        """)
    assert list(rules(report)) == ["SR003", "SR020", "SR091"]


def test_the_identity_of_a_thread_is_nothing_unique(report_on: Check) -> None:
    report = report_on("""
        import threading

        OWNER = threading.get_ident()

        def handler(event, context):
            return [OWNER, f"thread {OWNER}"]
        """)
    assert report.findings == ()


def test_a_module_that_no_file_made(report_on: Check) -> None:
    """torch.classes says that its file is `_classes.py`: it was looked for in the function's folder, and missed."""
    report = report_on("""
        import sys, types
        made = sys.modules["made"] = types.ModuleType("made")
        made.__file__ = "_made.py"
        def handler(event, context): return 1
    """)
    assert report.findings == ()


def test_a_module_is_where_its_link_leads(report_on: Check) -> None:
    """The function's own by a link to its file, or to the folder of that."""
    report = report_on(
        """
        import os, sys, tempfile

        around, here = tempfile.mkdtemp(), os.path.dirname(__file__)
        os.symlink(f"{here}/inner", f"{around}/folder")
        os.symlink(f"{here}/mine.py", f"{around}/renamed.py")
        sys.path += [f"{around}/folder", around]
        import deep, renamed

        def handler(event, context):
            return 1
        """,
        files={"mine.py": "import uuid\nFIRST = uuid.uuid4()\n", "inner/deep.py": "import uuid\nNEXT = uuid.uuid4()\n"},
    )
    found = {finding.path for finding in report.findings if finding.rule.id == "SR003"}
    assert found >= {"renamed.FIRST", "deep.NEXT"}
