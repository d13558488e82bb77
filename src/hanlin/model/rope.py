"""Rotary position embeddings (Su et al. 2021): the tables of angles."""

from __future__ import annotations

import torch

from hanlin.model.config import ModelConfig


def rotary_table(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of every position, each (max_position_embeddings, head_dim/2)."""
    half = config.head_dim // 2
    frequencies = 1.0 / config.rope_theta ** (
        torch.arange(0, half, dtype=torch.float32) * 2 / config.head_dim
    )
    angles = torch.outer(torch.arange(config.max_position_embeddings, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()
