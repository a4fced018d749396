"""Percentiles, the order of samples, and what counts as a change: no process is started here."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from snapruntime import HostError
from snapruntime.bench import document, host, plan, plots, report, stats, stock
from snapruntime.bench.compare import compare
from snapruntime.bench.document import Cell, Document, Samples
from snapruntime.bench.targets import TARGETS, judge
from snapruntime.edges import exits
from snapruntime.edges.commands import commands
from snapruntime.mechanisms import criu

ROWS = (
    Cell("none", "python-pass"),
    Cell("hello", "cold-bare"),
    Cell("hello", "fork"),
    *(
        Cell(workload, way)
        for workload in ("hello", "pandas", "memory-1024")
        for way in ("ours", "plain", "criu", "cold")
    ),
)


def made(medians: dict[Cell, float], *, seed: int, everything: float = 1.0, n: int = 60) -> Document:
    """A document with noise of 5 % around the medians; around 10 ms where none is given."""
    draw = random.Random(seed)
    samples = Samples()
    for cell in ROWS:
        for _ in range(n):
            value = medians.get(cell, 10.0) * everything * draw.lognormvariate(0, 0.05)
            samples.add(cell, {"first_answer": value, "restore": value * 0.8, "second_call": 1.0 * everything})
    load = {"start": [0, 0, 0], "end": [0, 0, 0]}
    head = {"format": document.FORMAT, "command": "made up", "seed": seed, "complete": True, "load": load}
    rest: dict[str, Any] = {"began": "", "ended": "", "phase": "complete", "notes": [], "failures": []}
    return Document({**head, **rest, "host": {}, "versions": {}, "ways": {}, "rows": samples.rows()})


@given(st.lists(st.floats(0, 1e9), min_size=1), st.floats(0, 1))
def test_percentiles_are_numpys(values: list[float], share: float) -> None:
    assert stats.percentile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-9)


def test_an_interval_needs_samples_beyond_the_percentile() -> None:
    values = [float(value) for value in range(99)]
    assert stats.interval(values, 0.99) is None
    assert stats.interval(values[:9], 0.5) is None
    low, high = stats.interval(values, 0.5) or (0, 0)
    assert low < 49 < high


@pytest.mark.parametrize(
    ("n", "p95", "p99"), [(19, True, True), (20, False, True), (99, False, True), (100, False, False)]
)
def test_high_percentiles_of_few_samples_are_marked(n: int, p95: bool, p99: bool) -> None:
    text = report.write(made({}, seed=1, n=n), [])
    line = next(line for line in text.splitlines() if line.startswith("| hello | ours |"))
    assert [cell.strip().startswith("(") for cell in line.split("|")[4:6]] == [p95, p99]
    assert "is in parentheses" in text
    assert f"| {n} |" in line
    rows = [row for row in made({}, seed=1, n=n).rows if row["metric"] == "first_answer"]
    assert all(row["p99"] >= row["p95"] >= row["p50"] for row in rows), "the JSON keeps them"


@pytest.mark.parametrize(("bursts", "marked"), [(1, True), (4, True), (5, False)])
def test_high_percentiles_of_few_bursts_are_marked(bursts: int, marked: bool) -> None:
    """A hundred answers of one burst are no hundred samples."""
    samples = Samples()
    for _ in range(bursts):
        for n in range(100):
            samples.add(Cell("hello", "ours", "warm", 100), {"first_answer": 10.0 + n})
        samples.add(Cell("hello", "ours", "warm", 100), {"rate": 50.0})
    content = {**made({}, seed=1).content, "rows": samples.rows()}
    line = next(line for line in report.write(Document(content), []).splitlines() if "| hello | ours | 100 |" in line)
    assert [cell.strip().startswith("(") for cell in line.split("|")[5:7]] == [marked, marked]


def test_every_way_can_be_told_from_the_others_and_from_white() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[first : first + 2], 16) / 255 for first in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    assert set(plots._COLOURS) == set(plots._MARKERS) == set(plan.WAYS)
    for colour in plots._COLOURS.values():
        assert 1.05 / (luminance(colour) + 0.05) > 2, f"{colour} on white"
    looks = {(plots._COLOURS[way], plots._MARKERS[way], plots._DASHES.get(way, "-")) for way in plan.WAYS}
    assert len(looks) == len(plan.WAYS)
    assert plots._point("ours", 19)["markerfacecolor"] == "white" != plots._point("ours", 20)["markerfacecolor"]


def test_the_report_says_what_stock_criu_is_without() -> None:
    text = report.write(made({}, seed=1), [])
    for name, value in criu._NO_BREAKPOINTS.items():
        assert f"`{name}={value}`" in text
        assert name not in Path(stock.__file__).read_text("utf-8"), "else the report must not say so"


def test_mapped_memory_is_told_from_the_rest() -> None:
    medians = {Cell("pandas", "criu"): 50.0, Cell("pandas", "plain"): 40.0, Cell("pandas", "ours"): 20.0}
    line = next(line for line in report.write(made(medians, seed=1), []).splitlines() if "| pandas | 5" in line)
    steps = [float(cell.split()[0]) for cell in line.split("|")[5:7]]
    assert steps == pytest.approx([-10, -20], abs=2)


def test_holm_corrects_for_the_number_of_rows() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_each_cells_samples_are_spread_over_the_run() -> None:
    counts = {Cell("hello", "ours"): 100, Cell("pandas", "cold"): 4}
    order = plan.interleaved(counts, random.Random(1))
    assert Counter(order) == counts
    assert order == plan.interleaved(counts, random.Random(1)), "the seed decides"
    assert order != plan.interleaved(counts, random.Random(2))
    for quarter in range(4):
        assert order[quarter * 26 - 3 * (quarter > 0) : quarter * 26 + 29].count(Cell("pandas", "cold")) >= 1


def test_equal_code_shows_no_change() -> None:
    for seed in range(5):
        found = compare(made({}, seed=seed), made({}, seed=seed + 100))
        assert [change for change in found.changes if change.changed] == []


def test_a_change_is_found_where_it_is() -> None:
    slow = Cell("pandas", "ours")
    found = compare(made({}, seed=1), made({slow: 13.0}, seed=2))
    assert {(change.cell, change.metric) for change in found.changes if change.changed} == {
        (slow, "first_answer"),
        (slow, "restore"),
    }
    assert all(change.worse for change in found.changes if change.changed)
    back = compare(made({slow: 13.0}, seed=2), made({}, seed=1))
    assert not any(change.worse for change in back.changes)


def test_another_machine_is_no_change_of_the_code() -> None:
    found = compare(made({}, seed=1), made({}, seed=2, everything=1.4))
    assert found.drift == pytest.approx(1.4, rel=0.05)
    assert not any(change.changed for change in found.changes if change.cell.way not in ("python-pass", "fork"))


def test_samples_that_are_all_the_same_number() -> None:
    assert stats.differ([1.0] * 60, [1.0] * 60) == 1.0
    assert stats.differ([1.0] * 60, [2.0] * 60) < 1e-10


def test_more_answers_per_second_are_better() -> None:
    documents = []
    for rate in (50.0, 100.0):
        content = made({}, seed=1).content
        row = {"workload": "hello", "way": "ours", "regime": "warm", "concurrency": 8, "metric": "rate", "unit": "1/s"}
        samples = [rate + step for step in range(20)]
        documents.append(Document({**content, "rows": [*content["rows"], row | {"samples": samples}]}))
    (better,) = [change for change in compare(*documents).changes if change.changed]
    assert not better.worse
    (worse,) = [change for change in compare(*reversed(documents)).changes if change.changed]
    assert worse.worse


def test_targets_are_judged() -> None:
    medians = {Cell("pandas", "ours"): 10.0, Cell("pandas", "criu"): 50.0, Cell("hello", "ours"): 9.0}
    words = {verdict.target.claim: verdict.word for verdict in judge(made(medians, seed=1))}
    assert words["on demand, pandas: first answer / stock CRIU's"] == "met"
    assert words["on demand, hello: first answer / bare `python -c pass`"] == "missed"
    assert words["memory of an idle copy (PSS, 100 copies, pandas) / process resident (RSS)"] == "not measured"


def test_a_verdict_of_few_samples_says_so() -> None:
    claim = "on demand, pandas: first answer / stock CRIU's"
    for n, doubt in ((3, "too few samples"), (60, "")):
        (verdict,) = [one for one in judge(made({}, seed=1, n=n)) if one.target.claim == claim]
        assert (verdict.word, verdict.doubt) == ("missed", doubt)
    near = {Cell("pandas", "criu"): 40.0}
    (verdict,) = [one for one in judge(made(near, seed=1)) if one.target.claim == claim]
    assert verdict.doubt == "within the interval"


def test_the_command_compares(tmp_path: Path) -> None:
    names = []
    for seed, slow in ((1, 10.0), (2, 10.0), (3, 15.0)):
        names.append(str(tmp_path / f"{seed}.json"))
        document.save(made({Cell("hello", "ours"): slow}, seed=seed).content, Path(names[-1]))
    run = CliRunner().invoke
    same = run(commands, ["bench", "--compare", *names[:2]], standalone_mode=False)
    assert same.return_value == exits.OK
    assert "0 of" in same.output
    worse = run(commands, ["bench", "--compare", names[0], names[2]], standalone_mode=False)
    assert worse.return_value == exits.WORSE
    assert "worse  hello ours: first_answer" in worse.output
    (tmp_path / "no.json").write_text("{}")
    bad = run(commands, ["bench", "--compare", names[0], str(tmp_path / "no.json")], standalone_mode=False)
    assert exits.exit_code(bad.exception or ValueError()) == exits.USAGE


def test_without_its_libraries_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    done = CliRunner().invoke(commands, ["bench", "--quick"], standalone_mode=False)
    assert isinstance(done.exception, HostError)
    assert "matplotlib" in done.exception.message
    assert "pip install '.[bench]'" in done.exception.hint


@pytest.mark.parametrize(
    ("state", "action", "said"), [("on", "pageout", True), ("off", "pageout", False), ("on", "stat", False)]
)
def test_a_kernel_that_gives_up_idle_memory_is_told(tmp_path: Path, state: str, action: str, said: bool) -> None:
    daemon = tmp_path / "kernel/mm/damon/admin/kdamonds/0"
    scheme = daemon / "contexts/0/schemes/0"
    scheme.mkdir(parents=True)
    (daemon / "state").write_text(state)
    (scheme / "action").write_text(action)
    assert host.pages_out(tmp_path) is said


def test_each_target_says_by_which_workload_it_is_judged() -> None:
    content = {**made({}, seed=1).content, "host": {"commit": "0123abc and changes"}}
    text = report.write(Document(content), [])
    assert "Measured: commit 0123abc, with changes that are not in it." in text
    for target in TARGETS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {target.claim} |")]
        for cell, _ in (target.above, target.below):
            assert str(cell) in line.split("|")[2]
        named = {"1 GiB": "memory-1024", "hello": "hello", "pandas": "pandas"}
        of = [workload for word, workload in named.items() if word in target.claim]
        assert target.above[0].workload in of or "(" in target.claim or target.claim.startswith("the same"), target
    clean = report.write(Document({**content, "host": {"commit": "0123abc"}}), [])
    assert "Measured: commit 0123abc, without changes." in clean


def test_a_tree_with_changes_is_not_that_of_its_commit(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        done = subprocess.run(["git", *settings, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    here = tmp_path / "bench" / "deep"
    here.mkdir(parents=True)
    (here / "one.py").touch()
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    head = git("rev-parse", "HEAD")
    assert host.commit(here) == head
    (tmp_path / "bench" / "result.json").touch()
    assert host.commit(here) == head, "results beside the code are none of it"
    (tmp_path / "bench" / "two.py").touch()
    assert host.commit(here) == f"{head} and changes"
    (tmp_path / "bench" / "two.py").unlink()
    (here / "one.py").write_text("changed")
    assert host.commit(here) == f"{head} and changes"
