"""Two models on the same items: how far apart they are, whether that can be told, and how many items would
tell. No torch here.

Pairing takes out what makes an item easy or hard for both, so that differences show which separate intervals
hide (Miller 2024). Items that depend on each other (questions about one passage, sentences of one paradigm)
are drawn together: a cluster is then the unit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from hanlin.evaluation.statistics import Z95, Metric, cluster_sums, influence, student_interval

ONE_SIDED = 0.05  # level of the tests against a tolerated loss
_POWER_TERMS = Z95 + 0.8416212335729143  # 97.5 % and 80 % points of the standard normal
_FEW_DISCORDANT = 25


@dataclasses.dataclass(frozen=True)
class Difference:
    """Ours - theirs over the same items, in the direction in which more is better.

    Attributes:
        low, high: 95 % interval.
        error: standard error.
        units: clusters, or items where each is its own.
        discordance: variance of the items' differences, of answers that are right or wrong about the share in
            which the two differ.
        paired: whether it is of the same items.
    """

    value: float
    low: float
    high: float
    error: float
    units: int
    discordance: float
    paired: bool = True

    def not_above(self, limit: float) -> float:
        """p value of the hypothesis that the true difference is at most `limit`, one-sided: small where it is
        above."""
        if self.error == 0:
            return 0.0 if self.value > limit else 1.0
        return student_tail((self.value - limit) / self.error, self.units - 1)

    def not_below(self, limit: float) -> float:
        """p value of the hypothesis that the true difference is at least `limit`, one-sided."""
        if self.error == 0:
            return 0.0 if self.value < limit else 1.0
        return student_tail((limit - self.value) / self.error, self.units - 1)


def can_pair(ours: Metric, theirs: Metric) -> bool:
    """Whether two metrics carry scores of the same items."""
    mine, other = ours.items, theirs.items
    return mine is not None and other is not None and mine.key == other.key and len(mine) == len(other)


def difference(ours: Metric, theirs: Metric) -> Difference:
    """How much better ours is: paired where `can_pair`, else as of independent items, from the two intervals,
    which is wider."""
    sign = 1.0 if ours.higher_is_better else -1.0
    if not can_pair(ours, theirs):
        errors = [(metric.high - metric.low) / (2 * Z95) for metric in (ours, theirs)]
        value, error = sign * (ours.value - theirs.value), math.hypot(*errors)
        n = min(ours.n, theirs.n)
        spread = error * error * n if math.isfinite(error) else math.inf
        return Difference(value, value - Z95 * error, value + Z95 * error, error, n, spread, paired=False)
    mine, other = ours.items, theirs.items
    assert mine is not None and other is not None
    each = sign * (mine.values - other.values)
    tops, bottoms = cluster_sums(each, mine.clusters), cluster_sums(mine.weights, mine.clusters)
    value = float(tops.sum() / bottoms.sum())
    if len(tops) < 2:
        return Difference(value, -math.inf, math.inf, math.inf, 1, float(each.var()))
    parts = influence(tops, bottoms)
    low, high = student_interval(value, parts)
    error = float(parts.std(ddof=1)) / math.sqrt(len(parts))
    return Difference(value, low, high, error, len(tops), float(each.var(ddof=1)))


def mcnemar(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> float:
    """Two-sided p value of the hypothesis that two models are right equally often: exact binomial on the
    items in which they differ, where those are fewer than 25, else the normal approximation (McNemar 1947).

    Args:
        ours, theirs: 1 where right, 0 where wrong, over the same items.
    """
    ours, theirs = np.asarray(ours) > 0.5, np.asarray(theirs) > 0.5
    gained, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    count = gained + lost
    if not count:
        return 1.0
    if count < _FEW_DISCORDANT:
        tail = sum(math.comb(count, k) for k in range(min(gained, lost) + 1)) / 2**count
        return min(1.0, 2 * tail)
    return math.erfc(abs(gained - lost) / math.sqrt(2 * count))


# ---------------------------------------------------------------- power


def detectable_difference(n: int, discordance: float) -> float:
    """The smallest true difference that a paired test at 5 % finds four times in five.

    Args:
        discordance: share of items in which two models differ; 0.2 is usual between neighbouring checkpoints.
    """
    return _POWER_TERMS * math.sqrt(discordance / n)


def detectable_against(n: int, control: float) -> float:
    """The same of one model against a share that is known, such as chance."""
    return _POWER_TERMS * math.sqrt(control * (1 - control) / n)


def items_needed(discordance: float, distance: float) -> int:
    """Items with which a one-sided test at 5 % decides four times in five, the true value being `distance`
    from the limit."""
    return math.ceil((1.6448536269514722 + 0.8416212335729143) ** 2 * discordance / distance**2)


# ---------------------------------------------------------------- many at once


def holm(p_values: Sequence[float], level: float = ONE_SIDED) -> list[bool]:
    """Which hypotheses to reject so that one wrong rejection among all is as rare as `level` (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    rejected = [False] * len(p_values)
    for rank, at in enumerate(order):
        if p_values[at] > level / (len(order) - rank):
            break
        rejected[at] = True
    return rejected


def benjamini_hochberg(p_values: Sequence[float], level: float = 0.1) -> list[bool]:
    """Which hypotheses to reject so that of those rejected a share of `level` is wrong (1995); for tables of
    many comparisons."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    last = -1
    for rank, at in enumerate(order):
        if p_values[at] <= level * (rank + 1) / len(order):
            last = rank
    rejected = [False] * len(p_values)
    for at in order[: last + 1]:
        rejected[at] = True
    return rejected


# ---------------------------------------------------------------- distributions


def student_tail(t: float, freedom: int) -> float:
    """P(T > t) of Student's t: the regularised incomplete beta function by its continued fraction (Lentz;
    Abramowitz & Stegun 26.5.8)."""
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    x = freedom / (freedom + t * t)
    half = 0.5 * _incomplete_beta(freedom / 2, 0.5, x)
    return half if t >= 0 else 1 - half


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), to 1e-12."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    found = d
    for m in range(1, 1000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + numerator * d
            c = 1 + numerator / c
            d = 1 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            found *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * found / a
