"""Aliases as the API has them, and what names stand for; messages as LocalStack's tests recorded them from AWS."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from functions.conftest import ARN, code, configured, publish_several
from snapruntime.values.service_errors import (
    InvalidParameterValueException,
    PreconditionFailedException,
    ResourceConflictException,
    ResourceNotFoundException,
    ServiceError,
    ValidationException,
)
from snapruntime.workflows.functions import Functions


def test_numbers_that_are_written_otherwise_are_no_versions(functions: Functions) -> None:
    """ "0" is how the database calls $LATEST: to delete it left a function that nobody could read, list or delete."""
    assert functions.publish("f").version == "1"
    functions.create_alias("f", "live", "1")
    functions.delete("f", "0")
    functions.delete("f", "01")
    assert [version.version for version in functions.versions("f")] == ["$LATEST", "1"]
    assert functions.target("f", "live").version.version == "1"
    with pytest.raises(ResourceNotFoundException):
        functions.target("f", "01")


def test_aliases_go_with_their_function(functions: Functions) -> None:
    publish_several(functions, 1)
    functions.create_alias("f", "live", "1")
    functions.delete("f")
    functions.create("f", configured(), code(1))
    assert functions.aliases("f") == []


def test_an_alias_is_followed(functions: Functions) -> None:
    publish_several(functions, 2)
    alias = functions.create_alias("f", "live", "1", description="what users get")
    assert alias == functions.alias("f", "live")
    assert alias.arn == f"{ARN}:f:live"
    target = functions.target("f", "live")
    assert target.version.version == "1"
    assert target.invoked_arn == f"{ARN}:f:live", "the alias, as on AWS"
    assert functions.version("f", "live").version == "1"
    updated = functions.update_alias("f", "live", version="2")
    assert (updated.version, updated.description) == ("2", "what users get")
    assert updated.revision_id != alias.revision_id
    assert functions.target("f", "live").version.version == "2"
    with pytest.raises(PreconditionFailedException):
        functions.update_alias("f", "live", version="1", revision_id=alias.revision_id)
    assert functions.create_alias("f", "latest", "$LATEST").version == "$LATEST"
    assert functions.target("f", "latest").version.version == "$LATEST"
    assert [one.name for one in functions.aliases("f")] == ["latest", "live"]
    assert [one.name for one in functions.aliases("f", "2")] == ["live"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("2024", "1", None), ValidationException, "Value '2024' at 'name' failed to satisfy constraint: Member must"),
        (("a" * 129, "1", None), InvalidParameterValueException, "less than or equal to 128"),
        (("live", "x", None), ValidationException, "'functionVersion' failed"),
        (
            ("live", "1", {"2": 0.5, "3": 0.5}),
            InvalidParameterValueException,
            "Number of items in AdditionalVersionWeights cannot be greater than 1",
        ),
        (
            ("live", "1", {"2": 2.0}),
            ValidationException,
            "1 validation error detected: Value '{2=2.0}' at 'routingConfig.additionalVersionWeights' failed to "
            "satisfy constraint: Map value must satisfy constraint: [Member must have value less than or equal to 1.0, "
            "Member must have value greater than or equal to 0.0, Member must not be null]",
        ),
        (("live", "1", {"2": -1.0}), ValidationException, "{2=-1.0}"),
        (("live", "1", {"2": math.nan}), ValidationException, "{2=nan}"),
        (
            ("live", "1", {"1": 0.5}),
            InvalidParameterValueException,
            "Invalid function version 1. Function version 1 is already included in routing configuration.",
        ),
        (
            ("live", "$LATEST", {"1": 0.5}),
            InvalidParameterValueException,
            "$LATEST is not supported for an alias pointing to more than 1 version",
        ),
        (
            ("live", "1", {"$LATEST": 0.5}),
            ValidationException,
            "Member must satisfy regular expression pattern: [0-9]+",
        ),
        (("live", "1", {"9": 0.5}), ResourceNotFoundException, f"Function not found: {ARN}:f:9"),
    ],
)
def test_aliases_that_cannot_be(
    functions: Functions, arguments: tuple[str, str, Any], kind: type[ServiceError], message: str
) -> None:
    publish_several(functions, 3)
    name, version, weights = arguments
    with pytest.raises(kind) as raised:
        functions.create_alias("f", name, version, weights=weights)
    assert message in raised.value.message
    functions.create_alias("f", "other", "1")
    if name == "live":
        with pytest.raises(kind):
            functions.update_alias("f", "other", version=version, weights=weights)
        assert functions.alias("f", "other").weights == {}


def test_aliases_by_name(functions: Functions) -> None:
    publish_several(functions, 1)
    functions.create_alias("f", "live", "1")
    with pytest.raises(ResourceConflictException) as conflict:
        functions.create_alias("f", "live", "1")
    assert conflict.value.message == f"Alias already exists: {ARN}:f:live"
    with pytest.raises(ResourceNotFoundException) as unknown:
        functions.alias("f", "other")
    assert unknown.value.message == f"Cannot find alias arn: {ARN}:f:other"
    with pytest.raises(ResourceNotFoundException) as unknown:
        functions.update_alias("f", "other", version="1")
    assert unknown.value.message == f"Alias not found: {ARN}:f:other"


@pytest.mark.parametrize("weight", [0.0, 0.01, 0.1, 0.5, 0.9, 1.0])
def test_an_alias_with_two_versions_chooses_by_weight(functions: Functions, weight: float) -> None:
    """n draws of a fixed seed; the count of a binomial distribution within four standard deviations."""
    publish_several(functions, 2)
    functions.create_alias("f", "live", "1", weights={"2": weight})
    dice, count = random.Random(20261124), 4000
    chosen = [functions.target("f", "live", chance=dice.random()).version.version for _ in range(count)]
    second = chosen.count("2")
    assert chosen.count("1") + second == count
    assert abs(second - count * weight) <= 4 * math.sqrt(count * weight * (1 - weight))
    functions.update_alias("f", "live", weights={})
    assert {functions.target("f", "live").version.version for _ in range(50)} == {"1"}


def test_what_is_answered_follows_what_others_change(functions: Functions) -> None:
    """Names are known again as long as nothing changes, be it by another process."""
    publish_several(functions, 2)
    functions.create_alias("f", "live", "1")
    with Functions(functions.home) as other:

        def seen(qualifier: str | None) -> tuple[str, str, int | None]:
            target = other.target("f", qualifier)
            assert target == other.target("f", qualifier)
            return target.version.version, target.version.revision_id, target.settings.reserved_concurrency

        assert [seen(name)[0] for name in (None, "1", "live")] == ["$LATEST", "1", "1"]
        before = seen(None)
        functions.update_code("f", code(7))
        assert seen(None) != before
        functions.update_alias("f", "live", version="2")
        assert seen("live")[0] == "2"
        functions.update_alias("f", "live", weights={"1": 0.5})
        assert {other.target("f", "live").version.version for _ in range(100)} == {"1", "2"}
        functions.update_alias("f", "live", weights={})
        assert seen("live")[0] == "2"
        functions.change_settings("f", reserved_concurrency=3)
        assert [seen(name)[2] for name in (None, "1", "live")] == [3, 3, 3]
        functions.delete_alias("f", "live")
        functions.delete("f", "1")
        for name in ("live", "1"):
            with pytest.raises(ResourceNotFoundException):
                other.target("f", name)
        other.change_settings("f", reserved_concurrency=4)
        assert seen("2")[2] == 4, "its own changes as well"


def test_chance_is_not_the_same_each_time(functions: Functions) -> None:
    publish_several(functions, 2)
    functions.create_alias("f", "live", "1", weights={"2": 0.5})
    # All of one version by chance: once in 2 ** 99.
    assert {functions.target("f", "live").version.version for _ in range(100)} == {"1", "2"}
