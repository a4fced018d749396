"""Real servers on loopback and unix sockets, started by an unprivileged user in a folder of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import Write

from snapruntime import Invocation, Runtime
from snapruntime.values.model import NOBODY

#: Servers are up within a second or two; a loaded machine may take longer.
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens on 127.0.0.1 and by a unix socket.

    Attributes:
        port: on 127.0.0.1.
        folder: shown to functions that use the unix socket in it.
    """

    port: int
    folder: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[Server]:
    """A server's process, from when it takes connections until it has ended."""
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, user=NOBODY, group=NOBODY, extra_groups=[], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            said = (folder / "log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)  # sees its end at once
        yield Server(port, folder)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="snapruntime-servers-", ignore_cleanup_errors=True) as path:
        os.chown(path, NOBODY, NOBODY)
        os.chmod(path, 0o755)
        yield Path(path)


def make_folder(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir(mode=0o755)
    os.chown(path, NOBODY, NOBODY)
    return path


@pytest.fixture(scope="session")
def redis_server(folder: Path) -> Iterator[Server]:
    program = shutil.which("redis-server")
    assert program, "redis-server is missing: .ci/servers installs it"
    home, port = make_folder(folder, "redis"), free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "unixsocket": str(home / "socket"), "save": ""}
    command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    with running([*command, "--unixsocketperm", "777"], home, port) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server(folder: Path) -> Iterator[Server]:
    """User and database `snap`, password `secret`."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert programs, "postgresql is missing: .ci/servers installs it"
    home, port = make_folder(folder, "postgresql"), free_port()
    (home / "password").write_text("secret")
    create = [str(programs[-1] / "initdb"), "-D", str(home / "data"), "-U", "snap", "--auth=scram-sha-256"]
    create += [f"--pwfile={home / 'password'}", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"]
    done = subprocess.run(
        create, cwd=home, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(home), "fsync": "off"}
    command = [str(programs[-1] / "postgres"), "-D", str(home / "data"), "-p", str(port)]
    with running([*command, *(f"--{name}={value}" for name, value in options.items())], home, port) as server:
        yield server


#: `ask(SOURCE, hook, …)`: what one restored copy of the function answers.
Ask = Callable[..., Invocation]


@pytest.fixture
def ask(runtime: Runtime, write: Write) -> Iterator[Ask]:
    with ExitStack() as stack:

        def call(
            source: str, *hooks: str, environment: dict[str, str | None] | None = None, **options: Any
        ) -> Invocation:
            function = write(source, hooks=hooks, timeout_s=20, **options)
            snapshot = stack.enter_context(runtime.snapshot(function))
            return stack.enter_context(snapshot.restore(environment=environment)).invoke({})

        yield call


def failure(invocation: Invocation) -> str:
    """The type of the error that the handler raised."""
    assert invocation.error is not None, invocation.result
    return str(invocation.error["errorType"])
