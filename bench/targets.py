"""What is claimed of the runtime, as ratios within one run, and whether a run shows it."""

from __future__ import annotations

from dataclasses import dataclass

from snapruntime.bench.document import Cell, Document
from snapruntime.bench.plan import NO_WORKLOAD
from snapruntime.bench.stats import LEAST_SAMPLES, Interval, median, ratio_interval

#: A cell and one of its metrics.
Where = tuple[Cell, str]


@dataclass(frozen=True, slots=True)
class Target:
    """A claim: the median of one thing is at most `limit` times that of another.

    Attributes:
        claim: in words.
        above: what is divided.
        below: by what.
        limit: the ratio that is promised.
    """

    claim: str
    above: Where
    below: Where
    limit: float

    @property
    def written(self) -> str:
        """The limit as people write it: "≤ 1/4"."""
        return f"≤ {self.limit:g}" if self.limit >= 1 else f"≤ 1/{1 / self.limit:g}"

    @property
    def judged_by(self) -> str:
        """The rows that decide: "pandas ours / pandas criu: first_answer"; what other workloads give does not."""
        (above, metric), (below, other) = self.above, self.below
        of = metric if metric == other else f"{metric} / {other}"
        return f"{above} / {below}: {of}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says of a target.

    Attributes:
        target: the claim.
        above: median of what is divided; None where it was not measured.
        below: median of what it is divided by.
        counts: the numbers of samples.
        sure: the 95 % confidence interval of the ratio, where there are samples enough for one.
    """

    target: Target
    above: float | None
    below: float | None
    counts: tuple[int, int]
    sure: Interval | None

    @property
    def ratio(self) -> float | None:
        return self.above / self.below if self.above is not None and self.below else None

    @property
    def word(self) -> str:
        """ "met", "missed", or "not measured"."""
        if self.ratio is None:
            return "not measured"
        return "met" if self.ratio <= self.target.limit else "missed"

    @property
    def doubt(self) -> str:
        """Why the word is not to be relied on; empty where it is."""
        if self.ratio is None:
            return ""
        if self.sure is not None:
            return "within the interval" if self.sure[0] <= self.target.limit <= self.sure[1] else ""
        # Memory is the same each time; times are not.
        timed = not self.target.above[1].startswith("pss")
        return "too few samples" if timed and min(self.counts) < LEAST_SAMPLES else ""


def _first(workload: str, way: str) -> Where:
    return Cell(workload, way), "first_answer"


TARGETS = (
    Target(
        "on demand, pandas: first answer / stock CRIU's",
        _first("pandas", "ours"),
        _first("pandas", "criu"),
        1 / 4,
    ),
    Target(
        "on demand, 1 GiB resident: first answer / stock CRIU's",
        _first("memory-1024", "ours"),
        _first("memory-1024", "criu"),
        1 / 50,
    ),
    Target(
        "on demand, 1 GiB / on demand, hello (restore part)",
        (Cell("memory-1024", "ours"), "restore"),
        (Cell("hello", "ours"), "restore"),
        1.5,
    ),
    Target(
        "on demand, pandas: first answer / cold start",
        _first("pandas", "ours"),
        _first("pandas", "cold"),
        1 / 40,
    ),
    Target(
        "on demand, pandas: first answer / bare cold start without sandbox (stricter than asked)",
        _first("pandas", "ours"),
        _first("pandas", "cold-bare"),
        1 / 40,
    ),
    Target(
        "on demand, hello: first answer / bare `python -c pass`",
        _first("hello", "ours"),
        _first(NO_WORKLOAD, "python-pass"),
        1 / 5,
    ),
    Target(
        "on demand, pandas: first answer / `os.fork()` of the warmed process to first answer",
        _first("pandas", "ours"),
        _first("pandas", "fork"),
        4.0,
    ),
    Target(
        "parked, hello: first answer / on demand",
        _first("hello", "parked"),
        _first("hello", "ours"),
        1 / 6,
    ),
    Target(
        "parked, hello: first answer / `os.fork()` of the warmed process",
        _first("hello", "parked"),
        _first("hello", "fork"),
        1.0,
    ),
    Target(
        "memory of an idle copy (PSS, 100 copies, pandas) / process resident (RSS)",
        (Cell("pandas", "ours", "idle", 100), "pss"),
        (Cell("pandas", "cold", "idle", 1), "rss_answered"),
        1 / 20,
    ),
    Target(
        "the same, copies that have answered one event",
        (Cell("pandas", "ours", "idle", 100), "pss_answered"),
        (Cell("pandas", "cold", "idle", 1), "rss_answered"),
        1 / 20,
    ),
    *(
        Target(
            f"first call in a copy / second call in it ({workload})",
            (Cell(workload, "ours"), "first_call"),
            (Cell(workload, "ours"), "second_call"),
            1.5,
        )
        for workload in ("hello", "numpy", "pandas", "scikit-learn", "polars+pyarrow")
    ),
)


def judge(document: Document) -> list[Verdict]:
    """Every target, in order."""
    verdicts = []
    for target in TARGETS:
        above, below = document.samples(*target.above), document.samples(*target.below)
        verdicts.append(
            Verdict(
                target,
                median(above) if above else None,
                median(below) if below else None,
                (len(above), len(below)),
                ratio_interval(above, below) if above and below else None,
            )
        )
    return verdicts
