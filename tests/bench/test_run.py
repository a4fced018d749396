"""Real runs, as small as they can be: every way answers, wrong answers end a run, Ctrl-C keeps what there is."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import font_manager
from support import assert_nothing_left, census, write_files

from snapruntime import HostError
from snapruntime.bench import cases, document, plan, plots, report, run, ways
from snapruntime.bench.cases import CASES, Case
from snapruntime.bench.document import Document
from snapruntime.bench.plan import Plan
from snapruntime.bench.room import own_home
from snapruntime.bench.sample import WrongAnswerError, checked
from snapruntime.edges import exits

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots need root")

KEYS = ["workload", "way", "regime", "concurrency", "metric", "unit", "n", "p50", "p95", "p99", "samples"]


def tiny(*names: str, seed: int = 1) -> Plan:
    return Plan(
        ("hello",),
        names,
        seed,
        cell_s=1.0,
        least=2,
        most=2,
        bursts=(2,),
        busy=("hello",),
        idle=(1, 2),
        cold_caches=False,
        snapshots=1,
    )


def measured(the_plan: Plan, home: Path) -> run.Run:
    it = run.Run(the_plan, "a test", lambda *_: None)
    it.go(home)
    return it


def test_every_way_answers(criu_home: Path, tmp_path: Path) -> None:
    before = census([criu_home])
    tidy = tiny(*plan.WAYS)
    it = measured(Plan(**{name: getattr(tidy, name) for name in tidy.__slots__} | {"cold_caches": True}), criu_home)
    assert it.failures == []
    path = tmp_path / "result.json"
    document.save(it.content(), path)
    rows = json.loads(path.read_text())["rows"]
    assert all(list(row) == KEYS for row in rows)
    assert all(row["n"] == len(row["samples"]) > 0 and row["p50"] <= row["p95"] <= row["p99"] for row in rows)
    answered = {(row["way"], row["regime"]) for row in rows if row["metric"] == "first_answer"}
    assert answered == {(way, regime) for way in plan.WAYS for regime in ("warm", "cold-cache")} - {
        ("fork", "cold-cache")
    }
    metrics = {row["metric"] for row in rows if row["way"] == "ours"}
    assert metrics == set(document.METRICS) - {"init"}
    assert {row["concurrency"] for row in rows if row["metric"] == "rate"} == {2}

    read = document.load(path)
    assert read.content["complete"]
    assert read.content["host"]["criu"].startswith("CRIU ")
    names = plots.draw(read, tmp_path, "result")
    assert names == ["result-latency.png", "result-memory.png"]
    for name in names:
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(data) > 10_000
    text = report.write(read, names)
    for name in (*plan.WAYS, *names, "on demand, hello: first answer / bare `python -c pass`"):
        assert name in text
    # matplotlib keeps the files of its fonts open.
    font_manager._get_font.cache_clear()  # type: ignore[attr-defined]
    assert_nothing_left(before, [criu_home])
    assert list((criu_home / "bench").iterdir()) == []


@pytest.mark.parametrize("case", [case for case in CASES if case.mib <= 64], ids=lambda case: case.name)
def test_what_must_come_back_comes_back(case: Case) -> None:
    assert case.missing() == []
    with ways.ColdBare(case) as way:
        alive = way.start()
        for seed in range(3):
            checked(alive, case.ask(random.Random(seed)), case, "cold-bare")
        alive.close()


def replaced(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """Let `source` be the handler of the workload "hello"."""
    write_files(folder, {"other.py": source})
    (hello,) = [case for case in CASES if case.name == "hello"]
    monkeypatch.setattr(run, "CASES", (Case("hello", str(folder / "other.py"), hello.ask),))


def test_no_way_starts_what_installing_for_editing_leaves(
    monkeypatch: pytest.MonkeyPatch, criu_home: Path, code_root: Path
) -> None:
    """A handler that finds it answers wrongly, which ends the run; as does one that finds no package of ours."""
    source = """
        import sys
        import psutil
        found = [name for name in sys.modules if name.startswith("__editable___snapruntime")]
        def lambda_handler(event, context):
            return {"message": f"{found}" if found else f"Hello, {event['name']}!"}
        """
    replaced(monkeypatch, code_root / "bench-editable", source)
    asked: list[str] = []
    start = ways.Pass.start

    def ask(self: ways.Pass) -> ways.Alive:
        asked.append(self._python)
        return start(self)

    monkeypatch.setattr(ways.Pass, "start", ask)
    it = measured(tiny("python-pass", "cold-bare", "cold", "criu", "ours", "fork"), criu_home)
    assert it.failures == []
    assert it.notes == [note for note in it.notes if "does not work" not in note]
    (python,) = set(asked)
    assert it.content()["host"]["interpreter"] == python
    assert f"The bound is `{python} -c pass`" in report.write(Document(it.content()), [])
    assert not Path(python).exists() or python == sys.executable


def test_a_wrong_answer_ends_the_run(monkeypatch: pytest.MonkeyPatch, criu_home: Path, code_root: Path) -> None:
    source = """
        asked = 0
        def lambda_handler(event, context):
            global asked
            asked += 1
            return {"message": f"Hello, {event['name']}!" if asked == 1 else "Hello!"}
        """
    replaced(monkeypatch, code_root / "bench-wrong", source)
    it = run.Run(tiny("ours"), "a test", lambda *_: None)
    with pytest.raises(WrongAnswerError, match="workload hello: ours answered") as caught:
        it.go(criu_home)
    assert exits.exit_code(caught.value) == exits.FUNCTION
    assert not it.content()["complete"]


def test_what_does_not_work_is_said_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, criu_home: Path, code_root: Path
) -> None:
    """As with polars: its threads are in a restored copy, but not in a forked one, which waits for them for ever."""
    source = """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        pool.submit(int).result()
        def lambda_handler(event, context):
            return {"message": pool.submit(lambda: f"Hello, {event['name']}!").result()}
        """
    replaced(monkeypatch, code_root / "bench-threads", source)
    monkeypatch.setattr(ways, "LIMIT_S", 1.0)
    it = measured(tiny("ours", "fork"), criu_home)
    assert any(note.startswith("hello fork does not work here: WayError: no answer within 1 s") for note in it.notes)
    assert {cell.way for cell in Document(it.content()).cells("first_answer")} == {"ours"}


def test_ctrl_c_keeps_what_was_measured(criu_home: Path, tmp_path: Path) -> None:
    before = census([criu_home])
    arguments = ["bench", "--quick", "--workload", "hello", "--way", "ours", "--way", "criu", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "snapruntime", "--home", str(criu_home), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Measuring"):
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    (path,) = tmp_path.glob("*.json")
    kept = document.load(path)
    assert not kept.content["complete"]
    assert kept.content["phase"] == "measuring"
    assert kept.rows
    assert "The run was ended while measuring" in path.with_suffix(".md").read_text()
    assert_nothing_left(before, [criu_home])
    assert list((criu_home / "bench").iterdir()) == []


def test_two_at_once_do_not_disturb_each_other(criu_home: Path) -> None:
    with (
        own_home(criu_home),
        pytest.raises(HostError, match="Another benchmark"),
        own_home(criu_home),
    ):
        pass


def test_the_memory_workload_is_as_large_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cases.NAMES[-1] == "memory-2048"
    assert all(case.function().memory_mb >= case.mib + 256 for case in CASES), "else it would be ended, out of memory"
    monkeypatch.setattr(ways, "LIMIT_S", 60.0)
    (case,) = [case for case in CASES if case.mib == 64]
    with ways.ColdBare(case) as way:
        alive = way.start()
        checked(alive, case.ask(random.Random(1)), case, "cold-bare")
        rollup = Path(f"/proc/{alive.pid}/smaps_rollup").read_text()
        private = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty"))
        assert private > 64 * 1024
        alive.close()


def test_where_it_cannot_run_it_leaves_no_results(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = ["--home", str(tmp_path / "file" / "home"), "bench", "--quick", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "snapruntime", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == exits.HOST, done.stderr
    assert list((tmp_path / "out").glob("*")) == []
