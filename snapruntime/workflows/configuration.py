"""What a function may be configured as: from the API's words to ours, and what of it cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from snapruntime.mechanisms.interpreter import inspect
from snapruntime.values.errors import UsageError
from snapruntime.values.function import (
    DESCRIPTION_LIMIT,
    ENVIRONMENT_LIMIT,
    HANDLER_LIMIT,
    MAX_TIMEOUT_S,
    MEMORY_MB,
    FunctionConfiguration,
    FunctionSettings,
)
from snapruntime.values.service_errors import InvalidParameterValueException, ValidationException
from snapruntime.workflows.environment import RESERVED, check_environment

#: The service model's EnvironmentVariableName.
_VARIABLE = re.compile(r"[a-zA-Z]([a-zA-Z0-9_])+")


def runtime_of(python: str) -> str:
    """What the API calls an interpreter: "python3.11".

    Raises:
        UsageError: it is none, or too old.
    """
    major, minor, _ = inspect(python).version
    return f"python{major}.{minor}"


def check_configuration(configuration: FunctionConfiguration) -> None:
    """Look whether a function can be configured so.

    Raises:
        ValidationException: a value is not of the form, or not within the limits, that the API gives.
        InvalidParameterValueException: it is, and cannot be nevertheless.
    """
    low, high = MEMORY_MB
    handler = configuration.handler
    if not handler or re.search(r"\s", handler):
        raise ValidationException("handler", handler, r"Member must satisfy regular expression pattern: [^\s]+")
    if len(handler) > HANDLER_LIMIT:
        raise ValidationException("handler", handler, f"Member must have length less than or equal to {HANDLER_LIMIT}")
    _check_number("timeout", configuration.timeout_s, 1, MAX_TIMEOUT_S)
    _check_number("memorySize", configuration.memory_mb, low, high)
    if len(configuration.description) > DESCRIPTION_LIMIT:
        limit = f"Member must have length less than or equal to {DESCRIPTION_LIMIT}"
        raise ValidationException("description", configuration.description, limit)
    _check_variables(configuration.environment)


def _check_variables(environment: Mapping[str, str]) -> None:
    for name in environment:
        if _VARIABLE.fullmatch(name) is None:
            raise ValidationException(
                "environment.variables", name, f"Map keys must satisfy constraint: {_VARIABLE.pattern}"
            )
    refused = "Lambda was unable to configure your environment variables because the environment variables you have"
    if reserved := sorted(RESERVED & environment.keys()):
        raise InvalidParameterValueException(
            f"{refused} provided contains reserved keys that are currently not supported for modification. "
            f"Reserved keys used in this request: {', '.join(reserved)}"
        )
    measured = json.dumps(dict(environment), separators=(",", ":"), ensure_ascii=False)
    if len(measured.encode("utf-8", "surrogatepass")) > ENVIRONMENT_LIMIT:
        raise InvalidParameterValueException(f"{refused} provided exceeded the 4KB limit. String measured: {measured}")
    try:
        check_environment(dict(environment))
    except UsageError as error:
        raise InvalidParameterValueException(error.message) from error


def check_settings(settings: FunctionSettings) -> None:
    """The same for what belongs to a function as a whole."""
    if settings.reserved_concurrency is not None:
        _check_number("reservedConcurrentExecutions", settings.reserved_concurrency, 0, None)
    _check_number("maximumRetryAttempts", settings.maximum_retries, 0, 2)
    _check_number("maximumEventAgeInSeconds", settings.maximum_event_age_s, 60, 21600)


def _check_number(field: str, value: int, low: int, high: int | None) -> None:
    if value < low:
        raise ValidationException(field, value, f"Member must have value greater than or equal to {low}")
    if high is not None and value > high:
        raise ValidationException(field, value, f"Member must have value less than or equal to {high}")
