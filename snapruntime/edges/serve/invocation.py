"""Invoke and InvokeWithResponseStream: from the request to the host of functions, and its answer as the API has it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from snapruntime.edges.serve import eventstream
from snapruntime.edges.serve.exchange import JSON, Call, Reply
from snapruntime.edges.serve.fields import not_in
from snapruntime.edges.serve.naming import reference_of
from snapruntime.values.answer import Answer
from snapruntime.values.model import CLIENT_CONTEXT_LIMIT, PAYLOAD_LIMIT
from snapruntime.values.reference import Reference
from snapruntime.values.service_errors import (
    InvalidParameterValueException,
    InvalidRequestContentException,
    RequestTooLargeException,
    UnsupportedMediaTypeException,
)
from snapruntime.workflows.host import FunctionHost

#: The largest event of an asynchronous invocation, bytes.
EVENT_LIMIT = 1 << 20
#: The number that AWS's error text has for a synchronous one; what it takes is a little more (PAYLOAD_LIMIT).
_SAID_LIMIT = 6 << 20

_INVOCATION_TYPES = ("RequestResponse", "Event", "DryRun")
_LOG_TYPES = ("None", "Tail")


class InvocationCalls:
    """The calls that run functions. Each blocks until there is an answer, and may be called from several threads."""

    def __init__(self, host: FunctionHost) -> None:
        self._host = host

    def invoke(self, call: Call) -> Reply | None:
        """Invoke. None where the reply has been told."""
        asked = _read(call, _INVOCATION_TYPES)
        if asked.kind == "DryRun":
            return self._dry_run(asked)
        if asked.kind == "Event":
            self._host.enqueue(
                asked.reference.name,
                asked.reference.qualifier,
                asked.event,
                client_context=asked.context,
                request_id=call.request_id,
            )
            return Reply(202, content_type="")

        def reply_of(answer: Answer) -> Reply:
            reply = Reply(200, answer.payload, JSON, [("X-Amz-Executed-Version", answer.executed_version)])
            if answer.function_error:
                reply.headers.append(("X-Amz-Function-Error", answer.function_error))
            if asked.tail:
                reply.headers.append(("X-Amz-Log-Result", _log_result(answer)))
            return reply

        return self._invoke(asked, call, reply_of)

    def invoke_with_response_stream(self, call: Call) -> Reply | None:
        """InvokeWithResponseStream. None where the reply has been told.

        What the handler returns is sent as one stream: Python's handlers cannot write to it piece by piece, neither
        here nor on AWS's managed runtimes.
        """
        asked = _read(call, ("RequestResponse", "DryRun"))
        if asked.kind == "DryRun":
            return self._dry_run(asked)

        def reply_of(answer: Answer) -> Reply:
            failed = answer.function_error
            error = (failed, answer.payload.decode("utf-8", "replace")) if failed else None
            stream = eventstream.answer(
                b"" if error else answer.payload, error=error, log_result=_log_result(answer) if asked.tail else None
            )
            version = ("X-Amz-Executed-Version", answer.executed_version)
            return Reply(200, stream, eventstream.CONTENT_TYPE, [version])

        return self._invoke(asked, call, reply_of)

    def _dry_run(self, asked: _Asked) -> Reply:
        """A DryRun: whether there is such a function."""
        self._host.functions.target(asked.reference.name, asked.reference.qualifier)
        return Reply(204, content_type="")

    def _invoke(self, asked: _Asked, call: Call, reply_of: Callable[[Answer], Reply]) -> Reply | None:
        invoke = partial(
            self._host.invoke,
            asked.reference.name,
            asked.reference.qualifier,
            asked.event,
            client_context=asked.context,
            request_id=call.request_id,
        )
        if asked.tail:  # The end of the log is there only at the end.
            return reply_of(invoke())
        invoke(tell=lambda answer: call.tell(reply_of(answer)))
        return None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request to run a function asks for.

    Attributes:
        kind: its invocation type.
        tail: whether it wants the end of the log.
        context: the client context, as JSON text.
    """

    kind: str
    tail: bool
    reference: Reference
    event: bytes
    context: str | None


def _read(call: Call, kinds: tuple[str, ...]) -> _Asked:
    """Both calls read it alike, and refuse in this order."""
    kind = _one_of(call, "x-amz-invocation-type", "InvocationType", kinds)
    tail = _one_of(call, "x-amz-log-type", "LogType", _LOG_TYPES) == "Tail"
    reference = _reference(call)
    _check_type(call)
    return _Asked(kind, tail, reference, read_event(call.body), read_client_context(call))


def payload_limit(headers: Mapping[str, str]) -> int:
    """How large the body of an Invoke may be, bytes, by the request's headers."""
    return EVENT_LIMIT if headers.get("x-amz-invocation-type") == "Event" else PAYLOAD_LIMIT


def too_large(limit: int) -> RequestTooLargeException:
    """The error for a larger one."""
    said = _SAID_LIMIT if limit == PAYLOAD_LIMIT else limit
    return RequestTooLargeException(f"Request must be smaller than {said} bytes for the InvokeFunction operation")


def read_event(body: bytes) -> bytes:
    """The event; an empty body stands for an empty object, as on AWS.

    Raises:
        InvalidRequestContentException: it is no JSON.
    """

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    if not body:
        return b"{}"
    try:
        json.loads(body, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestContentException(
            f"Could not parse request body into json: Could not parse payload into json: {error}"
        ) from error
    return body


def read_client_context(call: Call) -> str | None:
    """The client context as JSON text.

    Raises:
        InvalidRequestContentException: it is no base64 of a JSON object, or too long.
    """
    given = call.headers.get("x-amz-client-context")
    if not given:
        return None
    if len(given) > CLIENT_CONTEXT_LIMIT:
        raise InvalidRequestContentException(
            f"Client context must be no more than {CLIENT_CONTEXT_LIMIT} bytes when base64-encoded."
        )
    try:
        text = base64.b64decode(given, validate=True).decode()
        valid = isinstance(json.loads(text), dict)
    except (binascii.Error, ValueError, RecursionError):
        valid = False
    if not valid:
        raise InvalidRequestContentException("Client context must be a valid Base64-encoded JSON object.")
    return text


def _one_of(call: Call, header: str, name: str, choices: tuple[str, ...]) -> str:
    value = call.headers.get(header) or choices[0]
    if value not in choices:
        raise not_in(name, value, choices)
    return value


def _reference(call: Call) -> Reference:
    reference = reference_of(call)
    if call.headers.get("x-amz-tenant-id"):
        raise InvalidParameterValueException("TenantId is not supported by snapruntime.")
    return reference


def _check_type(call: Call) -> None:
    """Clients name no type, JSON, or unspecified bytes; what says that it is something else is no event."""
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and "json" not in kind and not kind.endswith("/octet-stream"):
        raise UnsupportedMediaTypeException(
            f"The content type of the Invoke request body is not JSON: {kind[:100]}",
            hint="Leave Content-Type out, or say application/json.",
        )


def _log_result(answer: Answer) -> str:
    return base64.b64encode(answer.log_tail).decode()
