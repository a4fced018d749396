"""A restored copy before it is anybody's: restored ahead of need, or on demand an instant ago; and its hand-over."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from snapruntime.mechanisms.channel import LogSink
from snapruntime.values.errors import FunctionError, RestoreError, printable
from snapruntime.values.life import Event, State
from snapruntime.values.model import RESTORE_LIMIT_S, Function
from snapruntime.worker import wire
from snapruntime.workflows.ask import Ask
from snapruntime.workflows.freshness import MappedFiles
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.launch import Launched, milliseconds_since
from snapruntime.workflows.life import Life


@dataclass(slots=True)
class HandOvers:
    """What is known of the hand-overs of one snapshot's copies.

    Attributes:
        hooks: how many after-restore hooks the last of them ran; None before there was one.
    """

    hooks: int | None = None


class Parked:
    """A copy that has been restored and waits before its after-restore hooks. Closing it ends it.

    Whatever a copy makes anew (randomness, credentials, what its hooks fetch) is made for the request that gets it,
    however long it has waited.

    Attributes:
        pid: its PID, as the host sees it.
        pidfd: readable once it has ended, which it may by itself: threads of init go on in it.
    """

    def __init__(
        self,
        function: Function,
        launched: Launched,
        life: Life,
        snapshot: str,
        mapped_files: MappedFiles,
        given: Mapping[str, str],
        hand_overs: HandOvers,
        *,
        on_first_answer: Callable[[], None],
        discard: Callable[[], None],
    ) -> None:
        self._function = function
        self._launched = launched
        self._life = life
        self._snapshot = snapshot
        self._mapped_files = mapped_files
        self._given = given
        self._hand_overs = hand_overs
        self._on_first_answer = on_first_answer
        self._discard = discard
        self.pid = launched.process.pid
        self.pidfd = launched.process.pidfd

    @property
    def state(self) -> State:
        """Where in its life it is."""
        return self._life.state

    def alive(self) -> bool:
        """Whether its process has not ended."""
        return self._launched.process.alive()

    def rehearse(self, deadline: float) -> None:
        """Let the worker go through the motions of what is to come, which is where most of its first page faults are.

        Of the function nothing runs. It spares a hello's hand-over 0.7 of 1.35 ms.

        Raises:
            RestoreError: its process has ended, or does not answer.
        """
        message = {"type": "rehearse", "request_id": "", "deadline_ms": 0}
        try:
            self._launched.ask(
                message, "rehearsed", request_id="", phase="restore", limit=RESTORE_LIMIT_S, deadline=deadline
            )
        except FunctionError as error:
            self.close()
            raise RestoreError(f"A restored copy did not come to life: {error.message}") from error

    def resume(
        self,
        *,
        requested: float | None = None,
        request_id: str | None = None,
        sink: LogSink | None = None,
        environment: Mapping[str, str | None] | None = None,
        keep_seeds: bool = False,
        deadline: float | None = None,
        first: Ask | None = None,
    ) -> Instance:
        """Hand it over to a request: it makes anew what must not repeat, and runs its after-restore hooks.

        Args:
            requested: `time.monotonic()` of the request that the copy is for; its `total_ms` counts from there.
            request_id: the request that the copy is for, for its error documents.
            sink: receives what the hooks write.
            environment: see `snapruntime.workflows.restore.Snapshot.restore`.
            keep_seeds: likewise.
            deadline: `time.monotonic()` until which the hooks may take; Lambda's limit from now by default.
            first: what it will be asked. Where no hooks are to be expected, it is asked at once, so that it need not
                wait for us between its hand-over and its handler. `Instance.answer` is to be called all the same.

        Raises:
            RestoreError: a library that it has mapped was changed since the snapshot was taken.
            FunctionError: an after-restore hook failed or took too long, or its process has ended.
        """
        requested = requested or time.monotonic()
        restore_ms = milliseconds_since(requested)
        deadline = deadline or time.monotonic() + RESTORE_LIMIT_S
        message = {"type": "restore", "environment": {**self._given, **(environment or {})}, "keep_seeds": keep_seeds}
        self._life.on(Event.HANDED_OVER)
        try:
            self._mapped_files.check()
            self._launched.channel.sink = sink
            along = first if first is not None and first.small and self._hand_overs.hooks == 0 else None
            restored = run_after_restore(self._launched, message, request_id or str(uuid.uuid4()), deadline, along)
            self._hand_overs.hooks = restored.get("after_hooks")
            if along is not None and self._hand_overs.hooks:
                along.hooks_took(float(restored["hooks_ms"]) / 1000)
        except BaseException:
            self._life.on(Event.FAILED)
            self._end()
            raise
        self._life.on(Event.RESUMED)
        return Instance(
            self._function,
            self._launched,
            self._life,
            requested=requested,
            snapshot=self._snapshot,
            restore_ms=restore_ms,
            hooks_ms=float(restored["hooks_ms"]),
            along=along,
            on_first_answer=self._on_first_answer,
            on_close=self._discard,
        )

    def close(self) -> None:
        """End it. One that was handed over is its `Instance`'s to close."""
        self._life.on(Event.CLOSED)
        self._end()

    def _end(self) -> None:
        self._launched.close()
        self._discard()


def run_after_restore(
    launched: Launched, message: wire.Header, request_id: str, deadline: float, along: Ask | None = None
) -> wire.Header:
    """Tell a restored copy that it is one, by `message`; returns what it says of its hooks.

    Args:
        along: see `Launched.ask`.
    """
    answer, _ = launched.ask(
        message,
        "restored",
        "restore_error",
        request_id=request_id,
        phase="after_restore",
        limit=RESTORE_LIMIT_S,
        deadline=deadline,
        along=along,
    )
    if answer["type"] == "restore_error":
        hook = answer.get("hook")
        raise FunctionError(
            answer["error"] | {"requestId": request_id},
            phase="after_restore",
            hint=f"The after-restore hook {printable(hook)} raised it." if hook else "",
        )
    return answer
