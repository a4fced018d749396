"""The load test, small: every way of serving answers, and the report says of each target whether it is held."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snapruntime.bench.load.report import verdicts, write
from snapruntime.bench.load.run import BURST, run_load_test
from snapruntime.bench.load.wrk import run_wrk
from snapruntime.values.errors import UsageError


def test_a_small_load_test(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "criu").symlink_to(home / "criu")
    lines: list[str] = []
    found = run_load_test(folder, seconds=1, rounds=1, say=lines.append)
    assert found.wrong == 0, lines
    assert all(load.requests for loads in found.loads.values() for load in loads)
    assert [len(times) for times in found.burst] == [BURST]
    # How fast, a busy machine does not say; that nothing is wrong or missing, it does.
    held = {one.claim: one.held for one in verdicts(found)}
    assert held["no answer of any run is wrong or missing"]
    write(found, "a test", tmp_path / "load")
    report = (tmp_path / "load.md").read_text()
    for name in (*found.loads, *held):
        assert name in report
    assert json.loads((tmp_path / "load.json").read_text())["burst_wrong"] == 0


def test_without_wrk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="There is no wrk"):
        run_wrk("http://127.0.0.1:1", "/", "{}", "", connections=1, seconds=1)
