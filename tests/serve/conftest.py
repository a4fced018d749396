"""A running `snapruntime serve`, and clients of it: boto3, the AWS CLI, plain HTTP."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import boto3
import pytest
from botocore.config import Config
from conftest import copy_criu

from serve.contract import check_response

#: The longest that anything in these tests may take, seconds.
LIMIT_S = 60.0
ROLE = "arn:aws:iam::123456789012:role/any"
ARN = "arn:aws:lambda:us-east-1:123456789012:function"
RUNTIME = f"python3.{sys.version_info.minor}"

#: What the function of most tests can do, as its event says.
SOURCE = """
    import json, os, socket, threading

    def handler(event, context):
        print("event", json.dumps(event, sort_keys=True))
        if not isinstance(event, dict):
            return event
        if "raise" in event:
            raise ValueError(event["raise"])
        if "exit" in event:
            os._exit(event["exit"])
        if "sleep" in event:
            threading.Event().wait(event["sleep"])
        if "call" in event:
            with socket.create_connection(("127.0.0.1", event["call"])) as caller:
                caller.recv(1)
        if "write" in event:
            print(event["write"])
        if "size" in event:
            return "x" * event["size"]
        if "answer" in event:
            return event["answer"]
        context_client = context.client_context
        return {
            "event": event,
            "arn": context.invoked_function_arn,
            "version": context.function_version,
            "request_id": context.aws_request_id,
            "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"],
            "stage": os.environ.get("STAGE"),
            "custom": context_client.custom if context_client else None,
            "pid": os.getpid(),
        }
    """


class Held:
    """Invocations with the event {"call": PORT}: they tell that they run, and go on when they are let go."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT_S)
        self.event = json.dumps({"call": self._listener.getsockname()[1], "answer": "done"})
        self._running: list[socket.socket] = []

    def wait(self, count: int = 1) -> None:
        """Wait until so many more run."""
        for _ in range(count):
            self._running.append(self._listener.accept()[0])

    def let_go(self) -> None:
        while self._running:
            self._running.pop().close()

    def close(self) -> None:
        self.let_go()
        self._listener.close()


def zipped(source: str = SOURCE, name: str = "app.py", **files: str) -> bytes:
    """Code as clients send it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in ({name: source} | files).items():
            # A fixed time: the same source is the same zip file.
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), textwrap.dedent(text))
    return buffer.getvalue()


@dataclass
class Server:
    """`snapruntime serve` as a process of its own.

    Attributes:
        addresses: where it says that it listens.
        url: the first of them.
    """

    process: subprocess.Popen[str]
    addresses: list[str]
    log: Path

    @property
    def url(self) -> str:
        return self.addresses[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> Any:
        """boto3's client of it. Every answer is compared with the service model."""
        settings: dict[str, Any] = {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": "AKIDANY",
            "aws_secret_access_key": "any",
            "config": Config(retries={"max_attempts": 0}, read_timeout=LIMIT_S),
        }
        client = boto3.client("lambda", **(settings | options))
        client.meta.events.register("after-call.lambda.*", check_response)
        return client

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)


class Serve(Protocol):
    """The fixture `serve`: start a server on the session's data folder."""

    def __call__(
        self, *arguments: str, home: Path | None = None, listen: str | None = ..., **options: Any
    ) -> Server: ...


def start_server(
    home: Path, log: Path, *arguments: str, listen: str | None = "127.0.0.1:0", count: int = 1, **options: Any
) -> Server:
    """Start one, and wait until it listens."""
    where = ["--listen", listen] if listen else []
    command = [sys.executable, "-m", "snapruntime", "--home", str(home), "serve", *where, *arguments]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, **options)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(count)]
    assert all(line.startswith("Listening on ") for line in lines), log.read_text()
    return Server(process, [line.split()[-1] for line in lines], log)


def end_server(server: Server) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.process.kill()
    server.process.wait()
    if server.process.stdout is not None:
        server.process.stdout.close()


@pytest.fixture(scope="session")
def home(criu_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of these tests, whose functions and events nobody else deletes."""
    if os.geteuid() != 0:
        pytest.skip("snapshots need root")
    return copy_criu(criu_home, tmp_path_factory.mktemp("serve") / "home")


@pytest.fixture
def serve(home: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start `snapruntime serve ARGUMENTS`; it is ended with the test."""
    started: list[Server] = []

    def call(*arguments: str, home: Path | None = None, **options: Any) -> Server:
        log = tmp_path / f"serve-{len(started)}.log"
        server = start_server(home or given, log, *arguments, **options)
        started.append(server)
        return server

    given = home
    yield call
    for server in started:
        end_server(server)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.close()


@pytest.fixture(scope="session")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share."""
    server = start_server(home, tmp_path_factory.mktemp("serve") / "serve.log")
    yield server
    end_server(server)
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="session")
def client(server: Server) -> Any:
    """boto3's client of the shared server."""
    return server.client()


def create(client: Any, name: str, source: str = SOURCE, *, publish: bool = True, **options: Any) -> str:
    """Create a function, with a version that is Active where `publish` is given. Returns its name."""
    settings: dict[str, Any] = {
        "FunctionName": name,
        "Runtime": RUNTIME,
        "Handler": "app.handler",
        "Role": ROLE,
        "Code": {"ZipFile": zipped(source)},
        "SnapStart": {"ApplyOn": "PublishedVersions"},
    }
    client.create_function(**(settings | options))
    if publish:
        version = client.publish_version(FunctionName=name)["Version"]
        wait_active(client, name, version)
    return name


def wait_active(client: Any, name: str, version: str) -> None:
    """boto3's own waiter, asking more often than each 5 s."""
    client.get_waiter("published_version_active").wait(
        FunctionName=name, Qualifier=version, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )


@pytest.fixture(scope="session")
def echo(client: Any) -> str:
    """A function with version 1, which alias `live` names."""
    name = create(client, "echo")
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    return name
