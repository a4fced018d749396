"""Event and response as JSON, byte for byte what Lambda's Python runtime (3.12 and newer) makes of them."""

from __future__ import annotations

import json
import os

from . import wire
from .handler import Fault

RESPONSE_LIMIT = 6291556  # bytes
_LEAVES = frozenset((str, int, float, bool, type(None)))
_encode = json.JSONEncoder(ensure_ascii=False).encode


def decode_event(body: bytes) -> wire.Json:
    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(str(body, "utf-8").removeprefix("\ufeff"), parse_constant=no_constant)
    except Exception as e:
        raise Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {e}") from e


def encode_response(value: wire.Json) -> tuple[bytes, str]:
    """Body and content type. Fault Runtime.MarshalError where the value cannot be written as JSON."""
    if isinstance(value, bytes):
        return value, "application/unknown"
    try:
        return to_json(value).encode(), "application/json"
    except Exception as e:
        raise Fault("Runtime.MarshalError", f"Unable to marshal response: {e}") from e


def to_json(value: wire.Json) -> str:
    """Lambda writes with simplejson; beside what json can: Decimal is a number, bytes are text, _asdict() an object."""
    mark = os.urandom(
        12
    ).hex()  # json has no way to write a number of our own: write a marked string, take off the marks
    try:
        text = _encode(_simple(value, mark))
    except RecursionError:
        return _encode(value)  # says whether it is circular or only deep
    return text.replace(f'"{mark}', "").replace(f'{mark}"', "")


def _simple(node: wire.Json, mark: str) -> wire.Json:
    """The same in types that json writes as simplejson does; containers of plain leaves pass at the speed of C."""
    if type(node) in _LEAVES:
        return node
    if isinstance(node, bytes):
        return str(node, "utf-8")
    if type(node).__module__ == "decimal" and type(node).__name__ == "Decimal":
        return f"{mark}{'NaN' if node.is_nan() else node}{mark}"
    if callable(getattr(node, "_asdict", None)) and not isinstance(node, type):
        node = node._asdict()
        if not isinstance(node, dict):
            raise TypeError(f"_asdict() must return a dict, not {type(node).__name__}")
    if isinstance(node, dict):
        if _LEAVES.issuperset(map(type, node)) and _LEAVES.issuperset(map(type, node.values())):
            return node
        return {str(k, "utf-8") if isinstance(k, bytes) else k: _simple(v, mark) for k, v in node.items()}
    if isinstance(node, (list, tuple)) and not _LEAVES.issuperset(map(type, node)):
        return [_simple(child, mark) for child in node]
    return node
