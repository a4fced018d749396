"""The calls that are served: the part of the service model (lambda/2015-03-31) that has a meaning on one host."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from snapruntime.edges.serve.api import Operation
from snapruntime.edges.serve.control import CONTROL_LIMIT, ControlCalls
from snapruntime.edges.serve.event_calls import EventCalls
from snapruntime.edges.serve.invocation import InvocationCalls, payload_limit, too_large
from snapruntime.edges.serve.settings import SettingsCalls
from snapruntime.edges.serve.tag_calls import TagCalls
from snapruntime.values.service_errors import RequestEntityTooLargeException, ServiceError

_FUNCTIONS = "/2015-03-31/functions"
_FUNCTION = f"{_FUNCTIONS}/{{FunctionName}}"
_ALIASES = f"{_FUNCTION}/aliases"
_URL = "/2021-10-31/functions/{FunctionName}/url"
_EVENTS = "/2019-09-25/functions/{FunctionName}/event-invoke-config"
_TAGS = "/2017-03-31/tags/{Resource}"
_RESERVED = "/functions/{FunctionName}/concurrency"


def operations(
    invocation: InvocationCalls, control: ControlCalls, settings: SettingsCalls, events: EventCalls, tags: TagCalls
) -> list[Operation]:
    """All of them; what is called most comes first."""
    running = [
        ("Invoke", "POST", f"{_FUNCTION}/invocations", invocation.invoke),
        (
            "InvokeWithResponseStream",
            "POST",
            "/2021-11-15/functions/{FunctionName}/response-streaming-invocations",
            invocation.invoke_with_response_stream,
        ),
    ]
    configuring = [
        ("CreateFunction", "POST", _FUNCTIONS, control.create_function),
        ("ListFunctions", "GET", _FUNCTIONS, control.list_functions),
        ("GetFunction", "GET", _FUNCTION, control.get_function),
        ("DeleteFunction", "DELETE", _FUNCTION, control.delete_function),
        ("GetFunctionConfiguration", "GET", f"{_FUNCTION}/configuration", control.get_function_configuration),
        ("UpdateFunctionConfiguration", "PUT", f"{_FUNCTION}/configuration", control.update_function_configuration),
        ("UpdateFunctionCode", "PUT", f"{_FUNCTION}/code", control.update_function_code),
        ("PublishVersion", "POST", f"{_FUNCTION}/versions", control.publish_version),
        ("ListVersionsByFunction", "GET", f"{_FUNCTION}/versions", control.list_versions_by_function),
        ("CreateAlias", "POST", _ALIASES, control.create_alias),
        ("ListAliases", "GET", _ALIASES, control.list_aliases),
        ("GetAlias", "GET", f"{_ALIASES}/{{Name}}", control.get_alias),
        ("UpdateAlias", "PUT", f"{_ALIASES}/{{Name}}", control.update_alias),
        ("DeleteAlias", "DELETE", f"{_ALIASES}/{{Name}}", control.delete_alias),
        ("PutFunctionConcurrency", "PUT", f"/2017-10-31{_RESERVED}", settings.put_function_concurrency),
        ("DeleteFunctionConcurrency", "DELETE", f"/2017-10-31{_RESERVED}", settings.delete_function_concurrency),
        ("GetFunctionConcurrency", "GET", f"/2019-09-30{_RESERVED}", settings.get_function_concurrency),
        ("CreateFunctionUrlConfig", "POST", _URL, settings.create_url),
        ("GetFunctionUrlConfig", "GET", _URL, settings.get_url),
        ("UpdateFunctionUrlConfig", "PUT", _URL, settings.update_url),
        ("DeleteFunctionUrlConfig", "DELETE", _URL, settings.delete_url),
        ("ListFunctionUrlConfigs", "GET", f"{_URL}s", settings.list_urls),
        ("PutFunctionEventInvokeConfig", "PUT", _EVENTS, events.put),
        ("UpdateFunctionEventInvokeConfig", "POST", _EVENTS, events.update),
        ("GetFunctionEventInvokeConfig", "GET", _EVENTS, events.get),
        ("DeleteFunctionEventInvokeConfig", "DELETE", _EVENTS, events.delete),
        ("ListFunctionEventInvokeConfigs", "GET", f"{_EVENTS}/list", events.list),
        ("ListTags", "GET", _TAGS, tags.list),
        ("TagResource", "POST", _TAGS, tags.tag),
        ("UntagResource", "DELETE", _TAGS, tags.untag),
        ("GetAccountSettings", "GET", "/2016-08-19/account-settings", settings.get_account_settings),
    ]
    return [
        *(Operation(*one, payload_limit, too_large, "function") for one in running),
        *(Operation(*one, _control_limit, _too_large_for(one[0])) for one in configuring),
    ]


def _control_limit(_: Mapping[str, str]) -> int:
    return CONTROL_LIMIT


def _too_large_for(name: str) -> Callable[[int], ServiceError]:
    return lambda limit: RequestEntityTooLargeException(
        f"Request must be smaller than {limit} bytes for the {name} operation"
    )
