"""Names, limits and fields are those of botocore's service model."""

from __future__ import annotations

import inspect
import re
from typing import Any

import botocore.session
import pytest

from snapruntime.values import function as values
from snapruntime.values import reference, service_errors
from snapruntime.values.service_errors import ServiceError, TooManyRequestsException, ValidationException

MODEL = botocore.session.get_session().get_service_model("lambda")
SHAPES: dict[str, Any] = {name: MODEL.shape_for(name) for name in MODEL.shape_names}

#: What AWS sends and no service model lists: of its front door, which all its services have in common.
UNLISTED = {
    "AccessDeniedException": 403,
    "IncompleteSignatureException": 403,
    "InvalidSignatureException": 403,
    "MissingAuthenticationTokenException": 403,
    "RequestEntityTooLargeException": 413,
    "ServiceUnavailableException": 503,
    "UnknownOperationException": 404,
    "UnrecognizedClientException": 403,
    "ValidationException": 400,
}

ERRORS = [
    one
    for name, one in inspect.getmembers(service_errors, inspect.isclass)
    if issubclass(one, ServiceError) and not name.startswith("_") and one is not ServiceError
]


def make(kind: type[ServiceError]) -> ServiceError:
    if kind is TooManyRequestsException:
        return TooManyRequestsException("text", reason="CallerRateLimitExceeded", retry_after_s=1)
    if kind is ValidationException:
        return ValidationException("field", "value", "Member must not be so")
    return kind("text")


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_errors_are_the_models(kind: type[ServiceError]) -> None:
    error = make(kind)
    document = error.document()
    if error.name in UNLISTED:
        assert error.status == UNLISTED[error.name]
        return
    shape = SHAPES[error.name]
    assert error.status == shape.metadata["error"]["httpStatusCode"]
    assert document["Type"] == ("User" if shape.metadata["error"].get("senderFault") else "Service")
    in_body = {name for name, member in shape.members.items() if "location" not in member.serialization}
    assert set(document) == in_body
    in_header = {
        member.serialization["name"] for member in shape.members.values() if "location" in member.serialization
    }
    assert set(error.headers()) - {"X-Amzn-ErrorType"} == in_header
    assert error.headers()["X-Amzn-ErrorType"] == error.name == error.code


def test_reasons_for_throttling_are_fields_of_the_body() -> None:
    document = make(TooManyRequestsException).document()
    assert document["Reason"] in SHAPES["ThrottleReason"].enum


@pytest.mark.parametrize(
    ("ours", "shape"),
    [
        (values.State, "State"),
        (values.LastUpdateStatus, "LastUpdateStatus"),
        (values.ApplyOn, "SnapStartApplyOn"),
        (values.OptimizationStatus, "SnapStartOptimizationStatus"),
    ],
)
def test_states_are_the_models(ours: Any, shape: str) -> None:
    assert {str(member) for member in ours} <= set(SHAPES[shape].enum)


def test_limits_are_the_models() -> None:
    assert SHAPES["Description"].metadata["max"] == values.DESCRIPTION_LIMIT
    assert SHAPES["Handler"].metadata["max"] == values.HANDLER_LIMIT
    assert SHAPES["Alias"].metadata["max"] == values.ALIAS_LIMIT
    low, high = values.MEMORY_MB
    assert low == SHAPES["MemorySize"].metadata["min"]
    assert high <= SHAPES["MemorySize"].metadata["max"]
    assert SHAPES["Timeout"].metadata["max"] >= values.MAX_TIMEOUT_S


def test_names_are_read_by_the_models_patterns() -> None:
    ours = re.sub(r"\?P<\w+>", "", reference._NAME.pattern)
    assert ours == SHAPES["FunctionName"].metadata["pattern"]
    assert reference._ALIAS.pattern == SHAPES["Alias"].metadata["pattern"]


@pytest.mark.parametrize(
    ("text", "qualifier", "name", "found"),
    [
        ("f", None, "f", None),
        ("f", "1", "f", "1"),
        ("f:live", None, "f", "live"),
        ("f:$LATEST", None, "f", "$LATEST"),
        ("123456789012:function:f", None, "f", None),
        ("arn:aws:lambda:us-east-1:123456789012:function:f", "live", "f", "live"),
        ("arn:aws:lambda:us-east-1:123456789012:function:f:7", "7", "f", "7"),
        ("us-east-1:123456789012:f:7", None, "f", "7"),
    ],
)
def test_references(text: str, qualifier: str | None, name: str, found: str | None) -> None:
    assert reference.parse_reference(text, qualifier) == reference.Reference(name, found)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (
            "arn:aws:lambda:us-east-1:999999999999:function:f:7",
            "AccessDeniedException",
            "us-east-1:999999999999:function:f:7",
        ),
        ("999999999999:function:f", "AccessDeniedException", "us-east-1:999999999999:function:f because"),
        (
            "arn:aws:lambda:eu-west-1:999999999999:function:f",
            "AccessDeniedException",
            "eu-west-1:999999999999:function:f",
        ),
        ("arn:aws:lambda:eu-west-1:123456789012:function:f", "ResourceNotFoundException", "region ('us-east-1')"),
        ("eu-west-1:123456789012:f", "ResourceNotFoundException", "Functions from 'eu-west-1' are not reachable"),
        ("arn:aws-cn:lambda:cn-north-1:123456789012:function:f", "ResourceNotFoundException", "'cn-north-1'"),
        ("arn:aws-cn:lambda:us-east-1:123456789012:function:f", "ResourceNotFoundException", "found: arn:aws-cn:"),
    ],
)
def test_references_to_what_is_not_ours(text: str, error: str, said: str) -> None:
    with pytest.raises(service_errors.ServiceError) as caught:
        reference.parse_reference(text)
    assert (caught.value.name, said in caught.value.message) == (error, True), caught.value.message


@pytest.mark.parametrize("text", ["", "a b", "f:1:2:3", "ä", "f/g", "f:", "f\n"])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(service_errors.ValidationException, match="functionName"):
        reference.parse_reference(text)


def test_references_that_contradict_themselves() -> None:
    with pytest.raises(service_errors.InvalidParameterValueException, match="does not match the specified qualifier"):
        reference.parse_reference("f:1", "2")
    with pytest.raises(service_errors.ValidationException, match="qualifier"):
        reference.parse_reference("f", "a b")
    with pytest.raises(service_errors.InvalidParameterValueException, match="less than or equal to 64"):
        reference.parse_reference("f" * 65)


def test_every_error_is_documented() -> None:
    for kind in ERRORS:
        assert re.search(r"\w", kind.__doc__ or "")
