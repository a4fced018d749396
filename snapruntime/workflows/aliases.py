"""Aliases: names for a version, or for two of them by weight. Messages are AWS's own, as LocalStack recorded them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from snapruntime.mechanisms.functions.database import Tables
from snapruntime.values.function import DESCRIPTION_LIMIT, LATEST, Alias, function_arn, is_number
from snapruntime.values.reference import check_alias_name
from snapruntime.values.service_errors import (
    InvalidParameterValueException,
    ResourceConflictException,
    ResourceNotFoundException,
    ValidationException,
)
from snapruntime.workflows.revisions import check_revision, existing, new_revision


def existing_alias(tables: Tables, function: str, name: str) -> Alias:
    """An alias that must exist."""
    found = tables.alias(function, name)
    if found is None:
        existing(tables, function, LATEST, shown=function_arn(function))
        raise ResourceNotFoundException(f"Cannot find alias arn: {function_arn(function, name)}")
    return found


def create(tables: Tables, alias: Alias) -> Alias:
    """Add an alias.

    Raises:
        ResourceConflictException: there is one of that name.
        ValidationException, InvalidParameterValueException: it cannot be like that.
        ResourceNotFoundException: a version that it names does not exist.
    """
    check_alias_name(alias.name)
    _check(tables, alias)
    if tables.alias(alias.function, alias.name) is not None:
        raise ResourceConflictException(f"Alias already exists: {alias.arn}")
    tables.put_alias(alias)
    return alias


def update(
    tables: Tables,
    function: str,
    name: str,
    version: str | None,
    description: str | None,
    weights: Mapping[str, float] | None,
    revision_id: str | None,
) -> Alias:
    """Change what is not None. Raises as `create` does, and PreconditionFailedException for an old revision."""
    old = tables.alias(function, name)
    if old is None:
        existing(tables, function, LATEST, shown=function_arn(function))
        raise ResourceNotFoundException(f"Alias not found: {function_arn(function, name)}")
    check_revision(old.revision_id, revision_id)
    changes = {"version": version, "description": description, "weights": weights, "revision_id": new_revision()}
    given = {field: value for field, value in changes.items() if value is not None}
    alias = dataclasses.replace(old, **given)  # type: ignore[arg-type]
    _check(tables, alias)
    tables.put_alias(alias)
    return alias


def _check(tables: Tables, alias: Alias) -> None:
    if len(alias.description) > DESCRIPTION_LIMIT:
        raise ValidationException(
            "description", alias.description, f"Member must have length less than or equal to {DESCRIPTION_LIMIT}"
        )
    if not (alias.version == LATEST or is_number(alias.version)):
        raise ValidationException(
            "functionVersion",
            alias.version,
            r"Member must satisfy regular expression pattern: (\$LATEST(\.PUBLISHED)?|[0-9]+)",
        )
    _check_weights(alias)
    for version in alias.versions:
        existing(tables, alias.function, version)


def _check_weights(alias: Alias) -> None:
    weights = alias.weights
    shown = "{" + ", ".join(f"{version}={weight}" for version, weight in weights.items()) + "}"
    if any(not is_number(version) for version in weights):
        raise _broken_weights(
            shown,
            "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, Member must have "
            "length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+]",
        )
    if any(not 0 <= weight <= 1 for weight in weights.values()):
        raise _broken_weights(
            shown,
            "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have "
            "value greater than or equal to 0.0, Member must not be null]",
        )
    if len(weights) > 1:
        raise InvalidParameterValueException("Number of items in AdditionalVersionWeights cannot be greater than 1")
    if weights and alias.version == LATEST:
        raise InvalidParameterValueException("$LATEST is not supported for an alias pointing to more than 1 version")
    if alias.version in weights:
        raise InvalidParameterValueException(
            f"Invalid function version {alias.version}. Function version {alias.version} is already included in "
            "routing configuration."
        )


def _broken_weights(shown: str, constraint: str) -> ValidationException:
    return ValidationException("routingConfig.additionalVersionWeights", shown, constraint)
