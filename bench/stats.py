"""Percentiles, and how sure one may be of them.

numpy and scipy are imported where they are needed, not before: what this process has mapped stays in the page cache,
which would warm the cold starts of the workloads that map it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

#: Below so many samples, such a percentile is (nearly) the largest of them and is marked.
ENOUGH_FOR_P95, ENOUGH_FOR_P99 = 20, 100
#: Below so many bursts, both are marked: they say as much of one burst that went badly as of the others.
ENOUGH_BURSTS = 5
_RESAMPLED = 2000
#: Medians of fewer samples are not compared with each other's.
LEAST_SAMPLES = 5
#: Up to so many samples, Mann and Whitney's test is computed exactly.
_EXACT = 40

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


def says_enough(count: int, share: float, bursts: int | None = None) -> bool:
    """Whether a percentile of so many samples says more than what the largest of them is.

    Args:
        bursts: how many bursts they are of, where they are of bursts.
    """
    enough = ENOUGH_FOR_P99 if share > 0.95 else ENOUGH_FOR_P95
    return count >= enough and (bursts is None or bursts >= ENOUGH_BURSTS)


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


def differ(one: Sequence[float], other: Sequence[float], factor: float = 1.0) -> float:
    """How likely such a difference is where neither is more than `factor` times as large as the other.

    The p-value of Mann and Whitney's test, two-sided; 1 where the medians are within `factor` of each other.
    """
    before, after = median(one), median(other)
    if after > before * factor:
        return min(1.0, 2 * _above(other, [value * factor for value in one]))
    if before > after * factor:
        return min(1.0, 2 * _above(one, [value * factor for value in other]))
    return 1.0


def _above(one: Sequence[float], other: Sequence[float]) -> float:
    from scipy.stats import mannwhitneyu

    # The normal distribution is too far off in the tails of few samples; the exact one is for such without ties.
    tied = len({*one, *other}) < len(one) + len(other)
    method = "asymptotic" if tied or max(len(one), len(other)) > _EXACT else "exact"
    return float(mannwhitneyu(one, other, alternative="greater", method=method).pvalue)


@cache
def least_probability(one: int, other: int) -> float:
    """The p-value that `differ` gives so many samples at best: where all of one are above all of the other."""
    return differ(range(one), range(one, one + other))


def testable(least: Sequence[float], alpha: float) -> list[bool]:
    """Which of many tests are worth correcting for (Tarone), by the least p-value that each can come to.

    A test that cannot reach `alpha` even then, once corrected for their number, is no chance of an error: to count it
    would only take sensitivity from the others. It goes by numbers of samples alone, so Holm's correction of what is
    left holds.
    """
    for number in range(1, len(least) + 1):
        able = [one <= alpha / number for one in least]
        if sum(able) <= number:
            return able
    return []


def holm(probabilities: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm): with hundreds of rows, some differ by chance."""
    corrected = [0.0] * len(probabilities)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        least = max(least, min(1.0, probabilities[index] * (len(probabilities) - rank)))
        corrected[index] = least
    return corrected
