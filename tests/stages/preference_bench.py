"""What tests of preference losses share: log-probabilities of a few answers, token by token."""

from __future__ import annotations

import dataclasses
import random

import torch

from hanlin.stages.preference.loss import Answers

LENGTHS = ((3, 5), (7, 2), (4, 4), (1, 9), (12, 11), (6, 1))


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Log-probabilities of an answer's tokens, under policy and reference."""

    policy: list[float]
    reference: list[float]

    def answers(self, weights: list[float] | None = None) -> Answers:
        """As one answer, its tokens weighted; float64."""
        weights = weights or [1.0] * len(self.policy)
        sums = [
            sum(w * v for w, v in zip(weights, values, strict=True))
            for values in (self.policy, self.reference)
        ]
        return Answers(*(torch.tensor([v], dtype=torch.float64) for v in (*sums, len(self.policy))))


def drawn_pairs(seed: int = 0) -> list[tuple[Tokens, Tokens]]:
    """Pairs of answers, chosen and rejected, that any machine draws alike."""
    draws = random.Random(seed)

    def tokens(count: int) -> Tokens:
        policy = [-draws.expovariate(1.0) - 0.02 for _ in range(count)]
        return Tokens(policy, [value + draws.gauss(0, 0.5) for value in policy])

    return [(tokens(chosen), tokens(rejected)) for chosen, rejected in LENGTHS]
