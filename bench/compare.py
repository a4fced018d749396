"""Two runs beside each other: what changed beyond noise."""

from __future__ import annotations

from dataclasses import dataclass

from snapruntime.bench.document import METRICS, Cell, Document
from snapruntime.bench.stats import Interval, differ, holm, median, ratio_interval

#: The chance that is taken of calling anything at all a change where nothing changed.
ALPHA = 0.01
#: Changes up to this share are never reported: alignment, layout of memory and the like move medians that far.
LEAST_CHANGE = 0.05
#: Samples that a row needs in both runs to be compared.
LEAST_SAMPLES = 5
#: Ways with nothing of the runtime in them: what differs between two runs there is the machine's doing.
CONTROLS = ("python-pass", "cold-bare", "fork")
_HIGHER_IS_BETTER = frozenset({"rate"})
#: Parts that are too short or too derived to be compared: they change with the clock's own resolution.
_PARTS = frozenset({"hooks", "rest", "available_taken"})


@dataclass(frozen=True, slots=True)
class Change:
    """One row in two runs.

    Attributes:
        cell: which.
        metric: which.
        before: its median in the first run.
        after: in the second.
        probability: Mann and Whitney's, corrected for the number of rows.
        sure: the 95 % confidence interval of `after / before`.
        changed: whether it is beyond noise.
    """

    cell: Cell
    metric: str
    before: float
    after: float
    probability: float
    sure: Interval | None
    changed: bool

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before else float("inf") if self.after else 1.0

    @property
    def worse(self) -> bool:
        """Whether it is a change for the worse; a control's is nobody's."""
        up = self.after > self.before
        return self.changed and self.cell.way not in CONTROLS and up != (self.metric in _HIGHER_IS_BETTER)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows that both runs have.

    Attributes:
        changes: of every row, changed or not.
        drift: by what factor the controls' times changed: another machine, frequency, or load.
        alone: how many rows only one of the runs has, or has too few samples of.
    """

    changes: list[Change]
    drift: float
    alone: int


def compare(before: Document, after: Document) -> Comparison:
    """Say what changed beyond noise.

    A row is called changed if all of this holds:

    1. Mann and Whitney's test, which assumes nothing of the distributions, finds the samples different at 1 % after
       Holm's correction for the number of rows: in a pair of runs of the same code, it calls something changed once in
       100 pairs, not in every one.
    2. The 95 % bootstrap interval of the ratio of the medians lies outside of 1 by more than 5 %, and by more than the
       controls changed: `python -c pass`, bare cold starts and os.fork() contain nothing of the runtime, so what they
       differ by between the runs (their median ratio, the `drift`) is the machine's noise. Between machines that
       differ much nothing is called a change that is not larger than the difference of the machines.

    Neither test knows of noise that is the same within one run but differs between runs; hence the second condition.
    """
    keys = [
        (cell, metric)
        for metric in METRICS
        for cell in before.cells(metric)
        if metric not in _PARTS and METRICS[metric] != "faults"
    ]
    pairs = [(key, before.samples(*key), after.samples(*key)) for key in keys]
    full = [(key, old, new) for key, old, new in pairs if min(len(old), len(new)) >= LEAST_SAMPLES]
    drift = _drift(full)
    slack = 1 + max(LEAST_CHANGE, max(drift, 1 / drift) - 1)
    probabilities = holm([differ(old, new) for _, old, new in full])
    changes = []
    for ((cell, metric), old, new), probability in zip(full, probabilities, strict=True):
        sure = ratio_interval(new, old)
        beyond = sure is not None and (sure[0] > slack or sure[1] < 1 / slack)
        changes.append(
            Change(cell, metric, median(old), median(new), probability, sure, probability < ALPHA and beyond)
        )
    return Comparison(changes, drift, len(pairs) - len(full))


def _drift(rows: list[tuple[tuple[Cell, str], list[float], list[float]]]) -> float:
    """The median of the ratios of the controls' first answers; 1 where there is none."""
    ratios = [
        median(new) / median(old)
        for (cell, metric), old, new in rows
        if cell.way in CONTROLS and metric == "first_answer" and cell.regime == "warm" and cell.concurrency == 1
    ]
    return median(ratios) if ratios else 1.0


def lines(comparison: Comparison) -> list[str]:
    """For people: the changes, the worst first, and what else there is to know."""
    changed = [change for change in comparison.changes if change.changed]
    told = []
    for change in sorted(changed, key=lambda change: (not change.worse, -abs(change.ratio - 1))):
        control = change.cell.way in CONTROLS
        word = "other" if control else "worse" if change.worse else "better"
        low, high = change.sure or (change.ratio, change.ratio)
        told.append(
            f"{word:6} {change.cell}: {change.metric} {change.before:,.3f} → {change.after:,.3f} "
            f"{METRICS[change.metric]} (x {change.ratio:.2f}, 95 % {low:.2f} to {high:.2f})"
        )
    same = len(comparison.changes) - len(changed)
    told.append(
        f"{len(changed)} of {len(comparison.changes)} rows changed beyond noise, {same} did not; the controls "
        f"(nothing of the runtime in them) changed by x {comparison.drift:.2f}. {comparison.alone} rows have too few "
        "samples in one of the runs."
    )
    return told
