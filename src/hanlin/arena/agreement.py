"""Whether raters agree, with each other and with themselves, and whether a share differs from a half. No
torch here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from hanlin.evaluation.intervals import UNKNOWN, Interval

RESAMPLES = 1000


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Krippendorff's α of nominal judgements (Krippendorff 2011): 1 where all agree, 0 as by chance.

    Args:
        units: the judgements of each unit; those with fewer than two count for nothing.

    Returns:
        None without two judgements of one unit, or where all judgements are the same.
    """
    pairable = [Counter(unit) for unit in units if len(unit) > 1]
    total: Counter[Hashable] = sum(pairable, Counter())
    n = sum(total.values())
    expected = n * n - sum(count * count for count in total.values())
    if not expected:
        return None
    observed = sum(
        (size * size - sum(count * count for count in unit.values())) / (size - 1)
        for unit in pairable
        if (size := sum(unit.values()))
    )
    return 1 - (n - 1) * observed / expected


def alpha_interval(units: Sequence[Sequence[Hashable]], seed: int = 0) -> Interval:
    """95 % percentile bootstrap interval of α over units; unknown with fewer than three units."""
    pairable = [unit for unit in units if len(unit) > 1]
    if len(pairable) < 3:
        return UNKNOWN
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        drawn = krippendorff_alpha([pairable[i] for i in rng.integers(0, len(pairable), len(pairable))])
        if drawn is not None:
            found.append(drawn)
    if not found:
        return UNKNOWN
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def pairwise_agreement(units: Sequence[Sequence[Hashable]]) -> tuple[int, int]:
    """How many pairs of judgements of one unit agree, and how many pairs there are."""
    agreeing = pairs = 0
    for unit in units:
        counts = Counter(unit)
        size = sum(counts.values())
        pairs += size * (size - 1) // 2
        agreeing += sum(count * (count - 1) // 2 for count in counts.values())
    return agreeing, pairs


def binomial_test(successes: int, n: int) -> float:
    """Two-sided p value of so many successes out of `n` if the true share is a half; exact."""
    if n < 1:
        return 1.0
    extreme = min(successes, n - successes)
    if 2 * extreme == n:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(extreme + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))
