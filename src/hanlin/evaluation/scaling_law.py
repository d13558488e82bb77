"""Fits L(N, D) = E + A/N^α + B/D^β to trainings of several sizes and lengths (Hoffmann et al. 2022, approach
3), with intervals.

The objective is the Huber loss (δ = 1e-3) of log L. For given exponents the law is linear in E, A and B, so a
grid over the two exponents, solved in closed form, gives the starts that L-BFGS then polishes in (log E, log
A, log B, α, β).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from hanlin.common.errors import ConfigError

HUBER = 1e-3
RESAMPLES = 200
_EXPONENTS = np.linspace(0.05, 1.5, 30)
_STEEPEST = 3.0  # exponents stay below: a few noisy points would else be met by a term that is a step
_POLISHED = 8  # of the starts on the grid
_LEAST = 6  # points for five coefficients


@dataclasses.dataclass(frozen=True)
class Law:
    """The coefficients; N in parameters, D in tokens, L in bits per byte."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def __call__(self, parameters: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """L(N, D)."""
        return (
            self.E
            + self.A / np.asarray(parameters, dtype=float) ** self.alpha
            + self.B / np.asarray(tokens, dtype=float) ** self.beta
        )


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law, how far the points lie from it, and the laws refitted under noise, which say how sure each
    figure is.

    Attributes:
        residuals: log L less that of the law, (points,).
    """

    law: Law
    parameters: np.ndarray
    tokens: np.ndarray
    losses: np.ndarray
    residuals: np.ndarray
    resampled: list[Law]

    def interval(self, figure: Callable[[Law], float]) -> tuple[float, float]:
        """95 % interval of anything that follows from a law."""
        low, high = np.quantile([figure(law) for law in self.resampled], (0.025, 0.975))
        return float(low), float(high)

    def outside(self, parameters: float, tokens: float) -> tuple[float, float]:
        """How many times beyond the sizes and lengths that were trained a point lies, in either direction; 1
        within them."""

        def beyond(value: float, known: np.ndarray) -> float:
            return max(1.0, value / float(known.max()), float(known.min()) / value)

        return beyond(parameters, self.parameters), beyond(tokens, self.tokens)


@dataclasses.dataclass(frozen=True)
class Advice:
    """The best size for a budget.

    Attributes:
        loss: that the law expects, with its interval; so for `parameters_interval`.
        at_edge: the best lies at the end of the sizes that were looked at: the budget wants a smaller or
            larger one still.
    """

    parameters: float
    tokens: float
    loss: float
    loss_interval: tuple[float, float]
    parameters_interval: tuple[float, float]
    outside: tuple[float, float]
    at_edge: bool


def fit_law(
    parameters: Sequence[float],
    tokens: Sequence[float],
    losses: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Fit:
    """Fit the law and its uncertainty.

    Intervals come from refitting the law with noise of the size that the residuals show, itself drawn anew
    each time since few points tell it badly: the sizes and lengths are a design, and drawing points of it
    anew would often leave one size. They are
    optimistic: on a known law with 16 points and 0.4 % of noise, 52 of 60 of nominally 95 % held the truth,
        and 25 of 32 in
    another measurement (of 25 and 60 refits each); at twice the largest size they are about a third narrower
    than repeated series spread.

    Raises:
        ConfigError: fewer than six points, or fewer than three sizes or lengths per size; a law of five
            coefficients needs them.
    """
    n, d, losses_ = (np.asarray(values, dtype=np.float64) for values in (parameters, tokens, losses))
    if len(n) < _LEAST or len(set(n)) < 3 or len(set(d)) < 3:
        raise ConfigError(
            "{points} points with {sizes} sizes and {lengths} lengths do not determine a law; at least 6 "
            "points, 3 sizes, 3 lengths",
            points=len(n),
            sizes=len(set(n)),
            lengths=len(set(d)),
        )
    law = _best(n, d, losses_, _POLISHED)
    residuals = np.log(losses_) - np.log(law(n, d))
    rng, freedom = np.random.default_rng(seed), max(len(n) - 5, 1)
    # the noise itself is known from few points only
    scales = np.sqrt(float(residuals @ residuals) / rng.chisquare(freedom, resamples))
    resampled = [_best(n, d, law(n, d) * np.exp(rng.normal(0.0, scale, len(n))), 1) for scale in scales]
    return Fit(law, n, d, losses_, residuals, resampled)


def advise(fit: Fit, tokens_for: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> Advice:
    """The size, between `low` and `high` parameters, that the law expects most of.

    Args:
        tokens_for: tokens that the budget pays for at each size, (sizes,) → (sizes,).
    """
    sizes = np.geomspace(low, high, 400)
    tokens = tokens_for(sizes)

    def best(law: Law) -> int:
        return int(np.argmin(law(sizes, tokens)))

    at = best(fit.law)
    size, length = float(sizes[at]), float(tokens[at])
    return Advice(
        size,
        length,
        float(fit.law(size, length)),
        fit.interval(lambda law: float(law(size, length))),
        fit.interval(lambda law: float(sizes[best(law)])),
        fit.outside(size, length),
        at in (0, len(sizes) - 1),
    )


def _best(n: np.ndarray, d: np.ndarray, losses: np.ndarray, polished: int) -> Law:
    starts = _starts(n, d, losses)[:polished]
    found = [_polish(start, n, d, losses) for start in starts]
    return min(found, key=lambda pair: pair[0])[1]


def _starts(n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> list[np.ndarray]:
    """(log E, log A, log B, α, β) on a grid of the exponents, by least squares of the relative error, best
    first."""
    alphas, betas = (grid.ravel() for grid in np.meshgrid(_EXPONENTS, _EXPONENTS))
    scale_n, scale_d = np.exp(np.log(n).mean()), np.exp(np.log(d).mean())
    columns = (
        np.stack(
            [
                np.ones((len(alphas), len(n))),
                (n / scale_n) ** -alphas[:, None],
                (d / scale_d) ** -betas[:, None],
            ],
            axis=2,
        )
        / losses[None, :, None]
    )
    gram = columns.transpose(0, 2, 1) @ columns + 1e-10 * np.eye(3)
    solved = np.linalg.solve(gram, columns.sum(axis=1)[..., None])[..., 0]
    solved = np.maximum(solved, 1e-4 * losses.min())  # a law has no negative part
    error = np.minimum(((columns @ solved[..., None])[..., 0] - 1) ** 2, 1.0).sum(axis=1)
    order = np.argsort(error, kind="stable")
    e, a, b = np.log(solved[order]).T
    return list(
        np.stack(
            [
                e,
                a + alphas[order] * np.log(scale_n),
                b + betas[order] * np.log(scale_d),
                alphas[order],
                betas[order],
            ],
            axis=1,
        )
    )


def _polish(start: np.ndarray, n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> tuple[float, Law]:
    """The Huber loss and the law that L-BFGS reaches from a start."""
    log_n, log_d, target = (torch.from_numpy(np.log(values)) for values in (n, d, losses))
    middle_n, middle_d = log_n.mean(), log_d.mean()
    e, a, b, alpha, beta = start
    # Centred: A and α, and B and β, then have little to do with one another.
    bounded = [math.log(exponent / (_STEEPEST - exponent)) for exponent in (alpha, beta)]
    point = torch.tensor(
        [e, a - alpha * float(middle_n), b - beta * float(middle_d), *bounded],
        dtype=torch.float64,
        requires_grad=True,
    )
    optimizer = torch.optim.LBFGS(
        [point], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        e, a, b = point[:3]
        alpha, beta = _STEEPEST * torch.sigmoid(point[3:])
        parts = torch.stack(
            [e.expand_as(log_n), a - alpha * (log_n - middle_n), b - beta * (log_d - middle_d)]
        )
        return (
            torch.nn.functional.huber_loss(
                torch.logsumexp(parts, dim=0), target, reduction="sum", delta=HUBER
            )
            / HUBER
        )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        value = float(loss())
    if not torch.isfinite(point).all():
        return math.inf, Law(math.exp(e), math.exp(a), float(alpha), math.exp(b), float(beta))
    e, a, b = (float(x) for x in point.detach()[:3])
    alpha, beta = (float(x) for x in _STEEPEST * torch.sigmoid(point.detach()[3:]))
    return value, Law(
        math.exp(e), math.exp(a + alpha * float(middle_n)), alpha, math.exp(b + beta * float(middle_d)), beta
    )
