"""What is prepared ahead: as much as a burst is said to begin with, and nothing where it would disturb."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support import Write, assert_nothing_left, census, wait_until

from snapruntime import Runtime, Snapshot
from snapruntime.bench import host, idle, run
from snapruntime.bench.cases import Case
from snapruntime.bench.document import Cell, Samples
from snapruntime.bench.plan import Plan
from snapruntime.bench.stock import Stock
from snapruntime.bench.ways import Parked, Restored, Way


@pytest.fixture(autouse=True)
def nothing_left(runtime: Runtime, criu_home: Path) -> Iterator[None]:
    before = census([criu_home])
    yield
    assert_nothing_left(before, [criu_home])


@pytest.fixture
def snapshot(runtime: Runtime, write: Write) -> Iterator[Snapshot]:
    source = "def lambda_handler(event, context): return event"
    with runtime.snapshot(write(source), plain_images=True) as snapshot:
        yield snapshot


def running(word: str) -> list[int]:
    """The processes below us that have `word` in their command line."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if any(word in part for part in process.cmdline()):
                found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (Parked, "__main__.py"),
        (lambda snapshot: Restored(snapshot, ahead=True), "swrk"),
        (lambda snapshot: Stock(snapshot, lazy=True), "lazy-pages"),
    ],
    ids=["parked", "ours-ready", "criu-lazy"],
)
def test_what_a_larger_burst_left_over_serves_no_smaller_one(
    snapshot: Snapshot, make: Callable[[Snapshot], Way], word: str
) -> None:
    with make(snapshot) as way:
        for count in (3, 1, 2, 0):
            way.settle(count)
            wait_until(lambda count=count: len(running(word)) == count, f"{count} are ahead")  # type: ignore[misc]
        way.settle(2)
        for _ in range(2):
            alive = way.start()
            assert alive.call({"n": 1}) == {"n": 1}
            alive.close()
        wait_until(lambda: not running(word), "all that was ahead was used")
        way.settle(0)


def test_what_others_hold_ahead_is_gone_where_memory_and_cold_caches_are_measured(
    criu_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shares pages with what is measured, and keeps pages in the cache that were to be dropped."""
    seen: list[tuple[str, int, int, int]] = []
    where = ""

    def look(at: str) -> None:
        if at.endswith("ours-ready (cold-cache)"):
            wait_until(lambda: bool(running("swrk")), "the CRIU that was started ahead has become CRIU")
        seen.append((at, len(running("__main__.py")), len(running("swrk")), len(running("bare.py"))))

    def progress(text: str, *_: int) -> None:
        nonlocal where
        where = text

    def measure(
        way: Way, case: Case, cell: Cell, draw: random.Random, samples: Samples, stop: Callable[[], None]
    ) -> None:
        look(f"idle: {cell}")
        idle.measure_idle(way, case, cell, draw, samples, stop)

    drop = host.CacheDropper.drop

    def dropped(self: host.CacheDropper) -> None:
        look(where)
        drop(self)

    monkeypatch.setattr(run, "measure_idle", measure)
    monkeypatch.setattr(host.CacheDropper, "drop", dropped)
    ways = ("cold-bare", "ours", "ours-ready", "parked", "fork")
    the_plan = Plan(
        ("hello",), ways, 1, cell_s=1.0, least=1, most=1, bursts=(3,), busy=("hello",), idle=(1, 2), snapshots=1
    )
    it = run.Run(the_plan, "a test", progress)
    it.go(criu_home)
    assert it.failures == []
    memory = [(text.split(": ")[1], *counts) for text, *counts in seen if text.startswith("idle: ")]
    assert memory == [
        ("hello ours (idle)", 0, 0, 0),
        ("hello ours x2 (idle)", 0, 0, 0),
        ("hello fork (idle)", 0, 0, 0),
        ("hello fork x2 (idle)", 0, 0, 1),  # Its own, from before.
    ]
    cold = {(text.split(": ")[1], *counts) for text, *counts in seen if text.startswith("Cold caches, round")}
    assert cold == {
        ("hello cold-bare (cold-cache)", 0, 0, 0),
        ("hello ours (cold-cache)", 0, 0, 0),
        ("hello ours-ready (cold-cache)", 0, 1, 0),
        ("hello parked (cold-cache)", 1, 0, 0),
    }
