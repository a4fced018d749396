"""Processes, names, shared memory, network: what a function sees is its own."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support import Write

from snapruntime import Runtime

from .conftest import SOURCE, Attempt, Breaker, asking, start

NAMES = ("uts", "ipc", "net", "pid", "mnt")


@pytest.fixture
def listening() -> Iterator[tuple[int, str]]:
    """The port and the abstract name of two sockets that the host listens on."""
    name = f"snapruntime-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        yield server.getsockname()[1], name


def of_the_host() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMES}


def test_namespaces_are_not_the_hosts(attempt: Attempt) -> None:
    mine, host = attempt("namespaces"), of_the_host()
    assert [name for name in NAMES if mine[name] == host[name]] == ["net"]


def test_no_two_copies_share_one(runtime: Runtime, write: Write) -> None:
    function = write(SOURCE, timeout_s=30.0, network="isolated")
    with ExitStack() as stack:
        snapshot = stack.enter_context(runtime.snapshot(function))
        snapshot.keep_ready(3)
        snapshot.wait_ready()
        found = [asking(stack.enter_context(snapshot.restore()))("namespaces") for _ in range(6)]
        for name in NAMES:
            assert len({*(seen[name] for seen in found), of_the_host()[name]}) == 7


def test_the_hosts_name_is_not_told(attempt: Attempt) -> None:
    assert attempt("host_name") == "localhost"


def test_no_other_process_is_there(attempt: Attempt) -> None:
    assert attempt("processes") == [1]
    assert attempt("signal_others") == [0], "0 is the process itself and its group: it has no parent to see"


def test_shared_memory_of_the_host_is_not_there(attempt: Attempt) -> None:
    libc, key = ctypes.CDLL(None), 0x5A5A0000 | os.getpid() & 0xFFFF
    segment = libc.shmget(key, 4096, 0o1666)
    try:
        assert segment >= 0
        assert attempt("shared_memory", key) == "ENOENT"
    finally:
        libc.shmctl(segment, 0, None)


def test_system_v_ipc_of_init_is_in_every_copy(breaker: Breaker) -> None:
    """CRIU saves the namespace where there is something in it; each copy has its own, with the same content."""
    environment = {"SYSTEM_V": "4711"}
    for _ in range(2):
        assert breaker(environment=environment)("system_v") == ["init", 7]


@pytest.mark.parametrize(
    ("network", "interfaces", "refusal"),
    [("none", ["lo"], "OSError ENETUNREACH"), ("isolated", ["lo"], "OSError ECONNREFUSED")],
)
def test_the_hosts_network_is_out_of_reach(
    breaker: Breaker, listening: tuple[int, str], network: str, interfaces: list[str], refusal: str
) -> None:
    attempt, (port, name) = breaker(network=network), listening
    assert attempt("interfaces") == interfaces
    assert attempt("connect", port) == refusal
    assert attempt("connect_abstract", name) == "OSError ECONNREFUSED"


def test_the_hosts_network_is_there_where_asked_for(breaker: Breaker, listening: tuple[int, str]) -> None:
    assert breaker(network="host")("connect", listening[0]) == "connected"


def test_eight_copies_of_a_listening_worker_at_once(runtime: Runtime, write: Write) -> None:
    function = write(SOURCE, timeout_s=30.0, network="isolated", environment={"LISTEN": "8080"})
    with runtime.snapshot(function) as snapshot, ExitStack() as stack:
        copies = [asking(stack.enter_context(snapshot.restore())) for _ in range(8)]
        for number, copy in enumerate(copies):
            assert copy("talk_to_myself", f"copy {number}") == f"copy {number}"
            assert copy("connect", 8080) == "connected"


def test_a_cold_worker_listens_too(runtime: Runtime, write: Write) -> None:
    function = write(SOURCE, timeout_s=30.0, network="isolated", environment={"LISTEN": "8080"})
    with ExitStack() as stack:
        copies = [asking(start(runtime, function, "cold", stack)) for _ in range(2)]
        assert [copy("talk_to_myself", "hi") for copy in copies] == ["hi", "hi"]
