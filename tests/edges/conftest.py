"""The real command line as a process of its own, on one data folder for the session: snapshots are made once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest
from conftest import copy_criu
from support import write_files

#: The longest that any command of these tests may take, seconds.
LIMIT_S = 60.0

#: Functions that most tests share, so that each has one snapshot.
FUNCTIONS: dict[str, str] = {
    "echo.py": """
        import os, sys

        def lambda_handler(event, context):
            print("to stdout")
            print("to stderr", file=sys.stderr)
            print("unfinished", end="")
            return {"event": event, "pid": os.getpid(), "greeting": os.environ.get("GREETING")}
        """,
    "raises.py": """
        def handler(event, context):
            print("about to fail", end="")
            raise ValueError("broken on purpose")
        """,
    "waits.py": """
        import threading

        print("init is over")

        def handler(event, context):
            print("handler is waiting", flush=True)
            threading.Event().wait(event.get("seconds", 60))
        """,
    "waits_at_init.py": """
        import threading

        print("init is waiting", flush=True)
        threading.Event().wait(60)
        """,
    "exits.py": """
        import os

        def handler(event, context):
            os._exit(7)
        """,
    "bad_init.py": """
        print("loading")
        import a_module_that_is_nowhere
        """,
    "bad_before.py": """
        from snapshot_restore_py import register_before_snapshot

        @register_before_snapshot
        def close():
            raise RuntimeError("cannot close")

        def handler(event, context):
            return 1
        """,
    "bad_after.py": """
        from snapshot_restore_py import register_after_restore

        @register_after_restore
        def connect():
            print("connecting", end="")
            raise RuntimeError("cannot connect")

        def handler(event, context):
            return 1
        """,
    "returns_bytes.py": """
        def handler(event, context):
            return b"no JSON"
        """,
    "returns_json_bytes.py": """
        def handler(event, context):
            return b'{\\n"a": 1.10\\r\\n}'
        """,
    "floods.py": """
        def handler(event, context):
            for _ in range(100):
                print("x" * 100_000)
            return "done"
        """,
}

Result = subprocess.CompletedProcess[str]


Several = Callable[[Sequence[Sequence[str]]], list[Result]]


class Cli(Protocol):
    """The fixture `cli`: run `snapruntime ARGUMENTS` to its end."""

    def __call__(self, *arguments: str, home: Path | None = None, **options: Any) -> Result: ...


def command(home: Path, *arguments: str) -> list[str]:
    """The command line of `snapruntime ARGUMENTS` on a data folder."""
    return [sys.executable, "-m", "snapruntime", "--home", str(home), *arguments]


@pytest.fixture(scope="session")
def home(criu_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of these tests, whose functions and events nobody else deletes."""
    if os.geteuid() != 0:
        pytest.skip("snapshots need root")
    return copy_criu(criu_home, tmp_path_factory.mktemp("edges") / "home")


@pytest.fixture(scope="session")
def functions(code_root: Path) -> Path:
    """The folder with FUNCTIONS."""
    folder = code_root / "edges"
    write_files(folder, FUNCTIONS)
    return folder


@pytest.fixture(scope="session")
def cli(home: Path, functions: Path) -> Cli:
    """Run `snapruntime ARGUMENTS` in the folder of FUNCTIONS."""
    given = home

    def call(*arguments: str, home: Path | None = None, **options: Any) -> Result:
        settings: dict[str, Any] = {"cwd": functions, "capture_output": True, "text": True, "timeout": LIMIT_S}
        settings |= options if "input" in options else {"stdin": subprocess.DEVNULL, **options}
        return subprocess.run(command(home or given, *arguments), **settings)

    return call


@pytest.fixture(scope="session")
def all_at_once(cli: Cli) -> Several:
    """Run several command lines side by side, which is faster on a machine with several processors."""

    def call(lines: Sequence[Sequence[str]]) -> list[Result]:
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(lambda line: cli(*line), lines))

    return call


@pytest.fixture
def start(home: Path, functions: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `snapruntime ARGUMENTS`; it is ended with the test."""
    started = []

    def call(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command(home, *arguments), cwd=functions, **(streams | options)
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()
