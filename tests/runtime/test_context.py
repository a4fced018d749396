"""What a handler is given, the context and the environment, and what cannot be given; cold and restored alike."""

from __future__ import annotations

import os
import re

import pytest
from support import Write

from snapruntime import Function, UsageError

from .conftest import Start


def test_the_context(start: Start, write: Write) -> None:
    function = write(
        """
        def handler(event, context):
            client = context.client_context
            return {
                "name": context.function_name, "version": context.function_version,
                "memory": context.memory_limit_in_mb,
                "arn": context.invoked_function_arn, "id": context.aws_request_id,
                "left": context.get_remaining_time_in_millis(),
                "log": [context.log_group_name, context.log_stream_name],
                "identity": context.identity.cognito_identity_id, "tenant": context.tenant_id,
                "client": client and [client.custom, client.env, client.client.app_title,
                                      client.client.installation_id],
            }
        """,
        timeout_s=7,
        memory_mb=1024,
        name="handler.py",
        environment={"AWS_REGION": "eu-west-3"},
    )
    instance = start(function)
    seen = instance.invoke({}, request_id="the-id").result
    left, (group, stream) = seen.pop("left"), seen.pop("log")
    assert 5000 < left <= 7000
    if instance.init_ms is None:
        assert (group, stream) == (None, None), "a snapshot's copies cannot all have the stream of its init"
    else:
        assert group == "/aws/lambda/handler"
        assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", stream)
        assert start(function).invoke({}).result["log"] not in ([group, stream], [None, None]), "each has its own"
    assert seen == {
        "name": "handler",
        "version": "$LATEST",
        "memory": "1024",
        "arn": "arn:aws:lambda:eu-west-3:123456789012:function:handler",
        "id": "the-id",
        "identity": None,
        "tenant": None,
        "client": None,
    }
    context = {"custom": {"a": 1}, "env": {"locale": "de"}, "client": {"app_title": "T", "installation_id": "I"}}
    assert instance.invoke({}, client_context=context).result["client"] == [{"a": 1}, {"locale": "de"}, "T", "I"]


@pytest.fixture(scope="module")
def echo(write: Write) -> Function:
    return write("def handler(event, context): return event")


def test_a_client_context_that_is_no_json_is_the_callers_fault(start: Start, echo: Function) -> None:
    instance = start(echo)
    with pytest.raises(UsageError):
        instance.invoke({}, client_context={"a": object()})
    assert instance.invoke(1).result == 1


@pytest.mark.parametrize("size", [1 << 19, 3 << 20])
def test_a_huge_client_context(start: Start, echo: Function, size: int) -> None:
    instance = start(echo)
    try:
        answer = instance.invoke(1, client_context={"custom": "x" * size})
    except UsageError:
        return
    assert answer.result == 1


def test_the_environment(start: Start, write: Write) -> None:
    function = write(
        """
        import os
        at_init = dict(os.environ)

        def handler(event, context):
            return at_init, dict(os.environ)
        """,
        environment={"MINE": "ü =\n'", "EMPTY": ""},
        memory_mb=256,
    )
    instance = start(function)
    at_init, now = instance.invoke({}).result
    kind = "on-demand" if instance.init_ms is not None else "snap-start"
    for seen in (at_init, now):
        assert seen["MINE"] == "ü =\n'"
        assert seen["EMPTY"] == ""
        assert seen["AWS_LAMBDA_INITIALIZATION_TYPE"] == kind
        assert seen["AWS_LAMBDA_FUNCTION_NAME"] == "handler"
        assert seen["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
        assert seen["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
        assert seen["LAMBDA_TASK_ROOT"] == function.task_root
        assert seen["_HANDLER"] == "handler.handler"
        assert seen["TZ"] == ":UTC"
        assert "HOME" not in seen or seen["HOME"] != os.environ.get("HOME"), "the host's environment is not shown"
        assert not {name for name in seen if name.startswith(("SNAPRUNTIME", "PYTHON", "VIRTUAL_ENV"))}


@pytest.mark.parametrize(
    "name", ["AWS_LAMBDA_FUNCTION_NAME", "AWS_EXECUTION_ENV", "_HANDLER", "", "A=B", "NUL\0", "\udcff"]
)
def test_names_that_cannot_be_variables(write: Write, name: str) -> None:
    with pytest.raises(UsageError):
        write("def handler(event, context): pass", environment={name: "x"})


@pytest.mark.parametrize("megabytes", [-1, 0, 127, 10241])
def test_memory_sizes_that_cannot_be(write: Write, megabytes: int) -> None:
    with pytest.raises(UsageError, match="memory size"):
        write("def handler(event, context): pass", memory_mb=megabytes)


@pytest.mark.parametrize("seconds", [0, -1, 901, float("nan"), float("inf")])
def test_time_limits_that_cannot_be(write: Write, seconds: float) -> None:
    with pytest.raises(UsageError, match="timeout"):
        write("def handler(event, context): pass", timeout_s=seconds)
