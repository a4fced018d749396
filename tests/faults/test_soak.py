"""The short soak: what `make soak` does for minutes, for some seconds. Its report says what was done, and is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest

from snapruntime.bench.soak.counts import spawner_of

ROOT = Path(__file__).resolve().parents[2]


def soak(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "snapruntime.bench.soak", *arguments],
        cwd=ROOT,
        env={**os.environ, "SNAPRUNTIME_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.usefixtures("nothing_left")
def test_a_short_soak(criu_home: Path, tmp_path: Path) -> None:
    done = soak(criu_home, "--invocations", "300", "--seed", "7", "--report", str(tmp_path / "soak"))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "soak.json").read_text())
    assert result["passed"]
    assert result["made"] == sum(entry["requests"] for entry in result["entries"]) == 300
    assert {"answered", "failed", "refused"} == {entry["outcome"] for entry in result["entries"]}
    assert {"none", "copy killed", "snapshot damaged", "supervisor killed", "CRIU killed"} <= {
        entry["fault"] for entry in result["entries"]
    }
    assert "# Soak: passed" in done.stdout
    assert (tmp_path / "soak.md").read_text() in done.stdout


@pytest.mark.usefixtures("nothing_left")
def test_a_soak_that_cannot_be_done_in_time_has_failed(criu_home: Path) -> None:
    """It does not take fewer requests for success."""
    done = soak(criu_home, "--invocations", "50", "--limit", "20")
    assert done.returncode == 1
    assert "# Soak: FAILED" in done.stdout


def test_a_child_that_has_ended_is_no_spawner() -> None:
    child = subprocess.Popen(["true"])
    process = psutil.Process(child.pid)
    child.wait()
    with pytest.raises(StopIteration):
        spawner_of(cast("psutil.Process", SimpleNamespace(children=lambda: [process])))
