"""`snapruntime run`: events, options, the JSON form, and what a snapshot is used again for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import write_files

from edges.conftest import Cli

ROOT = Path(__file__).resolve().parents[2]
FIELDS = [
    "request_id",
    "snapshot",
    "cold",
    "pid",
    "restore_ms",
    "hooks_ms",
    "duration_ms",
    "total_ms",
    "max_memory_mb",
    "result",
    "logs",
]


def _answers(done: subprocess.CompletedProcess[str]) -> list[Any]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_five_answers_from_five_copies_of_one_snapshot(cli: Cli) -> None:
    answers = _answers(cli("run", f"{ROOT}/examples/pandas_report/handler.py", "-n", "5", "--json"))
    assert len(answers) == 5
    assert [list(answer) for answer in answers] == [FIELDS] * 5
    assert len({answer["pid"] for answer in answers}) == 5
    assert len({answer["request_id"] for answer in answers}) == 5
    assert len({answer["snapshot"] for answer in answers}) == 1
    assert len({answer["result"]["id"] for answer in answers}) == 5
    for answer in answers:
        assert answer["cold"] is False
        assert answer["snapshot"]
        assert answer["result"]["restored"] is True
        assert answer["result"]["request"] == answer["request_id"]
        assert 0 < answer["restore_ms"] + answer["hooks_ms"] + answer["duration_ms"] <= answer["total_ms"]
        assert answer["max_memory_mb"] > 10


@pytest.mark.parametrize("form", ["argument", "file", "stdin", "bom"])
def test_forms_of_an_event(cli: Cli, tmp_path: Path, form: str) -> None:
    event = {"text": "Grüße", "number": 12345678901234567890, "list": [1.5, None, True]}
    body = ("\ufeff" if form == "bom" else "") + json.dumps(event, ensure_ascii=False, indent=1)
    (tmp_path / "event.json").write_text(body, encoding="utf-8")
    argument = {"argument": body, "stdin": "-"}.get(form, f"@{tmp_path}/event.json")
    options: dict[str, Any] = {"input": body} if form == "stdin" else {}
    done = cli("run", "echo.py", "--quiet", "--event", argument, **options)
    assert _answers(done)[0]["event"] == event


def test_the_default_event_and_the_environment(cli: Cli) -> None:
    (answer,) = _answers(cli("run", "echo.py:lambda_handler", "--env", "GREETING=a=b", "--env", "OTHER=", "--quiet"))
    assert answer["event"] == {}
    assert answer["greeting"] == "a=b"
    (answer,) = _answers(cli("run", "echo.lambda_handler", "--quiet", env=os.environ | {"GREETING": "ours"}))
    assert answer["greeting"] is None


def test_payloads_are_json_on_a_line(cli: Cli) -> None:
    assert cli("run", "returns_bytes.py", "--quiet").stdout == '"no JSON"\n'
    assert cli("run", "returns_json_bytes.py", "--quiet", "-n", "2").stdout == '{ "a": 1.10  }\n' * 2
    assert _answers(cli("run", "returns_bytes.py", "--quiet", "--json"))[0]["result"] == "no JSON"
    done = cli("run", "raises.py", "--quiet")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert list(document) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert document["errorType"] == "ValueError"
    assert done.stderr == "Error: The function failed: ValueError: broken on purpose\n"


def test_the_pid_is_the_hosts(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Not the 1 that it has in its own namespace, nor the one that the spawner sees: other programs can use it."""
    run = start("run", "waits.py", "--json", "--timeout", "60")
    assert run.stdout is not None
    assert run.stderr is not None
    for line in run.stderr:
        if b"handler is waiting" in line:
            break
    (copy,) = (process for process in psutil.Process(run.pid).children(recursive=True) if process.uids().real == 65534)
    assert Path(f"/proc/{copy.pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1] == "1"
    copy.kill()
    answer = json.loads(run.communicate()[0])
    assert answer["pid"] == copy.pid
    assert "signal: killed" in answer["error"]["errorMessage"]


def test_logs_of_a_request_are_its_own(cli: Cli) -> None:
    answers = _answers(cli("run", "echo.py", "-n", "2", "--json"))
    assert [sorted(answer["logs"].splitlines()) for answer in answers] == [["to stderr", "to stdout", "unfinished"]] * 2


def test_cold_starts(cli: Cli) -> None:
    answers = _answers(cli("run", "echo.py", "--cold", "-n", "2", "--json", "--concurrency", "2"))
    assert len({answer["pid"] for answer in answers}) == 2
    for answer in answers:
        assert set(answer) == {*FIELDS, "init_ms"}
        assert answer["cold"] is True
        assert answer["snapshot"] is None
        assert answer["restore_ms"] is None
        assert answer["hooks_ms"] is None
        assert 0 < answer["init_ms"] <= answer["total_ms"]


def test_failing_cold_starts(cli: Cli) -> None:
    done = cli("run", "bad_init.py", "--cold", "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert (answer["phase"], answer["cold"], answer["logs"].splitlines()[0]) == ("init", True, "loading")


def test_several_copies_at_once(cli: Cli) -> None:
    done = cli("run", "echo.py", "-n", "6", "--concurrency", "3", "--json")
    answers = _answers(done)
    assert len({answer["pid"] for answer in answers}) == 6
    assert len({answer["snapshot"] for answer in answers}) == 1


def test_copies_are_alive_at_the_same_time(cli: Cli, code_root: Path) -> None:
    # Each handler ends only when it has seen the other: alone, or one after the other, they would run out of time.
    room = code_root / "meeting"
    write_files(
        room / "code",
        {
            "handler.py": """
            import os, uuid
            def handler(event, context):
                os.mkdir(f"{event}/{uuid.uuid4()}")
                while len(os.listdir(event)) < 2:
                    pass
                return "met"
            """
        },
    )
    (room / "place").mkdir()
    (room / "place").chmod(0o777)
    place = str(room / "place")
    arguments = ["--event", json.dumps(place), "--rw", place, "-n", "2", "--concurrency", "2", "--timeout", "20"]
    assert cli("run", f"{room}/code/handler.py", *arguments, "--quiet").stdout == '"met"\n"met"\n'


def test_a_comparison(cli: Cli) -> None:
    done = cli("run", "echo.py", "--compare", "-n", "2", "--json")
    answers = _answers(done)
    assert [answer["cold"] for answer in answers] == [True, False, True, False]
    assert "cold start" in done.stderr
    assert "times as fast as a cold start" in done.stderr
    assert "START RequestId" not in done.stderr
    done = cli("run", "raises.py", "--compare", "-n", "1")
    assert done.returncode == 1
    assert "failed" in done.stderr
    assert "START RequestId" in done.stderr


def test_a_summary(cli: Cli) -> None:
    done = cli("run", "echo.py", "-n", "2")
    for words in ("restored copy, ms (n = 2)", "p50", "request to answer"):
        assert words in done.stderr
    assert "p90" not in done.stderr
    assert "request to answer" not in cli("run", "echo.py", "-n", "2", "--quiet").stderr


def test_quiet_leaves_only_the_response(cli: Cli) -> None:
    done = cli("run", "echo.py", "--quiet", "--rebuild")
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


@pytest.fixture(scope="module")
def project(code_root: Path) -> Path:
    """A function whose parts can be changed, beside a virtual environment with a module of its own."""
    folder = code_root / "project"
    write_files(
        folder / "code",
        {
            "handler.py": """
            import helper

            def handler(event, context):
                return [helper.VALUE]
            """,
            "helper.py": "VALUE = 1\n",
        },
    )
    return folder


def test_what_a_snapshot_is_used_again_for(cli: Cli, project: Path) -> None:
    code = project / "code"

    def run(*arguments: str) -> tuple[int, str]:
        done = cli("run", f"{code}/handler.py", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)[0], done.stderr.splitlines()[0]

    assert run() == (1, "Making a snapshot: there is none yet")
    value, said = run()
    assert value == 1
    assert said.startswith("Using snapshot ")
    (code / "helper.py").touch()
    assert run()[1].startswith("Using snapshot ")
    (code / "helper.py").write_text("VALUE = 2\n")
    assert run() == (2, "Making a snapshot: helper.py changed")
    assert run("--env", "SECRET=1234") == (2, "Making a snapshot: environment variable SECRET was added")
    assert run("--rebuild", "--env", "SECRET=1234")[1] == "Making a snapshot: as asked for"
    (code / "helper.py").unlink()
    write_files(code, {"helper/__init__.py": "VALUE = 3\n"})
    value, said = run("--env", "SECRET=1234")
    assert value == 3
    assert "helper.py is gone" in said


@pytest.fixture(scope="module")
def virtual_environment(code_root: Path) -> Path:
    """One with a module that nothing else has; made without pip, which takes long."""
    folder = code_root / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    packages = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    write_files(Path(packages), {"only_there.py": "NAME = 'only there'\n"})
    return folder


def test_another_virtual_environment(cli: Cli, code_root: Path, virtual_environment: Path) -> None:
    folder = code_root / "elsewhere"
    write_files(
        folder,
        {
            "handler.py": """
            import sys, only_there
            def handler(event, context):
                return [sys.prefix, only_there.NAME, "pandas" in sys.modules]
            """
        },
    )
    done = cli("run", f"{folder}/handler.py", "--python", str(virtual_environment), "-n", "2")
    assert _answers(done) == [[str(virtual_environment), "only there", False]] * 2
    done = cli("run", f"{folder}/handler.py")
    assert done.returncode == 1
    assert "No module named 'only_there'" in done.stderr


def test_users(cli: Cli, code_root: Path) -> None:
    write_files(
        code_root / "users", {"handler.py": "import os\ndef handler(event, context):\n    return os.getuid()\n"}
    )
    users = {"1234": 1234, "root": 0}
    for user, uid in users.items():
        assert _answers(cli("run", f"{code_root}/users/handler.py", "--user", user, "--quiet")) == [uid]


def test_paths_to_show_and_memory(cli: Cli, code_root: Path, tmp_path: Path) -> None:
    folder = code_root / "paths"
    write_files(
        folder / "code",
        {
            "handler.py": """
            def handler(event, context):
                tried = []
                for name in event:
                    try:
                        with open(name, "a") as file:
                            file.write("x")
                        tried.append("written")
                    except OSError as error:
                        tried.append(type(error).__name__)
                return tried, context.memory_limit_in_mb
            """
        },
    )
    names = []
    for name in ("ro", "rw", "hidden"):
        write_files(folder / name, {"file": ""})
        (folder / name / "file").chmod(0o666)
        names.append(f"{folder}/{name}/file")
    shown = ["--ro", f"{folder}/ro", "--rw", f"{folder}/rw", "--memory", "1024"]
    done = cli("run", f"{folder}/code/handler.py", "--event", json.dumps(names), "--quiet", *shown)
    assert _answers(done) == [[["OSError", "written", "FileNotFoundError"], "1024"]]
    assert (folder / "rw" / "file").read_text() == "x"
    assert (folder / "ro" / "file").read_text() == ""


def test_the_example_with_clients_threads_and_a_connection(cli: Cli) -> None:
    credentials = ["--env", "AWS_ACCESS_KEY_ID=a", "--env", "AWS_SECRET_ACCESS_KEY=b"]
    done = cli("run", f"{ROOT}/examples/aws_clients/handler.py", "-n", "2", "--json", "--timeout", "20", *credentials)
    for answer in _answers(done):
        assert answer["result"]["connected"]
        assert answer["result"]["threads"] == 4
        assert "Signature=" in answer["result"]["urls"]["a.txt"]


def test_the_example_of_several_modules(cli: Cli) -> None:
    answers = _answers(cli("run", "shop.api.create", "-n", "2", "--json", cwd=ROOT / "examples" / "orders"))
    assert len({answer["result"]["order"] for answer in answers}) == 2


def test_a_module_of_a_package_run_as_a_file_is_explained(cli: Cli) -> None:
    done = cli("run", f"{ROOT}/examples/orders/shop/api.py:create")
    assert done.returncode == 1
    assert "run it as package.module.function" in done.stderr
