"""How a function's events are tried again, by boto3; the service model judges each answer."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve.conftest import ARN, LIMIT_S, Serve, create
from serve.test_control import error_of


def test_the_life_of_a_configuration(client: Any) -> None:
    name = create(client, "events-configured", publish=False)
    missing = ("ResourceNotFoundException", 404, f"The function {ARN}:{name}:$LATEST doesn't have an EventInvokeConfig")
    for call in (
        client.get_function_event_invoke_config,
        client.delete_function_event_invoke_config,
        client.update_function_event_invoke_config,
    ):
        assert error_of(call, FunctionName=name) == missing
    assert client.list_function_event_invoke_configs(FunctionName=name)["FunctionEventInvokeConfigs"] == []

    put = client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    assert put["FunctionArn"] == f"{ARN}:{name}:$LATEST"
    assert (put["MaximumRetryAttempts"], put["MaximumEventAgeInSeconds"]) == (0, 21600)
    assert abs((datetime.now(UTC) - put["LastModified"]).total_seconds()) < LIMIT_S

    updated = client.update_function_event_invoke_config(
        FunctionName=name, Qualifier="$LATEST", MaximumEventAgeInSeconds=60
    )
    assert (updated["MaximumRetryAttempts"], updated["MaximumEventAgeInSeconds"]) == (0, 60)
    got = client.get_function_event_invoke_config(FunctionName=name)
    del got["ResponseMetadata"], updated["ResponseMetadata"]
    assert got == updated
    assert client.list_function_event_invoke_configs(FunctionName=name)["FunctionEventInvokeConfigs"] == [got]

    empty: dict[str, Any] = {"OnSuccess": {}, "OnFailure": {}}
    put = client.put_function_event_invoke_config(
        FunctionName=name, MaximumEventAgeInSeconds=90, DestinationConfig=empty
    )
    assert (put["MaximumRetryAttempts"], put["MaximumEventAgeInSeconds"]) == (2, 90)
    put = client.put_function_event_invoke_config(FunctionName=name, DestinationConfig=empty)
    assert (put["MaximumRetryAttempts"], put["MaximumEventAgeInSeconds"]) == (2, 21600)
    client.delete_function_event_invoke_config(FunctionName=name)
    assert error_of(client.get_function_event_invoke_config, FunctionName=name) == missing


def test_what_is_refused(client: Any) -> None:
    name = create(client, "events-refused", publish=False)
    put = client.put_function_event_invoke_config
    code, status, said = error_of(put, FunctionName=name, Qualifier="live", MaximumRetryAttempts=1)
    assert (code, status) == ("InvalidParameterValueException", 400)
    assert "without Qualifier" in said
    to = {"OnFailure": {"Destination": "arn:aws:sqs:us-east-1:123456789012:queue"}}
    code, _, said = error_of(put, FunctionName=name, MaximumRetryAttempts=1, DestinationConfig=to)
    assert (code, said) == ("InvalidParameterValueException", "DestinationConfig is not supported by snapruntime.")
    assert error_of(put, FunctionName=name)[0] == "InvalidParameterValueException"
    assert error_of(put, FunctionName=name, MaximumRetryAttempts=3)[0] == "ValidationException"
    assert error_of(put, FunctionName="no-such-function", MaximumRetryAttempts=1)[0] == "ResourceNotFoundException"
    assert client.list_function_event_invoke_configs(FunctionName=name)["FunctionEventInvokeConfigs"] == []


def test_events_are_tried_as_often_as_configured(client: Any, home: Path) -> None:
    name = create(client, "events-once", publish=False)
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    client.invoke(FunctionName=name, InvocationType="Event", Payload='{"raise": "no"}')
    # With the default it would be a minute until it is tried again.
    context = dead_letter(home, name)["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("RetriesExhausted", 1)


def dead_letter(home: Path, name: str) -> Any:
    """The one event that was given up, when it is there."""
    path, end = home / "dead-letters" / f"{name}.jsonl", time.monotonic() + LIMIT_S
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.05)
    return json.loads(path.read_text())


def test_events_of_a_stopped_function_are_given_up(client: Any, home: Path) -> None:
    name = create(client, "events-stopped", publish=False)
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    assert client.invoke(FunctionName=name, InvocationType="Event", Payload='{"n": 1}')["StatusCode"] == 202
    letter = dead_letter(home, name)
    assert letter["requestContext"]["condition"] == "ZeroReservedConcurrency"
    assert letter["requestPayload"] == {"n": 1}


def test_a_configuration_stays(serve: Serve, home: Path) -> None:
    server = serve()
    name = create(server.client(), "events-kept", publish=False)
    server.client().put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=1)
    assert server.stop() == 0
    assert serve().client().get_function_event_invoke_config(FunctionName=name)["MaximumRetryAttempts"] == 1
