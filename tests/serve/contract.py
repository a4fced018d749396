"""botocore's service model as the judge: what the server sends has to be what the model says, no more and no less.

botocore itself passes over what it does not know, and takes numbers for strings.
"""

from __future__ import annotations

import json
from typing import Any

from botocore.model import OperationModel, Shape

_LEAVES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "long": int,
    "double": (int, float),
    "float": (int, float),
    "boolean": bool,
    "blob": str,
    "timestamp": (str, int, float),
}


def check_response(*, http_response: Any, parsed: dict[str, Any], model: OperationModel, **_: Any) -> None:
    """To be registered as boto3's after-call: compare a JSON answer with its shape, and an error with the errors that
    the call may give."""
    status = http_response.status_code
    assert http_response.headers.get("x-amzn-requestid"), "no x-amzn-RequestId"
    if status >= 300:
        _check_error(http_response, parsed, model)
        return
    if status != 204:
        assert status == model.http["responseCode"] or (model.name == "Invoke" and status == 202)
    shape = model.output_shape
    if shape is None or "payload" in shape.serialization or not http_response.content:
        return
    in_body = {name: member for name, member in shape.members.items() if member.serialization.get("location") is None}
    check_members(json.loads(http_response.content), in_body, shape.required_members, model.name)


def _check_error(http_response: Any, parsed: dict[str, Any], model: OperationModel) -> None:
    code = parsed["Error"]["Code"]
    assert http_response.headers["x-amzn-errortype"] == code
    document = json.loads(http_response.content)
    shapes = {shape.name: shape for shape in model.service_model.error_shapes}
    if code not in shapes:
        assert set(document) <= {"Type", "message", "Message"}
        return  # The model lists none of the errors that every AWS service has.
    shape = shapes[code]
    assert shape.metadata["error"]["httpStatusCode"] == http_response.status_code
    members = {name: member for name, member in shape.members.items() if member.serialization.get("location") is None}
    check_members(document, members, [], code)


def check_members(value: Any, members: dict[str, Shape], required: list[str], where: str) -> None:
    assert isinstance(value, dict), f"{where} is no object"
    unknown = set(value) - set(members)
    assert not unknown, f"{where} has {sorted(unknown)}, which the model does not have"
    assert set(required) <= set(value), f"{where} lacks {sorted(set(required) - set(value))}"
    for name, member in value.items():
        check_shape(member, members[name], f"{where}.{name}")


def check_shape(value: Any, shape: Any, where: str) -> None:
    if shape.type_name == "structure":
        check_members(value, shape.members, shape.required_members, where)
    elif shape.type_name == "list":
        assert isinstance(value, list), f"{where} is no list"
        for index, item in enumerate(value):
            check_shape(item, shape.member, f"{where}[{index}]")
    elif shape.type_name == "map":
        assert isinstance(value, dict), f"{where} is no map"
        for key, item in value.items():
            check_shape(item, shape.value, f"{where}[{key}]")
    else:
        assert isinstance(value, _LEAVES[shape.type_name]), f"{where} = {value!r} is no {shape.type_name}"
        if shape.type_name != "boolean":
            assert not isinstance(value, bool), where
        if enum := getattr(shape, "enum", None):
            assert value in enum, f"{where} = {value!r} is none of {enum}"
        if isinstance(value, str) and shape.type_name == "string":
            low, high = shape.metadata.get("min", 0), shape.metadata.get("max", 1 << 30)
            assert low <= len(value) <= high, f"{where} = {value!r} has not {low} to {high} characters"
