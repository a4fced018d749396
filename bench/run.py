"""A run: makes the snapshots, warms up, measures in the plan's order, and keeps every sample."""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from snapruntime import Runtime, SnapruntimeError, Snapshot
from snapruntime.bench import host, plan, sample
from snapruntime.bench.cases import CASES, MIB, Case
from snapruntime.bench.document import FORMAT, Cell, Samples
from snapruntime.bench.environment import own_interpreter
from snapruntime.bench.idle import measure_idle
from snapruntime.bench.room import own_home
from snapruntime.bench.stock import Stock, criu_times
from snapruntime.bench.unboxed import UnboxedRuntime
from snapruntime.bench.ways import Cold, ColdBare, Fork, Parked, Pass, Restored, Way, WayError

_BURST_WAYS = ("cold", "criu", "criu-lazy", "ours", "ours-ready", "parked", "fork")
_IDLE_WAYS = ("cold", "criu", "ours", "fork")
#: A burst that would take longer than so many times what a cell may is left out.
_TOO_LONG = 3.0
#: After this share of the time, snapshots are made once only.
_PREPARING = 0.1
#: The share of the time that is measured for, however long it took to get there.
_AT_LEAST = 0.25
_MOST_BURSTS = 20
_MOST_COLD_CACHES = 10
#: After so many failures a cell is given up.
_FAILURES = 3


class Stopped(Exception):
    """The run was asked to end before its time."""


class Run:
    """One run. `go` does it; `stop` may be called from another thread, `content` at any time.

    Attributes:
        samples: all there are so far.
        notes: what was left out, and why.
        failures: requests that got no answer.
    """

    def __init__(self, the_plan: plan.Plan, command: str, progress: plan.Progress) -> None:
        self.samples = Samples()
        self.notes: list[str] = []
        self.failures: list[str] = []
        self._plan = the_plan
        self._command = command
        self._progress = progress
        self._draw = random.Random(the_plan.seed)
        self._stop = threading.Event()
        self._runtime: Runtime | None = None
        self._without: Runtime | None = None
        self._room = Path()
        self._python = sys.executable
        self._host: Mapping[str, Any] = {}
        self._phase = "starting"
        self._phases: dict[str, float] = {}
        self._entered = self._started = time.monotonic()
        self._deadline = self._started + the_plan.limit_s
        self._began = datetime.now(UTC)
        self._load = host.load()
        self._cases = [case for case in CASES if case.name in the_plan.workloads]
        self._of = {case.name: case for case in self._cases} | {plan.NO_WORKLOAD: _NOTHING}
        self._ways: dict[Cell, Way] = {}
        self._cost: dict[Cell, float] = {}
        self._given_up: dict[Cell, int] = {}

    def go(self, home: Path) -> None:
        """Measure.

        Args:
            home: the data folder; snapshots are made in a folder `bench` in it, which is removed in the end.

        Raises:
            Stopped: `stop` was called.
            FunctionError: a response was wrong.
            HostError: this host cannot do it.
        """
        with own_home(home) as room, own_interpreter() as python, ExitStack() as stack, Runtime(room) as self._runtime:
            self._python = python
            self._host = host.describe(self._runtime, room) | {"interpreter": python}
            if self._host["pages_out"]:
                self.notes.append("this kernel pages out what is not used for a while (DAMON): warm is not always warm")
            self._room = room
            try:
                self._measure(stack)
            except (SnapruntimeError, WayError, OSError):
                if not self._stop.is_set():
                    raise
                raise Stopped from None  # It failed because all is being closed.
            finally:
                # Copies and sandboxes go before the runtime does.
                stack.close()
        self._enter("complete")

    def _measure(self, stack: ExitStack) -> None:
        self._prepare(stack)
        counts = self._warm_up()
        limit = self._plan.limit_s
        left = max(self._started + limit - time.monotonic(), _AT_LEAST * limit)
        self._enter("measuring", left)
        order = plan.interleaved(plan.fitted(counts, self._cost, self._plan.least, left * 0.5), self._draw)
        for done, cell in enumerate(order):
            self._tell(f"Measuring: {cell}", done, len(order))
            if time.monotonic() > self._deadline:
                # They are spread evenly, so every cell has lost its share.
                self.notes.append(f"the time was over when {done} of {len(order)} samples had been taken")
                break
            self._take(cell)
        self._enter("measuring memory", left)
        self._idle()
        if self._plan.cold_caches:
            self._enter("measuring with cold caches", left)
            self._cold_caches()

    def _enter(self, phase: str, left: float = 0.0) -> None:
        """Begin a phase, which gets its share of `left` seconds."""
        now = time.monotonic()
        self._phases[self._phase] = round(now - self._entered, 1)
        self._phase, self._entered, self._deadline = phase, now, now + left * plan.SHARES.get(phase, 1.0)

    def stop(self) -> None:
        """End it as soon as possible: what is being waited for is ended too."""
        self._stop.set()
        for runtime in (self._runtime, self._without):
            if runtime is not None:
                runtime.close()

    def _tell(self, text: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self._progress(text, done, total)

    # What is made once.

    def _prepare(self, stack: ExitStack) -> None:
        self._enter("making snapshots")
        if "python-pass" in self._plan.ways:
            self._ways[Cell(plan.NO_WORKLOAD, "python-pass")] = Pass(self._python)
        for done, case in enumerate(self._cases):
            self._tell(f"Making snapshots: {case.name}", done, len(self._cases))
            if reason := self._impossible(case):
                self.notes.append(f"{case.name} was left out: {reason}")
                continue
            for name, make in self._makers(case, stack).items():
                if self._stop.is_set():
                    raise Stopped
                try:
                    self._ways[Cell(case.name, name)] = stack.enter_context(make())
                except (WayError, SnapruntimeError) as error:
                    self._does_not_work(Cell(case.name, name), error)

    def _impossible(self, case: Case) -> str:
        if missing := case.missing():
            return f"{', '.join(missing)} cannot be imported"
        # Two sets of images in the page cache, the process to be forked, and copies that read all of it.
        if 6 * case.mib * MIB > host.available():
            return "too little memory is free"
        if 3 * case.mib * MIB > shutil.disk_usage(self._room).free:
            return "too little room on the disk"
        return ""

    def _makers(self, case: Case, stack: ExitStack) -> dict[str, Callable[[], Way]]:
        """How each way of the plan is opened for a workload; snapshots are made when first needed."""
        runtime = self._runtime
        assert runtime is not None
        function = case.function(self._python)
        made: dict[bool, Snapshot] = {}

        def snapshot(*, plain: bool) -> Snapshot:
            if plain not in made:
                made[plain] = self._make_snapshot(runtime, case, stack, plain=plain)
            return made[plain]

        def again() -> Snapshot:
            # Opened twice: what is prepared ahead is one snapshot's, and must not help another's.
            snapshot(plain=False)
            return stack.enter_context(runtime.snapshot(function))

        def restored(snapshot: Snapshot, *, ahead: bool = False) -> Way:
            return Restored(snapshot, lambda: criu_times(snapshot), ahead=ahead)

        def unboxed() -> Snapshot:
            if self._without is None:
                self._without = stack.enter_context(UnboxedRuntime(self._room))
            return stack.enter_context(self._without.snapshot(replace(function, uid=0, gid=0)))

        makers: dict[str, Callable[[], Way]] = {
            "ours": lambda: restored(snapshot(plain=False)),
            "ours-ready": lambda: restored(again(), ahead=True),
            "parked": lambda: Parked(snapshot(plain=False)),
            "unboxed": lambda: restored(unboxed()),
            "unboxed-ready": lambda: restored(unboxed(), ahead=True),
            "plain": lambda: restored(snapshot(plain=True)),
            "criu": lambda: Stock(snapshot(plain=True)),
            "criu-lazy": lambda: Stock(snapshot(plain=True), lazy=True),
            "cold": lambda: Cold(runtime.cold(function)),
            "cold-bare": lambda: ColdBare(case, self._python),
            "fork": lambda: Fork(case, self._python),
        }
        return {name: make for name, make in makers.items() if name in self._plan.ways}

    def _make_snapshot(self, runtime: Runtime, case: Case, stack: ExitStack, *, plain: bool) -> Snapshot:
        late = time.monotonic() - self._started > _PREPARING * self._plan.limit_s
        times = 1 if case.mib or late else self._plan.snapshots
        for left in reversed(range(times)):
            began = time.perf_counter()
            snapshot = runtime.snapshot(case.function(self._python), rebuild=True, plain_images=plain)
            took = (time.perf_counter() - began) * 1000
            files = [path.stat() for path in snapshot.stored.folder.rglob("*") if path.is_file()]
            values = {
                "snapshot": took,
                "checkpoint": snapshot.stored.manifest["dump_ms"],
                "image_size": sum(status.st_size for status in files),
                "image_disk": sum(status.st_blocks for status in files) * 512,
            }
            self.samples.add(Cell(case.name, "plain" if plain else "ours", "snapshot"), values)
            if left:
                snapshot.close()
        if not plain and not snapshot.mapped:
            self.notes.append(f"{case.name}: ours reads its memory instead of mapping it: {snapshot.plain_reason}")
        return stack.enter_context(snapshot)

    # Warming up, which says what each cell costs, and so how many samples of it there is time for.

    def _warm_up(self) -> dict[Cell, int]:
        self._enter("warming up")
        counts: dict[Cell, int] = {}
        for done, (cell, way) in enumerate(list(self._ways.items())):
            self._tell(f"Warming up: {cell}", done, len(self._ways))
            try:
                for _ in range(2):
                    began = time.perf_counter()
                    way.settle(1)
                    sample.one(way, self._of[cell.workload], cell.way, self._draw)
                    self._cost[cell] = time.perf_counter() - began
                    if self._cost[cell] > self._plan.cell_s:
                        break
            except sample.WrongAnswerError:
                raise
            except (WayError, SnapruntimeError, OSError) as error:
                self._does_not_work(cell, error)
                continue
            counts[cell] = plan.enough(self._plan, self._cost[cell])
            for width in self._plan.bursts:
                self._warm_up_burst(Cell(cell.workload, cell.way, "warm", width), counts)
        return counts

    def _warm_up_burst(self, cell: Cell, counts: dict[Cell, int]) -> None:
        alone = Cell(cell.workload, cell.way)
        if cell.workload not in self._plan.busy or cell.way not in _BURST_WAYS:
            return
        cost = self._cost[alone] * cell.concurrency / min(2, os.cpu_count() or 1)
        if cost > _TOO_LONG * self._plan.cell_s:
            self.notes.append(f"{cell} was left out: one burst would take {cost:.0f} s")
            return
        self._ways[cell] = self._ways[alone]
        if cost <= self._plan.cell_s:
            began = time.perf_counter()
            if not self._take(cell, keep=False):
                return
            cost = time.perf_counter() - began
        self._cost[cell] = cost
        counts[cell] = max(1, min(_MOST_BURSTS, self._plan.most, int(self._plan.cell_s / cost)))

    def _does_not_work(self, cell: Cell, error: Exception) -> None:
        if self._stop.is_set():
            raise Stopped from None
        self.notes.append(f"{cell} does not work here: {type(error).__name__}: {error}")
        if (way := self._ways.pop(cell, None)) is not None:
            way.close()

    # Samples.

    def _take(self, cell: Cell, *, keep: bool = True, ahead: Callable[[], None] = lambda: None) -> bool:
        """One sample, or burst, of a cell; whether it was answered.

        Args:
            keep: whether it counts.
            ahead: is called just before the clock starts.
        """
        if self._given_up.get(cell, 0) >= _FAILURES:
            return False
        way, case = self._ways[cell], self._of[cell.workload]
        try:
            way.settle(cell.concurrency)
            ahead()
            if cell.concurrency == 1:
                taken = [sample.one(way, case, cell.way, self._draw)]
            else:
                latencies, rate = sample.burst(way, case, cell.way, self._draw, cell.concurrency)
                taken = [{"first_answer": latency} for latency in latencies] + [{"rate": rate}]
        except sample.WrongAnswerError:
            raise
        except (WayError, SnapruntimeError, OSError) as error:
            if self._stop.is_set():
                raise Stopped from None
            self.failures.append(f"{cell}: {type(error).__name__}: {error}")
            self._given_up[cell] = self._given_up.get(cell, 0) + 1
            return False
        for values in taken if keep else ():
            self.samples.add(cell, values)
        return True

    def _idle(self) -> None:
        """Memory of copies that wait."""
        cells = [
            Cell(cell.workload, cell.way, "idle", count)
            for cell in list(self._ways)
            if cell.workload in self._plan.busy and cell.way in _IDLE_WAYS and cell.concurrency == 1
            for count in self._plan.idle
        ]
        for done, cell in enumerate(cells):
            self._tell(f"Copies that wait: {cell}", done, len(cells))
            alone = Cell(cell.workload, cell.way)
            cost = self._cost[alone] * cell.concurrency
            if time.monotonic() + cost > self._deadline:
                self.notes.append(f"{cell} was left out: starting so many would take {cost:.0f} s, more than was left")
                continue
            try:
                self._nothing_ahead_but_of(self._ways[alone])
                measure_idle(self._ways[alone], self._of[cell.workload], cell, self._draw, self.samples, self._check)
            except sample.WrongAnswerError:
                raise
            except (WayError, SnapruntimeError, OSError) as error:
                self._check()
                self.failures.append(f"{cell}: {type(error).__name__}: {error}")

    def _nothing_ahead_but_of(self, way: Way) -> None:
        """Take away what other ways hold ahead: it shares pages with what is measured, and keeps them in the cache."""
        for other in dict.fromkeys(self._ways.values()):
            if other is not way:
                other.settle(0)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _cold_caches(self) -> None:
        """Rounds of one sample per cell, the page cache dropped before each."""
        for cell, way in list(self._ways.items()):
            if cell.way == "fork":
                way.close()  # The page cache keeps what a process has mapped.
                del self._ways[cell]
        cells = [cell for cell in self._ways if cell.concurrency == 1]
        dropper = host.CacheDropper(self._room)
        self.notes.append(f"cold-cache: {dropper.how}")
        spent = dict.fromkeys(cells, 0.0)

        def empty(way: Way) -> None:
            self._nothing_ahead_but_of(way)
            dropper.drop()

        for turn in range(min(_MOST_COLD_CACHES, self._plan.most)):
            left = [cell for cell in cells if turn < self._plan.least or spent[cell] < self._plan.cell_s]
            for done, cell in enumerate(self._draw.sample(left, len(left))):
                if time.monotonic() > self._deadline:
                    self.notes.append(f"cold-cache: the time was over after {turn} rounds and {done} more samples")
                    return
                where = Cell(cell.workload, cell.way, "cold-cache")
                self._tell(f"Cold caches, round {turn + 1}: {where}", done, len(left))
                self._ways[where] = self._ways[cell]
                began = time.perf_counter()
                self._take(where, ahead=partial(empty, self._ways[cell]))
                spent[cell] += time.perf_counter() - began

    def content(self) -> dict[str, Any]:
        """The document, as far as the run has come."""
        return {
            "format": FORMAT,
            "command": self._command,
            "seed": self._plan.seed,
            "complete": self._phase == "complete",
            "phase": self._phase,
            "began": self._began.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": dict(self._phases),
            "load": {"start": self._load, "end": host.load()},
            "host": dict(self._host),
            "versions": host.versions(),
            "ways": plan.WAYS,
            "notes": list(self.notes),
            "failures": list(self.failures),
            "rows": self.samples.rows(),
        }


#: What `python -c pass` is asked, and what it answers.
_NOTHING = Case(plan.NO_WORKLOAD, "", lambda _: (None, None))
