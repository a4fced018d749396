"""Limits of concurrency, and what SnapStart's own errors are, by boto3."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from serve.conftest import Held, Serve, create
from serve.test_control import error_of
from serve.test_invoke import result_of
from serve.test_life import Invoking


def throttled(client: Any, name: str) -> tuple[str, int]:
    """Reason and status of an invocation that is refused."""
    with pytest.raises(ClientError) as caught:
        client.invoke(FunctionName=name)
    answer = caught.value.response
    assert answer["Error"] == {"Code": "TooManyRequestsException", "Message": answer["Error"]["Message"]}
    return answer["Reason"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_reserved_concurrency(client: Any) -> None:
    name = create(client, "none-at-once")
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    assert throttled(client, f"{name}:1") == ("ReservedFunctionConcurrentInvocationLimitExceeded", 429)
    client.delete_function_concurrency(FunctionName=name)
    assert client.invoke(FunctionName=f"{name}:1")["StatusCode"] == 200


def test_total_concurrency(serve: Serve, echo: str, held: Held) -> None:
    server = serve("--concurrency", "1", "--queue", "0.2")
    first = Invoking(server.client(), f"{echo}:1", held.event)
    held.wait()
    assert throttled(server.client(), f"{echo}:1") == ("ConcurrentInvocationLimitExceeded", 429)
    held.let_go()
    first.join()
    assert first.answer == b'"done"'
    assert result_of(server.client().invoke(FunctionName=f"{echo}:1"))["version"] == "1"


def test_who_waits_gets_a_turn(serve: Serve, echo: str, held: Held) -> None:
    server = serve("--concurrency", "1")
    first = Invoking(server.client(), f"{echo}:1", held.event)
    held.wait()
    second = Invoking(server.client(), f"{echo}:1", '{"answer": "later"}')
    held.let_go()
    first.join()
    second.join()
    assert (first.answer, second.answer) == (b'"done"', b'"later"')


def test_an_after_restore_hook_that_takes_too_long(client: Any) -> None:
    source = """
        import threading
        from snapshot_restore_py import register_after_restore

        register_after_restore(threading.Event().wait, 60)

        def handler(event, context):
            return 1
        """
    name = create(client, "slow-hook", source)
    code, status, _ = error_of(client.invoke, FunctionName=name, Qualifier="1")
    assert (code, status) == ("SnapStartTimeoutException", 408)


def test_a_snapshot_that_cannot_be_made_anew(serve: Serve, home: Path) -> None:
    """Its init needs what is not there any more, when the snapshot is gone."""
    listener = socket.create_server(("127.0.0.1", 0))
    source = f"""
        import socket
        socket.create_connection(("127.0.0.1", {listener.getsockname()[1]})).close()

        def handler(event, context):
            return 1
        """
    server = serve()
    client = server.client()
    before = set((home / "snapshots").iterdir())
    name = create(client, "needs-a-service", source)
    [slot] = set((home / "snapshots").iterdir()) - before
    assert result_of(client.invoke(FunctionName=name, Qualifier="1")) == 1
    assert server.stop() == 0
    listener.close()
    shutil.rmtree(slot)

    client = serve().client()
    code, status, said = error_of(client.invoke, FunctionName=name, Qualifier="1")
    assert (code, status) == ("SnapStartRegenerationFailureException", 409)
    assert "Connection refused" in said
    assert client.get_function_configuration(FunctionName=name, Qualifier="1")["State"] == "Inactive"
