"""A fresh worker: from nothing to READY. Both a checkpoint and a cold start begin with it."""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterable
from typing import Any, Self

from snapruntime.mechanisms import linux
from snapruntime.mechanisms.channel import Channel, ChannelEnds, Disconnected, LogSink
from snapruntime.mechanisms.interpreter import Interpreter
from snapruntime.mechanisms.process import Exit, Process, Spawner
from snapruntime.mechanisms.sandbox import RUNTIME_FOLDER, Bind, Sandbox, normalise_binds
from snapruntime.values.errors import FunctionError
from snapruntime.values.model import Function
from snapruntime.worker import wire
from snapruntime.workflows.environment import environment_of
from snapruntime.workflows.freshness import WORKER_FOLDER


def sandbox_for(function: Function, interpreter_folders: Iterable[str], name: str) -> Sandbox:
    """The sandbox that `function` runs in."""
    shown = [Bind(path) for path in (*interpreter_folders, function.task_root, *function.read_only)]
    shown += [Bind(path, writable=True) for path in function.writable]
    return Sandbox(name, normalise_binds(shown), str(WORKER_FOLDER), function.uid, function.gid)


class Launched:
    """A process with a channel to it. Closing it ends the process, and so all below it.

    Attributes:
        channel_names: CRIU's names of its ends of the channel (see `ChannelEnds.identities`).
        ready: the header of the worker's `ready` message.
        files: what init read; absolute paths.
    """

    def __init__(self, ends: ChannelEnds, process: Process, sink: LogSink | None) -> None:
        self.process = process
        self.channel_names = ends.identities()
        ends.close_far()
        self.channel = Channel(ends, process, sink)
        self.ready: dict[str, Any] = {}
        self.files: list[str] = []

    def close(self) -> None:
        try:
            self.process.close()
        finally:
            self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def launch(
    spawner: Spawner,
    sandbox: Sandbox,
    function: Function,
    interpreter: Interpreter,
    initialization_type: str,
    sink: LogSink | None,
    copy: str | None = None,
) -> Launched:
    """Start a worker in a prepared sandbox and let it initialise the function.

    Args:
        copy: the prepared copy of the sandbox that it gets; None where it is to be checkpointed.

    Raises:
        FunctionError: the function's init or a before-snapshot hook failed, took too long, or ended the process.
    """
    ends = ChannelEnds()
    try:
        process = spawner.spawn(
            [interpreter.executable, f"{RUNTIME_FOLDER}/__main__.py"],
            environment=environment_of(function, interpreter, initialization_type),
            fds={1: ends.far_log, 2: ends.far_log, 3: ends.far_control.fileno()},
            plan=sandbox.enter(copy),
            namespaces=linux.CLONE_NEWPID | linux.CLONE_NEWNS,
        )
    except BaseException:
        ends.close()
        raise
    launched = Launched(ends, process, sink)
    try:
        _initialise(launched, function, initialization_type)
    except BaseException:
        launched.close()
        raise
    return launched


def _initialise(launched: Launched, function: Function, initialization_type: str) -> None:
    request_id = str(uuid.uuid4())
    init = {
        "type": "init",
        "initialization_type": initialization_type,
        "task_root": function.task_root,
        **({"handler": function.handler} if function.attribute else {"module": function.module}),
    }
    limit = function.init_limit_s
    deadline = time.monotonic() + limit
    try:
        launched.channel.send(init, deadline=deadline)
        answer, body = launched.channel.receive("ready", "init_error", deadline=deadline)
    except TimeoutError:
        raise FunctionError(timed_out(request_id, limit), phase="init") from None
    except Disconnected as gone:
        raise FunctionError(exited(request_id, gone.exit), phase="init") from None
    except wire.WireError as error:
        raise FunctionError(broken_channel(request_id, error), phase="init") from None
    finally:
        launched.channel.drain_log()  # What init wrote last, be it well or not: it says why.
    if answer["type"] == "init_error":
        hook = answer.get("hook")
        raise FunctionError(
            answer["error"],
            phase=answer["phase"],
            hint=f"The before-snapshot hook {hook} raised it." if hook else _hidden_file(answer["error"]),
        )
    launched.ready = answer
    launched.files = wire_list(body)


def _hidden_file(document: dict[str, Any]) -> str:
    """A hint for init that misses a file which is on this host, only not in the sandbox."""
    named = re.search(r"No such file or directory: '([^']+)'", str(document.get("errorMessage")))
    if named is None or not os.path.isabs(named[1]) or not os.path.exists(named[1]):
        return ""
    return f"{named[1]} is on this host, but functions see only their own folder. Show it with --ro {named[1]}"


def wire_list(body: bytes) -> list[str]:
    """The list of paths in a `ready` message; an ill-formed one counts as empty."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return [path for path in found if isinstance(path, str)] if isinstance(found, list) else []


def timed_out(request_id: str, seconds: float) -> dict[str, Any]:
    """Lambda's error document for a time limit (as LocalStack recorded it from AWS)."""
    return {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {request_id} Error: Task timed out after {seconds:.2f} seconds",
        "requestId": request_id,
    }


def exited(request_id: str, exit: Exit | None) -> dict[str, Any]:
    """Lambda's error document for a process that ended by itself or was killed; None where only its channel closed."""
    if exit is None:
        return broken_channel(request_id, "it was closed")
    what = "Runtime exited without providing a reason" if exit.status == 0 else f"Runtime exited with error: {exit}"
    return {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {request_id} Error: {what}",
        "requestId": request_id,
    }


def broken_channel(request_id: str, what: object) -> dict[str, Any]:
    """The error document for a worker whose control channel carries what we do not understand."""
    return {
        "errorType": "Runtime.Unknown",
        "errorMessage": f"RequestId: {request_id} Error: the function broke its control channel (descriptor 3): {what}",
        "requestId": request_id,
    }
