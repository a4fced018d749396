"""Two runs beside each other: what changed beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snapruntime.bench.document import METRICS, Cell, Document
from snapruntime.bench.stats import (
    Interval,
    differ,
    holm,
    least_probability,
    median,
    percentile,
    ratio_interval,
    testable,
)

#: The chance that is taken of calling anything at all a change where nothing changed.
ALPHA = 0.01
#: The same for a single row that is worth another look.
_MAYBE = 0.05
#: Changes of this share beyond the controls' are never reported: alignment, layout of memory and the like do that.
LEAST_CHANGE = 0.05
#: The same where the scheduler or the disk has more of a say: many at once, cold caches.
_LEAST_ROUGH_CHANGE = 0.1
#: Memory and images have a sample or three in a run, too few for any test, but hardly any noise either: what differs by
#: more than this is a change.
_SIZE_CHANGE = 1.3
#: Of what a run says of itself, what makes it another kind of run where it differs.
_CONDITIONS = ("machine", "kernel", "cpu", "cpus", "memory", "swap", "pages_out", "cpu_limit", "disk", "python", "criu")
#: Ways with nothing of the runtime in them: what differs between two runs there is the machine's doing.
CONTROLS = ("python-pass", "cold-bare", "fork")
#: The share of the controls that may have changed by more than what is called the machine's doing.
_OUTLIERS = 0.1
_HIGHER_IS_BETTER = frozenset({"rate"})
#: Parts that are too short or too derived to be compared: they change with the clock's own resolution.
_PARTS = frozenset({"hooks", "rest", "available_taken"})
#: Of a burst, or of copies that wait, there is one of these; of the other metrics, one for each copy.
_OF_ALL = frozenset({"rate", "pss_total", "available_taken"})

_MIB = 1 << 20

#: A row.
Key = tuple[Cell, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One row in two runs.

    Attributes:
        cell: which.
        metric: which.
        before: the median of its independent samples in the first run.
        after: in the second.
        counts: how many these are.
        slack: the factor by which it may change without that being anything.
        probability: of such samples if it changed by no more than that (Mann and Whitney), corrected for the number of
            rows; 1 where they are too few to tell.
        sure: the 95 % confidence interval of `after / before`, where it changed by a test.
        changed: whether it is beyond noise.
        maybe: whether it is not, but looks like it: more samples would tell.
    """

    cell: Cell
    metric: str
    before: float
    after: float
    counts: tuple[int, int]
    slack: float
    probability: float
    sure: Interval | None
    changed: bool
    maybe: bool

    @property
    def ratio(self) -> float:
        return _ratio(self.before, self.after)

    @property
    def for_the_worse(self) -> bool:
        """The direction that it went in."""
        return (self.after > self.before) != (self.metric in _HIGHER_IS_BETTER)

    @property
    def worse(self) -> bool:
        """Whether it is a change for the worse; a control's is nobody's."""
        return self.changed and self.cell.way not in CONTROLS and self.for_the_worse


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows of two runs.

    Attributes:
        changes: of every row that both have, changed or not.
        drift: by what factor the controls' times changed: another machine, frequency, or load. None without controls.
        gone: the rows that only the first run has.
        new: those that only the second has.
    """

    changes: list[Change]
    drift: float | None
    gone: list[Key]
    new: list[Key]


def compare(before: Document, after: Document) -> Comparison:
    """Say what changed beyond noise.

    What is compared are independent samples: of each burst, and of copies that wait together, the median, since what
    disturbs one of them disturbs all. A row is called changed if this holds:

    Sizes of memory and images, of which there are too few samples for any test, are changed where they are
    `_SIZE_CHANGE` times as large, or small. For times:

    Mann and Whitney's test, which assumes nothing of the distributions, finds the samples different by more than a
    slack, at 1 % after Holm's correction for the number of rows: in a pair of runs of the same code, it calls something
    changed once in 100 pairs, not in every one. Rows of too few samples for that are not tested, nor counted (Tarone).

    The slack is for noise that is the same within one run but differs between runs, which no test can know of: 5 %
    (10 % of bursts and with cold caches) beyond what the controls changed by. `python -c pass`, bare cold starts and
    os.fork() contain nothing of the runtime, so what they differ by between the runs is the machine's noise, in the
    same metric and with as many at once. Between machines that differ much nothing is called a change that is not
    larger than the difference of the machines.
    """
    rows = {key: _independent(before, key) for key in _keys(before)}
    others = {key: _independent(after, key) for key in _keys(after)}
    both = [key for key in rows if key in others]
    pairs = [(rows[key], others[key]) for key in both]
    able = testable([least_probability(len(old), len(new)) for old, new in pairs], ALPHA)
    noise = _Noise(rows, others)
    slacks = [noise.slack(*key) for key in both]
    raw = [differ(old, new, slack) for (old, new), slack in zip(pairs, slacks, strict=True)]
    corrected = iter(holm([one for one, tested in zip(raw, able, strict=True) if tested]))
    changes = [
        _judge(key, *pair, slack, one, next(corrected) if tested else 1.0)
        for key, pair, slack, one, tested in zip(both, pairs, slacks, raw, able, strict=True)
    ]
    gone, new = [key for key in rows if key not in others], [key for key in others if key not in rows]
    return Comparison(changes, noise.drift, gone, new)


def _keys(document: Document) -> list[Key]:
    """The rows that are compared. What a parked copy's restore took is not: it was over before the request."""
    return [
        (cell, metric)
        for metric in METRICS
        for cell in document.cells(metric)
        if metric not in _PARTS and METRICS[metric] != "faults" and (cell.way, metric) != ("parked", "restore")
    ]


def _independent(document: Document, key: Key) -> list[float]:
    cell, metric = key
    values = document.samples(cell, metric)
    size = 1 if metric in _OF_ALL else cell.concurrency
    return [median(values[first : first + size]) for first in range(0, len(values), size)]


def _judge(
    key: Key, old: Sequence[float], new: Sequence[float], slack: float, raw: float, probability: float
) -> Change:
    ratio = _ratio(median(old), median(new))
    changed = probability < ALPHA
    # Of very few samples no test can say anything; that they do not overlap is all there is to be seen.
    few = least_probability(len(old), len(new)) >= _MAYBE
    apart = min(new) > max(old) or max(new) < min(old)
    beyond = not 1 / slack <= ratio <= slack
    if few and METRICS[key[1]] == "bytes":
        changed = apart and not 1 / _SIZE_CHANGE <= ratio <= _SIZE_CHANGE
    maybe = beyond and not changed and (apart if few else raw < _MAYBE)
    counts, sure = (len(old), len(new)), ratio_interval(new, old) if changed and not few else None
    return Change(*key, median(old), median(new), counts, slack, probability, sure, changed, maybe)


class _Noise:
    """What the controls changed by between two runs."""

    def __init__(self, rows: dict[Key, list[float]], others: dict[Key, list[float]]) -> None:
        self._by_place: dict[tuple[str, str, int], list[float]] = {}
        for (cell, metric), old in rows.items():
            new = others.get((cell, metric))
            if cell.way in CONTROLS and new and median(old) and median(new):
                place = metric, cell.regime, cell.concurrency
                self._by_place.setdefault(place, []).append(math.log(median(new) / median(old)))

    @property
    def drift(self) -> float | None:
        """The median of the ratios of their first answers, one at a time."""
        found = self._by_place.get(("first_answer", "warm", 1))
        return math.exp(median(found)) if found else None

    def slack(self, cell: Cell, metric: str) -> float:
        """By what factor a row may change: what nearly all controls stay within, in the same place or the nearest."""
        sized = METRICS[metric] == "bytes"
        rough = not sized and (cell.concurrency > 1 or cell.regime == "cold-cache")
        least = _LEAST_ROUGH_CHANGE if rough else LEAST_CHANGE
        places = [(metric, cell.regime, cell.concurrency)]
        if not sized:
            # No control has parts such as `restore`, or is a snapshot.
            places += [("first_answer", cell.regime, cell.concurrency), ("first_answer", "warm", cell.concurrency)]
            places += [("first_answer", "warm", 1)]
        for place in places:
            if found := self._by_place.get(place):
                return (1 + least) * math.exp(percentile([abs(one) for one in found], 1 - _OUTLIERS))
        return 1 + (least if sized else 3 * least)  # Nothing tells what the machine did.


def conditions(before: Document, after: Document) -> list[str]:
    """What the two runs say of their machines where that differs, and how busy these were; for people."""
    told = []
    for name in _CONDITIONS:
        was, now = (document.content.get("host", {}).get(name) for document in (before, after))
        if was != now:
            told.append(f"differs: {name.replace('_', ' ')}: {was} → {now}")
    loads = [document.content.get("load", {}).get("start") for document in (before, after)]
    if any(loads):
        told.append("load averages at the start: " + " → ".join(str(load[0] if load else "unknown") for load in loads))
    return told


def _ratio(before: float, after: float) -> float:
    return after / before if before else float("inf") if after else 1.0


def lines(comparison: Comparison) -> list[str]:
    """For people: the changes, the worst first, what may be one, and what only one of the runs has."""
    changed = [change for change in comparison.changes if change.changed]
    maybe = [change for change in comparison.changes if change.maybe]
    told = []
    for change in sorted(changed, key=lambda change: (not change.worse, -abs(change.ratio - 1))):
        word = "other" if change.cell.way in CONTROLS else "worse" if change.worse else "better"
        spread = (
            f"95 % {change.sure[0]:.2f} to {change.sure[1]:.2f}"
            if change.sure
            else "n {} and {}".format(*change.counts)
        )
        told.append(f"{word:6} {_told(change)}, {spread})")
    for change in sorted(maybe, key=lambda change: (not change.for_the_worse, -abs(change.ratio - 1))):
        word = "worse" if change.for_the_worse else "better"
        told.append(f"maybe  {_told(change)}, {word}; n {change.counts[0]} and {change.counts[1]})")
    known = {(change.cell.workload, change.cell.way) for change in comparison.changes}
    told += [*_alone("gone", comparison.gone, known), *_alone("new", comparison.new, known)]
    same = len(comparison.changes) - len(changed) - len(maybe)
    drift = (
        "No control (nothing of the runtime in it) was measured in both: what the machine did is not known."
        if comparison.drift is None
        else f"The controls (nothing of the runtime in them) changed by x {comparison.drift:.2f}."
    )
    told.append(
        f"{len(changed)} of {len(comparison.changes)} rows changed beyond noise, {len(maybe)} may have, {same} did "
        f"not; {len(comparison.gone)} are gone, {len(comparison.new)} new. {drift}"
    )
    return told


def _alone(word: str, keys: Sequence[Key], known: set[tuple[str, str]]) -> list[str]:
    """Rows that only one run has; in one line, where the other has nothing at all of that workload and way."""
    rows: dict[str, list[str]] = {}
    for cell, metric in keys:
        name = str(cell) if (cell.workload, cell.way) in known else f"{cell.workload} {cell.way}"
        rows.setdefault(name, []).append(metric)
    return [f"{word:6} {name}: {', '.join(dict.fromkeys(metrics))}" for name, metrics in rows.items()]


def _told(change: Change) -> str:
    unit, before, after = METRICS[change.metric], change.before, change.after
    if unit == "bytes":
        unit, before, after = "MiB", before / _MIB, after / _MIB
    return f"{change.cell}: {change.metric} {before:,.3f} → {after:,.3f} {unit} (x {change.ratio:.2f}"
