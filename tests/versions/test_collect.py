"""What is collected, and what is not."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from functions.conftest import HANDLER, configured, zipped

from snapruntime import Runtime
from snapruntime.values.function import State
from snapruntime.workflows.collect import collect
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.versions import Versions
from versions.conftest import Publish, answer, collected, snapshots


def test_gc_removes_nothing_that_a_copy_comes_from(publish: Publish, versions: Versions, functions: Functions) -> None:
    version = publish("import os\nwith open(__file__) as file: text = file.read()\n" + HANDLER)
    assert version.snapshot is not None
    code = Path(version.code.folder)
    with versions.open(version) as opened, opened.start() as copy:
        functions.delete("f")
        assert {version.snapshot, code.name}.isdisjoint(collected(functions))
        assert copy.invoke(1).result == ["1", 1]
        assert answer(opened, 2) == ["1", 2], "more copies can be had"
        assert code.exists()
    assert {version.snapshot, code.name} <= collected(functions, dry_run=True)
    assert code.exists(), "a dry run removes nothing"
    assert {version.snapshot, code.name} <= collected(functions)
    assert not code.exists()
    assert version.snapshot not in snapshots(functions)


def test_gc_keeps_what_versions_are_answered_from(publish: Publish, versions: Versions, functions: Functions) -> None:
    first, second = publish(), publish(timeout_s=9)
    with versions.open(second, rebuild=True) as opened:
        third = opened.version
    assert second.snapshot is not None
    assert {first.snapshot, third.snapshot, Path(first.code.folder).name}.isdisjoint(collected(functions, dry_run=True))
    assert second.snapshot in collected(functions), "it has another now"
    for version in (first, third):
        with versions.open(version) as opened:
            assert opened.version == version


def test_gc_and_what_run_has_made(functions: Functions, runtime: Runtime, write: Callable[..., Any]) -> None:
    """A handler's snapshot stays as long as the handler's folder does."""
    function = write(HANDLER)
    with runtime.snapshot(function) as snapshot:
        pass
    assert snapshot.id not in collected(functions)
    shutil.rmtree(function.task_root)
    assert snapshot.id in collected(functions)


def test_gc_leaves_another_versions_snapshots(functions: Functions, publish: Publish) -> None:
    version = publish()
    manifest = next(functions.home.glob(f"snapshots/*/{version.snapshot}/manifest.json"))
    head, _, body = manifest.read_bytes().partition(b"\n")
    manifest.write_bytes(json.dumps(json.loads(head) | {"format": 999}).encode() + b"\n" + body)
    assert version.snapshot not in collected(functions)
    assert version.snapshot in collected(functions, other_versions=True)


def test_gc_while_versions_are_published_and_opened(functions: Functions, versions: Versions, runtime: Runtime) -> None:
    """Two collect without a pause; two publish, open, answer, delete. No snapshot goes that is being used."""
    done = threading.Event()

    def collecting() -> int:
        with Functions(functions.home) as mine:
            count = 0
            while not done.is_set():
                count += len(list(collect(mine)))
            return count

    def publishing(name: str) -> None:
        with Functions(functions.home) as mine:
            opener = Versions(mine, runtime)
            for number in range(6):
                mine.create(name, configured(), zipped({"handler.py": f"{HANDLER}# {number % 2}"}))
                version = opener.prepare(mine.publish(name))
                assert version.state is State.ACTIVE, version.state_reason
                with opener.open(version) as opened:
                    assert opened.version == version, "it was not made anew"
                    mine.delete(name)
                    assert answer(opened, number) == [version.version, number]

    with ThreadPoolExecutor(4) as pool:
        collectors = [pool.submit(collecting) for _ in range(2)]
        try:
            list(pool.map(publishing, ["one", "two"]))
        finally:
            done.set()
        assert sum(collector.result() for collector in collectors) > 0


def test_leases_end_with_their_process(functions: Functions, publish: Publish, versions: Versions) -> None:
    version = publish()
    opened = versions.open(version)
    functions.delete("f")
    pid = os.fork()
    if pid == 0:
        os._exit(0)  # What it inherited is closed; the parent's lease stays.
    os.waitpid(pid, 0)
    assert version.snapshot not in collected(functions)
    opened.close()
    assert version.snapshot in collected(functions)
