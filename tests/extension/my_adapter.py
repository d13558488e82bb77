"""An adapter of one's own: every linear map gets a low-rank addition, and only that is trained (Hu et al.
2021)."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from hanlin.model.adapters import Adapter, register_adapter
from hanlin.model.linear import Linear


class LowRank(nn.Module):
    """A frozen linear map and a low-rank one beside it."""

    def __init__(self, base: Linear, rank: int):
        super().__init__()
        self.base = base.requires_grad_(False)
        out_features, in_features = base.weight.shape
        self.down = nn.Parameter(torch.empty(rank, in_features, device=base.weight.device))
        self.up = nn.Parameter(torch.zeros(out_features, rank, device=base.weight.device))
        generator = torch.Generator().manual_seed(rank * in_features + out_features)
        nn.init.kaiming_uniform_(self.down.data, a=math.sqrt(5), generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both, added."""
        return self.base(x) + (x @ self.down.t()) @ self.up.t()


@register_adapter
@dataclasses.dataclass(frozen=True)
class LowRankAdapter(Adapter):
    """Low-rank additions of rank `rank`."""

    kind: str = "low_rank"
    rank: int = 2

    def apply(self, model: nn.Module) -> None:
        """Wrap every linear map of the blocks; all else is frozen."""
        model.requires_grad_(False)
        for name, module in list(model.named_modules()):
            if type(module) is Linear and ".layers." in f".{name}":
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, LowRank(module, self.rank))

    def merge(self, model: nn.Module) -> None:
        """Add each product to the weight beside it."""
        for name, module in list(model.named_modules()):
            if isinstance(module, LowRank):
                with torch.no_grad():
                    module.base.weight += module.up @ module.down
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, module.base)
        model.requires_grad_(True)
