"""The commands `invoke`, `logs` and `stats`, as processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edges.conftest import Cli
from snapruntime.edges import exits

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def echo(cli: Cli, home: Path) -> Iterator[str]:
    """The function `invoked`, whose version 1 the alias `live` names."""
    made = cli("publish", "echo.py", "--name", "invoked", "--alias", "live")
    assert made.returncode == 0, made.stderr
    yield "invoked"
    assert cli("rm", "invoked").returncode == 0
    (home / "logs" / "invoked.jsonl").unlink(missing_ok=True)


def test_answers_logs_and_statistics_are_of_one_source(cli: Cli, echo: str, start: Start) -> None:
    following = start("logs", echo, "--follow")
    done = cli("invoke", f"{echo}:live", "--event", '{"name": "Ada"}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["event"] == {"name": "Ada"}
    assert "to stdout\n" in done.stderr
    assert "\nREPORT RequestId: " in done.stderr
    assert cli("invoke", echo, "--quiet").stderr == "", "a cold start, as $LATEST has no snapshot"
    told = json.loads(cli("invoke", f"{echo}:1", "--json").stdout)
    assert told["payload"]["event"] == {}
    assert (told["executed_version"], told["way"], told["function_error"]) == ("1", "on demand", None)
    assert "REPORT" in told["log_tail"]

    shown = cli("logs", echo)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("START RequestId: ") == 3
    assert done.stderr in shown.stdout
    assert following.stdout is not None
    seen = b""
    while seen.count(b"\nREPORT RequestId: ") < 3:
        seen += following.stdout.readline()
    following.send_signal(signal.SIGINT)
    assert following.wait(10) == 130

    for lines in (0, 1, 5, 1000):
        last = cli("logs", echo, "--tail", str(lines)).stdout.splitlines()
        assert last == shown.stdout.splitlines()[-lines or 1000 :]
    (newest,) = map(json.loads, cli("logs", echo, "--json", "-n", "1").stdout.splitlines())
    assert newest["type"] == "platform.report"

    records = [json.loads(line) for line in cli("logs", echo, "--json").stdout.splitlines()]
    assert sum(record["type"] == "platform.report" for record in records) == 3
    assert all("text" not in record for record in records)

    counted = json.loads(cli("stats", echo, "--json").stdout)
    assert counted["answers"] == 3
    assert {way: one["answers"] for way, one in counted["ways"].items()} == {"on demand": 2, "cold": 1}
    table = cli("stats", f"{echo}:live").stdout
    assert "on demand" in table
    assert "cold" not in table


def test_a_function_that_fails(cli: Cli, home: Path) -> None:
    assert cli("publish", "raises.py", "--name", "failing").returncode == 0
    done = cli("invoke", "failing:1")
    assert done.returncode == 1
    assert json.loads(done.stdout)["errorMessage"] == "broken on purpose"
    assert "1 times ValueError" in cli("stats", "failing").stdout
    assert cli("rm", "failing").returncode == 0
    assert "broken on purpose" in cli("logs", "failing").stdout, "the log stays"
    (home / "logs" / "failing.jsonl").unlink()


@pytest.mark.parametrize("command", ["invoke", "logs", "stats"])
def test_nobody_there(cli: Cli, command: str) -> None:
    done = cli(command, "nobody")
    assert done.returncode == 2
    assert "Function not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_answered_yet(cli: Cli, echo: str) -> None:
    assert cli("publish", "echo.py", "--name", "silent", "--no-snapshot").returncode == 0
    assert "no answers" in cli("stats", "silent").stdout
    assert cli("logs", "silent").stdout == ""
    assert cli("rm", "silent").returncode == 0
    assert cli("logs", "silent").returncode == exits.USAGE


def test_an_event_that_is_none(cli: Cli, echo: str) -> None:
    done = cli("invoke", echo, "--event", "{no")
    assert done.returncode == 2
    assert "not JSON" in done.stderr


def test_a_function_that_is_stopped(cli: Cli) -> None:
    assert cli("publish", "echo.py", "--name", "stopped", "--reserve", "0", "--no-snapshot").returncode == 0
    done = cli("invoke", "stopped:1")
    assert done.returncode == exits.USAGE
    assert done.stderr.startswith("Error: Rate Exceeded.\n0 invocations at once are reserved for the function")
    assert "--reserve none" in done.stderr
    assert cli("publish", "echo.py", "--name", "stopped", "--reserve", "none", "--no-snapshot").returncode == 0
    assert cli("invoke", "stopped:1").returncode == 0
    assert cli("rm", "stopped").returncode == 0
