"""The store of logs, and what is counted from it."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snapruntime.mechanisms.log_store import LOGS, LogStore
from snapruntime.workflows.statistics import summarise


def record(number: int) -> dict[str, Any]:
    return {"time": "t", "type": "function", "record": number}


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    store.write("f", [record(1), record(2)])
    store.write("g", [record(9)])
    store.write("f", [record(3)])
    assert [one["record"] for one in store.read("f")] == [1, 2, 3]
    assert store.read("nobody") == []
    assert (tmp_path / LOGS).stat().st_mode & 0o077 == 0
    store.close()


def test_files_take_turns_and_who_follows_misses_nothing(tmp_path: Path) -> None:
    store = LogStore(tmp_path, file_limit=1000)
    follower, seen = store.follow("f"), []
    for number in range(100):
        store.write("f", [record(number)])
        seen += [one["record"] for one in follower.records()]
    assert seen == list(range(100))
    assert sorted(path.name for path in (tmp_path / LOGS).iterdir()) == ["f.1.jsonl", "f.jsonl"]
    assert sum(path.stat().st_size for path in (tmp_path / LOGS).iterdir()) < 2200
    left = [one["record"] for one in store.read("f")]
    assert left == list(range(100))[-len(left) :]
    store.close()


def test_several_write_to_one_log(tmp_path: Path) -> None:
    """Two stores stand for two processes: whole lines, each once, also while files take turns."""
    stores = [LogStore(tmp_path, file_limit=1 << 20) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: stores[n % 2].write("f", [record(n)]), range(400)))
    assert sorted(one["record"] for one in stores[0].read("f")) == list(range(400))
    for store in stores:
        store.close()


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    store.write("f", [record(1)])
    follower = store.follow("f")
    path = tmp_path / LOGS / "f.jsonl"
    with path.open("ab") as file:
        file.write(b'{"half": ')
        file.flush()
        assert [one["record"] for one in follower.records()] == [1]
        file.write(b'1, "record": 2}\nno json\n')
    assert [one["record"] for one in follower.records()] == [2]
    store.close()


def test_many_functions_do_not_take_many_descriptors(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    for number in range(200):
        store.write(f"f{number}", [record(number)])
    assert len(store._files) <= 64
    assert all(store.read(f"f{number}") for number in range(200))
    store.close()


def test_what_is_lost_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a full disk answers were given and their logs were not kept, without a word."""
    store = LogStore(tmp_path)
    path = tmp_path / "logs" / "f.jsonl"
    path.symlink_to("/dev/full")
    for number in range(3):
        store.write("f", [record(number)])
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text
    path.unlink()
    store.write("f", [record(3)])
    assert caplog.messages[1:] == ["What functions log is kept again."]
    assert [one["record"] for one in store.read("f")] == [3]
    store.close()


def report(way: str, milliseconds: float, version: str = "1", error: str = "") -> dict[str, Any]:
    return {
        "time": "2026-11-24T12:00:00.000Z",
        "type": "platform.report",
        "record": {
            "status": "error" if error else "success",
            **({"errorType": error} if error else {}),
            "metrics": {"maxMemoryUsedMB": 20, "memorySizeMB": 128},
            "snapruntime": {"version": version, "way": way, "totalMs": milliseconds},
        },
    }


def test_statistics() -> None:
    records = [report("parked", n) for n in range(1, 101)]
    records += [report("on demand", 5.0, error="ValueError"), report("cold", 300.0, version="2"), record(1)]
    found = summarise(records, None)
    assert found.answers == 102
    assert found.ways["parked"].percentile(0.5) == 50
    assert found.ways["parked"].percentile(0.99) == 99
    assert found.ways["parked"].percentile(1.0) == 100
    assert found.errors == {"ValueError": 1}
    document = json.loads(json.dumps(found.document()))
    assert document["ways"]["on demand"] == {
        "answers": 1, "errors": 1, "p50Ms": 5.0, "p95Ms": 5.0, "p99Ms": 5.0, "maxMs": 5.0,
    }  # fmt: skip
    assert list(summarise(records, "2").ways) == ["cold"]
    assert summarise([], None).answers == 0


def test_requests_for_which_nothing_started_are_counted() -> None:
    """Of a function whose every restore failed it was said that its log has no answers."""
    failed = {
        "time": "2026-11-24T12:00:00.000Z",
        "type": "platform.restoreReport",
        "record": {
            "status": "error",
            "errorType": "Runtime.AfterRestoreError",
            "metrics": {"durationMs": 3.0},
            "snapruntime": {"version": "1"},
        },
    }
    started: dict[str, Any] = {"time": "", "type": "platform.restoreReport", "record": {"status": "success"}}
    found = summarise([started, failed, failed], "1")
    assert (found.answers, found.not_started, found.errors) == (0, 2, {"Runtime.AfterRestoreError": 2})
    assert found.since == failed["time"]
    assert summarise([failed], "2").not_started == 0


def test_a_disk_that_takes_half_a_line_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first record after there was room again was part of the line that had been cut off, and so was lost too."""
    store, write = LogStore(tmp_path), os.write
    store.write("f", [record(1)])
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        store.write("f", [record(2)])
    assert "No space left" in caplog.text
    store.write("f", [record(3)])
    store.write("f", [record(4)])
    assert [one["record"] for one in store.read("f")] == [1, 3, 4]
    assert (tmp_path / LOGS / "f.jsonl").read_bytes().count(b"\n") == 4
    store.close()
