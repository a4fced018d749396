"""Tags of functions: for people and programs; nothing follows from them here. Messages are AWS's own."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from snapruntime.values.service_errors import InvalidParameterValueException, ValidationException
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.revisions import settings_of

#: Tags of one function, and the characters of a key and of a value (the service model's TagKey and TagValue).
_MOST, _KEY, _VALUE = 50, 128, 256


def check_tags(tags: Mapping[str, str]) -> None:
    """Look whether a function can have these tags.

    Raises:
        ValidationException: one is not of the form, or not within the limits, that the API gives.
        InvalidParameterValueException: they are too many, or one is of those that AWS keeps to itself.
    """
    for key, value in tags.items():
        if key.lower().startswith("aws:"):
            raise InvalidParameterValueException("aws: prefixed tag key names are not allowed for external use.")
        if not 1 <= len(key) <= _KEY or not all(map(_allowed, key)):
            raise ValidationException("tags", key, f"Map keys must have from 1 to {_KEY} letters, digits or _.:/=+-@")
        if len(value) > _VALUE or not all(map(_allowed, value)):
            raise ValidationException("tags", value, f"Map values must have up to {_VALUE} letters, digits or _.:/=+-@")
    if len(tags) > _MOST:
        raise InvalidParameterValueException("Number of tags exceeds resource tag limit.")


def _allowed(character: str) -> bool:
    return character in "_.:/=+-@" or unicodedata.category(character)[0] in "LNZ"


def tag(functions: Functions, name: str, tags: Mapping[str, str]) -> None:
    """Add tags, or change those of the same keys. Raises ResourceNotFoundException, and what `check_tags` does."""
    _change(functions, name, lambda old: {**old, **tags})


def untag(functions: Functions, name: str, keys: Iterable[str]) -> None:
    """Take tags away; one that is not there is no error. Raises ResourceNotFoundException."""
    gone = set(keys)
    _change(functions, name, lambda old: {key: value for key, value in old.items() if key not in gone})


def _change(functions: Functions, name: str, change: Callable[[Mapping[str, str]], dict[str, str]]) -> None:
    with functions.database.changing() as tables:
        settings = settings_of(tables, name)
        tags = change(settings.tags)
        check_tags(tags)
        tables.put_function(name, replace(settings, tags=tags))
