"""The bare restore path: copies of one snapshot restored, invoked and ended as fast as threads can, without HTTP."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from snapruntime import Runtime, resolve_function


@dataclass(frozen=True, slots=True)
class Bare:
    """What came of it: answers per second, and the median from request to answer, milliseconds."""

    rate: float
    p50: float


def run_bare(home: Path, source: Path, event: bytes, *, threads: int, seconds: float) -> Bare:
    """Answer the event by copies on demand for so long."""
    times: list[float] = []
    with Runtime(home) as runtime, runtime.snapshot(resolve_function(source)) as snapshot:
        until = time.monotonic() + seconds

        def work() -> None:
            while time.monotonic() < until:
                with snapshot.restore() as copy:
                    times.append(copy.invoke(event).total_ms)

        began = time.monotonic()
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        took = time.monotonic() - began
    return Bare(len(times) / took, statistics.median(times))
