"""One load test: rounds in which each way of serving gets its share of time, one after the other."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snapruntime.bench.load.bare import Bare, run_bare
from snapruntime.bench.load.served import Served
from snapruntime.bench.load.wrk import Load, run_wrk

HELLO = Path(__file__).parents[1] / "workloads" / "hello.py"
_EVENT, _EXPECTED = {"name": "Ada"}, "Hello, Ada!"
#: Requests at once of "moderate load", and of the burst.
MODERATE, BURST = 4, 100
#: The loads that targets are about, and all else that HTTP costs: routing, threads, the look at the database.
#: There are parked copies for as many requests as are restored meanwhile; beyond, requests are answered on demand.
PARKED, FRESH = "parked, 20 a second", f"some parked, {MODERATE} at once"
DEMAND_1, DEMAND = "on demand, 1 at once", f"on demand, {MODERATE} at once"
HTTP, KEPT_1 = "dry run, 1 at once", "kept warm, 1 at once"
#: What bounds a parked copy: the same rhythm, without its restores.
HTTP_20, KEPT_20 = "dry run, 20 a second", "kept warm, 20 a second"
#: Two connections that send at random moments, 20 requests a second together.
_RARE: dict[str, Any] = {"connections": 2, "pause_ms": 100}
_DRY: dict[str, Any] = {"status": 204, "expected": "", "header": "X-Amz-Invocation-Type: DryRun"}
#: A parked copy promises, from request read to answer written, so many seconds at p50 and at p99.
P50_S, P99_S = 0.0015, 0.005


@dataclass
class Found:
    """What was measured.

    Attributes:
        loads: by name, one for each round.
        bare: likewise.
        within: the shares of requests to parked copies answered within P50_S and P99_S, server-side; each round's.
        burst: milliseconds of each request of a burst from nothing; each round's.
        burst_wrong: requests of bursts that were not answered.
    """

    loads: dict[str, list[Load]] = field(default_factory=dict)
    bare: list[Bare] = field(default_factory=list)
    within: list[tuple[float, float]] = field(default_factory=list)
    burst: list[list[float]] = field(default_factory=list)
    burst_wrong: int = 0

    def rate(self, name: str) -> float:
        return statistics.median(load.rate for load in self.loads[name])

    def p50(self, name: str) -> float:
        return statistics.median(load.p50 for load in self.loads[name])

    @property
    def wrong(self) -> int:
        """Answers of all runs that were not as expected, or did not come."""
        return self.burst_wrong + sum(load.wrong + load.broken for loads in self.loads.values() for load in loads)


def run_load_test(home: Path, *, seconds: float, rounds: int, say: Callable[[str], None]) -> Found:
    """Measure it all.

    Args:
        home: a data folder with CRIU set up.
        seconds: each load of each round.
    """
    found = Found()
    event = json.dumps(_EVENT)
    with contextlib.ExitStack() as stack:
        parked = stack.enter_context(Served(_part(home, "parked"), "--warm", "8"))
        demand = stack.enter_context(Served(_part(home, "demand"), "--warm", "0"))
        path = parked.publish("hello", HELLO)
        assert demand.publish("hello", HELLO) == path
        cold = path.replace("Qualifier=1", "Qualifier=$LATEST")
        rivals = {kind: stack.enter_context(rival(kind, home / kind)) for kind in ("kept", "process")}

        def load(name: str, url: str, where: str, connections: int, **options: Any) -> None:
            settings = {"expected": _EXPECTED, "connections": connections, "seconds": seconds, **options}
            result = run_wrk(url, where, event, **settings)
            found.loads.setdefault(name, []).append(result)
            say(f"{name:28} {result.rate:9.1f}/s   p50 {result.p50:7.2f} ms   p99 {result.p99:7.2f} ms")

        for number in range(rounds):
            before = parked.seconds_of("Invoke")
            load(PARKED, parked.url, path, **_RARE)
            found.within.append(_within(before, parked.seconds_of("Invoke")))
            load(FRESH, parked.url, path, MODERATE)
            load(DEMAND_1, demand.url, path, 1)
            load(DEMAND, demand.url, path, MODERATE)
            bare = run_bare(home / "demand", HELLO, event.encode(), threads=MODERATE, seconds=seconds)
            say(f"{f'bare restores, {MODERATE} threads':28} {bare.rate:9.1f}/s   p50 {bare.p50:7.2f} ms")
            found.bare.append(bare)
            load(HTTP, demand.url, path, 1, **_DRY)
            load(HTTP_20, demand.url, path, **_RARE, **_DRY)
            load(f"cold starts, {MODERATE} at once", demand.url, cold, MODERATE)
            load(KEPT_1, rivals["kept"], "/", 1)
            load(KEPT_20, rivals["kept"], "/", **_RARE)
            load(f"kept warm, {MODERATE} at once", rivals["kept"], "/", MODERATE)
            load(f"process per request, {MODERATE} at once", rivals["process"], "/", MODERATE)
            _burst(found, _part(home, f"burst-{number}"), event.encode())
            say(f"{'burst of 100 from nothing':28} longest {max(found.burst[-1], default=0):7.1f} ms")
    return found


@contextlib.contextmanager
def rival(kind: str, folder: Path) -> Iterator[str]:
    """Another server; its address."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.py").write_text(HELLO.read_text())
    command = [sys.executable, "-m", "snapruntime.bench.load.rivals", kind, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.communicate()


def _part(home: Path, name: str) -> Path:
    """A data folder of its own for a server, with the same CRIU."""
    part = home / name
    part.mkdir(mode=0o755)
    (part / "criu").symlink_to(home / "criu")
    return part


def _within(before: dict[float, float], after: dict[float, float]) -> tuple[float, float]:
    """The shares of the requests between two looks that were answered within P50_S and P99_S."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in after}
    total = counts[float("inf")]
    return counts[P50_S] / total, counts[P99_S] / total


def _burst(found: Found, home: Path, event: bytes) -> None:
    """BURST requests at the same moment to a server that has no copy."""
    times: list[float] = []
    with Served(home, "--warm", "1") as server:
        path = server.publish("hello", HELLO)
        barrier = threading.Barrier(BURST)

        def one() -> None:
            barrier.wait()
            began = time.perf_counter()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(server.url + path, event, headers, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    right = _EXPECTED.encode() in answer.read()
            except OSError:
                right = False
            if right:
                times.append((time.perf_counter() - began) * 1000)

        threads = [threading.Thread(target=one) for _ in range(BURST)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found.burst.append(times)
    found.burst_wrong += BURST - len(times)
