"""The summary of a run: a table for people. Times in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table

from snapruntime.values.model import Invocation

#: Up to so many pairs, a comparison lists each.
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Timing:
    """What one answer took; None for a part that this way of answering does not have."""

    cold: bool
    ok: bool
    restore_ms: float | None
    hooks_ms: float | None
    init_ms: float | None
    duration_ms: float | None
    total_ms: float

    @classmethod
    def of(cls, it: Invocation) -> Timing:
        return cls(
            it.cold, it.error is None, it.restore_ms, it.hooks_ms, it.init_ms, it.duration_ms, it.total_ms
        )  # fmt: skip


def _quantile(values: Sequence[float], share: float) -> float:
    """By nearest rank: one of the values themselves."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def summary(timings: Sequence[Timing]) -> Table:
    """Where the time went, over all successful answers of one way."""
    cold = timings[0].cold
    good = [timing for timing in timings if timing.ok]
    failed = len(timings) - len(good)
    quantiles = [(name, share) for name, share, least in (("p90", 0.9, 10), ("p99", 0.99, 100)) if len(good) >= least]
    way = "cold start" if cold else "restored copy"
    table = _table(f"{way}, ms (n = {len(good)})", "p50", *(name for name, _ in quantiles), "min", "max")
    first = ("init", "init_ms") if cold else ("restore", "restore_ms")
    parts = [first, ("after-restore hooks", "hooks_ms"), ("handler", "duration_ms"), ("request to answer", "total_ms")]
    for label, name in parts:
        values = [value for timing in good if (value := getattr(timing, name)) is not None]
        if values:
            numbers = [median(values), *(_quantile(values, share) for _, share in quantiles), min(values), max(values)]
            table.add_row(label, *map(_number, numbers), style="bold" if name == "total_ms" else None)
    if failed:
        table.add_row(f"{failed} failed", style="red")
    return table


def comparison(timings: Iterable[Timing]) -> tuple[Table, str]:
    """Cold starts beside restored copies: each pair, then what they come to; and the ratio in a sentence."""
    all_timings = list(timings)
    cold = [timing for timing in all_timings if timing.cold]
    copies = [timing for timing in all_timings if not timing.cold]
    table = _table("ms", "cold start", "restored copy", "= restore", "+ hooks", "+ handler")
    if len(cold) <= _LISTED:
        for number, (one, other) in enumerate(zip(cold, copies, strict=False), 1):
            parts = (other.restore_ms, other.hooks_ms, other.duration_ms)
            table.add_row(f"{number}", _total(one), _total(other), *map(_number, parts))
        table.add_section()
    old = [timing.total_ms for timing in cold if timing.ok]
    new = [timing.total_ms for timing in copies if timing.ok]
    if not old or not new:
        return table, ""
    for name, of in (("p50", median), ("min", min), ("max", max)):
        table.add_row(name, _number(of(old)), _number(of(new)), style="bold")
    ratio = median(old) / median(new)
    return (
        table,
        f"n = {len(old)} and {len(new)}. At p50, a restored copy answers {ratio:.1f} times as fast as a cold start.",
    )


def _total(timing: Timing) -> str:
    return _number(timing.total_ms) if timing.ok else "failed"
