"""What copies cost that wait: proportional set size, and what the machine as a whole has less."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from snapruntime.bench import host
from snapruntime.bench.cases import Case
from snapruntime.bench.document import Cell, Samples
from snapruntime.bench.sample import checked
from snapruntime.bench.ways import Alive, Way

#: How many are started at the same time.
_AT_ONCE = 4


def measure_idle(
    way: Way, case: Case, cell: Cell, draw: random.Random, samples: Samples, stop_if_asked: Callable[[], None]
) -> None:
    """Start `cell.concurrency` copies, look at their memory, have each answer one event, and look again."""
    count = cell.concurrency
    questions = [case.ask(draw) for _ in range(count)]
    way.settle(count)
    free = host.available()
    with ExitStack() as stack, ThreadPoolExecutor(_AT_ONCE) as pool:

        def start() -> None:
            stop_if_asked()
            alive = way.start()
            stack.callback(alive.close)
            copies.append(alive)

        copies: list[Alive] = []
        for future in [pool.submit(start) for _ in range(count)]:
            future.result()
        if way.splits:
            # Without `splits` a copy may not be there before it has answered.
            for copy in copies:
                samples.add(cell, _memory(copy.pid, ""))
            taken = max(0, free - host.available())
            total = sum(_memory(copy.pid, "")["pss"] for copy in copies)
            samples.add(cell, {"pss_total": total, "available_taken": taken})
        for copy, question in zip(copies, questions, strict=True):
            checked(copy, question, case, cell.way)
        for copy in copies:
            samples.add(cell, _memory(copy.pid, "_answered"))


def _memory(pid: int, suffix: str) -> dict[str, float]:
    """Bytes in use by a process (proc(5), smaps_rollup): pages that it shares count by its share, and in full."""
    found = {}
    for line in host.read(f"/proc/{pid}/smaps_rollup").splitlines():
        name, _, rest = line.partition(":")
        if name in ("Pss", "Rss"):
            found[f"{name.lower()}{suffix}"] = int(rest.split()[0]) * 1024.0
    return found
