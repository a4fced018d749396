"""How a function's events are tried again: configured, changed, found. Messages are AWS's own.

The settings are the function's, whatever qualifier an event was sent to.
"""

from __future__ import annotations

import time
from dataclasses import replace

from snapruntime.mechanisms.functions.database import Tables
from snapruntime.values.function import LATEST, FunctionSettings, function_arn
from snapruntime.values.service_errors import ResourceNotFoundException
from snapruntime.workflows.configuration import check_settings
from snapruntime.workflows.functions import Functions

_DEFAULTS = FunctionSettings()


class EventSettings:
    """The event settings of all functions. Thread-safe. Every method may raise ServiceException where the disk refuses.

    Raises:
        ResourceNotFoundException: there is no such function; but for `put`, also where its events were not configured.
        ValidationException: a number is beyond its limits.
    """

    def __init__(self, functions: Functions) -> None:
        self._database = functions.database

    def get(self, name: str) -> FunctionSettings:
        with self._database.reading() as tables:
            return _configured(tables, name)

    def all(self, name: str) -> list[FunctionSettings]:
        """None or one."""
        with self._database.reading() as tables:
            settings = _existing(tables, name)
        return [] if settings.events_modified is None else [settings]

    def put(self, name: str, retries: int | None, age_s: int | None) -> FunctionSettings:
        """Configure them; what is None becomes the default."""
        with self._database.changing() as tables:
            cleared = _cleared(_existing(tables, name))
            return _change(tables, name, cleared, retries, age_s)

    def update(self, name: str, retries: int | None, age_s: int | None) -> FunctionSettings:
        """Change what is given."""
        with self._database.changing() as tables:
            return _change(tables, name, _configured(tables, name), retries, age_s)

    def delete(self, name: str) -> None:
        """Back to the defaults."""
        with self._database.changing() as tables:
            tables.put_function(name, _cleared(_configured(tables, name)))


def _change(
    tables: Tables, name: str, settings: FunctionSettings, retries: int | None, age_s: int | None
) -> FunctionSettings:
    changed = replace(
        settings,
        maximum_retries=settings.maximum_retries if retries is None else retries,
        maximum_event_age_s=settings.maximum_event_age_s if age_s is None else age_s,
        events_modified=round(time.time(), 3),
    )
    check_settings(changed)
    tables.put_function(name, changed)
    return changed


def _cleared(settings: FunctionSettings) -> FunctionSettings:
    return replace(
        settings,
        maximum_retries=_DEFAULTS.maximum_retries,
        maximum_event_age_s=_DEFAULTS.maximum_event_age_s,
        events_modified=None,
    )


def _existing(tables: Tables, name: str) -> FunctionSettings:
    settings = tables.settings(name)
    if settings is None:
        raise ResourceNotFoundException("The function doesn't exist.")
    return settings


def _configured(tables: Tables, name: str) -> FunctionSettings:
    settings = tables.settings(name)
    if settings is None or settings.events_modified is None:
        arn = function_arn(name, LATEST)
        raise ResourceNotFoundException(f"The function {arn} doesn't have an EventInvokeConfig")
    return settings
