"""What every change of a function asks and notes: does it exist, is the caller's revision the latest, when was it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from snapruntime.mechanisms.functions.database import Tables
from snapruntime.values.function import FunctionSettings, FunctionVersion, function_arn
from snapruntime.values.service_errors import PreconditionFailedException, ResourceNotFoundException


def new_revision() -> str:
    """A revision's identifier."""
    return str(uuid.uuid4())


def now() -> str:
    """The time as the API has it in LastModified: "2026-11-24T11:23:58.123+0000"."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


def check_revision(latest: str, given: str | None) -> None:
    """Raises PreconditionFailedException where the caller gives a revision that is not the latest."""
    if given is not None and given != latest:
        raise PreconditionFailedException(
            "The Revision Id provided does not match the latest Revision Id. "
            "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
        )


def existing(tables: Tables, name: str, version: str, *, shown: str | None = None) -> FunctionVersion:
    """A version that must exist; `shown` is the ARN that the error names."""
    found = tables.version(name, version)
    if found is None:
        raise not_found(shown or function_arn(name, version))
    return found


def settings_of(tables: Tables, name: str) -> FunctionSettings:
    """The settings of a function that must exist."""
    settings = tables.settings(name)
    if settings is None:
        raise not_found(function_arn(name))
    return settings


def not_found(arn: str) -> ResourceNotFoundException:
    """The error for a function, version or alias that does not exist."""
    return ResourceNotFoundException(f"Function not found: {arn}")
