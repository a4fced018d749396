"""The server's life: where it listens, who may call, readiness, reload, drain, systemd."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from support import wait_until

from serve.conftest import LIMIT_S, Held, Serve, Server, create
from serve.test_invoke import raw_invoke, result_of
from snapruntime.edges import exits

KEYS = "[default]\naws_access_key_id = AKIDONE\naws_secret_access_key = one\n"
MORE = "[other]\naws_access_key_id = AKIDTWO\naws_secret_access_key = two\n"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    file.write_text(KEYS)
    return file


def get(server: Server, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def refusal(home: Path, *arguments: str) -> str:
    """What `serve` says that does not start."""
    command = [sys.executable, "-m", "snapruntime", "--home", str(home), "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_probes_and_metrics(server: Server, echo: str) -> None:
    assert get(server, "/livez") == (200, b'{"status":"alive"}')
    assert get(server, "/readyz") == (200, b'{"status":"ready"}')
    assert raw_invoke(server, echo, b"{}", qualifier="1").status == 200
    status, metrics = get(server, "/metrics")
    assert status == 200
    assert b'snapruntime_http_request_seconds_count{call="Invoke",status="200"}' in metrics


def test_only_those_with_a_key(serve: Serve, echo: str, keys: Path) -> None:
    server = serve("--keys", str(keys))
    one = {"aws_access_key_id": "AKIDONE", "aws_secret_access_key": "one"}
    two = {"aws_access_key_id": "AKIDTWO", "aws_secret_access_key": "two"}
    client = server.client(**one)
    assert result_of(client.invoke(FunctionName="echo:live", Payload=b'{"a": 1}'))["event"] == {"a": 1}
    assert client.list_functions(MaxItems=1)["Functions"]
    context = "eyJjdXN0b20iOiB7fX0="
    assert client.invoke(FunctionName=f"{echo}:live", ClientContext=context, LogType="Tail")["StatusCode"] == 200

    for options, error in (
        ({"aws_access_key_id": "AKIDONE", "aws_secret_access_key": "wrong"}, "InvalidSignatureException"),
        (two, "UnrecognizedClientException"),
        ({"aws_session_token": "guessed"} | one, "UnrecognizedClientException"),
    ):
        with pytest.raises(ClientError, match=error):
            server.client(**options).list_functions()
    unsigned = raw_invoke(server, echo, b"{}")
    assert (unsigned.status, unsigned.headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")
    assert get(server, "/readyz")[0] == 200

    keys.write_text(KEYS + MORE)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "Reloaded" in server.log.read_text(), "the keys are read anew")
    assert server.client(**two).list_functions()["Functions"]
    keys.write_text("nonsense")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "Not reloaded" in server.log.read_text(), "the keys are refused")
    assert server.client(**two).list_functions()["Functions"]


def test_beyond_this_machine_only_on_purpose(home: Path, serve: Serve, keys: Path) -> None:
    said = refusal(home, "--listen", "0.0.0.0:0")
    assert "can be reached from other machines" in said
    assert "--let-anyone-run-code" in said
    assert "can be reached" in refusal(home, "--listen", "127.0.0.1:0", "--listen", "[::]:0")
    assert serve("--keys", str(keys), listen="0.0.0.0:0").url.startswith("http://0.0.0.0:")
    open_to_all = serve("--let-anyone-run-code", listen="0.0.0.0:0")
    assert raw_invoke(open_to_all, "nothing", b"{}", {"Host": "any.example"}).status == 404


def test_places_that_cannot_be(home: Path, server: Server, tmp_path: Path) -> None:
    assert "Address already in use" in refusal(home, "--listen", f"127.0.0.1:{server.port}")
    for place in ("nowhere", "localhost:port", "localhost:99999", ":80"):
        assert "neither HOST:PORT nor unix:PATH" in refusal(home, "--listen", place)
    assert "not possible to listen" in refusal(home, "--listen", f"unix:{tmp_path}/no/such")
    assert "not possible to listen" in refusal(home, "--listen", "no-such-host.invalid:80")
    (tmp_path / "file").write_text("precious")
    assert "not possible to listen" in refusal(home, "--listen", f"unix:{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "precious"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def test_unix_socket(serve: Serve, home: Path, echo: str) -> None:
    path = f"/tmp/snapruntime-{os.getpid()}.sock"
    server = serve(listen=f"unix:{path}")
    assert server.url == f"unix:{path}"
    assert Path(path).stat().st_mode & 0o777 == 0o600
    connection = UnixConnection(path)
    connection.request("POST", f"/2015-03-31/functions/{echo}/invocations?Qualifier=live", body=b'{"a": 1}')
    response = connection.getresponse()
    assert (response.status, b'"a": 1' in response.read()) == (200, True)
    connection.close()
    assert "listens on" in refusal(home, "--listen", f"unix:{path}")
    server.process.kill()
    server.process.wait()
    again = serve(listen=f"unix:{path}")  # What a killed server left is replaced.
    assert again.stop() == 0
    assert not Path(path).exists()


def test_several_places(serve: Serve, echo: str) -> None:
    server = serve("--listen", "[::1]:0", count=2)
    assert [address.rpartition(":")[0] for address in server.addresses] == ["http://127.0.0.1", "http://[::1]"]
    for address in server.addresses:
        with urllib.request.urlopen(f"{address}/livez", timeout=30) as response:
            assert response.status == 200


class Invoking:
    """An invocation in a thread of its own."""

    def __init__(self, client: Any, name: str, event: str) -> None:
        self.answer: bytes | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._invoke, args=(client, name, event))
        self._thread.start()

    def _invoke(self, client: Any, name: str, event: str) -> None:
        try:
            self.answer = client.invoke(FunctionName=name, Payload=event)["Payload"].read()
        except Exception as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_invocations_come_to_their_end(serve: Serve, number: signal.Signals, held: Held) -> None:
    server = serve()
    name = create(server.client(), f"lasting-{number}", Timeout=30)
    idle = socket.create_connection(("127.0.0.1", server.port))
    invoking = Invoking(server.client(), f"{name}:1", held.event)
    held.wait()
    below = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(number)
    wait_until(lambda: _refused(server), "no new connections are taken")
    assert idle.recv(1) == b""  # Those that wait for nothing are closed at once.
    idle.close()
    held.let_go()
    invoking.join()
    assert (invoking.answer, invoking.error) == (b'"done"', None)
    assert server.process.wait(LIMIT_S) == 0
    assert "Traceback" not in server.log.read_text()
    psutil.wait_procs(below, timeout=5)
    assert [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


def _refused(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except ConnectionError:
        return True
    except TimeoutError:  # As many wait to be accepted as may; the server has not come to it.
        pass
    return False


@pytest.mark.parametrize("way", ["deadline", "second signal"])
def test_what_does_not_end_is_ended(serve: Serve, home: Path, way: str, held: Held) -> None:
    server = serve("--drain", "0.5" if way == "deadline" else "60")
    name = create(server.client(), f"endless-{way.replace(' ', '-')}", Timeout=600)
    invoking = Invoking(server.client(), f"{name}:1", held.event)
    held.wait()
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: _refused(server), "no new connections are taken")
    if way == "second signal":
        server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(LIMIT_S) == 0
    assert time.monotonic() - began < 15
    invoking.join()
    assert invoking.error is not None
    assert "Not all that ran had come to its end" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_snapshot_in_the_making_does_not_hold_up_the_end(serve: Serve) -> None:
    server = serve("--drain", "0.5")
    client = server.client()
    name = create(client, "lingering", "import threading; threading.Event().wait(60)\nhandler = print", publish=False)
    client.publish_version(FunctionName=name)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 15
    client = serve().client()
    assert client.get_function_configuration(FunctionName=name, Qualifier="1")["State"] == "Pending"
    client.delete_function(FunctionName=name)


def test_a_second_signal_while_an_event_is_delivered(serve: Serve, home: Path, tmp_path: Path, held: Held) -> None:
    own = tmp_path / "home"  # Of one data folder, one server delivers; it shall be this one.
    own.mkdir()
    (own / "criu").symlink_to(home / "criu")
    server = serve("--drain", "60", home=own)
    client = server.client()
    name = create(client, "held-event", Timeout=600)
    client.invoke(FunctionName=f"{name}:1", InvocationType="Event", Payload=held.event)
    held.wait()
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: _refused(server), "no new connections are taken")
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 15
    held.let_go()
    serve(home=own)  # It was not answered, so it is delivered again by who comes next.
    held.wait()


def test_the_spawner_is_killed(serve: Serve, echo: str, held: Held) -> None:
    """Nothing can be run any more: the server says so and ends, so that whoever watches it starts another."""
    server = serve()
    invoking = Invoking(server.client(), f"{echo}:1", held.event)
    held.wait()
    spawner = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()[0]
    os.kill(int(spawner), signal.SIGKILL)
    assert server.process.wait(LIMIT_S) == exits.HOST
    invoking.join()
    assert "The spawner process has ended" in server.log.read_text()


def test_systemd(serve: Serve, home: Path, tmp_path: Path) -> None:
    """As systemd starts it: descriptor 3 listens already, and a datagram socket wants to hear of it."""
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = f"/tmp/notify-{os.getpid()}"
    notified.bind(address)
    notified.settimeout(LIMIT_S)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    # LISTEN_PID has to be that of the server; the shell that sets it becomes the server.
    script = f'exec 3<&{listener.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "snapruntime", "--home", str(home), "serve"]
    environment = os.environ | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
    process = subprocess.Popen(
        command,
        env=environment,
        pass_fds=[listener.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"Listening on http://127.0.0.1:{port}\n"
        said = _heard(notified, "READY=1")
        assert any(line == f"STATUS=Listening on http://127.0.0.1:{port}" for line in said)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=30) as response:
            assert response.status == 200
        _heard(notified, "WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        assert any(line.startswith("MONOTONIC_USEC=") for line in _heard(notified, "RELOADING=1"))
        _heard(notified, "READY=1")
        process.send_signal(signal.SIGTERM)
        _heard(notified, "STOPPING=1")
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        process.communicate()
        notified.close()
        listener.close()
        os.unlink(address)


def _heard(notified: socket.socket, line: str) -> list[str]:
    """The datagram that has the line; those before it are passed over."""
    while True:
        lines = notified.recv(4096).decode().split("\n")
        if line in lines:
            return lines


def test_snapshots_that_were_being_made_when_the_server_died(serve: Serve, home: Path) -> None:
    first = serve()
    client = first.client()
    name = create(client, "interrupted", "import threading; threading.Event().wait(2)\nhandler = print", publish=False)
    client.publish_version(FunctionName=name)
    first.process.kill()
    first.process.wait()
    client = serve().client(config=Config(retries={"max_attempts": 2}))
    client.get_waiter("published_version_active").wait(
        FunctionName=name, Qualifier="1", WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
