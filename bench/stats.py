"""Percentiles, and how sure one may be of them.

numpy and scipy are imported where they are needed, not before: what this process has mapped stays in the page cache,
which would warm the cold starts of the workloads that map it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

#: Below so many samples, a 99th percentile is (nearly) the largest of them and is marked.
ENOUGH_FOR_P99 = 100
_RESAMPLED = 2000

#: A lower and an upper bound.
Interval = tuple[float, float]


def percentile(values: Sequence[float], share: float) -> float:
    """Between the two nearest samples, as numpy and spreadsheets do it; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """The 50th percentile; NaN of nothing."""
    return percentile(values, 0.5)


def interval(values: Sequence[float], share: float, confidence: float = 0.95, seed: int = 0) -> Interval | None:
    """A bootstrap confidence interval (percentile method) of a percentile; None where the samples are too few for one.

    A resample must be able to contain something beyond the percentile: 1 / (1 - share) samples at the least, and 10.
    """
    if len(values) < max(10.0, 1 / (1 - share)):
        return None
    import numpy as np

    draw = np.random.default_rng(seed)
    data = np.asarray(values)
    found = np.quantile(draw.choice(data, (_RESAMPLED, len(data))), share, axis=1)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def ratio_interval(
    above: Sequence[float], below: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> Interval | None:
    """A bootstrap confidence interval of the ratio of two medians; None where there are fewer than 5 samples of one."""
    return _compared(above, below, lambda one, other: one / other if other.all() else None, confidence, seed)


def difference_interval(
    above: Sequence[float], below: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> Interval | None:
    """The same of the difference of two medians."""
    return _compared(above, below, lambda one, other: one - other, confidence, seed)


def _compared(
    above: Sequence[float], below: Sequence[float], how: Callable[[Any, Any], Any], confidence: float, seed: int
) -> Interval | None:
    if min(len(above), len(below)) < 5:
        return None
    import numpy as np

    draw = np.random.default_rng(seed)
    medians = [
        np.median(draw.choice(np.asarray(values), (_RESAMPLED, len(values))), axis=1) for values in (above, below)
    ]
    compared = how(*medians)
    if compared is None:
        return None
    low, high = np.quantile(compared, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def differ(one: Sequence[float], other: Sequence[float]) -> float:
    """The two-sided p-value of Mann and Whitney's test: how likely such a difference is between equal things."""
    from scipy.stats import mannwhitneyu

    probability = float(mannwhitneyu(one, other, alternative="two-sided").pvalue)
    # Samples that are all the same number differ by nothing; scipy 1.18 and newer have no number for that.
    return 1.0 if math.isnan(probability) else probability


def holm(probabilities: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm): with hundreds of rows, some differ by chance."""
    corrected = [0.0] * len(probabilities)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        least = max(least, min(1.0, probabilities[index] * (len(probabilities) - rank)))
        corrected[index] = least
    return corrected
