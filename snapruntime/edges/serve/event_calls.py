"""The calls about how a function's events are tried again."""

from __future__ import annotations

from typing import Any

from snapruntime.edges.serve.exchange import Call, Reply, reply_json
from snapruntime.edges.serve.fields import Fields
from snapruntime.edges.serve.naming import function_of, page, reference_of
from snapruntime.values.function import LATEST, FunctionSettings, function_arn
from snapruntime.values.service_errors import InvalidParameterValueException
from snapruntime.workflows.event_settings import EventSettings
from snapruntime.workflows.functions import Functions


class EventCalls:
    """Answers them. May be used from several threads."""

    def __init__(self, functions: Functions) -> None:
        self._settings = EventSettings(functions)

    def put(self, call: Call) -> Reply:
        """PutFunctionEventInvokeConfig."""
        name, request = _named(call), Fields.parse(call.body)
        retries, age_s = _wanted(request)
        if retries is None and age_s is None and request.fields("DestinationConfig") is None:
            raise InvalidParameterValueException(
                "You must specify at least one of error handling or destination setting."
            )
        return reply_json(_shape(name, self._settings.put(name, retries, age_s)))

    def update(self, call: Call) -> Reply:
        """UpdateFunctionEventInvokeConfig."""
        name = _named(call)
        return reply_json(_shape(name, self._settings.update(name, *_wanted(Fields.parse(call.body)))))

    def get(self, call: Call) -> Reply:
        """GetFunctionEventInvokeConfig."""
        name = _named(call)
        return reply_json(_shape(name, self._settings.get(name)))

    def delete(self, call: Call) -> Reply:
        """DeleteFunctionEventInvokeConfig."""
        self._settings.delete(_named(call))
        return Reply(204, content_type="")

    def list(self, call: Call) -> Reply:
        """ListFunctionEventInvokeConfigs."""
        name = function_of(call)
        found = [_shape(name, settings) for settings in self._settings.all(name)]
        return page(call, found, "FunctionEventInvokeConfigs", lambda shape: str(shape["FunctionArn"]))


def _named(call: Call) -> str:
    reference = reference_of(call)
    if reference.qualifier not in (None, LATEST):
        raise InvalidParameterValueException(
            f"The EventInvokeConfig of a version or an alias ({reference.qualifier}) is not supported by snapruntime.",
            hint="That of the function, without Qualifier, holds for all of its versions and aliases.",
        )
    return reference.name


def _wanted(request: Fields) -> tuple[int | None, int | None]:
    request.refuse(["DestinationConfig"])
    return request.integer("MaximumRetryAttempts"), request.integer("MaximumEventAgeInSeconds")


def _shape(name: str, settings: FunctionSettings) -> dict[str, Any]:
    return {
        "LastModified": settings.events_modified,
        "FunctionArn": function_arn(name, LATEST),
        "MaximumRetryAttempts": settings.maximum_retries,
        "MaximumEventAgeInSeconds": settings.maximum_event_age_s,
        "DestinationConfig": {"OnSuccess": {}, "OnFailure": {}},
    }
