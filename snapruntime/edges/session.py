"""One `snapruntime run`: gets a snapshot, or cold starts; has each request answered; tells what happened."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snapruntime.edges import exits
from snapruntime.edges.interrupt import Stopper
from snapruntime.edges.output import Output, RequestLog, json_line, payload_line, shortened
from snapruntime.edges.report import describe_failure
from snapruntime.edges.table import Timing, comparison, summary
from snapruntime.mechanisms.credentials import own_credentials
from snapruntime.mechanisms.interpreter import inspect
from snapruntime.values.errors import FunctionError, RestoreError, SnapruntimeError, SnapshotError, printable
from snapruntime.values.model import Function, Invocation
from snapruntime.workflows import lambda_log
from snapruntime.workflows.cold import ColdStarter
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.launch import milliseconds_since
from snapruntime.workflows.restore import Snapshot
from snapruntime.workflows.runtime import Runtime

#: Copies prepared ahead at most: each is a process of CRIU that waits.
_READY = 16


@dataclass(frozen=True, slots=True)
class Order:
    """What a run is to do."""

    home: Path
    function: Function
    event: bytes
    count: int = 1
    concurrency: int = 1
    cold: bool = False
    compare: bool = False
    rebuild: bool = False
    plain_images: bool = False
    keep_seeds: bool = False
    credentials: bool = False
    restore_environment: Mapping[str, str] = field(default_factory=dict)
    as_json: bool = False
    quiet: bool = False
    debug: bool = False


@dataclass(slots=True)
class Request:
    """One event on its way to an answer."""

    cold: bool
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: float = 0.0


class Session:
    """The run of one order."""

    def __init__(self, order: Order, stopper: Stopper) -> None:
        self.output = Output(quiet=order.quiet, stopper=stopper)
        self._order = order
        self._stopper = stopper
        self._lock = threading.Lock()
        self._timings: list[Timing] = []
        self._failures: list[SnapruntimeError] = []
        self._postponed: list[Request] = []
        self._unfit: RestoreError | None = None
        self._runtime_fields = ""
        self._began = time.monotonic()
        self._making_log = ""

    def run(self) -> int:
        """Returns the exit code. Raises what concerns the run as a whole: UsageError, HostError, SnapshotError."""
        order = self._order
        with (
            Runtime(order.home, credentials=own_credentials if order.credentials else None) as runtime,
            ExitStack() as stack,
        ):
            self._stopper.on_stop(runtime.close)
            if runtime.unlimited:
                unlimited = ", ".join(runtime.unlimited)
                self.output.note(f"Not limited on this host: the function's {unlimited}. See `snapruntime doctor`.")
            ways = [True, False] if order.compare else [order.cold]
            requests = [Request(cold) for _ in range(order.count) for cold in ways]
            cold = stack.enter_context(runtime.cold(order.function)) if True in ways else None
            try:
                snapshot = stack.enter_context(self._snapshot(runtime)) if False in ways else None
                self._answer_all(requests, cold, snapshot, last=False)
                if self._postponed and snapshot is not None:
                    again, self._postponed = self._postponed, []
                    snapshot = stack.enter_context(self._snapshot(runtime, instead_of=snapshot))
                    self._answer_all(again, cold, snapshot, last=True)
            except (FunctionError, RestoreError, SnapshotError) as error:
                # No snapshot: nobody gets another answer than this.
                requests = [request for request in requests if not request.cold][len(self._timings_of(False)) :]
                self._fail_all(requests, error)
        return self._conclude()

    def _timings_of(self, cold: bool) -> list[Timing]:
        return [timing for timing in self._timings if timing.cold == cold]

    # How a snapshot is come by.

    def _snapshot(self, runtime: Runtime, instead_of: Snapshot | None = None) -> Snapshot:
        order, output, function = self._order, self.output, self._order.function
        # Nothing else runs meanwhile, so its lines cannot mix with others'.
        live = not order.quiet and (order.debug or not order.compare)
        log = RequestLog(output.log if live else None)
        began = 0.0

        def making(reason: str) -> None:
            nonlocal began
            if self._unfit is not None:
                reason = f"the last one could not be restored ({self._unfit.message.rstrip('.')})"
            output.note(f"Making a snapshot: {shortened(reason, [function.task_root])}")
            log.lines(lambda_log.init_start(self._runtime()))
            say(f"Initialising {function.handler}")
            began = time.monotonic()

        def initialised(milliseconds: float) -> None:
            log.lines(lambda_log.init_report(milliseconds))
            say("Checkpointing")

        options: dict[str, Any] = {
            "sink": log.sink,
            "making": making,
            "initialised": initialised,
            "plain_images": order.plain_images,
        }
        with output.progress("Looking for a snapshot") as say:
            try:
                if instead_of is not None:
                    snapshot = runtime.remake(function, instead_of, **options)
                else:
                    snapshot = runtime.snapshot(function, rebuild=order.rebuild, **options)
            except SnapruntimeError as error:
                self._making_log = log.text
                if isinstance(error, FunctionError) and not self._stopper.stopping:
                    log.lines(lambda_log.init_failed(error.init_ms or 0.0, error.document, error.phase))
                    self._show(log)
                raise
        if not snapshot.mapped and not order.plain_images:
            output.note(f"Copies read their memory instead of mapping it: {snapshot.plain_reason}.")
        if began:
            output.note(f"Snapshot {snapshot.id} made in {time.monotonic() - began:.1f} s.")
        else:
            output.note(f"Using snapshot {snapshot.id}: nothing that it was made from has changed.")
        for line in shared_state(snapshot):
            output.note(line)
        self._runtime_fields = lambda_log.runtime_version(
            function, snapshot.stored.manifest["interpreter"]["version"]
        )  # fmt: skip
        return snapshot

    def _runtime(self) -> str:
        if not self._runtime_fields:
            function = self._order.function
            version = sys.version_info[:3] if function.python == sys.executable else inspect(function.python).version
            self._runtime_fields = lambda_log.runtime_version(function, version)
        return self._runtime_fields

    # How requests are answered.

    @property
    def _live(self) -> bool:
        """Whether log lines are written as they come: only where they cannot mix, and are what is looked at."""
        order = self._order
        return order.concurrency == 1 and not order.quiet and (order.debug or not order.compare)

    def _answer_all(
        self, requests: list[Request], cold: ColdStarter | None, snapshot: Snapshot | None, *, last: bool
    ) -> None:
        done = 0

        def one(request: Request) -> None:
            nonlocal done
            if self._stopper.stopping:
                return
            if compare:
                done += 1
                say(f"Request {done} of {len(requests)}: {'cold start' if request.cold else 'restored copy'}")
            self._answer(request, cold, snapshot, last)

        if snapshot is not None and (copies := sum(not request.cold for request in requests)) > 1:
            snapshot.keep_ready(min(self._order.concurrency, copies, _READY), copies)
        compare = self._order.compare and not self._live
        with self._progress_if(compare) as say:
            if self._order.concurrency == 1:
                for request in requests:
                    one(request)
                return
            with ThreadPoolExecutor(self._order.concurrency) as pool:
                try:
                    list(pool.map(one, requests))
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise

    @contextmanager
    def _progress_if(self, wanted: bool) -> Iterator[Callable[[str], None]]:
        if not wanted:
            yield lambda _: None
            return
        with self.output.progress("Answering") as say:
            yield say

    def _answer(self, request: Request, cold: ColdStarter | None, snapshot: Snapshot | None, last: bool) -> None:
        if not request.cold and not last and self._unfit is not None:
            self._postpone(request, self._unfit)
            return
        request.began = request.began or time.monotonic()
        log = RequestLog(self.output.log if self._live else None)
        try:
            if request.cold:
                assert cold is not None
                log.lines(lambda_log.init_start(self._runtime()))
                instance = cold.start(requested=request.began, sink=log.sink)
            else:
                assert snapshot is not None
                log.lines(lambda_log.restore_start(self._runtime_fields))
                instance = snapshot.restore(
                    requested=request.began,
                    request_id=request.id,
                    sink=log.sink,
                    environment=self._order.restore_environment,
                    keep_seeds=self._order.keep_seeds,
                )
        except (FunctionError, RestoreError) as error:
            if self._stopper.stopping:
                return  # It failed because everything is being closed.
            invocation = failed(request, error, snapshot, log.text)
            init_ms = error.init_ms if isinstance(error, FunctionError) else None
            took, document = init_ms or invocation.total_ms, invocation.error or {}
            line = lambda_log.init_failed if request.cold else lambda_log.restore_report
            log.lines(line(took, document, invocation.phase))
            if isinstance(error, RestoreError) and not request.cold and not last:
                self._show(log)
                self._postpone(request, error)
            else:
                self._finish(log, invocation, error)
            return
        with instance:
            self._invoke(request, instance, log)

    def _invoke(self, request: Request, instance: Instance, log: RequestLog) -> None:
        function = self._order.function
        if instance.restore_ms is not None:
            log.lines(lambda_log.restore_report(instance.restore_ms + (instance.hooks_ms or 0.0)))
        log.lines(lambda_log.start(request.id, function))
        invocation = instance.invoke(self._order.event, request_id=request.id, sink=log.sink)
        if self._stopper.stopping:
            return
        log.lines(
            *lambda_log.interrupted(invocation),
            lambda_log.end(request.id),
            lambda_log.report(invocation, function),
        )
        error = FunctionError(dict(invocation.error), phase="invoke") if invocation.error is not None else None
        self._finish(log, invocation, error)

    def _postpone(self, request: Request, error: RestoreError) -> None:
        """To be answered once the snapshot has been made anew, which needs the copies of the old one gone."""
        with self._lock:
            self._unfit = self._unfit or error
            self._postponed.append(request)

    def _show(self, log: RequestLog) -> None:
        if not self._order.quiet and log.block:
            self.output.log(log.block)

    def _finish(self, log: RequestLog, invocation: Invocation, error: SnapruntimeError | None) -> None:
        if self._stopper.stopping:
            return  # It failed because we closed everything.
        with self._lock:
            self._timings.append(Timing.of(invocation))
            if error is not None:
                self._failures.append(error)
        order = self._order
        shown = not order.quiet and (error is not None or order.debug or not order.compare)
        line = json_line(invocation) if order.as_json else payload_line(invocation)
        self.output.answer(line, log.block if shown else b"")

    def _fail_all(self, requests: list[Request], error: FunctionError | RestoreError | SnapshotError) -> None:
        for request in requests:
            request.began = request.began or self._began
            self._finish(RequestLog(None), failed(request, error, None, self._making_log), error)

    def _conclude(self) -> int:
        """Say how it went; the exit code is that of the worst failure."""
        order, output = self._order, self.output
        if self._stopper.stopping:
            return exits.OK  # Not looked at: the reason for the stop is the exit code.
        if order.compare and not order.quiet:
            table, ratio = comparison(self._timings)
            output.print(table)
            if ratio:
                output.print(ratio, style="bold green")
        elif len(self._timings) > 1 and not order.quiet:
            output.print(summary(self._timings))
        if not self._failures:
            return exits.OK
        worst = max(self._failures, key=exits.exit_code)
        output.print(describe_failure(self._failures, len(self._timings), worst, debug=order.debug))
        return exits.exit_code(worst)


def shared_state(snapshot: Snapshot) -> list[str]:
    """What every copy will have of init's threads, in lines."""
    lines = [f"This thread of init goes on in every copy: {printable(thread)}" for thread in snapshot.threads]
    if snapshot.native_threads:
        lines.append(f"Threads of native libraries that go on in every copy: {snapshot.native_threads}")
    return lines


def failed(
    request: Request, error: FunctionError | RestoreError | SnapshotError, snapshot: Snapshot | None, logs: str
) -> Invocation:
    """The answer to a request for which no process came to life."""
    if isinstance(error, FunctionError):
        document = dict(error.document)
        # Init knows of no request; Lambda's documents name the one that they answer.
        if other := document.get("requestId"):
            document["errorMessage"] = str(document.get("errorMessage", "")).replace(other, request.id)
        phase = error.phase
    else:
        document = {"errorMessage": error.message, "errorType": error.code, "stackTrace": []}
        phase = "restore" if isinstance(error, RestoreError) else "snapshot"
    document |= {"requestId": request.id}
    return Invocation(
        request_id=request.id,
        snapshot=snapshot.id if snapshot is not None and not request.cold else None,
        cold=request.cold,
        pid=None,
        restore_ms=None,
        init_ms=None,
        hooks_ms=None,
        duration_ms=None,
        total_ms=milliseconds_since(request.began),
        max_memory_mb=None,
        payload=None,
        error=document,
        phase=phase,
        logs=logs,
    )
