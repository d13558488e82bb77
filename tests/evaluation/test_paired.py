"""Paired comparisons: scipy's figures, and intervals that cover what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hanlin.evaluation.paired import (
    benjamini_hochberg,
    can_pair,
    detectable_against,
    detectable_difference,
    difference,
    holm,
    items_needed,
    mcnemar,
    student_tail,
)
from hanlin.evaluation.statistics import FEWEST, Metric

stats = pytest.importorskip("scipy.stats")


def test_tails_are_scipy_s():
    for freedom in (1, 2, 5, 30, 149, 4000):
        for t in (-6.0, -1.0, 0.0, 0.3, 1.7, 2.5, 9.0):
            assert student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 0), (7, 2), (12, 12), (40, 20), (300, 250)])
def test_mcnemar_is_the_binomial_test_of_the_discordant_items(gained, lost):
    ours = np.array([1] * gained + [0] * lost + [1] * 50)
    theirs = np.array([0] * gained + [1] * lost + [1] * 50)
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    if gained + lost < 25:
        assert mcnemar(ours, theirs) == pytest.approx(expected, rel=1e-12)
    else:
        assert mcnemar(ours, theirs) == pytest.approx(expected, abs=0.03)


def test_differences_are_in_the_direction_of_better_and_only_of_the_same_items():
    ours, theirs = Metric.share([1, 1, 1, 0] * 10), Metric.share([1, 0, 1, 0] * 10)
    found = difference(ours, theirs)
    assert found.paired and found.value == pytest.approx(0.25) and found.low > 0
    assert difference(theirs, ours).value == pytest.approx(-0.25)
    low = Metric.ratio([8.0] * 30, [4.0] * 30, higher_is_better=False)
    high = Metric.ratio([9.0] * 30, [4.0] * 30, higher_is_better=False)
    assert difference(low, high).value == pytest.approx(0.25) and difference(low, high).low > 0
    other = Metric.share([1, 0] * 20, key="others")
    assert not can_pair(ours, other) and not difference(ours, other).paired
    alone = Metric.proportion(30, 40)
    assert not can_pair(ours, alone)
    apart = difference(Metric.proportion(300, 400), Metric.proportion(200, 400))
    error = math.sqrt(0.75 * 0.25 / 400 + 0.25 / 400)
    assert apart.error == pytest.approx(error, rel=0.02) and apart.low > 0


def test_holm_and_benjamini_hochberg_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.02, 0.5]) == [True, False] and holm([]) == []
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5], level=0.05) == [True, False, False, False]
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.2], level=0.1) == [True, True, True, False]


def test_power_is_the_table_s_and_a_simulation_s():
    assert detectable_difference(500, 0.2) == pytest.approx(0.056, abs=5e-4)
    assert detectable_difference(3816, 0.3) == pytest.approx(0.025, abs=5e-4)
    assert detectable_against(11582, 0.25) == pytest.approx(0.0113, abs=2e-4)
    assert items_needed(0.2, 0.05) == pytest.approx(6.18 * 0.2 / 0.0025, abs=1)
    rng = np.random.default_rng(0)
    gap, found, rounds = detectable_difference(400, 0.2), 0, 400
    for _ in range(rounds):
        each = rng.choice([1, -1, 0], size=400, p=[0.1 + gap / 2, 0.1 - gap / 2, 0.8])
        ours, theirs = Metric.share((each > 0) * 1.0), Metric.share((each < 0) * 1.0)
        found += difference(ours, theirs).low > 0
    assert 0.74 < found / rounds < 0.86


def coverage(draw, truth: float, rounds: int) -> float:
    """Share of intervals that hold the truth."""
    held = 0
    for seed in range(rounds):
        low, high = draw(np.random.default_rng(seed))
        held += low <= truth <= high
    return held / rounds


def clustered(rng: np.random.Generator):
    """Shares of 60 clusters of three, correlated by .3."""
    rho, share = 0.3, 0.5
    shape = share * (1 - rho) / rho
    chance = rng.beta(shape, shape, size=60)
    hits = (rng.random((60, 3)) < chance[:, None]).astype(float).ravel()
    metric = Metric.share(hits, clusters=[str(at // 3) for at in range(180)])
    return metric.low, metric.high


def paired(rng: np.random.Generator):
    chance = rng.beta(2, 2, size=200)
    ours, theirs = rng.random(200) < np.minimum(1, chance + 0.0), rng.random(200) < chance
    found = difference(Metric.share(ours), Metric.share(theirs))
    return found.low, found.high


def wilson_interval(rng: np.random.Generator):
    metric = Metric.share(rng.random(150) < 0.3)
    return metric.low, metric.high


CASES = {"clustered": (clustered, 0.5), "paired": (paired, 0.0), "wilson": (wilson_interval, 0.3)}


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_what_they_say(case):
    assert 0.91 <= coverage(*CASES[case], rounds=250) <= 0.99


@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_93_to_97_percent_of_2000_runs(case):
    assert 0.93 <= coverage(*CASES[case], rounds=2000) <= 0.97


def test_items_of_one_cluster_widen_the_interval():
    hits = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0] * 20
    alone = Metric.share(hits)
    together = Metric.share(hits, clusters=[str(at // 3) for at in range(120)])
    assert together.value == alone.value and together.high - together.low > 1.5 * (alone.high - alone.low)
    assert Metric.share(hits, clusters=[str(at) for at in range(120)]).low == alone.low
    assert together.n == 120 and FEWEST < 120
    assert Metric.from_dict(together.to_dict()) == together and "items" not in together.to_dict()
