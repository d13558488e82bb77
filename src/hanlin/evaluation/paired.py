"""Two models on the same items: how far apart they are, whether that can be told, and how many items would
tell. No torch here.

Pairing takes out what makes an item easy or hard for both, so that differences show which separate intervals
hide (Miller 2024). Items that depend on each other (questions about one passage, turns of one conversation)
are drawn together: the cluster is then the unit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from hanlin.evaluation.intervals import (
    RESAMPLES,
    UNKNOWN,
    Interval,
    cluster_numbers,
    influence,
    normal_point,
    student_interval,
)
from hanlin.evaluation.item_scores import ItemScores

ONE_SIDED = 0.05  # level of the tests against a tolerated loss
_FEW_DISCORDANT = 25
_INDICES_AT_ONCE = 1 << 22

Method = Literal["mcnemar", "bootstrap", "separate"]
"""How a difference was found: of answers that are right or wrong, from the items in which two models differ;
of other scores and of clusters, from a bootstrap of the pairs; from the two intervals, where the items are
not known to be the same."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two scores, with an interval for any confidence.

    Attributes:
        low, high: 95 %, two-sided.
        error: standard error.
        n: items.
        discordance: share of the items in which the two differ, of answers that are right or wrong.
        bounds: two-sided interval by confidence.
    """

    value: float
    error: float
    n: int
    method: Method
    bounds: Callable[[float], Interval] = dataclasses.field(repr=False, compare=False)
    discordance: float | None = None
    low: float = dataclasses.field(init=False)
    high: float = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        low, high = self.bounds(0.95)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def paired(self) -> bool:
        """Whether it is of the same items."""
        return self.method != "separate"

    @property
    def variance(self) -> float:
        """Of one item's difference, with the design effect of clusters; of answers that are right or wrong
        nearly the discordance."""
        return self.error**2 * self.n

    @property
    def detectable(self) -> float:
        """The smallest true difference that so many such items show four times in five, from the interval's
        width; what `detectable_difference` says, but never nothing where no two answers differ."""
        return (self.high - self.low) / 2 * (1 + _quantile(0.8) / normal_point())

    def lower(self, confidence: float = 0.95) -> float:
        """One-sided: the true difference is at least that."""
        return self.bounds(2 * confidence - 1)[0]

    def upper(self, confidence: float = 0.95) -> float:
        """One-sided: the true difference is at most that."""
        return self.bounds(2 * confidence - 1)[1]


def paired_difference(ours: ItemScores, theirs: ItemScores, *, seed: int = 0) -> Difference:
    """Our score less theirs on the same items.

    Answers that are right or wrong, each its own cluster: with 25 items or more in which the two differ the
    normal interval, error √(d - (p₁ - p₂)²) / √n (McNemar 1947); with fewer Tango's score interval (1998),
    made to hold 0 where the exact binomial test of those items does not reject it. Other scores, ratios and
    clusters: bootstrap of the pairs, clusters drawn whole, never narrower than Student's interval of their
    influence.

    Raises:
        ValueError: the items are not the same.
    """
    if not ours.are_of(theirs):
        raise ValueError("paired scores must be of the same items")
    alone = cluster_numbers(ours.clusters) is None
    if alone and all(_right_or_wrong(scores) for scores in (ours, theirs)):
        return _of_answers(ours.values > 0.5, theirs.values > 0.5)
    return _of_ratios(ours, dataclasses.replace(theirs, clusters=ours.clusters), seed)


def separate_difference(
    ours: tuple[float, float, float], theirs: tuple[float, float, float], n: int
) -> Difference:
    """Our score less theirs where the items are not known: from the two intervals as of independent samples
    (Newcombe 1998, method 10), which is wider than a paired one.

    Args:
        ours, theirs: value and 95 % interval.
        n: items of the smaller.
    """
    (value, low, high), (other, other_low, other_high) = ours, theirs
    least, most = math.hypot(value - low, other_high - other), math.hypot(high - value, other - other_low)

    def bounds(confidence: float) -> Interval:
        scale = normal_point(confidence) / normal_point()
        return value - other - scale * least, value - other + scale * most

    return Difference(value - other, (least + most) / 2 / normal_point(), n, "separate", bounds)


def _right_or_wrong(scores: ItemScores) -> bool:
    return bool(np.isin(scores.values, (0.0, 1.0)).all() and (scores.weights == 1.0).all())


# ---------------------------------------------------------------- answers that are right or wrong


def _of_answers(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    n, gained, lost = len(ours), int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    value, discordance = (gained - lost) / n, (gained + lost) / n
    error = math.sqrt(discordance - value * value) / math.sqrt(n)

    def bounds(confidence: float) -> Interval:
        if gained + lost >= _FEW_DISCORDANT:
            half = normal_point(confidence) * error
            return value - half, value + half
        low, high = tango(gained, lost, n, confidence)
        if _mcnemar(gained, lost) >= 1 - confidence:
            low, high = min(low, 0.0), max(high, 0.0)
        return low, high

    return Difference(value, error, n, "mcnemar", bounds, discordance)


def mcnemar(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> float:
    """Two-sided p value of the hypothesis that two models are right equally often: exact binomial on the
    items in which they differ where those are fewer than 25, else the normal approximation (McNemar 1947).

    Args:
        ours, theirs: 1 where right, 0 where wrong, over the same items.
    """
    ours, theirs = np.asarray(ours) > 0.5, np.asarray(theirs) > 0.5
    return _mcnemar(int((ours & ~theirs).sum()), int((~ours & theirs).sum()))


def _mcnemar(gained: int, lost: int) -> float:
    count = gained + lost
    if not count:
        return 1.0
    if count < _FEW_DISCORDANT:
        return min(1.0, 2 * sum(math.comb(count, k) for k in range(min(gained, lost) + 1)) / 2**count)
    return math.erfc(abs(gained - lost) / math.sqrt(2 * count))


def tango(gained: int, lost: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a difference of paired proportions (Tango 1998, Statistics in Medicine 17:891):
    sensible with few discordant items, and with none, where the normal interval is empty."""
    point, value = normal_point(confidence), (gained - lost) / n

    def score(difference: float) -> float:
        """Standardised distance of the observed difference from this one."""
        b = -gained - lost + (2 * n - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        # share of lost items that is likeliest under the difference
        share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        apart = gained - lost - n * difference
        return apart / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, apart)

    def end(far: float, sign: float) -> float:
        near = value
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (middle, far) if sign * score(middle) < point else (near, middle)
        return near

    return (end(-1.0, 1.0) if value > -1 else -1.0), (end(1.0, -1.0) if value < 1 else 1.0)


# ---------------------------------------------------------------- ratios, other scores, clusters


def _of_ratios(ours: ItemScores, theirs: ItemScores, seed: int) -> Difference:
    parts = (*ours.sums(), *theirs.sums())
    tops, bottoms, other_tops, other_bottoms = parts
    value = float(tops.sum() / bottoms.sum() - other_tops.sum() / other_bottoms.sum())
    units, n = len(tops), len(ours)
    if units < 2:
        return Difference(value, math.inf, n, "bootstrap", lambda confidence: UNKNOWN)
    apart = influence(tops, bottoms) - influence(other_tops, other_bottoms)
    error = float(apart.std(ddof=1)) / math.sqrt(units)
    drawn = _resampled(parts, seed)
    counted = min(int((bottoms > 0).sum()), int((other_bottoms > 0).sum()))
    is_share = _is_share(ours) and _is_share(theirs)

    def bounds(confidence: float) -> Interval:
        low, high = student_interval(value, apart, confidence)
        least, most = np.quantile(drawn, ((1 - confidence) / 2, (1 + confidence) / 2))
        low, high = min(low, float(least)), max(high, float(most))
        if is_share:  # few answers that differ, or none, do not prove that none would: Tango's with none
            square = normal_point(confidence) ** 2
            floor = square / (counted + square)
            low, high = max(-1.0, min(low, value - floor)), min(1.0, max(high, value + floor))
        return low, high

    return Difference(value, error, n, "bootstrap", bounds)


def _is_share(scores: ItemScores) -> bool:
    """Whether it counts items, whole or in part: a ratio of 0 to 1."""
    whole = np.isin(scores.weights, (0.0, 1.0)).all()
    return bool(whole and (scores.values >= 0).all() and (scores.values <= scores.weights).all())


def _resampled(parts: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Differences of the two ratios on clusters drawn with replacement, (resamples,)."""
    count, rng, found = len(parts[0]), np.random.default_rng(seed), []
    at_once = max(1, _INDICES_AT_ONCE // count)
    for start in range(0, RESAMPLES, at_once):
        drawn = rng.integers(0, count, (min(at_once, RESAMPLES - start), count))
        above, below, other_above, other_below = (part[drawn].sum(axis=1) for part in parts)
        kept = (below > 0) & (other_below > 0)  # a draw of empty items alone has no ratio
        found.append(above[kept] / below[kept] - other_above[kept] / other_below[kept])
    return np.concatenate(found)


# ---------------------------------------------------------------- power


def detectable_difference(n: int, discordance: float, power: float = 0.8) -> float:
    """The smallest true difference that a paired test at 5 %, two-sided, finds with this probability: 2.80
    √(d/n) at 80 %.

    Args:
        discordance: share of items in which two models differ; 0.2 is usual between neighbouring checkpoints.
    """
    return (normal_point() + _quantile(power)) * math.sqrt(discordance / n)


def detectable_against(n: int, control: float, power: float = 0.8) -> float:
    """The same of one model against a share that is known, such as chance."""
    return (normal_point() + _quantile(power)) * math.sqrt(control * (1 - control) / n)


def items_needed(discordance: float, distance: float, power: float = 0.8, *, sides: int = 1) -> int:
    """Items with which a test at 5 % decides with this probability when the truth lies `distance` from the
    limit: 6.2 d/δ² one-sided, at 80 %.

    Args:
        discordance: or the variance of the items' differences.
        sides: 2 for a difference of either sign.
    """
    return math.ceil((_quantile(1 - 0.05 / sides) + _quantile(power)) ** 2 * discordance / distance**2)


def _quantile(share: float) -> float:
    """Of the standard normal distribution."""
    return normal_point(2 * share - 1)


# ---------------------------------------------------------------- non-inferiority

Outcome = Literal["accepted", "refused", "undecided"]


@dataclasses.dataclass(frozen=True)
class NonInferiority:
    """Whether a loss of more than a margin is excluded (accepted), shown (refused), or neither.

    Attributes:
        further: items that would decide four times in five, see `_further`; None where it is decided.
    """

    outcome: Outcome
    difference: Difference
    margin: float
    further: int | None = None


def non_inferiority(
    guards: Sequence[tuple[Difference, float]], level: float = ONE_SIDED
) -> list[NonInferiority]:
    """Judge several losses at once.

    One is accepted where the one-sided lower end of its difference lies above -margin. It is refused where
    the upper end lies below, with Holm's correction over all: one wrong refusal among them is as rare as
    `level`.

    Args:
        guards: differences in the direction in which more is better, and the margins tolerated.
    """
    lost = step_down(len(guards), lambda at, part: guards[at][0].upper(1 - part) < -guards[at][1], level)
    found = []
    for at, (apart, margin) in enumerate(guards):
        if at in lost:
            found.append(NonInferiority("refused", apart, margin))
        elif apart.lower(1 - level) > -margin:
            found.append(NonInferiority("accepted", apart, margin))
        else:
            found.append(NonInferiority("undecided", apart, margin, _further(apart, margin)))
    return found


def _further(apart: Difference, margin: float) -> int | None:
    """Items that would decide, if the true difference is what was measured: 6.2 d/δ² in all where the two
    seem equally good or ours better, more where the loss seems to be near the margin. How near cannot be
    known, so no distance below a quarter of the margin is believed; None without a margin or an interval."""
    if margin <= 0 or not math.isfinite(apart.error):
        return None
    distance = max(min(abs(apart.value + margin), margin), margin / 4)
    square = normal_point(1 - 2 * ONE_SIDED) ** 2
    least = math.ceil(square * (1 - margin) / margin)  # what Tango's interval needs where none differ
    more = max(items_needed(apart.variance, distance), least) - apart.n
    return more if more > 0 else None


# ---------------------------------------------------------------- many at once


def step_down(count: int, rejects: Callable[[int, float], bool], level: float) -> set[int]:
    """Holm's procedure (1979): the hypotheses to reject so that one wrong rejection among all is as rare as
    `level`.

    Args:
        rejects: whether the test of a hypothesis, by its place, rejects at a level.
    """
    left = set(range(count))
    while left:
        hit = {at for at in left if rejects(at, level / len(left))}
        if not hit:
            break
        left -= hit
    return set(range(count)) - left


def holm(p_values: Sequence[float], level: float = ONE_SIDED) -> list[bool]:
    """Which hypotheses to reject by Holm's procedure."""
    rejected = step_down(len(p_values), lambda at, part: p_values[at] <= part, level)
    return [at in rejected for at in range(len(p_values))]


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
