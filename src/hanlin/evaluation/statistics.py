"""Scores with 95 % intervals, and the rules for ranking them: on the same items by the interval of the
difference, otherwise not when the intervals overlap; and not on few items. No torch here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from hanlin.evaluation.intervals import (
    UNKNOWN,
    Interval,
    bootstrap_ratio,
    cluster_numbers,
    clustered_wilson,
    median_interval,
    student_t,
    wilson,
)
from hanlin.evaluation.item_scores import ItemScores
from hanlin.evaluation.paired import Difference, paired_difference, separate_difference

FEWEST = 20  # items that a verdict needs: an interval of fewer rests on what the items happen to be

Ranking = Literal["better", "worse", "overlap", "few"]


@dataclasses.dataclass(frozen=True)
class Control:
    """What could have done as well: its name and its own score, measured on the same items.

    Attributes:
        difference: 95 % interval of how much better the metric is than the control, from the pairs; None
            where the items were not kept.
    """

    name: str
    value: float
    low: float
    high: float
    difference: Interval | None = None

    def __post_init__(self):
        _put_unknown(self)
        if self.difference is not None:
            low, high = map(float, self.difference)
            if not -math.inf < low <= high < math.inf:
                raise ValueError(f"{self.difference} is no interval")
            object.__setattr__(self, "difference", (low, high))


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
        counted: Sequence[bool] | np.ndarray | None = None,
        ids: Sequence[str] = (),
        data: str = "",
        clusters: Sequence[str] | None = None,
        higher_is_better: bool = True,
        chance: float | None = None,
    ) -> Metric:
        """A proportion that keeps its items; with clusters of several items its interval is that of
        `clustered_wilson`.

        Args:
            hits: 1 where an item counts, 0 where not, parts of ties between.
            counted: the items that the share is of; all when absent. It lets two models be compared at what
                only some of their answers have.
            ids, data, clusters: see `ItemScores`.
        """
        hits = np.asarray(hits, dtype=np.float64)
        weights = np.ones_like(hits) if counted is None else np.asarray(counted, dtype=np.float64)
        items = ItemScores(hits * weights, weights, tuple(ids), data, _names(clusters))
        n = int(weights.sum())
        chosen = weights > 0
        numbers = cluster_numbers(np.asarray(clusters)[chosen].tolist()) if clusters is not None else None
        if numbers is None:
            low, high = wilson(float(items.values.sum()), n)
        else:
            low, high = clustered_wilson(hits[chosen], numbers)
        value = float(items.values.sum() / n)
        return cls(value, min(low, value), max(high, value), n, higher_is_better, chance, items=items)

    @classmethod
    def mean(
        cls,
        values: Sequence[float] | np.ndarray,
        *,
        ids: Sequence[str] = (),
        data: str = "",
        clusters: Sequence[str] | None = None,
        higher_is_better: bool = True,
        chance: float | None = None,
        seed: int = 0,
    ) -> Metric:
        """A mean over items, with the interval of `bootstrap_mean`; clusters are drawn whole."""
        values = np.asarray(values, dtype=np.float64)
        items = ItemScores(values, np.ones_like(values), tuple(ids), data, _names(clusters))
        return cls._of_items(items, higher_is_better, chance, seed)

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
        ids: Sequence[str] = (),
        data: str = "",
        clusters: Sequence[str] | None = None,
        higher_is_better: bool = True,
        seed: int = 0,
    ) -> Metric:
        """Σ numerators / Σ denominators (bits over bytes), with the interval of `bootstrap_ratio` over the
        items that carry both; clusters are drawn whole."""
        numerators, denominators = (
            np.asarray(numerators, dtype=np.float64),
            np.asarray(denominators, dtype=np.float64),
        )
        items = ItemScores(numerators, denominators, tuple(ids), data, _names(clusters))
        return cls._of_items(items, higher_is_better, None, seed)

    @classmethod
    def _of_items(cls, items: ItemScores, higher_is_better: bool, chance: float | None, seed: int) -> Metric:
        """Σ values / Σ weights with its bootstrap interval, made to hold the value, which percentiles of few
        items can miss by rounding. Items that all depend on each other count as one."""
        tops, bottoms = items.sums()
        low, high = bootstrap_ratio(tops, bottoms, seed=seed)
        value = float(tops.sum() / bottoms.sum())
        n = len(items) if len(tops) > 1 else 1
        return cls(value, min(low, value), max(high, value), n, higher_is_better, chance, items=items)

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
        if self.control is not None:
            apart = raw["control"].pop("difference")
            raw["control"] |= {} if apart is None else {"difference": list(apart)}
        for part in (raw, raw.get("control", {})):
            part |= {end: None for end in ("low", "high") if end in part and math.isinf(part[end])}
        return raw

    def with_control(self, name: str, control: Metric) -> Metric:
        """This metric beside a control's, with the difference where both keep the same items."""
        apart = difference(self, control)
        known = apart.paired and math.isfinite(apart.error)
        beside = Control(
            name, control.value, control.low, control.high, (apart.low, apart.high) if known else None
        )
        return dataclasses.replace(self, control=beside)

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


def _names(clusters: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if clusters is None else tuple(clusters)


def can_pair(ours: Metric, theirs: Metric) -> bool:
    """Whether two metrics keep scores of the same items."""
    return ours.items is not None and theirs.items is not None and ours.items.are_of(theirs.items)


def difference(ours: Metric, theirs: Metric) -> Difference:
    """How much better ours is, in the direction in which more is better: of the same items from the pairs,
    else from the two intervals."""
    first, second = (ours, theirs) if ours.higher_is_better else (theirs, ours)
    if can_pair(ours, theirs):
        assert first.items is not None and second.items is not None
        return paired_difference(first.items, second.items)
    return separate_difference(
        (first.value, first.low, first.high), (second.value, second.low, second.high), min(ours.n, theirs.n)
    )


def ranking(metric: Metric | Control, other: Metric | Control, higher_is_better: bool = True) -> Ranking:
    """Whether `metric` is better or worse than `other`; or cannot be ranked, because it can't be told
    (`overlap`) or the items are few.

    On the same items the interval of the difference decides, otherwise whether the two intervals overlap. A
    control was measured on the items of its metric, so it counts as many.
    """
    counted = [score.n for score in (metric, other) if isinstance(score, Metric)]
    if counted and min(counted) < FEWEST:
        return "few"
    apart = _paired_interval(metric, other)
    if apart is not None:
        return "better" if apart[0] > 0 else "worse" if apart[1] < 0 else "overlap"
    if metric.low <= other.high and other.low <= metric.high:
        return "overlap"
    return "better" if (metric.value > other.value) == higher_is_better else "worse"


def _paired_interval(metric: Metric | Control, other: Metric | Control) -> Interval | None:
    """How much better `metric` is, where that is known of the same items."""
    if isinstance(metric, Metric) and isinstance(other, Metric):
        if not can_pair(metric, other):
            return None
        apart = difference(metric, other)
        return apart.low, apart.high
    if isinstance(metric, Metric) and isinstance(other, Control) and metric.control == other:
        return other.difference
    return None


def beats(metric: Metric, control: Metric | Control | None = None) -> bool:
    """Whether a metric is better than a control (its own when none is given), see `ranking`."""
    control = control or metric.control
    if control is None:
        raise ValueError("there is no control to beat")
    return ranking(metric, control, metric.higher_is_better) == "better"


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
