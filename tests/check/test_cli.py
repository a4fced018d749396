"""`snapruntime check` as a command: its three forms, exit codes, suppressions, and the static pass over files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import write_files

from snapruntime.edges import exits
from snapruntime.edges.cli import _run

ROOT = Path(__file__).resolve().parents[2]
Cli = Callable[..., subprocess.CompletedProcess[str]]

HANDLER = """
    import random, time, uuid

    TOKEN = str(uuid.uuid4())
    # snapruntime: ignore[SR003] one build, one name
    BUILD = uuid.uuid4().hex
    SESSION = uuid.uuid4().hex  # snapruntime: ignore[SR003]
    BOOTED = time.time()

    def lambda_handler(event, context):
        return {"who": {"token": TOKEN}, "now": random.random()}
    """


@pytest.fixture(scope="module")
def folder(code_root: Path) -> Path:
    where = code_root / "check-cli"
    write_files(where, {"handler.py": HANDLER, "clean.py": "def handler(event, context):\n    return event\n"})
    return where


@pytest.fixture
def cli(folder: Path, criu_home: Path) -> Cli:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snapruntime", "--home", str(criu_home), "check", *arguments]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )  # fmt: skip

    return call


def test_text_and_json_of_one_run(cli: Cli, folder: Path) -> None:
    done = cli("handler.py", "--runs", "2", "--format", "json", "--output", "found.json")
    assert done.returncode == exits.FINDINGS, done.stderr
    document = json.loads((folder / "found.json").read_text())
    assert not document["ok"]
    found = {(f["rule"], f["line"], f["path"]): f for f in document["reports"][0]["findings"]}
    assert set(found) == {
        ("SR003", 3, "handler.TOKEN"),
        ("SR020", 3, "response.who.token"),
        ("SR003", 5, "handler.BUILD"),
        ("SR003", 6, "handler.SESSION"),
        ("SR004", 7, "handler.BOOTED"),
        ("SR090", 6, None),
    }
    assert found["SR003", 5, "handler.BUILD"]["suppressed"] == "one build, one name"
    assert found["SR003", 6, "handler.SESSION"]["suppressed"] is None  # It gives no reason.
    message = found["SR020", 3, "response.who.token"]["message"]
    assert message.endswith("It is handler.TOKEN.")
    assert len(message.split(" is ")[1].split("…")[0]) == 6  # It may be a secret.
    assert document["reports"][0]["figures"]["first_call_ms"] > 0
    assert "handler.py:3: error SR003 unique-value\n" in done.stdout
    assert "It gives no reason." in done.stdout
    assert "handler.BUILD" not in done.stdout
    assert "3 errors, 2 warnings; 1 suppressed" in done.stdout


def test_handlers_of_one_name_are_told_apart(cli: Cli, folder: Path) -> None:
    """By their files as an editor finds them, from the current folder."""
    files = [f"{name}/handler.py" for name in ("one", "two")]
    write_files(folder, dict.fromkeys(files, "import uuid\nID = uuid.uuid4()\ndef handler(event, context): pass\n"))
    done = cli(*files, "--runs", "2", "--output", "found.json", "--format", "json")
    assert [line for line in done.stdout.splitlines() if "SR003" in line] == [
        f"{file}:2: error SR003 unique-value" for file in files
    ]
    reports = json.loads((folder / "found.json").read_text())["reports"]
    assert [report["findings"][0]["file"] for report in reports] == files


def test_sarif(cli: Cli) -> None:
    done = cli("handler.py", "clean.py", "--static", "--format", "sarif")
    log = json.loads(done.stdout)
    assert (log["version"], len(log["runs"])) == ("2.1.0", 1)
    assert "sarif-schema-2.1.0" in log["$schema"]
    driver, results = log["runs"][0]["tool"]["driver"], log["runs"][0]["results"]
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    assert driver["name"]
    for result in results:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        physical = result["locations"][0]["physicalLocation"]
        assert physical["artifactLocation"]["uri"] == "handler.py"
        assert physical["region"]["startLine"] >= 1
    suppressed = [result["suppressions"] for result in results if "suppressions" in result]
    assert suppressed == [[{"kind": "inSource", "justification": "one build, one name"}]]
    assert len({result["partialFingerprints"]["snapruntimeFinding/v1"] for result in results}) == len(results)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--static", "handler.py"], exits.FINDINGS),
        (["--static", "handler.py", "--fail-on", "never"], exits.OK),
        (["--static", "clean.py", "--fail-on", "note"], exits.OK),
        (["--static", "missing.py"], exits.USAGE),
        (["--static", "clean.py", "--output", "/proc/nowhere"], exits.USAGE),
        (["--static", "clean.py", "--event", "{}"], exits.USAGE),
        (["clean.py", "--ro", "/no/such"], exits.USAGE),
        (["clean.py", "--ro", "/var/tmp", "--rw", "/var/tmp"], exits.USAGE),
        (["clean.py", "--network", "none", "--restore-env", "STAGE=blue", "--keep-seeds", "--runs", "2"], exits.OK),
    ],
)
def test_exit_codes(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int) -> None:
    """The static pass in this process, whose signals it leaves alone: how a code becomes a process's, others see."""
    if "--static" not in arguments:
        assert cli(*arguments).returncode == code
        return
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["snapruntime", "check", *arguments])
    assert _run() == code


def test_the_function_that_cannot_begin_is_its_own_error(cli: Cli, folder: Path) -> None:
    write_files(folder, {"broken.py": "import a_module_that_is_nowhere\n"})
    done = cli("broken.py")
    assert done.returncode == exits.FUNCTION
    assert "a_module_that_is_nowhere" in done.stderr


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("def handler(event, context):\n    raise ValueError('no such order')\n", "an --event that it can answer"),
        ("import threading\ndef handler(event, context):\n    threading.Event().wait()\n", "more time: --timeout"),
    ],
)
def test_a_handler_that_never_answers_was_not_checked(cli: Cli, folder: Path, source: str, advice: str) -> None:
    write_files(folder, {"fails.py": source})
    done = cli("fails.py", "--runs", "2", "--timeout", "0.4", "--fail-on", "never", "--format", "json", "--output", "f")
    assert done.returncode == exits.FUNCTION, done.stderr
    assert json.loads((folder / "f").read_text())["ok"] is False
    assert "The handler failed in every process" in done.stdout
    assert advice in done.stdout


def test_ctrl_c_is_no_finding(folder: Path, criu_home: Path) -> None:
    source = """
        import os, threading

        def handler(event, context):
            if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
                os.write(os.open(event["told"], os.O_WRONLY), b"waiting")
                threading.Event().wait()
        """
    write_files(folder, {"waits.py": source})
    told = folder / "told"
    os.mkfifo(told)
    told.chmod(0o666)
    line = os.open(told, os.O_RDWR)
    arguments = ["check", "waits.py", "--timeout", "60", "--rw", str(told), "--event", json.dumps({"told": str(told)})]
    command = [sys.executable, "-m", "snapruntime", "--home", str(criu_home), *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert os.read(line, 100) == b"waiting"
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=60)
    os.close(line)
    assert (process.returncode, out, rest) == (130, b"", b"")


def test_the_static_pass_names_the_hook_and_the_function(cli: Cli, folder: Path) -> None:
    write_files(
        folder, {"rng.py": "import random\nrng = random.Random()\ndef handler(event, context):\n    return 1\n"}
    )
    assert "--hook random" in cli("rng.py", "--static").stdout
    assert "rng.handler: 1 error" in cli("rng.py", "--runs", "2").stdout


def test_a_file_that_is_no_python(cli: Cli, folder: Path) -> None:
    write_files(folder, {"bad.py": "def handler(:\n"})
    done = cli("--static", "bad.py")
    assert done.returncode == exits.USAGE
    assert "bad.py:1" in done.stderr


@pytest.mark.parametrize("name", ["aws_clients", "hello", "pandas_report"])
def test_nothing_is_found_in_the_clean_examples(name: str, runtime: Any) -> None:
    from snapruntime import resolve_function
    from snapruntime.workflows.check.checker import check

    report = check(runtime, resolve_function(ROOT / "examples" / name / "handler.py"), runs=2)
    assert report.findings == ()
    assert "handler_error" not in report.figures


def test_nothing_is_found_in_the_example_of_several_modules(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from snapruntime import resolve_function
    from snapruntime.workflows.check.checker import check

    monkeypatch.chdir(ROOT / "examples" / "orders")
    report = check(runtime, resolve_function("shop.api.create"), runs=2)
    assert report.findings == ()
