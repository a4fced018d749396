"""How callers name a function: its name, a partial or a full ARN, each with or without a qualifier."""

from __future__ import annotations

import re
from dataclasses import dataclass

from snapruntime.values.function import ACCOUNT, ALIAS_LIMIT, LATEST, NAME_LIMIT, REGION
from snapruntime.values.service_errors import (
    AccessDeniedException,
    InvalidParameterValueException,
    ResourceNotFoundException,
    ValidationException,
    broken_constraint,
)

#: The service model's NamespacedFunctionName, with names for the parts that matter here.
_NAME = re.compile(
    r"(arn:(?P<partition>aws[a-zA-Z-]*)?:lambda:)?"
    r"(?P<region>(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(?P<account>\d{12}:)?(function:)?"
    r"(?P<name>[a-zA-Z0-9-_]+)(:(?P<qualifier>\$LATEST|[a-zA-Z0-9-_]+))?"
)
_QUALIFIER = re.compile(r"\$LATEST|[a-zA-Z0-9-_]+")
_OURS = {"account": ACCOUNT, "region": REGION}
_ALIAS = re.compile(r"(?!^[0-9]+$)([a-zA-Z0-9-_]+)")


@dataclass(frozen=True, slots=True)
class Reference:
    """A function, and which of it.

    Attributes:
        name: the function's name.
        qualifier: a version's number, "$LATEST", or an alias; None where none was given.
    """

    name: str
    qualifier: str | None

    @property
    def effective(self) -> str:
        return self.qualifier or LATEST


def parse_reference(text: str, qualifier: str | None = None, *, action: str = "InvokeFunction") -> Reference:
    """Read what a caller wrote.

    Args:
        text: a name, partial ARN or ARN, decoded.
        qualifier: what the request says beside it.
        action: what is to be done with it, as policies name it.

    Raises:
        ValidationException: it fits no pattern.
        AccessDeniedException: it is another account's.
        ResourceNotFoundException: it is of another region or partition.
        InvalidParameterValueException: it is too long; or there are two qualifiers that differ.
    """
    found = _NAME.fullmatch(text)
    if found is None:
        raise _invalid("functionName", text, re.sub(r"\?P<\w+>", "", _NAME.pattern))
    _check_ours(found, text, action)
    name, within = found["name"], found["qualifier"]
    if len(name) > NAME_LIMIT:
        raise _too_long("functionName", name, NAME_LIMIT)
    if qualifier and _QUALIFIER.fullmatch(qualifier) is None:
        raise _invalid("qualifier", qualifier, _QUALIFIER.pattern)
    if within and qualifier and within != qualifier:
        raise InvalidParameterValueException(
            "The derived qualifier from the function name does not match the specified qualifier."
        )
    return Reference(name, qualifier or within or None)


def _check_ours(found: re.Match[str], text: str, action: str) -> None:
    """Functions of others have the same names: who names one must not get ours. In AWS's words, and in its order."""
    account, region = (found[part].rstrip(":") if found[part] else ours for part, ours in _OURS.items())
    if account != ACCOUNT:
        arn = ":".join(filter(None, ["arn:aws:lambda", region, account, "function", found["name"], found["qualifier"]]))
        raise AccessDeniedException(
            f"User: arn:aws:iam::{ACCOUNT}:root is not authorized to perform: lambda:{action} on resource: {arn} "
            f"because no resource-based policy allows the lambda:{action} action"
        )
    if region != REGION:
        raise ResourceNotFoundException(f"Functions from '{region}' are not reachable in this region ('{REGION}')")
    if found["partition"] not in (None, "aws"):
        raise ResourceNotFoundException(f"Function not found: {text}")


def check_function_name(name: str) -> None:
    """Raises what `parse_reference` does where `name` is no plain name of a function."""
    if parse_reference(name).name != name:
        raise _invalid("functionName", name, "[a-zA-Z0-9-_]+")


def check_alias_name(name: str) -> None:
    """Raises ValidationException where `name` cannot be an alias: letters, digits, - and _, not only digits."""
    if _ALIAS.fullmatch(name) is None:
        raise _invalid("name", name, _ALIAS.pattern)
    if len(name) > ALIAS_LIMIT:
        raise _too_long("name", name, ALIAS_LIMIT)


def _invalid(field: str, value: str, pattern: str) -> ValidationException:
    return ValidationException(field, value, f"Member must satisfy regular expression pattern: {pattern}")


def _too_long(field: str, value: str, limit: int) -> InvalidParameterValueException:
    # AWS does call it so, in the words of the other error (recorded by LocalStack).
    return InvalidParameterValueException(
        broken_constraint(field, value, f"Member must have length less than or equal to {limit}")
    )
