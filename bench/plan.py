"""What a run measures, for how long, and in which order."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from snapruntime.bench import cases
from snapruntime.bench.document import Cell

#: The ways to answer, in the order of the report, and what they are.
WAYS = {
    "python-pass": "`python -c pass` from start to end: no fresh interpreter can answer sooner",
    "cold-bare": "a fresh interpreter imports the handler and answers; no sandbox",
    "cold": "a fresh process in the runtime's sandbox imports the handler and answers",
    "criu": "stock CRIU: `criu restore` of the images as CRIU wrote them",
    "criu-lazy": "the same with `--lazy-pages`, the page daemon started beforehand",
    "plain": "the runtime, on demand, with images as CRIU wrote them",
    "ours": "the runtime, on demand: nothing is prepared ahead",
    "ours-ready": "the runtime, with CRIU and sandbox prepared ahead of the request",
    "parked": "the runtime, by a copy that was restored ahead and waits before its after-restore hooks",
    "unboxed": "the runtime on demand, without the sandbox: root in PID and mount namespaces",
    "unboxed-ready": "the same, prepared ahead",
    "fork": "os.fork() of the warmed process, outside of any sandbox: the floor",
}
#: Is told what is done, how much of it is over, and how much there is.
Progress = Callable[[str, int, int], None]

#: What answers no workload.
NO_WORKLOAD = "none"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run measures.

    Attributes:
        workloads: names of cases.
        ways: names of WAYS.
        seed: of the order, and of the events.
        cell_s: about how long to measure each cell, seconds.
        least: samples of a cell at least.
        most: samples of a cell at most.
        bursts: how many requests at once.
        busy: the workloads that get bursts and idle copies.
        idle: how many copies are to wait at once.
        cold_caches: measure with the page cache dropped too.
        snapshots: how often each snapshot is made.
        limit_s: the longest that all of it may take, seconds; what has not been measured by then is left out. On a
            machine that is slow, or busy with other things, there are fewer samples, not more time.
    """

    workloads: tuple[str, ...]
    ways: tuple[str, ...]
    seed: int
    cell_s: float = 7.0
    least: int = 3
    most: int = 200
    bursts: tuple[int, ...] = (8, 24, 100)
    busy: tuple[str, ...] = ("hello", "pandas")
    idle: tuple[int, ...] = (1, 10, 100)
    cold_caches: bool = True
    snapshots: int = 3
    limit_s: float = 1200.0


#: What --quick leaves of it.
QUICK_WORKLOADS = ("hello", "pandas", "memory-64", "memory-1024")


def full(workloads: tuple[str, ...], ways: tuple[str, ...], seed: int) -> Plan:
    """About 20 minutes on 2 cores."""
    return Plan(workloads or cases.NAMES, ways or tuple(WAYS), seed)


def quick(workloads: tuple[str, ...], ways: tuple[str, ...], seed: int) -> Plan:
    """Less than 3 minutes on 2 cores."""
    return Plan(
        workloads or QUICK_WORKLOADS,
        ways or tuple(WAYS),
        seed,
        cell_s=1.5,
        most=100,
        bursts=(8, 24),
        busy=("pandas",),
        snapshots=1,
        limit_s=155.0,
    )


#: How the time that is left after warming up is shared out.
SHARES = {"measuring": 0.6, "measuring memory": 0.15, "measuring with cold caches": 0.25}


def enough(plan: Plan, cost_s: float) -> int:
    """How many samples a cell gets that costs `cost_s` seconds each; one, where that is more than a cell's time."""
    return max(plan.least if cost_s <= plan.cell_s else 1, min(plan.most, int(plan.cell_s / cost_s)))


def fitted(counts: Mapping[Cell, int], cost_s: Mapping[Cell, float], least: int, limit_s: float) -> dict[Cell, int]:
    """`counts`, lowered in proportion (to no less than `least`) where they would take longer than `limit_s`."""
    total = sum(count * cost_s[cell] for cell, count in counts.items())
    return {cell: max(min(least, count), int(count * min(1.0, limit_s / total))) for cell, count in counts.items()}


def interleaved(counts: Mapping[Cell, int], draw: random.Random) -> list[Cell]:
    """The order of all samples: each cell's are spread evenly over the whole run, at random within their turn.

    So whatever drifts or disturbs while the run goes on, does so to every cell alike. Cells with as many samples are
    taken round-robin, each round in another order.
    """
    places = [((turn + draw.random()) / count, cell) for cell, count in sorted(counts.items()) for turn in range(count)]
    return [cell for _, cell in sorted(places)]
