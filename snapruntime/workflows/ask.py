"""An invocation as a worker is asked for it."""

from __future__ import annotations

import base64
import json
import math
import time
import uuid
from collections.abc import Mapping
from typing import Any

from snapruntime.mechanisms.channel import Channel
from snapruntime.values.errors import UsageError
from snapruntime.values.model import CLIENT_CONTEXT_LIMIT, PAYLOAD_LIMIT, Function
from snapruntime.worker import wire

#: The largest event that goes along with a hand-over, bytes: a socket takes both without waiting.
_AT_ONCE = 32 << 10


class Ask:
    """One event for the handler. It is sent once.

    Args:
        event: bytes of JSON, or anything that `json.dumps` takes.
        request_id: a new UUID by default.
        client_context: the mobile SDKs' context object.
        arn: what it was invoked as; the function's own ARN by default.

    Attributes:
        sent: `time.monotonic()` of the moment before it was; 0.0 before.
        deadline: until which the handler may take.
        small: whether it may go along with a hand-over.

    Raises:
        UsageError: the event or the client context is no JSON, or too large.
    """

    def __init__(
        self,
        function: Function,
        event: Any,
        *,
        request_id: str | None = None,
        client_context: Mapping[str, Any] | None = None,
        arn: str | None = None,
    ) -> None:
        self.request_id = request_id or str(uuid.uuid4())
        self.sent = self.deadline = 0.0
        self._timeout_s = function.timeout_s
        self._body = encode_event(event)
        self._header: dict[str, Any] = {
            "type": "invoke",
            "request_id": self.request_id,
            "invoked_function_arn": arn or function.arn,
        }
        if client_context is not None:
            self._header["client_context"] = _encode_client_context(client_context)
        self.small = len(self._body) <= _AT_ONCE

    def send(self, channel: Channel) -> None:
        """Ask. Raises what `Channel.send` does, and TimeoutError by the function's own limit."""
        frame = self.begin()
        channel.send(frame, deadline=self.deadline)

    def begin(self) -> wire.Frame:
        """The message that asks: the function's time runs from now on."""
        self.sent = time.monotonic()
        self.deadline = self.sent + self._timeout_s
        self._header["deadline_ms"] = int((time.time() + self._timeout_s) * 1000)
        return self._header, self._body

    def hooks_took(self, seconds: float) -> None:
        """It went along with a hand-over, and there were hooks after all: their time is not the handler's."""
        seconds = min(seconds, time.monotonic() - self.sent)  # The function says it, and gets no more than that.
        self.sent += seconds
        self.deadline += seconds


def encode_event(event: Any) -> bytes:
    """An event as the bytes of its JSON.

    Raises:
        UsageError: it is no JSON, or over Lambda's limit.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is none of its numbers")

    def finite(text: str) -> float:
        if math.isinf(number := float(text)):  # The function could not write it as JSON again.
            raise ValueError(f"{text} is larger than any of its numbers can be")
        return number

    try:
        body = event if isinstance(event, bytes) else json.dumps(event, allow_nan=False).encode()
        json.loads(body, parse_constant=refuse, parse_float=finite)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"The event is not JSON: {error}") from error
    if len(body) > PAYLOAD_LIMIT:
        raise UsageError(
            f"The event has {len(body)} bytes; Lambda takes {PAYLOAD_LIMIT} at most.",
            hint="Put the data where the function can fetch it, and send its name.",
        )
    return body


def _encode_client_context(context: Mapping[str, Any]) -> str:
    """A client context as JSON text.

    Raises:
        UsageError: it is no JSON, or over Lambda's limit.
    """
    try:
        text = json.dumps(context, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"The client context is not JSON: {error}") from error
    if len(base64.b64encode(text.encode())) > CLIENT_CONTEXT_LIMIT:
        raise UsageError(
            f"The client context is too long; Lambda takes {CLIENT_CONTEXT_LIMIT} bytes of base64 at most."
        )
    return text
