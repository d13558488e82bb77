"""What a step cost: the share of the machine's own speed it reached, and memory."""

from __future__ import annotations

from typing import Any

import torch

from hanlin.common.devices import matmul_peak, memory_mb
from hanlin.model import ModelConfig


def step_figures(
    model: Any, device: torch.device, tokens: int, seconds: float, length: int
) -> dict[str, float]:
    """`mfu`, `memory_mb` and, on an accelerator, `device_memory_mb`.

    MFU is the model's FLOPs (`ModelConfig.flops_per_token`) over what plain matrix products reach on this device, measured once.
    Attention is counted over whole rows, so packed short documents are credited with a little more than they cost.

    Args:
        model: with a `config`; without one there is no `mfu`.
        tokens: read in the step, and `seconds` it took.
        length: tokens in a row.
    """
    config = getattr(model, "config", None)
    figures = memory_mb(device)
    if isinstance(config, ModelConfig) and seconds > 0:
        figures["mfu"] = config.flops_per_token(length) * tokens / seconds / matmul_peak(device)
    return figures
