"""One invocation of a named function on its way through the host."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

from snapruntime.values.function import Target
from snapruntime.workflows.ask import Ask
from snapruntime.workflows.journal import Journal


@dataclass(slots=True)
class Request:
    """One invocation on its way.

    Attributes:
        target: what is to answer.
        ask: what it is to answer.
        began: `time.monotonic()` of its first moment.
        deadline: until which it waits for its turn.
        journal: its log.
        queued_ms: how long it has waited.
        start_ms: how long its process took to start.
        rest: what is left to do when its caller has the answer.
    """

    target: Target
    ask: Ask
    began: float
    deadline: float
    journal: Journal
    queued_ms: float = 0.0
    start_ms: float = 0.0
    rest: ExitStack = field(default_factory=ExitStack)

    @property
    def id(self) -> str:
        """A UUID."""
        return self.ask.request_id
