"""A reward of one's own: short answers are worth more."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hanlin.rl.rewards.base import Reward, Sample, register_reward


@register_reward
@dataclasses.dataclass(frozen=True)
class BrevityReward(Reward):
    """1 for an empty answer, less for each token, 0 from `longest` on."""

    kind: str = "brevity"
    longest: int = 32

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """By the tokens that were written."""
        return [max(0.0, 1.0 - len(sample.ids) / self.longest) for sample in samples]
