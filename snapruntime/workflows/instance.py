"""A process that is ready for events, be it a restored copy or a cold worker: give it events, take answers."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Self

from snapruntime.mechanisms.channel import Disconnected, LogSink
from snapruntime.mechanisms.process import SpawnerError
from snapruntime.values.errors import UsageError
from snapruntime.values.model import CLIENT_CONTEXT_LIMIT, PAYLOAD_LIMIT, Function, Invocation
from snapruntime.worker import wire
from snapruntime.workflows.launch import Launched, broken_channel, exited, timed_out


class Instance:
    """A process that is ready for events: a restored copy, or a cold worker. Closing it ends the process.

    Attributes:
        restore_ms: from the request until CRIU had restored it; None for a cold worker.
        hooks_ms: its after-restore hooks; None for a cold worker.
        init_ms: its init; None for a copy.
        pid: its PID, as the host sees it.
    """

    def __init__(
        self,
        function: Function,
        launched: Launched,
        *,
        requested: float,
        snapshot: str | None,
        restore_ms: float | None = None,
        hooks_ms: float | None = None,
        init_ms: float | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._function = function
        self._launched = launched
        self._requested = requested
        self._snapshot = snapshot
        self.restore_ms = restore_ms
        self.hooks_ms = hooks_ms
        self.init_ms = init_ms
        self.pid = launched.process.pid
        self._answered: set[str] = set()
        self._on_close = on_close
        self._busy = threading.Lock()
        self._closed = False

    def invoke(
        self,
        event: Any,
        *,
        request_id: str | None = None,
        sink: LogSink | None = None,
        client_context: Mapping[str, Any] | None = None,
    ) -> Invocation:
        """Give one event to the handler and wait for its answer, or for the function's time limit.

        Args:
            event: bytes of JSON, or anything that `json.dumps` takes.
            request_id: a new UUID by default.
            sink: receives what the function writes meanwhile.
            client_context: the mobile SDKs' context object.

        Raises:
            UsageError: the event or the client context is no JSON, or too large; or the copy is closed. Whatever the
                function does wrong is in the result instead.
        """
        body = encode_event(event)
        client = encode_client_context(client_context) if client_context is not None else None
        with self._busy:  # One event at a time, as on Lambda.
            return self._invoke(body, client, request_id or str(uuid.uuid4()), sink)

    def _invoke(self, body: bytes, client_context: str | None, request_id: str, sink: LogSink | None) -> Invocation:
        if self._closed:
            raise UsageError("This copy has been closed; it takes no more events.", hint="Restore another.")
        function, channel = self._function, self._launched.channel
        requested, self._requested = self._requested, 0.0
        started = time.monotonic()
        requested = requested or started
        channel.sink = sink
        deadline = started + function.timeout_s
        header: dict[str, Any] = {
            "type": "invoke",
            "request_id": request_id,
            "deadline_ms": int((time.time() + function.timeout_s) * 1000),
            "invoked_function_arn": function.arn,
        }
        if client_context is not None:
            header["client_context"] = client_context
        payload: bytes | None = None
        error: dict[str, Any] | None = None
        try:
            channel.send(header, body, deadline=deadline)
            payload, error = self._answer(request_id, deadline)
        except TimeoutError:
            error = timed_out(request_id, function.timeout_s)
            self._launched.process.kill()  # Its late answer must not be taken for that of the next event.
        except Disconnected as gone:
            error = exited(request_id, gone.exit)
            self._launched.process.kill()
        except wire.WireError as trouble:
            error = broken_channel(request_id, trouble)
            self._launched.process.kill()
        self._answered.add(request_id)
        ended = time.monotonic()
        return Invocation(
            request_id=request_id,
            snapshot=self._snapshot,
            cold=self._snapshot is None,
            pid=self.pid,
            restore_ms=self.restore_ms,
            init_ms=self.init_ms,
            hooks_ms=self.hooks_ms,
            duration_ms=round((ended - started) * 1000, 3),
            total_ms=round((ended - requested) * 1000, 3),
            max_memory_mb=self._max_memory_mb(),
            payload=payload,
            error=error,
            phase="invoke",
            logs=channel.take_logs(),
        )

    def _answer(self, request_id: str, deadline: float) -> tuple[bytes | None, dict[str, Any] | None]:
        """The response, or the error document, for one request.

        A child that the handler forked may answer an earlier one again; that is passed over.
        """
        while True:
            header, body = self._launched.channel.receive("result", "error", deadline=deadline)
            if header["request_id"] == request_id:
                break
            if header["request_id"] not in self._answered:
                raise wire.WireError("an answer to a request that was never made")
        if header["type"] == "error":
            return None, header["error"]
        if header.get("content_type") == "application/json":
            try:
                json.loads(body)
            except (ValueError, RecursionError) as error:
                raise wire.WireError(f"the response is not JSON: {error}") from error
        return body, None

    def _max_memory_mb(self) -> int | None:
        """The most memory the process had resident so far, MB as Lambda counts them (2**20 bytes), rounded up."""
        process, exit = self._launched.process, None
        with contextlib.suppress(SpawnerError):
            exit = process.wait(0)
        if exit is None:
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as f,
            ):
                for line in f:
                    if line.startswith("VmHWM:"):
                        return -(-int(line.split()[1]) // 1024)
            with contextlib.suppress(SpawnerError):
                exit = process.wait(1.0)  # Without memory of its own it is about to end.
        return -(-exit.max_rss_kb // 1024) if exit is not None else None

    def close(self) -> None:
        """End the process and take away what was made for it."""
        self._launched.process.kill()  # Whoever waits for its answer learns of it at once.
        with self._busy:
            if self._closed:
                return
            self._closed = True
        try:
            self._launched.close()
        finally:
            on_close, self._on_close = self._on_close, lambda: None
            on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def encode_event(event: Any) -> bytes:
    """An event as the bytes of its JSON.

    Raises:
        UsageError: it is no JSON, or over Lambda's limit.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is none of its numbers")

    try:
        body = event if isinstance(event, bytes) else json.dumps(event, allow_nan=False).encode()
        json.loads(body, parse_constant=refuse)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"The event is not JSON: {error}") from error
    if len(body) > PAYLOAD_LIMIT:
        raise UsageError(
            f"The event has {len(body)} bytes; Lambda takes {PAYLOAD_LIMIT} at most.",
            hint="Put the data where the function can fetch it, and send its name.",
        )
    return body


def encode_client_context(context: Mapping[str, Any]) -> str:
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
