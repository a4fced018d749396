"""Clients that are slow, greedy, or no clients at all: none of them harms another's request."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import wait_until

from serve.conftest import LIMIT_S, Held, Serve, Server
from serve.test_invoke import MAX_PAYLOAD, raw_invoke, result_of

INVOKE = "POST /2015-03-31/functions/echo/invocations?Qualifier=1 HTTP/1.1\r\nHost: localhost\r\n"


def request_of(body: bytes) -> bytes:
    return f"{INVOKE}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        yield client


def received(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    data = b""
    while piece := client.recv(1 << 16):
        data += piece
    return data


def answer_of(client: socket.socket) -> tuple[int, bytes]:
    """Status and body of one answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(1 << 16)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    [length] = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while len(body) < length:
        body += client.recv(1 << 16)
    return int(head.split()[1]), body


def assert_serves(client: Any) -> None:
    assert result_of(client.invoke(FunctionName="echo:1", Payload=b'{"n": 1}'))["event"] == {"n": 1}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # A client that expects TLS.
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(1000)) + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=range(12),
)
def test_what_is_no_http(server: Server, client: Any, echo: str, request_bytes: bytes) -> None:
    with connected(server) as other:
        other.sendall(request_bytes)
        other.shutdown(socket.SHUT_WR)
        said = received(other)
    assert said == b"" or said.split()[1] in (b"400", b"403", b"404", b"501")
    assert b"Traceback" not in said
    assert_serves(client)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://elsewhere/livez HTTP/1.1", 403),  # Whatever the header Host says.
        ("GET http://localhost/no/such/call HTTP/1.1", 404),
        ("GET ftp://localhost/livez HTTP/1.1", 400),
        ("GET /no/such/call HTTP/1.1", 404),
        ("PATCH /2015-03-31/functions HTTP/1.1", 404),
        ("GET /2015-03-31/functions/%2e%2e%2fetc%2fpasswd HTTP/1.1", 400),
        ("GET /2015-03-31/functions/%00 HTTP/1.1", 400),
        ("GET /2015-03-31/functions/%ff%fe HTTP/1.1", 400),
        ("GET /2015-03-31/functions/echo?Qualifier=%ff HTTP/1.1", 400),
        ("GET /2015-03-31/functions?MaxItems=0 HTTP/1.1", 400),
        ("GET /2015-03-31/functions?MaxItems=x HTTP/1.1", 400),
        (f"GET /2015-03-31/functions?MaxItems={'9' * 5000} HTTP/1.1", 400),
        ("OPTIONS * HTTP/1.1", 400),
    ],
)
def test_requests_for_what_is_not_there(server: Server, echo: str, line: str, status: int) -> None:
    with connected(server) as other:
        other.sendall(f"{line}\r\nHost: localhost\r\n\r\n".encode())
        found, body = answer_of(other)
    assert found == status, body
    assert json.loads(body)["Type"] == "User"


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/livez", "HTTP://localhost/livez?a=b", "http://me@localhost:{port}/livez"]
)
def test_a_target_that_names_the_server(server: Server, target: str) -> None:
    """As proxies are asked; servers have to accept it, and to take the host from there (RFC 9112, 3.2.2)."""
    with connected(server) as other:
        other.sendall(f"GET {target.format(port=server.port)} HTTP/1.1\r\nHost: elsewhere\r\n\r\n".encode())
        assert answer_of(other)[0] == 200


def test_several_requests_on_one_connection(server: Server, echo: str) -> None:
    body = b'{"n": 1}'
    request = f"{INVOKE}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with connected(server) as other:
        other.sendall(request * 3)  # Pipelined: answered one after the other.
        assert received_several(other, 3) == [{"n": 1}] * 3
        other.sendall(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b"200 OK" in received(other)  # And closed, as HTTP/1.0 wants it.


def received_several(client: socket.socket, count: int) -> list[Any]:
    file = client.makefile("rb")
    found = []
    for _ in range(count):
        length = 0
        while (line := file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length"):
                length = int(line.split(b":")[1])
        found.append(json.loads(file.read(length))["event"])
    file.detach()
    return found


def test_a_chunked_body(server: Server, echo: str) -> None:
    with connected(server) as other:
        other.sendall(f"{INVOKE}Transfer-Encoding: chunked\r\n\r\n".encode())
        for piece in (b'{"a"', b": 1}"):
            other.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        other.sendall(b"0\r\n\r\n")
        status, body = answer_of(other)
    assert (status, json.loads(body)["event"]) == (200, {"a": 1})


def test_a_chunked_body_without_end(server: Server, client: Any, echo: str) -> None:
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    with connected(server) as other:
        other.sendall(f"{INVOKE}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(MAX_PAYLOAD // 0x100000 + 1):
            other.sendall(chunk)
        status, body = answer_of(other)
        assert (status, b"must be smaller" in body) == (413, True)
    assert_serves(client)


def test_a_client_that_asks_first(server: Server, echo: str) -> None:
    """curl does so with bodies of more than 1 MB, and waits for a second where it gets no answer."""
    with connected(server) as other:
        other.sendall(f"{INVOKE}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n".encode())
        assert other.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        other.sendall(b"{}")
        assert answer_of(other)[0] == 200
    with connected(server) as other:
        other.sendall(f"{INVOKE}Content-Length: 9000000\r\nExpect: 100-continue\r\n\r\n".encode())
        assert answer_of(other)[0] == 413


def test_a_body_that_is_too_large_is_not_waited_for(server: Server, echo: str) -> None:
    with connected(server) as other:
        other.sendall(f"{INVOKE}Content-Length: 1000000000\r\n\r\n".encode())
        assert answer_of(other)[0] == 413


def test_clients_that_say_nothing_or_go_away(server: Server, client: Any, echo: str) -> None:
    with ExitStack() as stack:
        for beginning in (b"", b"POST ", INVOKE.encode(), f"{INVOKE}Content-Length: 100\r\n\r\n".encode(), b"\r\n"):
            for _ in range(20):
                stack.enter_context(connected(server)).sendall(beginning)
        for _ in range(5):
            assert_serves(client)
    for _ in range(20):  # Gone before they have their answer.
        with connected(server) as other:
            other.sendall(f"{INVOKE}Content-Length: 2\r\n\r\n{{}}".encode())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # Reset, not closed.
    assert_serves(client)


def test_clients_that_have_said_all_are_answered(server: Server, echo: str, held: Held) -> None:
    """They end their half of the connection after the request: with it, before or while it is answered."""
    request = request_of(b'{"n": 1}')
    for _ in range(20):
        with connected(server) as other:
            other.sendall(request * 3)
            other.shutdown(socket.SHUT_WR)
            assert received_several(other, 3) == [{"n": 1}] * 3
            assert received(other) == b"", "and the connection ends"
    with connected(server) as other:
        other.sendall(request_of(held.event.encode()))
        held.wait()
        other.shutdown(socket.SHUT_WR)
        assert_serves(server.client())  # Until then the server has seen it.
        held.let_go()
        assert received(other).endswith(b'"done"')


@pytest.mark.parametrize("beginning", [b"", request_of(b"{}")], ids=range(2))
@pytest.mark.parametrize("cut", [b"", b"POST /2015", request_of(b'{"n": 1}')[:-1]], ids=range(3))
def test_what_has_not_come_when_a_client_ends_is_not_waited_for(
    server: Server, echo: str, beginning: bytes, cut: bytes
) -> None:
    with connected(server) as other:
        other.settimeout(20)  # Silence alone would end it after 30 s.
        other.sendall(beginning + cut)
        other.shutdown(socket.SHUT_WR)
        assert received(other).count(b"200 OK") == bool(beginning)


def test_clients_that_are_gone_do_not_fill_the_server(serve: Serve, echo: str, held: Held) -> None:
    """Their functions still run; whether they have gone, or only said all, cannot be seen until they are answered."""
    server = serve("--connections", "4")
    request = request_of(held.event.encode())
    for _ in range(6):
        with connected(server) as other:
            other.sendall(request)
            held.wait()
    with connected(server) as other:
        other.sendall(request_of(b"{}"))
        assert answer_of(other)[0] == 200
    held.let_go()
    process = psutil.Process(server.process.pid)
    wait_until(lambda: len(process.net_connections("tcp")) == 1, "only the listening socket is left")


def test_clients_that_do_not_read(server: Server, client: Any, echo: str) -> None:
    body = json.dumps({"size": 4_000_000}).encode()
    with ExitStack() as stack:
        for _ in range(8):
            other = stack.enter_context(connected(server))
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            other.sendall(f"{INVOKE}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        for _ in range(5):
            assert_serves(client)


def test_more_connections_than_there_may_be(serve: Serve) -> None:
    # Beyond the limit it is the connections that wait longest for a request that are closed.
    server = serve("--connections", "50")
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(server)) for _ in range(120)]
        assert raw_invoke(server, "nothing", b"{}").status == 404
        process = psutil.Process(server.process.pid)
        wait_until(lambda: len(process.net_connections("tcp")) <= 52, "the oldest connections are closed")
        assert silent[0].recv(1) == b""


def test_a_flood(server: Server, client: Any, echo: str) -> None:
    done = threading.Event()
    statuses: list[int] = []

    def flood() -> None:
        while not done.is_set():
            statuses.append(raw_invoke(server, "nothing", b"{").status)

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert_serves(client)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {400}


def test_what_a_flood_took_is_given_back(serve: Serve, echo: str) -> None:
    """Threads end, and the memory that large answers were in goes back to the host."""
    server = serve()
    process = psutil.Process(server.process.pid)
    assert raw_invoke(server, echo, b"{}").status == 200
    threads, resident = process.num_threads(), process.memory_info().rss
    asked, most = json.dumps({"answer": "x" * 1_000_000}).encode(), [0, 0]

    def ask(_: int) -> int:
        status = raw_invoke(server, echo, asked).status
        most[:] = max(most[0], process.num_threads()), max(most[1], process.memory_info().rss)
        return status

    with ThreadPoolExecutor(60) as pool:
        assert set(pool.map(ask, range(70))) == {200}
    assert most[0] > threads + 20
    assert most[1] > resident + (100 << 20)
    wait_until(lambda: process.num_threads() <= threads + 4, "the threads end", seconds=LIMIT_S)
    wait_until(lambda: process.memory_info().rss < resident + (24 << 20), "memory is given back", seconds=LIMIT_S)
    assert raw_invoke(server, echo, b"{}").status == 200


def test_what_broken_off_requests_took_is_given_back(serve: Serve, echo: str) -> None:
    """Each leaves its body behind in objects that refer to each other, which Python does not look for when quiet."""
    server = serve()
    process = psutil.Process(server.process.pid)
    assert raw_invoke(server, echo, b"{}").status == 200
    resident = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(connected(server)).sendall(
                f"{INVOKE}Content-Length: 6000000\r\n\r\n".encode() + bytes(60_000)
            )
        wait_until(lambda: process.memory_info().rss > resident + (30 << 20), "they are being read", seconds=LIMIT_S)
    wait_until(lambda: process.memory_info().rss < resident + (20 << 20), "memory is given back", seconds=LIMIT_S)
    assert raw_invoke(server, echo, b"{}").status == 200


def test_pages_of_the_web(server: Server, echo: str) -> None:
    """Any site could send its visitor's browser here; without keys, the request is all there is to tell it by."""
    simple = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert raw_invoke(server, echo, b"{}", simple).status == 403
    rebound = raw_invoke(server, echo, b"{}", {"Host": "evil.example"})
    assert (rebound.status, rebound.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    for host in ("localhost:3001", "127.0.0.1", "[::1]:80", "lambda.localhost", "10.1.2.3:4"):
        assert raw_invoke(server, echo, b"{}", {"Host": host}).status == 200, host


def test_probes_do_not_wait_behind_the_control_plane(server: Server, home: Path, echo: str) -> None:
    """While another process changes functions no call of ours can, and all threads that are for those wait for it."""
    client, process = server.client(), psutil.Process(server.process.pid)
    change, name = client.delete_function_concurrency, {"FunctionName": echo}
    calls = [threading.Thread(target=change, kwargs=name) for _ in range(8)]
    before = len(process.net_connections("tcp"))
    with contextlib.closing(sqlite3.connect(home / "functions" / "functions.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            for call in calls:
                call.start()
            wait_until(lambda: len(process.net_connections("tcp")) >= before + len(calls), "the calls are under way")
            for path in ("/livez", "/metrics"):
                with connected(server) as probe:
                    probe.settimeout(5)
                    probe.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    assert answer_of(probe)[0] == 200
        finally:
            other.execute("ROLLBACK")
            for call in calls:
                call.join()
