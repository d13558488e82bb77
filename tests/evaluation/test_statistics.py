"""Intervals cover what they promise to cover, and nothing is ranked when they overlap."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.evaluation import Metric, beats, bootstrap_mean, bootstrap_ratio, pooled, ranking, wilson
from hanlin.evaluation.intervals import (
    UNKNOWN,
    cluster_numbers,
    cluster_sums,
    clustered_wilson,
    design_effect,
    influence,
    median_interval,
    student_interval,
    student_t,
    student_tail,
)
from hanlin.evaluation.statistics import FEWEST


def binomial_coverage(p: float, n: int) -> float:
    """Exact probability that the interval of a binomial draw holds p: a sum over all outcomes, no
    simulation."""
    total = 0.0
    for k in range(n + 1):
        low, high = wilson(k, n)
        log = (
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(p)
            + (n - k) * math.log1p(-p)
        )
        total += math.exp(log) * (low <= p <= high)
    return total


def test_wilson_covers_95_percent_on_average_and_never_collapses():
    exact = [binomial_coverage(p, n) for n in (20, 100, 500) for p in np.linspace(0.02, 0.98, 49)]
    assert 0.945 < np.mean(exact) < 0.96
    assert min(exact) > 0.83  # its known worst cases lie next to 0 and 1


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_proportion_mirrors_and_narrows(case):
    k, n = case
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1 and low < high
    mirrored = wilson(n - k, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)
    wide, narrow = high - low, np.subtract(*wilson(4 * k, 4 * n)[::-1])
    assert narrow < wide


def coverage(draw, interval, truth: float, trials: int) -> float:
    held = 0
    for trial in range(trials):
        low, high = interval(draw(np.random.default_rng(trial)), trial)
        held += low <= truth <= high
    return held / trials


def test_bootstrap_mean_covers():
    skewed = coverage(
        lambda rng: rng.exponential(1.0, 200),
        lambda x, seed: bootstrap_mean(x, seed=seed, resamples=500),
        1.0,
        400,
    )
    assert 0.90 < skewed < 0.98  # standard error of the share: 0.011


def test_bootstrap_ratio_covers_where_parts_are_correlated():
    def documents(rng):
        sizes = rng.integers(20, 400, 150).astype(float)
        return sizes * rng.gamma(9.0, 1 / 9.0, 150), sizes  # 1 bit per byte on average

    assert (
        0.90
        < coverage(documents, lambda x, seed: bootstrap_ratio(*x, seed=seed, resamples=500), 1.0, 400)
        < 0.98
    )


SMALL = (2, 3, 5, 8, 12, 20, 32)


def small_samples(kind: str, n: int, rng):
    """Numerators and denominators of n items, and the true ratio."""
    ones = np.ones(n)
    if kind == "normal":
        return rng.normal(3.0, 1.0, n), ones, 3.0
    if kind == "exponential":
        return rng.exponential(1.0, n), ones, 1.0
    sizes = rng.integers(20, 400, n).astype(float)
    return sizes * rng.gamma(9.0, 1 / 9.0, n), sizes, 1.0


@pytest.mark.parametrize("kind", ["normal", "exponential", "ratio"])
@pytest.mark.parametrize("n", SMALL)
def test_few_items_are_covered_too(kind, n):
    """The interval's floor alone; what the bootstrap adds can only widen it."""
    rng, held = np.random.default_rng([n, 7]), 0
    for _ in range(3000):
        above, below, truth = small_samples(kind, n, rng)
        low, high = student_interval(above.sum() / below.sum(), influence(above, below))
        held += low <= truth <= high
    assert held / 3000 > 0.93  # standard error of the share: 0.004


@pytest.mark.parametrize("n", [2, 5, 20])
def test_the_interval_of_a_metric_is_never_narrower_than_its_floor(n):
    above, below, _ = small_samples("ratio", n, np.random.default_rng(n))
    metric = Metric.ratio(above, below)
    low, high = student_interval(metric.value, influence(above, below))
    assert metric.low <= low < high <= metric.high


def test_the_floor_changes_little_of_many_items():
    for kind in ("normal", "exponential", "ratio"):
        above, below, _ = small_samples(kind, 1000, np.random.default_rng(11))
        low, high = student_interval(above.sum() / below.sum(), influence(above, below))
        half = 1.96 * influence(above, below).std(ddof=1) / math.sqrt(1000)
        assert 1.0 <= (high - low) / (2 * half) < 1.06


def test_one_item_has_no_interval_and_says_so_in_json():
    metric = Metric.mean([3.0], higher_is_better=False)
    assert (metric.low, metric.high) == (-math.inf, math.inf) and metric.n == 1
    other = Metric.mean([3.0001], higher_is_better=False)
    assert not beats(metric, other) and ranking(metric, other, False) == "few"
    raw = json.loads(json.dumps(metric.with_control("c", other).to_dict(), allow_nan=False))
    assert raw["low"] is None and raw["high"] is None and raw["control"]["low"] is None
    assert Metric.from_dict(raw) == metric.with_control("c", other)


def test_few_items_give_no_verdict_however_far_apart():
    for n, verdict in ((FEWEST - 1, "few"), (FEWEST, "better")):
        high, low = Metric(0.9, 0.89, 0.91, n), Metric(0.1, 0.09, 0.11, n)
        assert ranking(high, low) == verdict
        assert beats(high.with_control("x", low)) == (verdict == "better")
    assert ranking(Metric(0.9, 0.89, 0.91, 500), Metric(0.1, 0.09, 0.11, 3)) == "few"


def test_bootstrap_agrees_with_the_normal_interval_of_many_items():
    values = np.random.default_rng(0).normal(3.0, 2.0, 5000)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert bootstrap_mean(values) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.05 * half
    )


def test_bootstrap_is_a_function_of_the_seed():
    rng = np.random.default_rng(3)
    sizes = rng.lognormal(0, 1.5, 12)  # so unequal that the bootstrap is wider than its floor
    values = sizes * rng.lognormal(0, 1, 12)
    assert (
        bootstrap_ratio(values, sizes, seed=5)
        == bootstrap_ratio(values, sizes, seed=5)
        != bootstrap_ratio(values, sizes, seed=6)
    )


def test_a_ratio_of_equal_denominators_is_a_mean():
    values = np.random.default_rng(2).normal(size=300)
    assert bootstrap_ratio(values, np.full(300, 2.0)) == pytest.approx(
        [x / 2 for x in bootstrap_mean(values)]
    )


def test_pairing_finds_what_separate_intervals_hide():
    rng = np.random.default_rng(3)
    difficulty = rng.normal(0, 5, 400)
    ours, theirs = difficulty + 0.3 + rng.normal(0, 0.5, 400), difficulty + rng.normal(0, 0.5, 400)
    assert ranking(Metric.mean(ours), Metric.mean(theirs)) == "overlap"
    ids = tuple(map(str, range(400)))
    one, other = (Metric.mean(values, ids=ids) for values in (ours, theirs))
    assert ranking(one, other) == "better" and ranking(other, one) == "worse" and beats(one, other)
    controlled = one.with_control("other", other)
    raw = controlled.to_dict()
    assert raw == json.loads(json.dumps(raw)) and Metric.from_dict(raw) == controlled
    assert controlled.control is not None and controlled.control.difference is not None
    assert controlled.control.difference[0] > 0 and beats(controlled)
    for wrong in ([1.0], [2.0, 1.0], [math.nan, 1.0], "ab"):
        with pytest.raises(ValueError):
            Metric.from_dict(raw | {"control": raw["control"] | {"difference": wrong}})
    # a control of another metric does not bring that metric's difference with it
    assert ranking(Metric.mean(ours), controlled.control) == "overlap"


# ---------------------------------------------------------------- clusters, other confidences


def test_wilson_is_scipy_s():
    stats = pytest.importorskip("scipy.stats")
    for k, n in ((0, 20), (3, 20), (150, 500), (500, 500)):
        for confidence in (0.9, 0.95, 0.99):
            expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
            assert wilson(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_student_s_distribution_is_scipy_s():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 5, 30, 149, 4000):
        for t in (-6.0, -1.0, 0.0, 0.3, 1.7, 2.5, 9.0):
            assert student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-9, abs=1e-14)
        for confidence in (0.5, 0.9, 0.95, 0.999):
            expected = stats.t.ppf((1 + confidence) / 2, freedom)
            assert student_t(freedom, confidence) == pytest.approx(expected, rel=1e-8)


def test_higher_confidence_is_wider():
    values = np.random.default_rng(8).exponential(1.0, 40)
    for interval in (
        lambda c: bootstrap_mean(values, confidence=c),
        lambda c: student_interval(float(values.mean()), influence(values, np.ones(40)), c),
        lambda c: wilson(30, 40, c),
    ):
        low, high = interval(0.9)
        wider = interval(0.99)
        assert wider[0] < low < high < wider[1]


def test_the_design_effect_is_1_plus_m_less_1_times_rho():
    rng = np.random.default_rng(5)
    groups, members, rho = 4000, 5, 0.3
    shared = rng.normal(0, math.sqrt(rho), groups)[:, None]
    values = (shared + rng.normal(0, math.sqrt(1 - rho), (groups, members))).ravel()
    numbers = cluster_numbers([str(at // members) for at in range(groups * members)])
    assert numbers is not None
    found = design_effect(values, np.ones_like(values), numbers)
    assert found == pytest.approx(1 + (members - 1) * rho, rel=0.05)
    assert design_effect(values, np.ones_like(values), None) == 1.0
    assert cluster_sums(values, numbers).sum() == pytest.approx(values.sum())


def test_items_of_one_cluster_widen_the_interval():
    hits = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0] * 20
    groups = [str(at // 3) for at in range(120)]
    alone, together = Metric.share(hits), Metric.share(hits, clusters=groups)
    assert together.value == alone.value and together.high - together.low > 1.6 * (alone.high - alone.low)
    assert Metric.share(hits, clusters=[str(at) for at in range(120)]).low == alone.low
    mean, clustered = Metric.mean(hits), Metric.mean(hits, clusters=groups)
    assert clustered.high - clustered.low > 1.6 * (mean.high - mean.low)
    assert together.n == clustered.n == 120
    assert Metric.from_dict(together.to_dict()) == together and "items" not in together.to_dict()


def test_clusters_that_are_all_right_are_not_proven_perfect():
    """Nothing says how much clusters differ, so each counts as one item."""
    groups = np.repeat(np.arange(30), 5)
    low, high = clustered_wilson(np.ones(150), groups)
    assert high == 1.0 and low == pytest.approx(wilson(30, 30)[0], abs=0.02) and low < wilson(150, 150)[0]


def test_one_cluster_tells_nothing_of_others():
    hits, same = [1.0, 0.0] * 20, ["passage"] * 40
    share = Metric.share(hits, clusters=same)
    assert (share.low, share.high) == (0.0, 1.0)
    mean = Metric.mean(hits, clusters=same)
    assert (mean.low, mean.high, mean.n) == (-math.inf, math.inf, 1)
    assert ranking(mean, Metric.mean([0.0] * 40)) == "few"


def test_few_clusters_are_covered_too():
    """Five passages of twenty questions: resampling five clusters alone would cover about 80 %."""
    rng, held = np.random.default_rng(6), 0
    numbers = np.repeat(np.arange(5), 20)
    for _ in range(1000):
        chance = rng.beta(1.2, 1.2, size=5)
        hits = (rng.random((5, 20)) < chance[:, None]).astype(float).ravel()
        low, high = clustered_wilson(hits, numbers)
        held += low <= 0.5 <= high
    assert held / 1000 > 0.93


def test_a_share_of_some_items_is_theirs():
    metric = Metric.share([1, 0, 1, 1] * 10, counted=[True, True, True, False] * 10)
    assert metric.value == pytest.approx(2 / 3) and metric.n == 30
    assert (metric.low, metric.high) == wilson(20, 30)
    assert metric.items is not None and len(metric.items) == 40 and metric.items.values.sum() == 20


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.08])
def test_pooled_runs_cover_the_mean_run_whatever_the_spread_of_seeds(spread):
    """Three seeds of 500 items, as the demo has; the interval of all items as one sample fails when seeds
    differ."""
    rng = np.random.default_rng(4)
    held = naive = 0
    for _ in range(1000):
        rates = np.clip(0.7 + spread * rng.normal(size=3), 0, 1)
        counts = [int(rng.binomial(500, rate)) for rate in rates]
        metric = pooled([Metric.proportion(count, 500) for count in counts])
        held += metric.low <= 0.7 <= metric.high
        low, high = wilson(sum(counts), 1500)
        naive += low <= 0.7 <= high
    assert held / 1000 > 0.93
    assert metric.n == 1500
    assert spread < 0.08 or naive / 1000 < 0.5


metrics = st.builds(
    lambda value, below, above, n, higher: Metric(value, value - below, value + above, n, higher),
    st.floats(-10, 10),
    st.floats(0, 2),
    st.floats(0, 2),
    st.integers(1, 10**6),
    st.booleans(),
)


@given(metrics, metrics)
def test_ranking_needs_intervals_apart_and_items_enough_and_is_antisymmetric(a, b):
    if min(a.n, b.n) < FEWEST:
        assert ranking(a, b) == ranking(b, a) == "few" and not beats(a, b)
        return
    overlap = max(a.low, b.low) <= min(a.high, b.high)
    forth, back = ranking(a, b, a.higher_is_better), ranking(b, a, a.higher_is_better)
    assert (forth == "overlap") == overlap == (back == "overlap")
    if not overlap:
        assert {forth, back} == {"better", "worse"}
        assert (forth == "better") == ((a.value > b.value) == a.higher_is_better)
    # a control counts as many items as its metric
    assert beats(a.with_control("b", b)) == beats(a, b) == (forth == "better")


@given(metrics, metrics, st.none() | st.floats(0, 1))
def test_a_metric_survives_its_json(a, b, chance):
    import dataclasses

    import orjson

    for metric in (dataclasses.replace(a, chance=chance), a.with_control("5-gram", b)):
        raw = orjson.loads(orjson.dumps(metric.to_dict()))
        assert Metric.from_dict(raw) == metric
        assert (
            {"value", "low", "high", "n", "higher_is_better"}
            <= raw.keys()
            <= {"value", "low", "high", "n", "higher_is_better", "control", "chance"}
        )
    control = a.with_control("b", b).control_metric()
    assert (control.value, control.low, control.high, control.n) == (b.value, b.low, b.high, a.n)


@pytest.mark.parametrize(
    "wrong", [dict(n=0), dict(value=math.nan), dict(high=math.inf), dict(low=0.9), dict(high=0.1)]
)
def test_a_score_without_items_or_interval_is_not_a_metric(wrong):
    with pytest.raises(ValueError):
        Metric(**({"value": 0.5, "low": 0.4, "high": 0.6, "n": 10} | wrong))


def test_refusals():
    with pytest.raises(ValueError):
        Metric.proportion(0, 0)
    with pytest.raises(ValueError):
        wilson(3, 2)
    with pytest.raises(ValueError):
        bootstrap_ratio([1.0], [0.0])
    with pytest.raises(ValueError, match="weights, ids or clusters"):
        Metric.share([1.0, 0.0], ids=("a",))
    with pytest.raises(ValueError):
        pooled([])
    with pytest.raises(ValueError):
        beats(Metric(0.5, 0.4, 0.6, 10))


def test_the_interval_of_a_median_is_between_the_order_statistics_of_the_tables():
    """Ranks of Conover's table for 95 %: 2 and 9 of 10, 6 and 15 of 20, 40 and 61 of 100."""
    for count, ranks in ((6, (1, 6)), (10, (2, 9)), (20, (6, 15)), (100, (40, 61))):
        assert median_interval(range(count, 0, -1)) == ranks
    assert median_interval(range(5)) == UNKNOWN
    with pytest.raises(ValueError, match="no items"):
        median_interval([])


def test_a_median_is_covered_as_promised():
    rng = np.random.default_rng(0)
    covered = [
        low <= np.log(2) <= high for low, high in map(median_interval, rng.exponential(size=(2000, 30)))
    ]
    assert 0.95 <= np.mean(covered) <= 0.985
    metric = Metric.median([1.0] * 30, higher_is_better=False)
    assert (metric.value, metric.low, metric.high, metric.n) == (1, 1, 1, 30)
