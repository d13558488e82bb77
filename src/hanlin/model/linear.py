"""Linear maps as modules that own their product, and the rule by which several of them may be fused.

The forward pass calls modules. A low-rank adapter, a quantised weight or an expert takes a module's place by
assignment and is called in its stead. Where every module involved is exactly the plain class,
`normed_linears` and `swiglu` compute the same with fewer passes over memory (`fused_ops`); otherwise they do
what they say, word by word.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hanlin.model.fused_ops import fused_normed_linears, fused_swiglu, is_trusted
from hanlin.model.norm import RMSNorm


class Linear(nn.Linear):
    """x @ weightᵀ without a bias: (…, in_features) → (…, out_features), weight (out_features,
    in_features)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)


class Conv1D(nn.Module):
    """A linear map with a bias whose weight is stored (in_features, out_features), as GPT-2 checkpoints have
    it."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.t(), self.bias)


class Embedding(nn.Embedding):
    """Rows of a table by token id; `as_linear` uses the same table the other way round, as the head of a
    model with tied embeddings."""

    def as_linear(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of every row, (…, embedding_dim) → (…, num_embeddings)."""
        return F.linear(hidden, self.weight)


def is_plain(kind: type[nn.Module], *modules: nn.Module) -> bool:
    """Whether calling the modules is the same as using their weights: exactly this class, nothing hooked to
    them, `forward` its own."""
    for module in modules:
        if (
            type(module) is not kind
            or module._forward_pre_hooks
            or module._forward_hooks
            or module._backward_pre_hooks
            or module._backward_hooks
            or "forward" in module.__dict__
        ):
            return False
    return True


def normed_linears(x: torch.Tensor, norm: nn.Module, *linears: nn.Module) -> tuple[torch.Tensor, ...]:
    """linear(norm(x)) for each of the linear maps.

    Args:
        x: (…, d).

    Returns:
        (…, n) for each, n its output size.
    """
    if is_trusted("normed_linears", x) and is_plain(RMSNorm, norm) and is_plain(Linear, *linears):
        return fused_normed_linears(x, norm.weight, norm.eps, *[linear.weight for linear in linears])  # type: ignore[arg-type]
    normed = norm(x)
    return tuple(linear(normed) for linear in linears)


def swiglu(gate: torch.Tensor, up: torch.Tensor, down: nn.Module) -> torch.Tensor:
    """down(silu(gate) · up) (Shazeer 2020).

    Args:
        gate, up: (…, f).

    Returns:
        (…, d).
    """
    if is_trusted("swiglu", gate) and is_plain(Linear, down):
        return fused_swiglu(gate, up, down.weight)  # type: ignore[arg-type]
    return down(F.silu(gate) * up)
