"""Paired comparisons: scipy's figures, intervals that cover what they say, verdicts that seldom err."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hanlin.evaluation.intervals import normal_point
from hanlin.evaluation.item_scores import ItemScores
from hanlin.evaluation.paired import (
    Difference,
    benjamini_hochberg,
    detectable_against,
    detectable_difference,
    holm,
    items_needed,
    mcnemar,
    non_inferiority,
    paired_difference,
    separate_difference,
    step_down,
    tango,
)
from hanlin.evaluation.statistics import Metric, can_pair, difference

stats = pytest.importorskip("scipy.stats")


def names(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def scores(values, weights=None, clusters=None, data="") -> ItemScores:
    values = np.asarray(values, dtype=float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    return ItemScores(values, weights, names(len(values)), data, clusters)


def answers(gained: int, lost: int, n: int) -> tuple[ItemScores, ItemScores]:
    """Two models: `gained` items only the first has right, `lost` only the second, half of the rest both."""
    both = (n - gained - lost) // 2
    ours = [1] * gained + [0] * lost + [1] * both
    theirs = [0] * gained + [1] * lost + [1] * both
    return tuple(scores(hits + [0] * (n - len(hits))) for hits in (ours, theirs))


# ---------------------------------------------------------------- right and wrong


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 0), (7, 2), (12, 12), (40, 20), (300, 250)])
def test_mcnemar_is_the_binomial_test_of_the_items_in_which_two_models_differ(gained, lost):
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    found = mcnemar(*(model.values for model in answers(gained, lost, 1000)))
    if gained + lost < 25:
        assert found == pytest.approx(expected, rel=1e-12)
    else:
        assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("gained", "lost", "n"), [(40, 20, 400), (30, 0, 100), (13, 12, 25)])
def test_with_many_discordant_items_the_interval_is_the_normal_one(gained, lost, n):
    found = paired_difference(*answers(gained, lost, n))
    each = np.array([1.0] * gained + [-1.0] * lost + [0.0] * (n - gained - lost))
    assert found.method == "mcnemar" and found.value == pytest.approx(each.mean())
    assert found.discordance == pytest.approx((gained + lost) / n)
    assert found.error == pytest.approx(each.std() / math.sqrt(n))
    assert found.high - found.value == pytest.approx(1.959964 * each.std() / math.sqrt(n), rel=1e-6)
    assert found.variance == pytest.approx(each.var())


def test_tango_s_interval_solves_its_equation():
    """At its ends the score statistic, with the nuisance share maximised numerically, is the normal point."""
    from scipy.optimize import minimize_scalar

    gained, lost, n = 9, 3, 80

    def score(apart: float) -> float:
        def minus_log_likelihood(share: float) -> float:
            up, same = share + apart, 1 - 2 * share - apart
            if min(up, share, same) <= 0:
                return 1e9
            return -(gained * math.log(up) + lost * math.log(share) + (n - gained - lost) * math.log(same))

        low, high = max(0.0, -apart), (1 - apart) / 2
        share = minimize_scalar(
            minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        ).x
        return (gained - lost - n * apart) / math.sqrt(n * (2 * share + apart * (1 - apart)))

    for confidence in (0.8, 0.95, 0.99):
        low, high = tango(gained, lost, n, confidence)
        assert score(low) == pytest.approx(normal_point(confidence), abs=1e-4)
        assert score(high) == pytest.approx(-normal_point(confidence), abs=1e-4)
    assert tango(lost, gained, n) == pytest.approx((-tango(gained, lost, n)[1], -tango(gained, lost, n)[0]))


@pytest.mark.parametrize("n", [20, 150, 500])
def test_models_that_never_differ_are_not_proven_equal(n):
    found = paired_difference(*answers(0, 0, n))
    square = normal_point() ** 2
    assert found.value == 0.0 and found.high == pytest.approx(square / (n + square), abs=1e-9)
    assert found.low == pytest.approx(-found.high)


def test_few_discordant_items_say_no_more_than_the_exact_test():
    for gained in range(8):
        found = paired_difference(*answers(gained, 0, 60))
        assert (found.low > 0) == (stats.binomtest(gained, gained).pvalue < 0.05 if gained else False)


# ---------------------------------------------------------------- ratios, clusters


def test_ratios_are_compared_with_their_own_weights():
    rng = np.random.default_rng(0)
    sizes = rng.integers(50, 500, 300).astype(float)
    hard = rng.normal(1.5, 0.5, 300)
    ours = scores((hard - 0.02 + rng.normal(0, 0.05, 300)) * sizes, sizes)
    theirs = scores((hard + rng.normal(0, 0.05, 300)) * (sizes - 2), sizes - 2)
    found = paired_difference(ours, theirs)
    expected = ours.values.sum() / sizes.sum() - theirs.values.sum() / (sizes - 2).sum()
    assert found.method == "bootstrap" and found.value == pytest.approx(expected)
    assert found.high < 0 and found.discordance is None
    # a bootstrap of our own finds the same
    draws = [rng.integers(0, 300, 300) for _ in range(4000)]
    ratios = [
        ours.values[d].sum() / sizes[d].sum() - theirs.values[d].sum() / (sizes - 2)[d].sum() for d in draws
    ]
    assert (found.low, found.high) == pytest.approx(np.quantile(ratios, (0.025, 0.975)), abs=0.002)
    assert found.error == pytest.approx(np.std(ratios), rel=0.1)


def test_clusters_are_drawn_whole():
    rng = np.random.default_rng(1)
    lean = rng.choice([-0.3, 0.3], 50)
    ours, theirs = (
        (rng.random((50, 6)) < (0.5 + sign * lean)[:, None]).ravel().astype(float) for sign in (1, -1)
    )
    groups = tuple(str(at // 6) for at in range(300))
    alone = paired_difference(scores(ours), scores(theirs))
    together = paired_difference(scores(ours, clusters=groups), scores(theirs, clusters=groups))
    assert together.value == pytest.approx(alone.value) and together.n == 300
    assert together.error > 1.3 * alone.error and together.variance > 1.7 * alone.variance
    # a cluster of one item each is none
    own = paired_difference(scores(ours, clusters=names(300)), scores(theirs, clusters=names(300)))
    assert (own.low, own.high) == (alone.low, alone.high)


def test_one_cluster_tells_nothing():
    same = ("a",) * 40
    found = paired_difference(scores([1.0] * 40, clusters=same), scores([0.0] * 40, clusters=same))
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_shares_of_some_answers_are_compared_over_all():
    """Thoughts that close, of the answers that open one: which they are differs from model to model."""
    thought, other = [1, 1, 0, 0] * 30, [1, 0, 1, 0] * 30
    ours = scores([1, 1, 0, 0] * 30, thought)
    theirs = scores([1, 0, 0, 0] * 30, other)
    found = paired_difference(ours, theirs)
    assert found.value == pytest.approx(1.0 - 0.5) and found.low > 0
    equal = paired_difference(ours, ours)
    assert equal.low == pytest.approx(-equal.high) and 0.05 < equal.high < 0.07  # of the 60 that thought


def test_other_items_are_not_paired():
    with pytest.raises(ValueError, match="same items"):
        paired_difference(scores([1.0] * 30), scores([1.0] * 29))
    with pytest.raises(ValueError, match="same items"):
        paired_difference(scores([1.0] * 30, data="a"), scores([1.0] * 30, data="b"))
    nameless = ItemScores(np.ones(30), np.ones(30))
    with pytest.raises(ValueError, match="same items"):
        paired_difference(nameless, nameless)


def test_metrics_differ_in_the_direction_of_better_and_pair_only_the_same_items():
    ids = names(40)
    ours, theirs = Metric.share([1, 1, 1, 0] * 10, ids=ids), Metric.share([1, 0, 1, 0] * 10, ids=ids)
    found = difference(ours, theirs)
    assert found.paired and found.value == pytest.approx(0.25) and found.low > 0
    assert difference(theirs, ours).value == pytest.approx(-0.25)
    low = Metric.ratio([8.0] * 30, [4.0] * 30, ids=ids[:30], higher_is_better=False)
    high = Metric.ratio([9.0] * 30, [4.0] * 30, ids=ids[:30], higher_is_better=False)
    assert difference(low, high).value == pytest.approx(0.25) and difference(low, high).low > 0
    for other in (Metric.share([1, 0] * 20, ids=ids, data="others"), Metric.share([1, 0] * 20)):
        assert not can_pair(ours, other) and not difference(ours, other).paired


def test_of_separate_scores_newcombe_s_interval_is_taken():
    """Method 10, the example of Newcombe's paper: 56 of 70 against 48 of 80."""
    found = difference(Metric.proportion(56, 70), Metric.proportion(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    wider = separate_difference((0.8, 0.69, 0.88), (0.6, 0.49, 0.70), 70)
    assert wider.bounds(0.99)[0] < wider.low < wider.lower() < wider.value < wider.upper() < wider.high


# ---------------------------------------------------------------- power


def test_power_is_the_table_s_and_a_simulation_s():
    assert detectable_difference(500, 0.2) == pytest.approx(0.056, abs=5e-4)
    assert detectable_difference(3816, 0.3) == pytest.approx(0.025, abs=5e-4)
    assert detectable_difference(500, 0.2, power=0.9) > detectable_difference(500, 0.2)
    assert detectable_against(11582, 0.25) == pytest.approx(0.0113, abs=2e-4)
    assert items_needed(0.2, 0.05) == pytest.approx(6.18 * 0.2 / 0.0025, abs=1)
    assert items_needed(0.2, 0.056, sides=2) == pytest.approx(500, abs=3)
    found = paired_difference(*answers(40, 40, 400))
    assert found.detectable == pytest.approx(detectable_difference(400, 0.2))
    assert paired_difference(*answers(0, 0, 400)).detectable > 0.01
    rng = np.random.default_rng(0)
    gap, found, rounds = detectable_difference(400, 0.2), 0, 400
    for _ in range(rounds):
        each = rng.choice([1, -1, 0], size=400, p=[0.1 + gap / 2, 0.1 - gap / 2, 0.8])
        found += paired_difference(scores(each > 0), scores(each < 0)).low > 0
    assert 0.74 < found / rounds < 0.86


# ---------------------------------------------------------------- several at once


def test_holm_and_benjamini_hochberg_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.02, 0.5]) == [True, False] and holm([]) == []
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5], level=0.05) == [True, False, False, False]
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.2], level=0.1) == [True, True, True, False]


def test_holm_and_benjamini_hochberg_agree_with_their_definitions():
    rng = np.random.default_rng(2)
    for _ in range(200):
        p = np.round(rng.beta(0.4, 2, size=rng.integers(1, 9)), 3)
        adjusted = stats.false_discovery_control(p)
        assert benjamini_hochberg(p, 0.1) == list(adjusted <= 0.1)
        order, worst = np.argsort(p), 0.0
        holm_adjusted = np.empty(len(p))
        for rank, at in enumerate(order):
            worst = max(worst, (len(p) - rank) * p[at])
            holm_adjusted[at] = worst
        assert holm(p, 0.05) == list(holm_adjusted <= 0.05)


def test_one_wrong_rejection_among_many_is_rare():
    rng, wrong, rounds = np.random.default_rng(3), 0, 2000
    for _ in range(rounds):
        p = [*rng.random(8), *rng.beta(0.05, 5, size=3)]  # eight true hypotheses, three false ones
        wrong += any(at < 8 for at in step_down(len(p), lambda at, level, p=p: p[at] <= level, 0.05))
    assert wrong / rounds < 0.06


# ---------------------------------------------------------------- non-inferiority


def judged(gained: int, lost: int, n: int, margin: float = 0.05):
    return non_inferiority([(paired_difference(*answers(gained, lost, n)), margin)])[0]


def test_a_loss_is_excluded_shown_or_neither():
    assert judged(200, 200, 4000).outcome == "accepted"
    assert judged(10, 80, 400).outcome == "refused"
    held = judged(20, 20, 100)
    assert held.outcome == "undecided" and held.margin == 0.05
    assert held.further == items_needed(0.4, 0.05) - 100
    assert judged(0, 0, 100).outcome == "accepted" and judged(0, 0, 20).outcome == "undecided"


def test_the_further_items_do_decide():
    """Four times in five, of two models that are equally good."""
    held = judged(15, 15, 100)
    assert held.further is not None
    n, rng, decided = 100 + held.further, np.random.default_rng(4), 0
    for _ in range(300):
        each = rng.choice([1, -1, 0], size=n, p=[0.15, 0.15, 0.7])
        found = paired_difference(scores(each > 0), scores(each < 0))
        decided += non_inferiority([(found, 0.05)])[0].outcome == "accepted"
    assert 0.73 < decided / 300 < 0.87
    # a loss that seems to be near what is tolerated takes more
    assert judged(15, 22, 100).further > 5 * held.further
    assert judged(15, 18, 100).further > 2 * held.further
    assert judged(18, 15, 100).further == items_needed(0.33 - 0.03**2, 0.05) - 100


def test_refusals_of_many_guards_are_corrected():
    """A loss that alone would be shown is not, as one of ten."""
    apart = paired_difference(*answers(12, 50, 400))
    assert apart.upper(0.95) < -0.05 < apart.upper(0.995)
    assert non_inferiority([(apart, 0.05)])[0].outcome == "refused"
    same = paired_difference(*answers(20, 20, 400))
    found = non_inferiority([(apart, 0.05), *[(same, 0.05)] * 9])
    assert found[0].outcome == "undecided"


def test_a_difference_of_one_item_decides_nothing():
    found: Difference = paired_difference(scores([2.5]), scores([1.0]))
    assert non_inferiority([(found, 0.05)])[0].outcome == "undecided"
    assert non_inferiority([(found, 0.05)])[0].further is None


# ---------------------------------------------------------------- coverage


def coverage(draw, truth: float, rounds: int) -> float:
    """Share of intervals that hold the truth."""
    held = 0
    for seed in range(rounds):
        low, high = draw(np.random.default_rng(seed))
        held += low <= truth <= high
    return held / rounds


GROUPS = tuple(str(at // 3) for at in range(180))


def clustered_share(rng: np.random.Generator, share: float = 0.5):
    """60 clusters of three answers that correlate by .3."""
    a, b = share * 0.7 / 0.3, (1 - share) * 0.7 / 0.3
    chance = rng.beta(a, b, size=60)
    hits = (rng.random((60, 3)) < chance[:, None]).ravel()
    metric = Metric.share(hits, clusters=GROUPS)
    return metric.low, metric.high


def clustered_mean(rng: np.random.Generator):
    values = rng.normal(0, math.sqrt(0.3), 60)[:, None] + rng.normal(0, math.sqrt(0.7), (60, 3))
    metric = Metric.mean(values.ravel() + 2.0, clusters=GROUPS)
    return metric.low, metric.high


def paired_clusters(rng: np.random.Generator):
    """In each cluster one of the models is better, so that the differences correlate by .3."""
    lean = rng.choice([-0.35, 0.35], 60)
    ours, theirs = (
        (rng.random((60, 3)) < (0.5 + sign * lean)[:, None]).ravel().astype(float) for sign in (1, -1)
    )
    found = paired_difference(scores(ours, clusters=GROUPS), scores(theirs, clusters=GROUPS))
    return found.low, found.high


def paired_shares(rng: np.random.Generator, n: int = 200, gain: float = 0.12, loss: float = 0.08):
    each = rng.choice([1, -1, 0], size=n, p=[gain, loss, 1 - gain - loss])
    found = paired_difference(scores(each > 0), scores(each < 0))
    return found.low, found.high


def paired_bits(rng: np.random.Generator):
    sizes = rng.integers(50, 2000, 80).astype(float)
    hard = rng.normal(1.5, 0.4, 80)
    ours = scores((hard - 0.02 + rng.normal(0, 0.05, 80)) * sizes, sizes)
    found = paired_difference(ours, scores((hard + rng.normal(0, 0.05, 80)) * sizes, sizes))
    return found.low, found.high


def wilson_interval(rng: np.random.Generator):
    metric = Metric.share(rng.random(400) < 0.3)
    return metric.low, metric.high


CASES = {
    "wilson": (wilson_interval, 0.3),
    "clustered share": (clustered_share, 0.5),
    "clustered share near 1": (lambda rng: clustered_share(rng, 0.95), 0.95),
    "clustered mean": (clustered_mean, 2.0),
    "paired shares": (paired_shares, 0.04),
    "paired clusters": (paired_clusters, 0.0),
    "paired bits per byte": (paired_bits, -0.02),
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_what_they_say(case):
    assert 0.91 <= coverage(*CASES[case], rounds=250) <= 0.99


@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_93_to_97_percent_of_2000_runs(case):
    assert 0.93 <= coverage(*CASES[case], rounds=2000) <= 0.97


def test_with_few_discordant_items_the_interval_covers_too():
    few = coverage(lambda rng: paired_shares(rng, 150, 0.03, 0.03), 0.0, 400)
    assert few >= 0.94
