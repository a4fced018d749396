"""Copies prepared ahead: used first, made anew after use, gone with the snapshot; and what follows when CRIU fails."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support import Census, Write, assert_nothing_left, census, wait_until

from snapruntime import RestoreError, Runtime, Snapshot


@pytest.fixture(autouse=True)
def nothing_left(runtime: Runtime, criu_home: Path) -> Iterator[Census]:
    before = census([criu_home])
    yield before
    assert_nothing_left(before, [criu_home])


@pytest.fixture
def snapshot(runtime: Runtime, write: Write) -> Iterator[Snapshot]:
    with runtime.snapshot(write("import os\ndef lambda_handler(e, c): return e")) as snapshot:
        yield snapshot


def waiting(count: int) -> list[psutil.Process]:
    """The CRIU processes that wait below us, once there are `count`: what is about to be one has another name."""
    found: list[psutil.Process] = []

    def are_there() -> bool:
        found[:] = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "swrk" in process.cmdline():
                    found.append(process)
        return len(found) == count

    wait_until(are_there, f"{count} of CRIU wait")
    return found
    return found


def answer(snapshot: Snapshot, event: object) -> object:
    with snapshot.restore() as copy:
        return copy.invoke(event).result


def test_what_is_ready_is_used_and_made_anew(snapshot: Snapshot) -> None:
    snapshot.keep_ready(3)
    assert snapshot.wait_ready() == 3
    before = {process.pid for process in waiting(3)}
    assert [answer(snapshot, n) for n in range(2)] == [0, 1]
    assert snapshot.wait_ready() == 3
    after = {process.pid for process in waiting(3)}
    assert len(after & before) == 1, "two were used, the third waits still"


def test_no_more_are_made_than_will_be_used(snapshot: Snapshot) -> None:
    snapshot.keep_ready(2, 3)
    assert snapshot.wait_ready() == 2
    assert [answer(snapshot, n) for n in range(5)] == list(range(5))
    assert snapshot.wait_ready() == 0
    assert waiting(0) == []


def test_what_is_over_when_fewer_are_wanted_is_taken_away(snapshot: Snapshot) -> None:
    snapshot.keep_ready(4, 4)
    assert snapshot.wait_ready() == 4
    snapshot.keep_ready(1, 0)
    assert snapshot.wait_ready() == 1
    waiting(1)
    assert answer(snapshot, "still answered") == "still answered"
    snapshot.keep_ready(0)
    assert snapshot.wait_ready() == 0
    assert waiting(0) == []


def test_many_at_once(snapshot: Snapshot) -> None:
    snapshot.keep_ready(4, 20)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: answer(snapshot, n), range(20))) == list(range(20))


def test_a_criu_that_died_while_it_waited_is_replaced(snapshot: Snapshot) -> None:
    snapshot.keep_ready(1, 1)
    assert snapshot.wait_ready() == 1
    (criu,) = waiting(1)
    criu.kill()
    criu.wait()
    assert answer(snapshot, "still answered") == "still answered"


def test_a_restore_that_fails_is_replayed_with_a_full_log(snapshot: Snapshot, criu_home: Path) -> None:
    snapshot.keep_ready(2)
    snapshot.wait_ready()
    image = snapshot.stored.folder / "images" / "files.img"
    image.rename(image.with_suffix(".gone"))
    with pytest.raises(RestoreError, match=r"files\.img|Error \(") as caught:
        snapshot.restore()
    (named,) = re.findall(r"/\S+\.log", caught.value.hint)
    log = Path(named)
    assert log.is_relative_to(criu_home)
    assert log.stat().st_mode & 0o077 == 0
    assert "Version: " in log.read_text(), "what log level 1 does not show"
    image.with_suffix(".gone").rename(image)
    assert answer(snapshot, 1) == 1


def test_the_latest_logs_are_kept(runtime: Runtime, snapshot: Snapshot) -> None:
    store = snapshot._store
    paths = [store.keep_log(f"restore-{n}", f"{n}") for n in range(15)]
    assert [path.exists() for path in paths] == [False] * 5 + [True] * 10


def test_closing_the_runtime_first(write: Write, criu_home: Path) -> None:
    with Runtime(criu_home) as runtime:
        snapshot = runtime.snapshot(write("def lambda_handler(e, c): return e"))
        snapshot.keep_ready(2)
        snapshot.wait_ready()
        runtime.close()
        snapshot.close()
