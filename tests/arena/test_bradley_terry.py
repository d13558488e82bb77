"""Scores equal independent implementations, their intervals cover, and what does not exist is not made up."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from hanlin.arena.agreement import (
    alpha_interval,
    binomial_test,
    krippendorff_alpha,
    pairwise_agreement,
)
from hanlin.arena.bradley_terry import (
    Votes,
    components,
    fit,
    fit_with_covariates,
    ranks,
    score,
    score_with_covariates,
    votes_needed,
    win_matrix,
)


def random_wins(models: int, battles: int, seed: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    rng = np.random.default_rng(seed)
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, models, (battles, 2)) if a != b]
    wins = np.zeros((models, models))
    for winner, loser in pairs:
        wins[winner, loser] += 1
    return wins, pairs


def log_likelihood(theta: np.ndarray, wins: np.ndarray, ridge: float) -> float:
    differences = theta[:, None] - theta[None, :]
    return float(-(wins * np.logaddexp(0, -differences)).sum() - ridge * (theta**2).sum())


@pytest.mark.parametrize("ridge", [1e-6, 0.01, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_choix(ridge, seed):
    choix = pytest.importorskip("choix")
    wins, pairs = random_wins(5, 200, seed)
    theirs = choix.opt_pairwise(5, pairs, alpha=ridge, tol=1e-12)
    assert np.abs(fit(wins, ridge) - (theirs - theirs.mean())).max() < 1e-6


@pytest.mark.parametrize("models", [2, 3, 8, 20])
def test_the_gradient_vanishes_at_the_scores(models):
    """Independent of how they were found, ties as half wins included: by finite differences, and no other
    point nearby is better."""
    rng = np.random.default_rng(models)
    wins = np.triu(rng.integers(1, 30, (models, models)), 1).astype(float)
    wins = wins + rng.integers(1, 30, (models, models)) * np.tri(models, k=-1) + 0.5 * (wins > 0)
    wins[range(models), range(models)] = 0
    theta = fit(wins, 0.01)
    gradient = (wins - (wins + wins.T) / (1 + np.exp(theta[None, :] - theta[:, None]))).sum(
        axis=1
    ) - 0.02 * theta
    assert np.abs(gradient).max() < 1e-6 and abs(theta.sum()) < 1e-9
    numeric = approx_fprime(theta, log_likelihood, 1e-6, wins, 0.01)
    assert np.abs(numeric).max() < 1e-2
    best = log_likelihood(theta, wins, 0.01)
    for _ in range(20):
        assert log_likelihood(theta + rng.normal(0, 0.01, models), wins, 0.01) < best


def test_many_matrices_are_fitted_as_each_alone():
    several = np.stack([random_wins(4, 60, seed)[0] for seed in range(6)])
    assert np.allclose(fit(several), [fit(one) for one in several], atol=1e-9)


def test_the_order_of_votes_does_not_matter():
    """Elo updates would differ."""
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 3, (2, 90))
    second = np.where(first == second, (second + 1) % 3, second)
    outcome = rng.choice([0.0, 0.5, 1.0], 90)
    order = rng.permutation(90)
    there = fit(win_matrix(first, second, outcome, 3))
    assert np.allclose(there, fit(win_matrix(first[order], second[order], outcome[order], 3)), atol=1e-12)
    assert np.allclose(there, fit(win_matrix(second, first, 1 - outcome, 3)), atol=1e-12)


def test_who_only_wins_has_no_finite_score():
    wins = np.array([[0, 5, 3], [0, 0, 2], [0, 4, 0]], dtype=float)
    assert sorted(components(wins)) == [[0], [1, 2]]
    wins[1, 0] = 0.5  # a tie joins them
    assert components(wins) == [[0, 1, 2]]
    assert sorted(components(np.zeros((3, 3)))) == [[0], [1], [2]]
    ring = np.roll(np.eye(4), 1, axis=1)
    assert components(ring) == [[0, 1, 2, 3]]


def simulated(theta: list[float], raters: int, each: int, taste: float, seed: int) -> Votes:
    rng = np.random.default_rng(seed)
    models = len(theta)
    own = np.array(theta) + rng.normal(0, taste, (raters, models))
    cluster = np.repeat(np.arange(raters), each)
    first = rng.integers(0, models, raters * each)
    second = (first + rng.integers(1, models, raters * each)) % models
    p = 1 / (1 + np.exp(own[cluster, second] - own[cluster, first]))
    outcome = (rng.random(raters * each) < p).astype(float)
    return Votes(first, second, outcome, cluster, np.zeros((raters * each, 1)))


def covered(runs: int, taste: float) -> tuple[int, int]:
    """How many intervals hold the true score, of how many."""
    theta = [0.6, 0.1, -0.7]
    hits = 0
    for seed in range(runs):
        scores = score(simulated(theta, 30, 15, taste, seed), 3, resamples=400, seed=seed)
        for model, true in enumerate(theta):
            low, high = scores.interval(scores.draws[:, model], float(scores.theta[model]))
            hits += low <= true <= high
    return hits, 3 * runs


def test_intervals_hold_the_true_scores():
    hits, n = covered(12, 0.0)
    assert hits >= 0.85 * n


@pytest.mark.nightly
@pytest.mark.parametrize("taste", [0.0, 0.5])
def test_intervals_hold_the_true_scores_in_93_of_100_runs(taste):
    hits, n = covered(100, taste)
    assert hits >= 0.93 * n, hits / n


def test_raters_who_differ_widen_the_intervals():
    """Drawing single votes would miss that a rater's votes resemble one another: three raters with thirty
    votes each."""
    votes = simulated([0.5, 0.0, -0.5], 6, 40, 1.5, 3)
    clustered = score(votes, 3, seed=1)
    single = score(
        Votes(votes.first, votes.second, votes.outcome, np.arange(len(votes)), votes.covariates), 3, seed=1
    )

    def width(scores):
        low, high = scores.interval(scores.draws[:, 0], float(scores.theta[0]))
        return high - low

    assert np.allclose(clustered.theta, single.theta)
    assert width(clustered) > 1.5 * width(single)


def test_one_rater_has_intervals_of_votes_and_says_so():
    votes = simulated([0.5, 0.0, -0.5], 1, 60, 0.0, 3)
    scores = score(votes, 3)
    assert not scores.by_rater and scores.groups == 60


def test_models_that_cannot_be_told_apart_share_a_rank():
    scores = score(simulated([2.0, -1.0, -1.0], 30, 15, 0.0, 5), 3)
    assert ranks(scores) == [1, 2, 2]


def test_length_that_decides_is_found_and_taken_out():
    """Raters who like length alone: without control the wordy model leads, with it none does."""
    rng = np.random.default_rng(2)
    n = 900
    first = rng.integers(0, 3, n)
    second = (first + rng.integers(1, 3, n)) % 3
    length = np.array([100.0, 200.0, 400.0])[np.stack([first, second])] * rng.lognormal(0, 0.6, (2, n))
    difference = (length[0] - length[1]) / (length[0] + length[1] + 1)
    outcome = (rng.random(n) < 1 / (1 + np.exp(-3 * difference))).astype(float)
    votes = Votes(first, second, outcome, np.arange(n) % 30, difference[:, None])
    plain = score(votes, 3)
    held = score_with_covariates(votes, 3, resamples=100)
    assert plain.theta[2] - plain.theta[0] > 1.0
    assert abs(held.scores.theta[2] - held.scores.theta[0]) < 0.35
    low, high = held.scores.interval(held.beta_draws[:, 0], float(held.beta[0]))
    assert low <= 3 <= high and low > 1


def test_without_covariates_both_fits_agree():
    wins, pairs = random_wins(4, 120, 8)
    first, second = np.array(pairs).T
    theta, beta = fit_with_covariates(first, second, np.ones(len(pairs)), np.zeros((len(pairs), 1)), 4)
    assert np.allclose(theta, fit(wins), atol=1e-8) and beta[0] == 0


@pytest.mark.parametrize(("share", "votes"), [(0.52, 4904), (0.55, 783), (0.6, 194), (0.65, 85), (0.7, 47)])
def test_votes_needed_are_those_of_the_textbook(share, votes):
    assert math.ceil(votes_needed(share)) in (votes, votes + 1)
    assert votes_needed(1 - share) == pytest.approx(votes_needed(share))
    assert math.isinf(votes_needed(0.5))


def test_so_many_votes_have_80_per_cent_power():
    rng = random.Random(4)
    n = math.ceil(votes_needed(0.6))
    found = sum(binomial_test(sum(rng.random() < 0.6 for _ in range(n)), n) < 0.05 for _ in range(400))
    assert 0.72 < found / 400 < 0.88


def test_alpha_equals_krippendorffs_package():
    krippendorff = pytest.importorskip("krippendorff")
    rng = random.Random(3)
    for _ in range(20):
        units = [[rng.choice("abtx") for _ in range(rng.randint(1, 5))] for _ in range(25)]
        widest = max(map(len, units))
        codes = {letter: i for i, letter in enumerate("abtx")}
        table = np.full((widest, len(units)), np.nan)
        for column, unit in enumerate(units):
            table[: len(unit), column] = [codes[letter] for letter in unit]
        theirs = krippendorff.alpha(table, level_of_measurement="nominal")
        assert krippendorff_alpha(units) == pytest.approx(theirs, abs=1e-9)


def test_alpha_at_its_ends():
    assert krippendorff_alpha([["a", "a"], ["b", "b", "b"]]) == 1
    assert krippendorff_alpha([["a", "b"], ["b", "a"], ["a", "b"]]) < 0
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None  # nothing varies: agreement means nothing
    low, high = alpha_interval([["a", "a"], ["b", "b"], ["a", "b"], ["b", "b"]] * 5)
    assert low < krippendorff_alpha([["a", "a"], ["b", "b"], ["a", "b"], ["b", "b"]] * 5) < high
    assert pairwise_agreement([["a", "a", "b"], ["b"]]) == (1, 3)


def test_the_binomial_test_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for n in (1, 2, 7, 18, 101, 640):
        for k in {0, 1, n // 3, n // 2, n}:
            assert binomial_test(k, n) == pytest.approx(stats.binomtest(k, n).pvalue, rel=1e-9)
    assert binomial_test(0, 0) == 1
