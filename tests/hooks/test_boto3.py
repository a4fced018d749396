"""boto3 clients made at init sign with the credentials of the copy: seen by a server that keeps what it is sent."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import Write

from snapruntime import Credentials, Runtime, UsageError
from snapruntime.mechanisms.credentials import CredentialsEndpoint, own_credentials


class Service(http.server.BaseHTTPRequestHandler):
    """Answers S3's ListBuckets; notes the access key that each request was signed with, and its connection."""

    protocol_version = "HTTP/1.1"
    keys: list[str]
    connections: list[int]

    def do_GET(self) -> None:
        self.keys.append(re.search("Credential=([^/]+)/", self.headers["Authorization"])[1])  # type: ignore[index]
        self.connections.append(self.client_address[1])
        body = b"<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[tuple[int, list[str]]]:
    Service.keys, Service.connections = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, Service.keys
        server.shutdown()
        thread.join()


SOURCE = """
    import boto3
    client = boto3.client("s3", endpoint_url="http://127.0.0.1:{port}", region_name="us-east-1")
    client.list_buckets()
    def handler(event, context):
        client.list_buckets()
"""


class Rotating:
    """A provider whose credentials are new at each request."""

    def __init__(self) -> None:
        self.served = 0

    def __call__(self) -> Credentials:
        self.served += 1
        return Credentials(f"AKID{self.served}", "secret", "token", datetime.now(UTC) + timedelta(hours=1))


def test_credentials_of_the_endpoint_are_new_in_each_copy(
    criu_home: Path, write: Write, service: tuple[int, list[str]]
) -> None:
    port, keys = service
    for hooks, expected in (((), ["AKID1"] * 3), (("boto3",), ["AKID1", "AKID2", "AKID3"])):
        keys.clear()
        with (
            Runtime(criu_home, credentials=Rotating()) as runtime,
            runtime.snapshot(write(SOURCE.replace("{port}", str(port)), hooks=hooks, timeout_s=20)) as snapshot,
        ):
            for _ in range(2):
                with snapshot.restore() as copy:
                    assert copy.invoke({}).error is None
        assert keys == expected


def test_a_snapshot_of_an_earlier_run_asks_the_endpoint_of_this_one(
    criu_home: Path, write: Write, service: tuple[int, list[str]]
) -> None:
    port, keys = service
    function = write(SOURCE.replace("{port}", str(port)), hooks=["boto3"], timeout_s=20)
    for name in ("FIRST", "SECOND"):
        with (
            Runtime(criu_home, credentials=lambda name=name: Credentials(name, "secret")) as runtime,  # type: ignore[misc]
            runtime.snapshot(function) as snapshot,
            snapshot.restore() as copy,
        ):
            assert (snapshot.reason == "") == (name == "SECOND")
            assert copy.invoke({}).error is None
            with runtime.cold(function) as cold, cold.start() as fresh:
                assert fresh.invoke({}).error is None
    assert keys == ["FIRST"] * 4 + ["SECOND"] * 3


def test_variables_given_to_the_restore(runtime: Runtime, write: Write, service: tuple[int, list[str]]) -> None:
    port, keys = service
    source = SOURCE.replace("{port}", str(port))
    init = {"AWS_ACCESS_KEY_ID": "INIT", "AWS_SECRET_ACCESS_KEY": "secret"}
    for hooks, expected in (((), ["INIT", "INIT"]), (("boto3",), ["INIT", "COPY"])):
        keys.clear()
        function = write(source, hooks=hooks, environment=init, timeout_s=20)
        with (
            runtime.snapshot(function) as snapshot,
            snapshot.restore(environment={"AWS_ACCESS_KEY_ID": "COPY", "AWS_SECRET_ACCESS_KEY": "x"}) as copy,
        ):
            assert copy.invoke({}).error is None
        assert keys == expected


def test_only_who_has_the_token_is_answered() -> None:
    endpoint = CredentialsEndpoint(lambda: Credentials("AKID", "secret"))
    try:
        uri = endpoint.environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        token = endpoint.environment["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
        assert uri.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(urllib.request.Request(uri, headers={"Authorization": token})) as answer:
            document = json.load(answer)
        assert set(document) == {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}
        for wrong in ({}, {"Authorization": "x"}, {"Authorization": "ü"}):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(urllib.request.Request(uri, headers=wrong))
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(uri + "x", headers={"Authorization": token}))
    finally:
        endpoint.close()


def test_the_callers_own_are_found_as_aws_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with pytest.raises(UsageError, match="no AWS credentials"):
        own_credentials()
    file.write_text("[default]\naws_access_key_id = A\naws_secret_access_key = s%s\n[p]\naws_access_key_id = B\n")
    assert own_credentials() == Credentials("A", "s%s")
    monkeypatch.setenv("AWS_PROFILE", "p")
    with pytest.raises(UsageError, match="'p'"):
        own_credentials()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2030-01-02T03:04:05Z")
    assert own_credentials() == Credentials("E", "s", None, datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert "s" not in repr(Credentials("A", "s")).replace("Credentials(access_key_id=", "").replace("expiration", "")


def test_from_the_command_line(criu_home: Path, code_root: Path, service: tuple[int, list[str]], write: Write) -> None:
    port, keys = service
    function = write(SOURCE.replace("{port}", str(port)))
    command = [str(Path(sys.executable).with_name("snapruntime")), "--home", str(criu_home), "run"]
    command += [f"{function.task_root}/handler.py", "--credentials", "--timeout", "20", "-n", "2"]
    environment = {"PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": "MINE", "AWS_SECRET_ACCESS_KEY": "secret"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert keys == ["MINE"] * 3
