"""What a training asks for before its first step: kernels that are right on this device for this model."""

from __future__ import annotations

from typing import Any

import torch

from hanlin.common.devices import device_capabilities
from hanlin.model.attention.backends import AttentionBackend, AttentionChoice, Warn, choose_attention
from hanlin.model.fused_check import check_fused_operations


def choose_kernels(
    model: Any, device: torch.device, warn: Warn, wanted: AttentionChoice = "auto"
) -> AttentionBackend:
    """Choose an attention back end for the model's heads, and check the fused operations; what is wrong is
    refused, with a line each.

    Args:
        wanted: an attention back end's name, when no other is to be taken.

    Raises:
        HanlinError: no attention back end is right, or the one that is wanted is not.
    """
    config = model.config
    check_fused_operations(device, getattr(torch, device_capabilities(device).train_dtype), warn)
    return choose_attention(
        device,
        warn,
        head_dim=config.head_dim,
        groups=config.num_attention_heads // config.num_key_value_heads,
        wanted=wanted,
    )
