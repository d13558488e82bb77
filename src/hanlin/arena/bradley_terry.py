"""Bradley–Terry scores of models from pairwise votes, with intervals over raters. No torch here.

P(i beats j) = σ(θ_i − θ_j), θ summing to 0 (Bradley & Terry 1952). A tie is half a win for each side. Where
some model never loses, or never wins, to a group of the others no finite score fits best (Ford 1957); that
is said and no score is invented.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from hanlin.evaluation.intervals import Interval, student_t

RIDGE = 0.01  # times Σθ², subtracted from the log likelihood
RESAMPLES = 1000
ELO = 400 / math.log(10)  # points per unit of θ
_NEWTON_STEPS = 60
_LONGEST_STEP = 2.0


def win_matrix(
    first: np.ndarray, second: np.ndarray, outcome: np.ndarray, models: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Wins of the row's model over the column's, (models, models); half a win each for a tie.

    Args:
        first, second: the two models of each battle, (battles,).
        outcome: 1 where the first won, 0 where the second did, 0.5 for a tie, (battles,).
        weights: how often each battle counts, (battles,).
    """
    weights = np.ones(len(outcome)) if weights is None else weights
    wins = np.zeros((models, models))
    np.add.at(wins, (first, second), weights * outcome)
    np.add.at(wins, (second, first), weights * (1 - outcome))
    return wins


def components(wins: np.ndarray) -> list[list[int]]:
    """The strongly connected parts of the graph in which i points to j if i has a win, or half of one,
    against j; scores are finite if there is one part (Ford 1957)."""
    reach = (wins > 0) | np.eye(len(wins), dtype=bool)
    for middle in range(len(wins)):  # Warshall's closure
        reach |= reach[:, middle : middle + 1] & reach[middle]
    together = reach & reach.T
    return [list(map(int, np.flatnonzero(row))) for row in np.unique(together, axis=0)[::-1]]


def fit(wins: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """θ of the highest Σ wins · log σ(θ_i − θ_j) − ridge · Σθ², by Newton's method.

    Args:
        wins: (…, models, models); the leading axes are fitted separately.

    Returns:
        (…, models), each summing to 0.
    """
    models = wins.shape[-1]
    theta = np.zeros(wins.shape[:-1])
    games = wins + np.swapaxes(wins, -1, -2)
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(theta[..., :, None] - theta[..., None, :])
        gradient = (wins - games * p).sum(axis=-1) - 2 * ridge * theta
        weight = games * p * (1 - p)
        weight[..., range(models), range(models)] = 0.0
        # On θ that sum to 0 the Hessian is regular even without the ridge: the constant direction is filled.
        hessian = -weight + 1.0 / models
        hessian[..., range(models), range(models)] += weight.sum(axis=-1) + 2 * ridge
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        step -= step.mean(axis=-1, keepdims=True)
        longest = np.abs(step).max(axis=-1, keepdims=True)
        theta = theta + step * np.minimum(1.0, _LONGEST_STEP / np.maximum(longest, 1e-300))
        if longest.max(initial=0.0) < 1e-10:
            break
    return theta


def fit_with_covariates(
    first: np.ndarray,
    second: np.ndarray,
    outcome: np.ndarray,
    covariates: np.ndarray,
    models: int,
    weights: np.ndarray | None = None,
    ridge: float = RIDGE,
) -> tuple[np.ndarray, np.ndarray]:
    """θ and the coefficients of what else tells the two answers apart, their length for example: P(first
    wins) = σ(θ_first − θ_second + covariates · β). As style control does (LMSYS 2024).

    Args:
        covariates: (battles, k), about 0 when the answers agree in them.

    Returns:
        θ (models,), summing to 0, and β (k,).
    """
    battles, k = covariates.shape
    design = np.zeros((battles, models + k))
    rows = np.arange(battles)
    design[rows, first] = 1.0
    design[rows, second] -= 1.0
    design[:, models:] = covariates
    weights = np.ones(battles) if weights is None else weights
    parameters = np.zeros(models + k)
    fill = np.zeros((models + k, models + k))
    fill[:models, :models] = 1.0 / models
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(design @ parameters)
        gradient = design.T @ (weights * (outcome - p)) - 2 * ridge * parameters
        hessian = (design * (weights * p * (1 - p))[:, None]).T @ design + fill
        hessian += 2 * ridge * np.eye(models + k)
        step = np.linalg.solve(hessian, gradient)
        step[:models] -= step[:models].mean()
        longest = np.abs(step).max()
        parameters = parameters + step * min(1.0, _LONGEST_STEP / max(longest, 1e-300))
        if longest < 1e-10:
            break
    return parameters[:models], parameters[models:]


@dataclasses.dataclass(frozen=True)
class Votes:
    """Battles as arrays, one entry each.

    Attributes:
        first, second: the models compared.
        outcome: 1 where the first won, 0 where the second did, 0.5 for a tie.
        cluster: whose vote it is.
        covariates: (battles, k) of `fit_with_covariates`.
    """

    first: np.ndarray
    second: np.ndarray
    outcome: np.ndarray
    cluster: np.ndarray
    covariates: np.ndarray

    def __len__(self) -> int:
        return len(self.outcome)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What the votes say of each model.

    Attributes:
        theta: (models,).
        draws: (resamples, models): θ of votes of raters that were drawn with replacement.
        parts: `components` of the votes; with more than one there is no finite score.
        unconnected: share of the draws that have no finite score.
        by_rater: raters were drawn; with one rater alone, its votes were.
        groups: how many raters, or votes of the only one, could be drawn.
    """

    theta: np.ndarray
    draws: np.ndarray
    parts: list[list[int]]
    unconnected: float
    by_rater: bool
    groups: int

    @property
    def finite(self) -> bool:
        """Whether the scores exist at all."""
        return len(self.parts) == 1

    def interval(self, values: np.ndarray, value: float) -> Interval:
        """95 % interval of a statistic from its draws, widened for the number of groups as Student's is:
        percentiles over thirty raters are 6 % too narrow."""
        wider = (
            student_t(self.groups - 1) / 1.96 * math.sqrt(self.groups / (self.groups - 1))
            if self.groups > 1
            else math.inf
        )
        low, high = np.quantile(values, (0.025, 0.975))
        low, high = min(float(low), value), max(float(high), value)
        return value - wider * (value - low), value + wider * (high - value)

    def superiority(self) -> np.ndarray:
        """Share of the draws in which the row's model scores above the column's, (models, models)."""
        return (self.draws[:, :, None] > self.draws[:, None, :]).mean(axis=0)


def score(votes: Votes, models: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Scores:
    """Fit the votes, and the votes of raters drawn with replacement: a rater's votes resemble one another,
    and drawing single votes would give intervals that are too narrow."""
    names, group, by_rater = _groups(votes)
    each = np.zeros((len(names), models, models))
    np.add.at(each, (group, votes.first, votes.second), votes.outcome)
    np.add.at(each, (group, votes.second, votes.first), 1 - votes.outcome)
    drawn = _multiplicities(len(names), resamples, seed)
    wins = np.einsum("bg,gij->bij", drawn, each)
    total = each.sum(axis=0)
    unconnected = float(np.mean([len(components(one)) > 1 for one in wins])) if len(names) else 1.0
    return Scores(fit(total), fit(wins), components(total), unconnected, by_rater, len(names))


@dataclasses.dataclass(frozen=True)
class Controlled:
    """Scores with covariates held equal, see `Scores`.

    Attributes:
        beta: (k,).
        beta_draws: (resamples, k).
    """

    scores: Scores
    beta: np.ndarray
    beta_draws: np.ndarray


def score_with_covariates(
    votes: Votes, models: int, *, resamples: int = RESAMPLES // 4, seed: int = 0
) -> Controlled:
    """`score` with the votes' covariates held equal."""
    names, group, by_rater = _groups(votes)

    def once(weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        return fit_with_covariates(
            votes.first, votes.second, votes.outcome, votes.covariates, models, weights
        )

    theta, beta = once(None)
    draws = [once(counts[group]) for counts in _multiplicities(len(names), resamples, seed)]
    parts = components(win_matrix(votes.first, votes.second, votes.outcome, models))
    thetas, betas = (np.array([draw[i] for draw in draws]) for i in (0, 1))
    return Controlled(Scores(theta, thetas, parts, 0.0, by_rater, len(names)), beta, betas)


def votes_needed(share: float) -> float:
    """Votes that show with 80 % power, two-sided at 5 %, that a true share of wins is not a half; infinite
    for a half."""
    if share == 0.5:
        return math.inf
    quantiles = 1.959963984540054 * 0.5 + 0.8416212335729143 * math.sqrt(share * (1 - share))
    return (quantiles / (share - 0.5)) ** 2


def ranks(scores: Scores, level: float = 0.975) -> list[int]:
    """1 + the number of models that score higher in at least so large a share of the draws."""
    above = scores.superiority() >= level
    return [1 + int(above[:, model].sum()) for model in range(above.shape[0])]


def _groups(votes: Votes) -> tuple[Sequence[int], np.ndarray, bool]:
    """The groups that are drawn whole, and each vote's."""
    names, group = np.unique(votes.cluster, return_inverse=True)
    if len(names) > 1:
        return list(names), group, True
    return list(range(len(votes))), np.arange(len(votes)), False


def _multiplicities(groups: int, resamples: int, seed: int) -> np.ndarray:
    """How often each group is drawn, (resamples, groups)."""
    if not groups:
        return np.zeros((resamples, 0))
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples).astype(np.float64)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))
