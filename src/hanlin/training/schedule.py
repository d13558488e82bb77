"""Learning-rate schedules, as factors of the peak rate."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["wsd", "cosine", "constant"]


def learning_rate_factor(
    step: int,
    steps: int,
    *,
    schedule: Schedule,
    warmup_ratio: float,
    decay_ratio: float,
    min_lr_ratio: float = 0.0,
) -> float:
    """Factor for `step` (0 … steps-1).

    Args:
        warmup_ratio: share of the steps with a linear rise from zero.
        decay_ratio: for `wsd` (warm-up, stable, decay: MiniCPM, Hu et al. 2024), share of the steps with a
            linear fall to `min_lr_ratio`.
        min_lr_ratio: factor at the very end.
    """
    warm_steps = max(1, round(steps * warmup_ratio))
    if step < warm_steps:
        return (step + 1) / warm_steps
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        progress = (step - warm_steps + 1) / max(1, steps - warm_steps)
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    decay_steps = max(1, round(steps * decay_ratio))
    remaining = steps - step
    return 1.0 if remaining > decay_steps else min_lr_ratio + (1 - min_lr_ratio) * remaining / decay_steps
