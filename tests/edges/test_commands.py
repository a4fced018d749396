"""Commands are found by their names, and imported only then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import snapruntime
from edges.conftest import LIMIT_S
from snapruntime.edges import exits

ROOT = Path(snapruntime.__file__).parents[1]


def run(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", source, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.parametrize("command", ["ls", "setup", "doctor", "run", "serve"])
def test_a_command_does_not_wait_for_the_others(command: str) -> None:
    source = (
        "import sys; from snapruntime.edges import cli\ntry: cli.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = run(source, command, "--help")
    loaded = set(done.stderr.split())
    assert done.returncode == 0, done.stderr
    assert "snapruntime.edges.commands" in loaded
    others = {"snapruntime.edges.check", "snapruntime.edges.bench", "snapruntime.edges.publish"}
    assert not others & loaded
    assert ("snapruntime.edges.run" in loaded) is (command == "run")


def test_one_that_there_is_not() -> None:
    done = run("from snapruntime.edges import cli; cli.main()", "serv")
    assert done.returncode == exits.USAGE
    assert "No such command 'serv'. Did you mean 'serve'?" in done.stderr
