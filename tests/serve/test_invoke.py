"""Invoke and InvokeWithResponseStream by boto3: kinds, headers, limits, errors."""

from __future__ import annotations

import base64
import http.client
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from serve.conftest import ARN, Server, create
from serve.test_control import error_of

MAX_PAYLOAD = 6291556


def result_of(answer: dict[str, Any]) -> Any:
    return json.load(answer["Payload"])


def raw_invoke(
    server: Server, name: str, body: bytes, headers: dict[str, str] | None = None, qualifier: str = ""
) -> http.client.HTTPResponse:
    """Invoke without boto3, which sends nothing that is wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    query = f"?Qualifier={qualifier}" if qualifier else ""
    connection.request("POST", f"/2015-03-31/functions/{name}/invocations{query}", body=body, headers=headers or {})
    response = connection.getresponse()
    response.content = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


@pytest.mark.parametrize(
    ("name", "version", "arn", "type"),
    [
        ("echo", "$LATEST", f"{ARN}:echo", "on-demand"),
        ("echo:$LATEST", "$LATEST", f"{ARN}:echo:$LATEST", "on-demand"),
        ("echo:1", "1", f"{ARN}:echo:1", "snap-start"),
        ("echo:live", "1", f"{ARN}:echo:live", "snap-start"),
        (f"{ARN}:echo:live", "1", f"{ARN}:echo:live", "snap-start"),
    ],
)
def test_by_any_name(client: Any, echo: str, name: str, version: str, arn: str, type: str) -> None:
    answer = client.invoke(FunctionName=name, Payload=b'{"a": [1, null]}')
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, version)
    assert "FunctionError" not in answer
    assert "LogResult" not in answer
    assert answer["ResponseMetadata"]["HTTPHeaders"]["content-type"] == "application/json"
    result = result_of(answer)
    assert result["event"] == {"a": [1, None]}
    assert (result["version"], result["arn"], result["type"]) == (version, arn, type)
    assert result["request_id"] == answer["ResponseMetadata"]["RequestId"]
    assert uuid.UUID(result["request_id"])


def test_each_invocation_has_a_copy_of_its_own(client: Any, echo: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda n: client.invoke(FunctionName="echo:live", Payload=json.dumps({"n": n})), range(12))
        )
    results = [result_of(answer) for answer in answers]
    assert [result["event"] for result in results] == [{"n": n} for n in range(12)]
    assert len({result["request_id"] for result in results}) == 12


def test_without_payload_the_event_is_an_empty_object(client: Any, echo: str) -> None:
    assert result_of(client.invoke(FunctionName=echo, Qualifier="1"))["event"] == {}


@pytest.mark.parametrize("event", [None, 1, "text", [], [1, {"ü": "\u20ac"}], True])
def test_events_of_any_type(client: Any, echo: str, event: Any) -> None:
    assert result_of(client.invoke(FunctionName="echo:1", Payload=json.dumps(event))) == event


def test_the_end_of_the_log(client: Any, echo: str) -> None:
    answer = client.invoke(FunctionName="echo:1", Payload=b'{"a": 1}', LogType="Tail")
    log = base64.b64decode(answer["LogResult"]).decode()
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert 'event {"a": 1}' in log
    assert f"START RequestId: {request_id} Version: 1" in log
    assert f"END RequestId: {request_id}" in log
    assert f"REPORT RequestId: {request_id}\tDuration: " in log
    long = client.invoke(FunctionName="echo:1", Payload=json.dumps({"write": "y" * 20000}), LogType="Tail")
    log = base64.b64decode(long["LogResult"]).decode()
    assert len(log) == 4096
    assert "REPORT RequestId" in log


def test_client_context(client: Any, echo: str) -> None:
    context = base64.b64encode(json.dumps({"custom": {"a": "b"}}).encode()).decode()
    assert result_of(client.invoke(FunctionName="echo:1", ClientContext=context))["custom"] == {"a": "b"}
    for wrong in ("not base64!", base64.b64encode(b"no JSON").decode(), base64.b64encode(b"[]").decode(), "A" * 3584):
        assert error_of(client.invoke, FunctionName=echo, ClientContext=wrong)[0] == "InvalidRequestContentException"


def test_dry_run(client: Any, echo: str) -> None:
    answer = client.invoke(FunctionName=echo, InvocationType="DryRun")
    assert (answer["StatusCode"], answer["Payload"].read()) == (204, b"")
    assert "ExecutedVersion" not in answer
    assert error_of(client.invoke, FunctionName="nothing", InvocationType="DryRun")[1] == 404


def test_event(client: Any, echo: str) -> None:
    answer = client.invoke(FunctionName="echo:1", InvocationType="Event", Payload=b"{}")
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    assert error_of(client.invoke, FunctionName="nothing", InvocationType="Event")[1] == 404


def test_errors_of_functions(client: Any, echo: str) -> None:
    answer = client.invoke(FunctionName="echo:1", Payload=b'{"raise": "on purpose"}')
    assert (answer["StatusCode"], answer["FunctionError"], answer["ExecutedVersion"]) == (200, "Unhandled", "1")
    document = result_of(answer)
    assert (document["errorType"], document["errorMessage"]) == ("ValueError", "on purpose")
    assert document["requestId"] == answer["ResponseMetadata"]["RequestId"]
    assert 'raise ValueError(event["raise"])' in document["stackTrace"][0]

    document = result_of(client.invoke(FunctionName="echo:1", Payload=b'{"exit": 9}'))
    assert document["errorType"] == "Runtime.ExitError"
    assert "Runtime exited with error: exit status 9" in document["errorMessage"]

    document = result_of(client.invoke(FunctionName="echo:1", Payload=json.dumps({"size": MAX_PAYLOAD})))
    assert document["errorType"] == "Function.ResponseSizeTooLarge"


def test_timeout(client: Any) -> None:
    name = create(client, "slow", Timeout=1)
    document = result_of(client.invoke(FunctionName=name, Qualifier="1", Payload=b'{"sleep": 30}'))
    assert document["errorType"] == "Sandbox.Timedout"
    assert document["errorMessage"].endswith("Error: Task timed out after 1.00 seconds")


@pytest.mark.parametrize(
    ("source", "options", "type"),
    [
        ("import nowhere", {}, "Runtime.ImportModuleError"),
        ("def handler(:", {}, "Runtime.UserCodeSyntaxError"),
        ("x = 1", {}, "Runtime.HandlerNotFound"),
        ("x = 1", {"Handler": "nodot"}, "Runtime.MalformedHandlerName"),
    ],
)
def test_init_that_fails_at_a_cold_start(client: Any, source: str, options: dict[str, Any], type: str) -> None:
    name = create(client, f"init-{type.rpartition('.')[2]}", source, publish=False, **options)
    answer = client.invoke(FunctionName=name)
    assert answer["FunctionError"] == "Unhandled"
    assert result_of(answer)["errorType"] == type


def test_after_restore_hook_that_fails(client: Any) -> None:
    source = """
        from snapshot_restore_py import register_after_restore

        @register_after_restore
        def connect():
            raise RuntimeError("cannot connect")

        def handler(event, context):
            return 1
        """
    name = create(client, "bad-hook", source)
    code, status, said = error_of(client.invoke, FunctionName=name, Qualifier="1")
    assert (code, status) == ("SnapStartException", 400)
    assert "cannot connect" in said


def test_a_version_that_is_not_ready(client: Any) -> None:
    name = create(client, "not-ready", "import threading; threading.Event().wait(3)\nhandler = print", publish=False)
    client.publish_version(FunctionName=name)
    code, status, _ = error_of(client.invoke, FunctionName=name, Qualifier="1")
    assert (code, status) == ("SnapStartNotReadyException", 409)
    client.delete_function(FunctionName=name)


@pytest.mark.parametrize(
    ("headers", "body", "status", "error", "said"),
    [
        ({}, b"{", 400, "InvalidRequestContentException", "Could not parse request body into json"),
        ({}, b"NaN", 400, "InvalidRequestContentException", "NaN is not JSON"),
        ({}, b"[" * 100_000, 400, "InvalidRequestContentException", "Could not parse"),
        ({"Content-Type": "text/plain"}, b"{}", 415, "UnsupportedMediaTypeException", "text/plain"),
        ({"X-Amz-Invocation-Type": "Later"}, b"{}", 400, "ValidationException", "RequestResponse, Event, DryRun"),
        ({"X-Amz-Log-Type": "All"}, b"{}", 400, "ValidationException", "None, Tail"),
        ({"X-Amz-Tenant-Id": "t"}, b"{}", 400, "InvalidParameterValueException", "TenantId"),
        ({"Content-Encoding": "gzip"}, b"{}", 200, None, ""),  # Not unpacked: it is JSON as it is.
    ],
)
def test_requests_that_are_wrong(
    server: Server, echo: str, headers: dict[str, str], body: bytes, status: int, error: str | None, said: str
) -> None:
    response = raw_invoke(server, echo, body, headers)
    assert response.status == status
    assert response.headers["x-amzn-errortype"] == error
    assert said in response.content.decode()  # type: ignore[attr-defined]
    if error:
        assert json.loads(response.content)["Type"] == "User"  # type: ignore[attr-defined]
        assert uuid.UUID(response.headers["x-amzn-requestid"])


@pytest.mark.parametrize(
    ("kind", "limit", "said"), [("RequestResponse", MAX_PAYLOAD, 6291456), ("Event", 1 << 20, 1 << 20)]
)
def test_payloads_at_the_limit(client: Any, echo: str, kind: str, limit: int, said: int) -> None:
    payload = b'"' + b"x" * (limit - 2) + b'"'
    answer = client.invoke(FunctionName="echo:1", InvocationType=kind, Payload=payload)
    assert answer["StatusCode"] in (200, 202)
    if kind == "RequestResponse":
        assert len(answer["Payload"].read()) == limit
    assert error_of(client.invoke, FunctionName="echo:1", InvocationType=kind, Payload=payload + b" ") == (
        "RequestTooLargeException",
        413,
        f"Request must be smaller than {said} bytes for the InvokeFunction operation",
    )


def events_of(answer: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """The payload of a stream, and what InvokeComplete says."""
    *chunks, last = list(answer["EventStream"])
    return b"".join(chunk["PayloadChunk"]["Payload"] for chunk in chunks), last["InvokeComplete"]


def test_streams(client: Any, echo: str) -> None:
    answer = client.invoke_with_response_stream(FunctionName="echo:live", Payload=b'{"a": 1}', LogType="Tail")
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "1")
    assert answer["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
    payload, complete = events_of(answer)
    assert json.loads(payload)["event"] == {"a": 1}
    assert set(complete) == {"LogResult"}

    large = client.invoke_with_response_stream(FunctionName="echo:1", Payload=json.dumps({"size": 1_000_000}))
    assert events_of(large) == (b'"' + b"x" * 1_000_000 + b'"', {})

    failed = client.invoke_with_response_stream(FunctionName="echo:1", Payload=b'{"raise": "x"}')
    payload, complete = events_of(failed)
    assert (payload, complete["ErrorCode"]) == (b"", "Unhandled")
    assert json.loads(complete["ErrorDetails"])["errorType"] == "ValueError"

    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        client.invoke_with_response_stream(FunctionName="nothing")
    assert client.invoke_with_response_stream(FunctionName=echo, InvocationType="DryRun")["StatusCode"] == 204
