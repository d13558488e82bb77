"""Scores with 95 % intervals, and the rules for ranking them: not when the intervals overlap, not on few
items. No torch here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Z95 = 1.959963984540054  # 97.5 % point of the standard normal
RESAMPLES = 2000
FEWEST = 20  # items that a verdict needs: an interval of fewer rests on what the items happen to be
_INDICES_AT_ONCE = 1 << 22  # 32 MiB of resampled indices

Interval = tuple[float, float]
Ranking = Literal["better", "worse", "overlap", "few"]
UNKNOWN: Interval = (-math.inf, math.inf)  # of a mean of one item: nothing says how much items differ


@dataclasses.dataclass(frozen=True)
class Control:
    """What could have done as well: its name and its own score, measured on the same items."""

    name: str
    value: float
    low: float
    high: float

    def __post_init__(self):
        _put_unknown(self)


@dataclasses.dataclass(frozen=True, eq=False)
class ItemScores:
    """What a metric is made of, item by item, so that another model's on the same items can be paired with
    it (`paired`). The metric is Σ values / Σ weights.

    Attributes:
        values, weights: (items,) float64: 1 or 0 and 1 of an answer, bits and bytes of a text.
        clusters: (items,) int64: items that depend on each other have the same; each its own when absent.
        key: of the items. Metrics of one key and as many items are of the same items in the same order.
    """

    values: np.ndarray
    weights: np.ndarray
    clusters: np.ndarray | None = None
    key: str = ""

    def __len__(self) -> int:
        return len(self.values)


def cluster_sums(values: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """Sums of each cluster's values, (clusters,); the values themselves where each item is its own."""
    return values if clusters is None else np.bincount(clusters, weights=values)


def cluster_numbers(names: Sequence[str] | None) -> np.ndarray | None:
    """Clusters numbered 0 …, (items,) int64; None where each item is its own."""
    if names is None:
        return None
    found, numbers = np.unique(np.asarray(names), return_inverse=True)
    return None if len(found) == len(names) else numbers.astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One score of report.json: `value` with its 95 % interval [`low`, `high`] over `n` items.

    A mean of one item has no interval: its ends are infinite here and null in JSON.

    Attributes:
        chance: what guessing would score, where that is known.
        control: what the stage has to beat, measured on the same items.
        items: the items' own scores, where they are known; not part of the JSON.

    Raises:
        ValueError: no items, a number that is not finite, or a value outside its interval.
    """

    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool = True
    chance: float | None = None
    control: Control | None = None
    items: ItemScores | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"a metric needs items to be measured on; n is {self.n}")
        _put_unknown(self)
        known = (self.low, self.high) != UNKNOWN
        if not known and self.n >= FEWEST:
            raise ValueError(f"a metric of {self.n} items needs an interval")
        if not all(map(math.isfinite, (self.value, self.low, self.high) if known else (self.value,))):
            raise ValueError(f"a metric must be finite, not {self.value} [{self.low}, {self.high}]")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"the value {self.value} lies outside its interval [{self.low}, {self.high}]")

    @classmethod
    def proportion(
        cls, successes: float, n: int, *, higher_is_better: bool = True, chance: float | None = None
    ) -> Metric:
        """A share of `n` items, with Wilson's interval; half successes (ties) are allowed."""
        if n < 1:
            raise ValueError("a proportion of no items is not a metric")
        return cls(successes / n, *wilson(successes, n), n, higher_is_better, chance)

    @classmethod
    def share(
        cls,
        hits: Sequence[float] | np.ndarray,
        *,
        clusters: Sequence[str] | None = None,
        key: str = "",
        higher_is_better: bool = True,
        chance: float | None = None,
        seed: int = 0,
    ) -> Metric:
        """A proportion that keeps its items.

        Args:
            hits: 1 where an item counts, 0 where not, parts of ties between.
            clusters: the cluster's name of each item. With clusters of several items, whole ones are drawn
                for the interval: one of independent items would be too narrow.
            key: see `ItemScores`.
        """
        hits = np.asarray(hits, dtype=np.float64)
        numbers = cluster_numbers(clusters)
        items = ItemScores(hits, np.ones_like(hits), numbers, key)
        value = float(hits.mean())
        low, high = wilson(float(hits.sum()), len(hits))
        if numbers is not None:
            low, high = bootstrap_ratio(
                cluster_sums(hits, numbers), cluster_sums(items.weights, numbers), seed=seed
            )
            low, high = max(0.0, min(low, value)), min(1.0, max(high, value))
        return cls(value, low, high, len(hits), higher_is_better, chance, items=items)

    @classmethod
    def mean(
        cls,
        values: Sequence[float] | np.ndarray,
        *,
        clusters: Sequence[str] | None = None,
        key: str = "",
        higher_is_better: bool = True,
        chance: float | None = None,
        seed: int = 0,
    ) -> Metric:
        """A mean over items, with the interval of `bootstrap_mean`; of clusters as in `share`."""
        values = np.asarray(values, dtype=np.float64)
        numbers = cluster_numbers(clusters)
        items = ItemScores(values, np.ones_like(values), numbers, key)
        low, high = bootstrap_ratio(
            cluster_sums(values, numbers), cluster_sums(items.weights, numbers), seed=seed
        )
        return cls._spanning(
            float(values.mean()), low, high, len(values), higher_is_better, chance, None, items
        )

    @classmethod
    def median(cls, values: Sequence[float] | np.ndarray, *, higher_is_better: bool = True) -> Metric:
        """A median over items, with the interval of `median_interval`."""
        values = np.asarray(values, dtype=np.float64)
        low, high = median_interval(values)
        return cls(float(np.median(values)), low, high, len(values), higher_is_better)

    @classmethod
    def ratio(
        cls,
        numerators: Sequence[float] | np.ndarray,
        denominators: Sequence[float] | np.ndarray,
        *,
        clusters: Sequence[str] | None = None,
        key: str = "",
        higher_is_better: bool = True,
        seed: int = 0,
    ) -> Metric:
        """Σ numerators / Σ denominators (bits over bytes), with the interval of `bootstrap_ratio` over the
        items that carry both; of clusters as in `share`."""
        numerators, denominators = (
            np.asarray(numerators, dtype=np.float64),
            np.asarray(denominators, dtype=np.float64),
        )
        numbers = cluster_numbers(clusters)
        low, high = bootstrap_ratio(
            cluster_sums(numerators, numbers), cluster_sums(denominators, numbers), seed=seed
        )
        value = float(numerators.sum() / denominators.sum())
        items = ItemScores(numerators, denominators, numbers, key)
        return cls._spanning(value, low, high, len(numerators), higher_is_better, None, None, items)

    @classmethod
    def _spanning(cls, value: float, low: float, high: float, *rest: Any) -> Metric:
        """Percentiles of few items can miss the value by rounding; the interval is made to hold it."""
        return cls(value, min(low, value), max(high, value), *rest)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Metric:
        """Read the form that report.json has.

        Raises:
            KeyError, TypeError, ValueError: a part is missing, unknown or impossible.
        """
        control = Control(**raw["control"]) if raw.get("control") is not None else None
        return cls(**{key: value for key, value in raw.items() if key != "control"}, control=control)

    def to_dict(self) -> dict[str, Any]:
        """The form that report.json has; absent parts are left out, ends that are not known are null."""
        plain = dataclasses.asdict(dataclasses.replace(self, items=None))
        raw = {key: value for key, value in plain.items() if value is not None}
        for part in (raw, raw.get("control", {})):
            part |= {end: None for end in ("low", "high") if end in part and math.isinf(part[end])}
        return raw

    def with_control(self, name: str, control: Metric) -> Metric:
        """This metric beside a control's."""
        return dataclasses.replace(self, control=Control(name, control.value, control.low, control.high))

    def control_metric(self) -> Metric:
        """The control as a metric of its own, over the same items.

        Raises:
            ValueError: there is no control.
        """
        if self.control is None:
            raise ValueError("this metric has no control")
        return Metric(
            self.control.value,
            self.control.low,
            self.control.high,
            self.n,
            self.higher_is_better,
            self.chance,
        )


def _put_unknown(score: Metric | Control) -> None:
    """Ends that are null in JSON become infinite."""
    for end, value in zip(("low", "high"), UNKNOWN, strict=True):
        if getattr(score, end) is None:
            object.__setattr__(score, end, value)


def ranking(metric: Metric | Control, other: Metric | Control, higher_is_better: bool = True) -> Ranking:
    """Whether `metric` is better or worse than `other`; or cannot be ranked because the intervals overlap or
    the items are few.

    A control was measured on the items of its metric, so it counts as many.
    """
    counted = [score.n for score in (metric, other) if isinstance(score, Metric)]
    if counted and min(counted) < FEWEST:
        return "few"
    if metric.low <= other.high and other.low <= metric.high:
        return "overlap"
    return "better" if (metric.value > other.value) == higher_is_better else "worse"


def beats(metric: Metric, control: Metric | Control | None = None) -> bool:
    """Whether a metric is better than a control (its own when none is given): intervals apart, and items
    enough to tell."""
    control = control or metric.control
    if control is None:
        raise ValueError("there is no control to beat")
    return ranking(metric, control, metric.higher_is_better) == "better"


def wilson(successes: float, n: int) -> Interval:
    """95 % score interval of a proportion (Wilson 1927): sensible at 0 and n, where the normal interval is
    empty."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n} is not a proportion")
    p, zz = successes / n, Z95 * Z95
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = Z95 / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def median_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """95 % interval of a median between two order statistics, whatever the distribution: of n items the k-th
    smallest and largest, with k the largest for which fewer than k of n fair coins show heads with
    probability 2.5 % at most (Conover 1999, §3.2). Of fewer than six items nothing is known.

    Raises:
        ValueError: no items.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    if not count:
        raise ValueError("a median of no items is not a metric")
    below, k = 0.0, 0
    for heads in range(count):
        chance = math.lgamma(count + 1) - math.lgamma(heads + 1) - math.lgamma(count - heads + 1)
        below += math.exp(chance - count * math.log(2))
        if below > 0.025:
            break
        k = heads + 1
    return UNKNOWN if k == 0 else (float(ordered[k - 1]), float(ordered[count - k]))


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """95 % interval of a mean, see `bootstrap_ratio`."""
    values = np.asarray(values, dtype=np.float64)
    return bootstrap_ratio(values, np.ones_like(values), seed=seed, resamples=resamples)


def bootstrap_ratio(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """95 % interval of Σ numerators / Σ denominators; an item is drawn with both its parts.

    The percentile bootstrap (Efron 1979), which covers 49 % with two items and 91 % with twenty, is never
    taken narrower than `student_interval`, which covers what it says there; with hundreds of items the two
    agree.

    Raises:
        ValueError: no items, lengths that differ, or denominators that sum to nothing.
    """
    numerators, denominators = (
        np.asarray(numerators, dtype=np.float64),
        np.asarray(denominators, dtype=np.float64),
    )
    if numerators.shape != denominators.shape or numerators.ndim != 1 or not len(numerators):
        raise ValueError(
            f"expected two equally long lists of numbers, not shapes {numerators.shape} and "
            f"{denominators.shape}"
        )
    if denominators.sum() <= 0 or denominators.min() < 0:
        raise ValueError("the denominators must be non-negative and not all zero")
    if len(numerators) == 1:
        return UNKNOWN
    count, rng = len(numerators), np.random.default_rng(seed)
    ratios, at_once = [], max(1, _INDICES_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        drawn = rng.integers(0, count, (min(at_once, resamples - start), count))
        below = denominators[drawn].sum(axis=1)
        # a draw of empty items alone has no ratio
        ratios.append(numerators[drawn].sum(axis=1)[below > 0] / below[below > 0])
    low, high = np.quantile(np.concatenate(ratios), (0.025, 0.975))
    value = float(numerators.sum() / denominators.sum())
    least, most = student_interval(value, influence(numerators, denominators))
    return min(float(low), least), max(float(high), most)


def influence(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """What each item contributes to Σ numerators / Σ denominators, to first order, (items,); their mean
    is 0."""
    return (numerators - numerators.sum() / denominators.sum() * denominators) / denominators.mean()


def student_interval(value: float, parts: np.ndarray) -> Interval:
    """95 % interval of a statistic from its items' influence, for few items and skewed ones.

    Student's interval, widened by 1 + 1.5 / n (from simulations: with exponential items the plain one covers
    89 to 91 % up to n = 10), and on the side of the long tail moved on by Johnson's correction for skewness
    (1978), t · g(1 + 2t²) / (6√n) standard errors. Covers 94 to 98 % of normal, uniform, exponential and
    log-normal means and of ratios from n = 2 on.

    Args:
        parts: of at least two items.
    """
    count = len(parts)
    centred = parts - parts.mean()
    error = float(centred.std(ddof=1)) / math.sqrt(count)
    t = student_t(count - 1) * (1 + 1.5 / count)
    half = t * error
    spread = float(centred.std())
    skewness = float((centred**3).mean()) / spread**3 if spread > 1e-12 * max(1.0, abs(value)) else 0.0
    if count > 2:
        skewness *= math.sqrt(count * (count - 1)) / (count - 2)
    shift = min(max(skewness * (1 + 2 * t * t) / (6 * math.sqrt(count)) * error, -half), half)
    return value - half + min(0.0, shift), value + half + max(0.0, shift)


def paired_difference(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray, *, seed: int = 0
) -> Metric:
    """Mean of `ours - theirs` over the same items, in the same order; it is a difference when 0 lies outside
    the interval.

    Pairing takes out what makes items easy or hard for both, so it can tell apart scores whose own intervals
    overlap.
    """
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"paired scores must cover the same items, not {ours.shape} and {theirs.shape}")
    return Metric.mean(ours - theirs, seed=seed)


# 97.5 % points of Student's t by degrees of freedom, interpolated in 1/freedom, where they lie nearly on a
# line
_T_FREEDOM = np.array([1, 2, 3, 4, 5, 6, 8, 10, 15, 30, np.inf])
_T_POINTS = np.array([12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.306, 2.228, 2.131, 2.042, 1.960])


def student_t(freedom: int) -> float:
    """97.5 % point of Student's t."""
    return float(np.interp(1 / freedom, 1 / _T_FREEDOM[::-1], _T_POINTS[::-1]))


def pooled(metrics: Sequence[Metric]) -> Metric:
    """One metric from the runs of several seeds on the same items; the interval is that of the mean run of
    any seed.

    Student's interval of the runs' values, since a lucky seed is not proof; but never narrower than what the
    items alone would give, since three runs can agree by chance. (An interval over all items together, as if
    runs did not differ, covers 37 % instead of 95 % when three seeds of 500 items differ by 8 points.)

    Raises:
        ValueError: no metrics.
    """
    if not metrics:
        raise ValueError("there are no runs to pool")
    if len(metrics) == 1:
        return metrics[0]
    values, runs = np.array([metric.value for metric in metrics]), len(metrics)
    t = student_t(runs - 1)
    of_items = math.sqrt(sum(((metric.high - metric.low) / 2) ** 2 for metric in metrics) / runs)
    half = max(t * float(values.std(ddof=1)), of_items) / math.sqrt(runs)
    mean = float(values.mean())
    low, high = mean - half, mean + half
    if all(metric.low >= 0 and metric.high <= 1 for metric in metrics):
        low, high = max(0.0, low), min(1.0, high)
    first = metrics[0]
    return Metric(mean, low, high, sum(metric.n for metric in metrics), first.higher_is_better, first.chance)
