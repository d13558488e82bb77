"""The norms of the families, as modules."""

from __future__ import annotations

import torch
from torch import nn

from hanlin.model.fused_ops import rms_norm


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang & Sennrich 2019), computed in float32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.LayerNorm):
    """Mean and variance norm with weight and bias (Ba et al. 2016), GPT-2's."""


Norm = RMSNorm | LayerNorm
