"""Which function a call is about, and which page of a list it wants."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from snapruntime.edges.serve.exchange import Call, Reply, reply_json
from snapruntime.values.function import LATEST, function_arn
from snapruntime.values.reference import Reference, parse_reference
from snapruntime.values.service_errors import (
    InvalidParameterValueException,
    ResourceNotFoundException,
    ValidationException,
)

#: AWS's pages have 50 entries, whatever more is asked for.
_PAGE = 50
_ALIAS_OF_URL = re.compile(r"(?!^\d+$)^[0-9a-zA-Z-_]+$")


def reference_of(call: Call) -> Reference:
    """The function and the qualifier."""
    return parse_reference(call.path["FunctionName"], call.query.get("Qualifier"), action=call.action)


def latest_of(call: Call) -> str:
    """The function of a call about `$LATEST`, or all of its versions."""
    reference = reference_of(call)
    if reference.qualifier not in (None, LATEST):
        raise ResourceNotFoundException(f"Function not found: {function_arn(reference.name, reference.qualifier)}")
    return reference.name


def function_of(call: Call) -> str:
    """The function of a call that takes no qualifier."""
    return unqualified(call, call.path["FunctionName"])


def unqualified(call: Call, text: str) -> str:
    """A function that is named without qualifier."""
    reference = parse_reference(text, action=call.action)
    if reference.qualifier is not None:
        raise InvalidParameterValueException(
            "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
            "Please specify either a function name or an unqualified function ARN."
        )
    return reference.name


def url_of(call: Call) -> tuple[str, str | None]:
    """The function and the alias that a call about a function URL names: a version has no URL."""
    reference = reference_of(call)
    if reference.qualifier is not None and not _ALIAS_OF_URL.fullmatch(reference.qualifier):
        raise ValidationException(
            "qualifier",
            reference.qualifier,
            f"Member must satisfy regular expression pattern: ({_ALIAS_OF_URL.pattern})",
        )
    return reference.name, reference.qualifier


def page(call: Call, shapes: list[dict[str, Any]], name: str, order: Callable[[dict[str, Any]], str]) -> Reply:
    """One page of a list, and where the next begins.

    The marker is the key of the last entry: what comes or goes meanwhile neither repeats nor hides another.

    Args:
        name: what the answer calls the list.
        order: the key of an entry.
    """
    given = call.query.get("MaxItems") or str(_PAGE)
    # Python reads no number of more than 4300 digits.
    number = int(given[:100]) if given.isdecimal() else 0
    if not 1 <= number <= 10000:
        bound = "less than or equal to 10000" if number else "greater than or equal to 1"
        raise ValidationException("maxItems", given, f"Member must have value {bound}")
    marker = call.query.get("Marker") or ""
    rest = sorted((shape for shape in shapes if order(shape) > marker), key=order)
    shown = rest[: min(number, _PAGE)]
    answer: dict[str, Any] = {name: shown}
    if len(rest) > len(shown):
        answer["NextMarker"] = order(shown[-1])
    return reply_json(answer)


def version_key(shape: dict[str, Any]) -> str:
    """The order of versions: by name, then `$LATEST`, then by number."""
    number = 0 if shape["Version"] == LATEST else int(shape["Version"])
    return f"{shape['FunctionName']} {number:09}"  # A space comes before all that names have.
