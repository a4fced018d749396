"""What is prepared ahead: as much as a burst is said to begin with, and nothing where it would disturb."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support import Write, assert_nothing_left, census, wait_until

from snapruntime import Runtime, Snapshot
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
