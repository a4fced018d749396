"""Reading of the control plane's JSON: the right types or the API's own error."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from snapruntime.values.service_errors import (
    InvalidParameterValueException,
    InvalidRequestContentException,
    ValidationException,
)

_E = TypeVar("_E", bound=StrEnum)


class Fields:
    """The members of a JSON object; what was left out, or is null, reads as None.

    Every method raises InvalidRequestContentException where a member has another type than is asked for.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    @classmethod
    def parse(cls, body: bytes) -> Fields:
        """Those of a request's body; an empty body has none."""
        try:
            document = json.loads(body) if body else {}
        except (ValueError, RecursionError) as error:
            raise InvalidRequestContentException(f"Could not parse request body into json: {error}") from error
        if not isinstance(document, dict):
            raise InvalidRequestContentException("Could not parse request body into json: it is no object.")
        return cls(document)

    def _get(self, name: str, kind: type | tuple[type, ...], what: str) -> Any:
        value = self._document.get(name)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise InvalidRequestContentException(f"Could not parse request body into json: {name} has to be {what}.")
        return value

    def text(self, name: str) -> str | None:
        value: str | None = self._get(name, str, "a string")
        # Half a surrogate pair, which JSON can have, cannot be stored; a path or an argument cannot hold a NUL.
        if value is not None and ("\0" in value or any("\ud800" <= character <= "\udfff" for character in value)):
            raise InvalidRequestContentException(f"Could not parse request body into json: {name} has to be text.")
        return value

    def required_text(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise missing(name)
        return value

    def choice(self, name: str, kind: type[_E], *, within: str = "") -> _E | None:
        """One of the names that the API has for it."""
        value = self.text(name)
        if value is not None and value not in tuple(kind):
            raise not_in(within + camel(name), value, kind)
        return None if value is None else kind(value)

    def integer(self, name: str) -> int | None:
        value: int | None = self._get(name, int, "a whole number")
        return value

    def flag(self, name: str) -> bool | None:
        value: bool | None = self._get(name, bool, "true or false")
        return value

    def fields(self, name: str) -> Fields | None:
        value = self._get(name, dict, "an object")
        return None if value is None else Fields(value)

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of strings."""
        value = self._get(name, list, "a list of strings")
        if value is not None and not all(isinstance(item, str) for item in value):
            raise InvalidRequestContentException(
                f"Could not parse request body into json: {name} has to be a list of strings."
            )
        return None if value is None else tuple(value)

    def strings(self, name: str) -> dict[str, str] | None:
        """An object whose members are strings."""
        value: dict[str, str] | None = self._get(name, dict, "an object of strings")
        if value is not None and not all(isinstance(item, str) for item in value.values()):
            raise InvalidRequestContentException(
                f"Could not parse request body into json: {name} has to be an object of strings."
            )
        return value

    def weights(self, name: str) -> dict[str, float] | None:
        """An object whose members are numbers."""
        value: dict[str, float] | None = self._get(name, dict, "an object of numbers")
        for item in (value or {}).values():
            if isinstance(item, bool) or not isinstance(item, int | float):
                raise InvalidRequestContentException(
                    f"Could not parse request body into json: {name} has to be an object of numbers."
                )
        return value

    def blob(self, name: str) -> bytes | None:
        """Bytes, which JSON carries as base64."""
        value = self.text(name)
        try:
            return None if value is None else base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequestContentException(
                f"Could not parse request body into json: {name} is not base64: {error}"
            ) from error

    def refuse(self, names: Iterable[str]) -> None:
        """Refuse what would change how a function runs and is not to be had here: better than to pass it over."""
        for name in names:
            if not _empty(self._document.get(name)):
                raise InvalidParameterValueException(f"{name} is not supported by snapruntime.")


def _empty(value: object) -> bool:
    """Whether it asks for nothing: clients say `VpcConfig={"SubnetIds": [], "SecurityGroupIds": []}` for "no VPC"."""
    return not value or (isinstance(value, dict) and all(map(_empty, value.values())))


def camel(name: str) -> str:
    """A member's name as the API's validation errors write it."""
    return name[:1].lower() + name[1:]


def missing(name: str) -> ValidationException:
    return ValidationException(camel(name), None, "Member must not be null")


def not_in(name: str, value: str, choices: Iterable[str]) -> ValidationException:
    return ValidationException(camel(name), value, f"Member must satisfy enum value set: [{', '.join(choices)}]")
