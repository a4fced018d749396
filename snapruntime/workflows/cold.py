"""Cold starts: a fresh process per event, in the same sandbox as a copy, without snapshot and hooks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Self

from snapruntime.mechanisms.channel import LogSink
from snapruntime.mechanisms.interpreter import inspect
from snapruntime.mechanisms.process import Spawner, SpawnerError
from snapruntime.mechanisms.sandbox import Ground
from snapruntime.values.errors import RestoreError
from snapruntime.values.life import Event
from snapruntime.values.model import Function
from snapruntime.workflows.environment import ON_DEMAND
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.launch import launch, sandbox_for, surroundings
from snapruntime.workflows.life import Life


class ColdStarter:
    """Starts fresh processes of a function: Lambda's on-demand starts. Its sandbox is made once, like a snapshot's."""

    def __init__(self, spawner: Spawner, function: Function, ground: Ground, given: Mapping[str, str]) -> None:
        self._spawner = spawner
        self._given = given
        self._function = function
        self._interpreter = inspect(function.python)
        self._sandbox = sandbox_for(function, self._interpreter.folders, f"cold-{uuid.uuid4().hex[:12]}", ground)
        try:
            with surroundings(RestoreError):
                spawner.run(self._sandbox.prepare(None))
        except BaseException:
            self.close()
            raise

    def start(self, *, requested: float | None = None, sink: LogSink | None = None) -> Instance:
        """Start a process and let it initialise.

        Args:
            requested: `time.monotonic()` of the request that it is for; its `total_ms` counts from there.
            sink: receives what init writes.

        Raises:
            FunctionError: init failed.
        """
        requested = requested or time.monotonic()
        copy, life = uuid.uuid4().hex[:12], Life()
        try:
            self._spawner.run(self._sandbox.prepare_copy(copy))
            launched = launch(
                self._spawner,
                self._sandbox,
                self._function,
                self._interpreter,
                ON_DEMAND,
                sink,
                copy=copy,
                given=self._given,
            )
        except SpawnerError as error:
            self._discard(copy)
            raise RestoreError(f"No process could be started: {error.message}") from error
        except BaseException:
            self._discard(copy)
            raise
        life.on(Event.INITIALISED)
        return Instance(
            self._function,
            launched,
            life,
            requested=requested,
            snapshot=None,
            init_ms=launched.init_ms,
            on_close=lambda: self._discard(copy),
        )

    def _discard(self, copy: str) -> None:
        self._spawner.undo(self._sandbox.discard_copy(copy))

    def close(self) -> None:
        """Take down the sandbox. Processes must have been closed."""
        self._spawner.undo(self._sandbox.discard())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
