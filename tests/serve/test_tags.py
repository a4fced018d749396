"""Tags by boto3; the service model judges each answer."""

from __future__ import annotations

from typing import Any

import pytest

from serve.conftest import ARN, create
from serve.test_control import error_of


def test_the_life_of_tags(client: Any) -> None:
    name = create(client, "tagged", publish=False, Tags={"team": "a", "aws-cdk:stack": "x/y"})
    arn = client.get_function_configuration(FunctionName=name)["FunctionArn"]
    assert client.list_tags(Resource=arn)["Tags"] == {"team": "a", "aws-cdk:stack": "x/y"}
    assert client.tag_resource(Resource=arn, Tags={"team": "b", "stage": "", "größe": "1 m"})
    assert client.list_tags(Resource=arn)["Tags"] == {"team": "b", "aws-cdk:stack": "x/y", "stage": "", "größe": "1 m"}
    client.untag_resource(Resource=arn, TagKeys=["aws-cdk:stack", "größe", "stage", "no such"])
    assert client.get_function(FunctionName=name)["Tags"] == {"team": "b"}
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    assert client.list_tags(Resource=arn)["Tags"] == {"team": "b"}, "other settings leave them as they are"
    client.untag_resource(Resource=arn, TagKeys=["team"])
    assert client.list_tags(Resource=arn)["Tags"] == {}
    assert "Tags" not in client.get_function(FunctionName=name)


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ({f"key-{number}": "" for number in range(51)}, "InvalidParameterValueException"),
        ({"aws:team": "a"}, "InvalidParameterValueException"),
        ({"AWS:": "a"}, "InvalidParameterValueException"),
        ({"k" * 129: "x"}, "ValidationException"),
        ({"k": "v" * 257}, "ValidationException"),
        ({"k": "line\nend"}, "ValidationException"),
        ({"k": "<b>"}, "ValidationException"),
    ],
)
def test_tags_that_cannot_be(client: Any, echo: str, tags: dict[str, str], error: str) -> None:
    assert error_of(client.tag_resource, Resource=f"{ARN}:{echo}", Tags=tags)[:2] == (error, 400)
    assert error_of(create, client=client, name="never", publish=False, Tags=tags)[:2] == (error, 400)
    assert client.list_tags(Resource=f"{ARN}:{echo}")["Tags"] == {}


def test_what_cannot_be_tagged(client: Any, echo: str) -> None:
    calls: tuple[tuple[Any, dict[str, Any]], ...] = (
        (client.list_tags, {}),
        (client.tag_resource, {"Tags": {"a": "b"}}),
        (client.untag_resource, {"TagKeys": ["a"]}),
    )
    for call, rest in calls:
        found = error_of(call, Resource=f"{ARN}:no-such-function", **rest)
        assert found == ("ResourceNotFoundException", 404, f"Function not found: {ARN}:no-such-function")
        assert error_of(call, Resource=f"{ARN}:{echo}:live", **rest)[::2] == (
            "InvalidParameterValueException",
            "Tags on function aliases and versions are not supported. Please specify a function ARN.",
        )
        assert error_of(call, Resource=echo, **rest)[:2] == ("ValidationException", 400)
        theirs = ARN.replace("123456789012", "999999999999")
        assert error_of(call, Resource=f"{theirs}:{echo}", **rest)[:2] == ("AccessDeniedException", 403)
