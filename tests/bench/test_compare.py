"""Comparing two runs: equal ones, made of a real run's samples and of noise, and one where something changed."""

from __future__ import annotations

import json
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from snapruntime import UsageError
from snapruntime.bench import document
from snapruntime.bench.compare import CONTROLS, Change, compare, conditions, lines
from snapruntime.bench.document import METRICS, Cell, Document
from snapruntime.bench.stats import holm, least_probability
from snapruntime.bench.stats import testable as worth_testing
from snapruntime.edges import exits
from snapruntime.edges.commands import commands

REAL = max((Path(__file__).parents[2] / "bench/results").glob("*.json"))  # The latest.
#: Of each burst, or group of copies, there is one.
OF_ALL = ("rate", "pss_total", "available_taken")


@cache
def real() -> list[dict[str, Any]]:
    """What two workloads gave; counts of page faults are not compared."""
    rows = document.load(REAL).rows
    return [row for row in rows if row["workload"] in ("none", "hello", "pandas") and row["unit"] != "faults"]


def again(seed: int, **slower: float) -> Document:
    """Another run of the same: of each row as many of its samples, each burst drawn as a whole, by the same machine on
    another day.

    A loaded machine is some percent slower or faster in one run than in the next, with many at once most of all, and
    each burst has its own luck, which all of its requests share.

    Args:
        slower: by what factor the runtime's own `first_answer` and such are (of "ours"): metric -> factor.
    """
    draw = random.Random(seed)
    day = {at: draw.lognormvariate(0, 0.05 if at == 1 else 0.1) for at in (1, 8, 10, 24, 100)}
    luck: dict[tuple[str, str, str, int], list[float]] = {}
    rows = []
    for row in real():
        at, old = row["concurrency"], row["samples"]
        size = 1 if row["metric"] in OF_ALL else at
        groups = [old[first : first + size] for first in range(0, len(old), size)]
        cell = row["workload"], row["way"], row["regime"], at
        spread = 0.03 if at == 1 else 0.15
        lucks = luck.setdefault(cell, [draw.lognormvariate(0, spread) for _ in range(len(groups))])
        factor = day[at] * draw.lognormvariate(0, 0.01)
        factor *= slower.get(row["metric"], 1.0) if (row["workload"], row["way"]) == ("pandas", "ours") else 1.0
        new = []
        for place in range(len(groups)):
            by = factor * lucks[place % len(lucks)]
            if row["unit"] == "bytes":
                by = draw.lognormvariate(0, 0.005)  # Memory is nearly the same each time.
            new += [value * (1 / by if row["metric"] == "rate" else by) for value in draw.choice(groups)]
        rows.append(row | {"samples": new})
    return Document({"format": document.FORMAT, "rows": rows})


def test_equal_runs_show_no_change() -> None:
    """Not in more than one pair of twenty; the one who looks for a change in the code is told of one in none."""
    pairs = 40
    alarms = [seed for seed in range(pairs) if any(map(wrong, compare(again(seed), again(seed + 1000)).changes))]
    assert len(alarms) <= pairs * 0.05, alarms


def wrong(change: Change) -> bool:
    return change.changed and change.cell.way not in CONTROLS


def test_a_real_change_is_found_among_all_rows() -> None:
    slower = {"first_answer": 3.0, "restore": 1.5}
    for seed in range(5):
        found = compare(again(seed), again(seed + 1000, **slower))
        worse = {(change.cell, change.metric) for change in found.changes if change.worse}
        slow = {Cell("pandas", "ours"), Cell("pandas", "ours", "warm", 8)}
        assert {(cell, "first_answer") for cell in slow} | {(Cell("pandas", "ours"), "restore")} <= worse
        assert {(cell.workload, cell.way) for cell, _ in worse} == {("pandas", "ours")}
        back = compare(again(seed + 1000, **slower), again(seed))
        assert not any(change.worse for change in back.changes)


def one_row(samples: list[float], metric: str = "first_answer", **cell: Any) -> dict[str, Any]:
    place = {"workload": "hello", "way": "ours", "regime": "warm", "concurrency": 1} | cell
    return place | {"metric": metric, "unit": METRICS[metric], "samples": samples}


def of(*rows: dict[str, Any]) -> Document:
    return Document({"format": document.FORMAT, "rows": list(rows)})


def test_a_burst_is_one_sample() -> None:
    """Two bursts that went badly are no two hundred samples."""
    before = of(one_row([float(10 + n % 7) for n in range(200)], concurrency=100))
    (change,) = compare(before, of(one_row([float(20 + n % 7) for n in range(200)], concurrency=100))).changes
    assert (change.counts, change.changed, change.maybe) == ((2, 2), False, True)


def test_rows_that_cannot_tell_take_nothing_from_those_that_can() -> None:
    least = [least_probability(3, 3)] * 1000 + [least_probability(12, 12)]
    assert worth_testing(least, 0.01) == [False] * 1000 + [True]
    assert worth_testing([0.1], 0.01) == [False]
    assert worth_testing([], 0.01) == []
    few = [one_row([10.0, 11.0, 12.0], workload=f"memory-{n}") for n in range(500)]
    slow = [float(n) for n in range(30, 42)]
    (found,) = [
        change
        for change in compare(of(*few, one_row(slow)), of(*few, one_row([2 * n for n in slow]))).changes
        if change.changed
    ]
    assert found.cell.workload == "hello"
    assert found.probability == holm([found.probability])[0] < 1e-4


def test_the_slack_is_what_controls_changed_by_in_the_same_place() -> None:
    """A machine that is slow with many at once need not be slow with one."""
    fast, slow = [float(n) for n in range(100, 140)], [1.4 * n for n in range(100, 140)]
    before = [one_row(fast), one_row(fast, way="fork")]
    before += [one_row(fast, metric="rate", concurrency=8), one_row(fast, metric="rate", way="fork", concurrency=8)]
    alone = [one_row(slow), one_row(fast, way="fork"), *before[2:]]
    assert [change.cell for change in compare(of(*before), of(*alone)).changes if change.worse] == [
        Cell("hello", "ours")
    ]
    many = [*before[:2], *(row | {"samples": [n / 1.4 for n in fast]} for row in before[2:])]
    found = compare(of(*before), of(*many))
    assert found.drift == 1.0
    assert not any(change.worse for change in found.changes)
    assert [change.slack for change in found.changes if change.metric == "rate"] == pytest.approx([1.1 * 1.4] * 2)


def test_a_parked_copys_restore_is_not_compared() -> None:
    """It was over before the request: what is written there is the clock's own resolution."""
    values = [0.001, 0.002] * 20
    before = of(one_row(values, "restore", way="parked"), one_row(values, "restore"))
    assert [change.cell.way for change in compare(before, before).changes] == ["ours"]


def test_what_is_maybe_gone_or_new_is_told_but_is_nothing_worse(tmp_path: Path) -> None:
    before = of(
        one_row([1e6], "pss", regime="idle"), one_row([5.0] * 6), one_row([5.0], way="criu"), one_row([5.0], "restore")
    )
    after = of(one_row([1.2e6], "pss", regime="idle"), one_row([5.0] * 6), one_row([5.0], way="cold"))
    told = lines(compare(before, after))
    assert told[:-1] == [
        "maybe  hello ours (idle): pss 0.954 → 1.144 MiB (x 1.20, worse; n 1 and 1)",
        "gone   hello criu: first_answer",
        "gone   hello ours: restore",
        "new    hello cold: first_answer",
    ]
    assert told[-1].startswith("0 of 2 rows changed beyond noise, 1 may have, 1 did not; 2 are gone, 1 new. No control")
    names = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for one, name in zip((before, after), names, strict=True):
        document.save(one.content, Path(name))
    same = CliRunner().invoke(commands, ["bench", "--compare", *names], standalone_mode=False)
    assert same.return_value == exits.OK
    assert same.output.splitlines() == told


def test_memory_that_grew_is_a_change_though_it_was_measured_once() -> None:
    before = of(one_row([1e6], "pss", regime="idle"), one_row([5e6, 5.1e6, 5.2e6], "image_size", regime="snapshot"))
    after = of(one_row([3e6], "pss", regime="idle"), one_row([5.1e6, 5e6, 5.3e6], "image_size", regime="snapshot"))
    (worse,) = [change for change in compare(before, after).changes if change.changed]
    assert worse.metric == "pss"
    assert worse.worse
    assert lines(compare(before, after))[0] == "worse  hello ours (idle): pss 0.954 → 2.861 MiB (x 3.00, n 1 and 1)"
    assert not any(change.worse for change in compare(after, before).changes)


def test_runs_on_other_machines_say_so() -> None:
    first, second = (
        Document({"rows": [], "host": {"cpu": cpu, "kernel": "6.1"}, "load": {"start": [load, 0.1, 0.1]}})
        for cpu, load in (("one", 0.1), ("another", 7.5))
    )
    assert conditions(first, second) == ["differs: cpu: one → another", "load averages at the start: 0.1 → 7.5"]
    assert conditions(first, first) == ["load averages at the start: 0.1 → 0.1"]


@pytest.mark.parametrize(
    "change",
    [
        {"samples": []},
        {"samples": None},
        {"samples": ["x"]},
        {"samples": [10**400]},
        {"samples": [float("nan")]},
        {"concurrency": "8"},
        {"concurrency": 0},
        {"concurrency": None},
        {"regime": "\ud800"},
        {"metric": "speed"},
        {"unit": "s"},
    ],
    ids=str,
)
def test_a_row_that_is_none_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"format": document.FORMAT, "rows": [one_row([5.0]) | change]}))
    with pytest.raises(UsageError, match="is not the result of a benchmark"):
        document.load(tmp_path / "a.json")


def test_a_file_that_is_none_is_refused_in_a_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    real_one = REAL.read_bytes()
    (tmp_path / "no_text").write_bytes(real_one.replace(b'"', b"\xff", 1))
    (tmp_path / "deep").write_text("[" * 200_000)
    (tmp_path / "cut").write_bytes(real_one[: len(real_one) // 2])
    for name in (*map(str, tmp_path.iterdir()), "/dev/zero", "/proc/self/mem"):
        with pytest.raises(UsageError) as caught:
            document.load(Path(name))
        assert len(caught.value.message) < len(name) + 200
