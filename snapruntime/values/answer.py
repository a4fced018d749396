"""What an invocation of a named function comes to, and what the host of functions may use for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How an invocation came by the process that answered it.
#:
#: parked      a copy that had been restored ahead: randomness, credentials, after-restore hooks are this invocation's
#: on demand   a copy that was restored for it
#: cold        a process that was initialised for it: the version has no snapshot
#: reused      a process that has answered others before, as the function's reuse policy allows
Way = Literal["parked", "on demand", "cold", "reused"]
WAYS: tuple[Way, ...] = ("parked", "on demand", "cold", "reused")

#: What the API calls every error of a function's own (header X-Amz-Function-Error).
UNHANDLED = "Unhandled"
#: The longest end of the log that an answer carries, bytes (LogType Tail).
LOG_TAIL = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller gets.

    Attributes:
        payload: the response, or AWS's error document; JSON, but for a handler that returned bytes.
        function_error: "Unhandled" where `payload` is an error document; None where the function answered.
        executed_version: the version that answered.
        log_tail: the last 4 KB that were logged for this invocation, platform lines included.
        request_id: a UUID.
        way: how it came by its process.
        queued_ms: waiting for its turn: limits of concurrency and of memory, others' restores.
        start_ms: CRIU's part for a copy on demand, init for a cold start, 0 for a parked or reused process.
        hooks_ms: repairs of randomness and after-restore hooks; 0 for a process that needed none.
        duration_ms: the handler, as the host saw it.
        total_ms: from the call of `FunctionHost.invoke` until there was this.
    """

    payload: bytes
    function_error: str | None
    executed_version: str
    log_tail: bytes
    request_id: str
    way: Way
    queued_ms: float
    start_ms: float
    hooks_ms: float
    duration_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What the host of functions may use.

    Attributes:
        concurrency: invocations at once, of all functions together; AWS's default for an account is 1000.
        queue_s: the longest that an invocation waits for its turn before it is refused (429), seconds.
        warm: copies kept parked per version that is in use, at least; more where load asks for more.
        warm_most: copies kept parked per version at most.
        idle_s: after so long without an invocation a version keeps nothing.
        reuse_age_s: a process that is reused goes after so long, seconds.
        memory_bytes: what all copies together may have to themselves; None for three quarters of the host's memory.
        starts: restores and cold starts at once; None for twice the processors.
        retry_s: the pauses before a failed event is tried again, seconds (AWS: one minute, then two).
    """

    concurrency: int = 1000
    queue_s: float = 30.0
    warm: int = 1
    warm_most: int = 16
    idle_s: float = 300.0
    reuse_age_s: float = 3600.0
    memory_bytes: int | None = None
    starts: int | None = None
    retry_s: tuple[float, ...] = (60.0, 120.0)
