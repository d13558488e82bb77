"""The adapter `bias_norm`: norms and biases are trained and no matrix is, the cheapest control of all
adapters (BitFit, Ben Zaken et al. 2021; norms alone, Zhao et al. 2023)."""

from __future__ import annotations

import dataclasses

from torch import nn

from hanlin.model.adapters import Adapter, register_adapter


@register_adapter
@dataclasses.dataclass(frozen=True)
class BiasNorm(Adapter):
    """Every weight that is a vector is trained, in place."""

    kind: str = "bias_norm"

    def apply(self, model: nn.Module) -> None:
        """Freeze matrices and tables."""
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim < 2)

    def merge(self, model: nn.Module) -> None:
        """Nothing has taken the place of anything."""
        model.requires_grad_(True)
