"""One invocation of a named function on its way through the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snapruntime.values.function import Target
from snapruntime.workflows.journal import Journal


@dataclass(slots=True)
class Request:
    """One invocation on its way.

    Attributes:
        target: what is to answer.
        payload: the event.
        client_context: of the mobile SDKs.
        id: a UUID.
        began: `time.monotonic()` of its first moment.
        deadline: until which it waits for its turn.
        journal: its log.
        queued_ms: how long it has waited.
        start_ms: how long its process took to start.
    """

    target: Target
    payload: bytes
    client_context: dict[str, Any] | None
    id: str
    began: float
    deadline: float
    journal: Journal
    queued_ms: float = 0.0
    start_ms: float = 0.0
