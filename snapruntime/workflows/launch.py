"""A fresh worker: from nothing to READY. Both a checkpoint and a cold start begin with it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from snapruntime.mechanisms import linux
from snapruntime.mechanisms.cgroup import Meter
from snapruntime.mechanisms.channel import Channel, ChannelEnds, Disconnected, LogSink
from snapruntime.mechanisms.interpreter import Interpreter
from snapruntime.mechanisms.process import Exit, Process, Spawner, SpawnerError, too_many_files
from snapruntime.mechanisms.sandbox import RUNTIME_FOLDER, Bind, Ground, Sandbox, check_hidden, normalise_binds
from snapruntime.values.errors import FunctionError, SnapruntimeError, printable
from snapruntime.values.model import Function
from snapruntime.worker import wire
from snapruntime.workflows.ask import Ask
from snapruntime.workflows.environment import environment_of
from snapruntime.workflows.freshness import HOOKS, WORKER_FOLDER
from snapruntime.workflows.resolve import check_permission


def sandbox_for(function: Function, interpreter_folders: Iterable[str], name: str, ground: Ground) -> Sandbox:
    """The sandbox that `function` runs in.

    Raises:
        UsageError: it cannot be shown what it is to be shown.
    """
    shown = [Bind(path) for path in (*interpreter_folders, function.task_root, *function.read_only)]
    shown += [Bind(path, writable=True) for path in function.writable]
    binds = normalise_binds(shown)
    check_hidden((function.task_root, *function.read_only, *function.writable), ground.home)
    for path in map(Path, (*function.read_only, *function.writable)):
        if path.is_dir():  # One that may not be entered hides what is shown below it, too: the interpreter, or code.
            check_permission(function, path, 0o1)
    return ground.kind(
        name,
        binds=binds,
        runtime=str(WORKER_FOLDER),
        hooks=str(HOOKS),
        uid=function.uid,
        gid=function.gid,
        network=function.network,
        memory_mb=function.memory_mb,
        ground=ground,
    )


def milliseconds_since(started: float) -> float:
    """Args: started: `time.monotonic()`."""
    return round((time.monotonic() - started) * 1000, 3)


@contextlib.contextmanager
def surroundings(kind: type[SnapruntimeError]) -> Iterator[None]:
    """Around what the spawner is asked to do before a function can run: an error of `kind` where it could not."""
    try:
        yield
    except SpawnerError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise too_many_files(error) from error
        raise kind(f"The surroundings of the function could not be made: {error.message}") from error


class Launched:
    """A process with a channel to it. Closing it ends the process, and so all below it.

    Attributes:
        channel_names: CRIU's names of its ends of the channel (see `ChannelEnds.identities`).
        ready: the header of the worker's `ready` message.
        files: what init read; absolute paths.
        init_ms: what init took, milliseconds: from when the process was told to until it was ready; the start of its
            interpreter and the before-snapshot hooks included.
    """

    def __init__(self, ends: ChannelEnds, process: Process, sink: LogSink | None, meter: Meter | None = None) -> None:
        self.process = process
        self.channel_names = ends.identities()
        ends.close_far()
        self.channel = Channel(ends, process, sink)
        self.ready: dict[str, Any] = {}
        self.files: list[str] = []
        self.init_ms = 0.0
        self._meter = meter

    def ended(self, request_id: str, exit: Exit | None) -> dict[str, Any]:
        """Lambda's error document for a process that ended, be it because it ran out of memory."""
        return out_of_memory(request_id) if self.ran_out_of_memory() else exited(request_id, exit)

    def ran_out_of_memory(self) -> bool:
        """Whether one of its processes was killed for want of memory."""
        return self._meter is not None and self._meter.oom_kills() > 0

    def peak_bytes(self, least: int) -> int | None:
        """The most memory that all its processes together have had to themselves; None where nobody counts it.

        Args:
            least: see `Meter.peak_bytes`.
        """
        return self._meter.peak_bytes(least) if self._meter is not None else None

    def ask(
        self,
        message: dict[str, Any],
        *answers: str,
        request_id: str,
        phase: str,
        limit: float,
        deadline: float,
        along: Ask | None = None,
    ) -> wire.Frame:
        """Send a message and wait for one of its answers, while the function runs.

        Args:
            request_id: for the error document.
            phase: which part of the function's life it is.
            limit: the seconds that the function is told to have had.
            deadline: `time.monotonic()` until which it has to have answered.
            along: what it is to do after the first of the answers, without waiting for us. What it writes then is not
                read here.

        Raises:
            FunctionError: it took too long, ended the process, or answered otherwise.
        """
        goes_on = False
        try:
            # In one piece: a process that is woken for the first may keep us from sending the second for long.
            frames = [(message, b"")] if along is None else [(message, b""), along.begin()]
            self.channel.send(*frames, deadline=deadline)
            answer = self.channel.receive(*answers, deadline=deadline)
            goes_on = along is not None and answer[0]["type"] == answers[0]
            return answer
        except TimeoutError:
            raise FunctionError(timed_out(request_id, limit), phase=phase) from None
        except Disconnected as gone:
            raise FunctionError(self.ended(request_id, gone.exit), phase=phase) from None
        except wire.WireError as error:
            raise FunctionError(broken_channel(request_id, error), phase=phase) from None
        finally:
            if not goes_on:
                self.channel.drain_log()  # What was written last, be it well or not: it says why.

    def close(self) -> None:
        self.process.kill()
        self.channel.close()  # Where we may not kill it (no CAP_KILL), this is what ends it.
        self.process.close()

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
    given: Mapping[str, str] = MappingProxyType({}),
    watch: Callable[[int], None] | None = None,
) -> Launched:
    """Start a worker in a prepared sandbox and let it initialise the function.

    Args:
        copy: the prepared copy of the sandbox that it gets; None where it is to be checkpointed.
        given: variables that it gets beside its own: such as change from run to run.
        watch: is called again and again meanwhile, with the worker's PID; what it raises ends the worker.

    Raises:
        FunctionError: the function's init or a before-snapshot hook failed, took too long, or ended the process.
    """
    ends = ChannelEnds()
    try:
        process = spawner.spawn(
            [interpreter.executable, f"{RUNTIME_FOLDER}/__main__.py"],
            environment=environment_of(function, interpreter, initialization_type) | dict(given),
            fds={1: ends.far_log, 2: ends.far_log},
            plan=sandbox.enter(copy),
            namespaces=linux.CLONE_NEWPID | linux.CLONE_NEWNS | sandbox.namespaces,
            socket_fd=3,
        )
        ends.take_socket(process)
    except BaseException:
        ends.close()
        raise
    launched = Launched(ends, process, sink, sandbox.meter(copy))
    launched.channel.watch = partial(watch, process.pid) if watch is not None else None
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
        "hooks": list(function.hooks),
        **({"handler": function.handler} if function.attribute else {"module": function.module}),
    }
    limit = function.init_limit_s
    started = time.monotonic()
    try:
        answer, body = launched.ask(
            init, "ready", "init_error", request_id=request_id, phase="init", limit=limit, deadline=started + limit
        )
        _check_initialised(answer)
    except FunctionError as error:
        error.init_ms = milliseconds_since(started)
        raise
    launched.init_ms = milliseconds_since(started)
    launched.ready = answer
    launched.files = wire_list(body)


def _check_initialised(answer: wire.Header) -> None:
    if answer["type"] == "init_error":
        hook = answer.get("hook")
        raise FunctionError(
            answer["error"],
            phase=answer["phase"],
            hint=f"The before-snapshot hook {printable(hook)} raised it." if hook else _hidden_file(answer["error"]),
        )


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


def platform_error(request_id: str, kind: str, what: object) -> dict[str, Any]:
    """An error document of the platform's own.

    AWS's, as LocalStack recorded them, have errorType and errorMessage only; with the request's ID and an empty trace
    they are like those that the runtime makes.
    """
    message = f"RequestId: {request_id} Error: {what}"
    return {"errorMessage": message, "errorType": kind, "requestId": request_id, "stackTrace": []}


def timed_out(request_id: str, seconds: float) -> dict[str, Any]:
    """The error document for a time limit."""
    return platform_error(request_id, "Sandbox.Timedout", f"Task timed out after {seconds:.2f} seconds")


def exited(request_id: str, exit: Exit | None) -> dict[str, Any]:
    """The error document for a process that ended by itself or was killed; None where only its channel closed."""
    if exit is None:
        return broken_channel(request_id, "it was closed")
    what = "Runtime exited without providing a reason" if exit.status == 0 else f"Runtime exited with error: {exit}"
    return platform_error(request_id, "Runtime.ExitError", what)


def out_of_memory(request_id: str) -> dict[str, Any]:
    """The error document for a function that needed more memory than it has, as AWS gives it since 2025.

    Recorded in adobe/helix-html2md-service#1001; before, errorType was Runtime.ExitError with the same message.
    """
    return platform_error(request_id, "Runtime.OutOfMemory", "Runtime exited with error: signal: killed")


def broken_channel(request_id: str, what: object) -> dict[str, Any]:
    """The error document for a worker whose control channel carries what we do not understand."""
    said = f"the function broke its control channel (descriptor 3): {what}"
    return platform_error(request_id, "Runtime.Unknown", said)
