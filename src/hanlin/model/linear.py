"""Linear maps as modules that own their product, and the rule by which several of them may be fused.

The forward pass calls modules. A low-rank adapter, a quantised weight or an expert takes a module's place by
assignment and is called in its stead. Where every module involved is exactly the plain class, or a plain one
with a low-rank addition, `normed_linears` and `swiglu` compute the same with fewer passes over memory
(`fused_ops`, `fused_low_rank`); otherwise they do what they say, word by word.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hanlin.model.fused_low_rank import LowRank, fused_normed_low_rank, fused_swiglu_low_rank
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


class LowRankLinear(nn.Module):
    """base(x) + scale · B(A(x)), a linear map that stays as it is and a low-rank one that is trained (LoRA,
    Hu et al. 2021).

    A begins as U(-1/sqrt(in_features), 1/sqrt(in_features)) and B at zero, so that in the beginning nothing
    is added. scale is alpha/r, or alpha/sqrt(r) with `rslora` (Kalajdzievski 2023).

    Args:
        base: a linear map, (…, in_features) → (…, out_features); it is frozen.
        generator: draws A.

    Attributes:
        lora_A: (r, in_features); lora_B: (out_features, r).
    """

    def __init__(
        self,
        base: nn.Module,
        in_features: int,
        out_features: int,
        r: int,
        alpha: float,
        rslora: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.alpha = alpha
        self.rslora = rslora
        bound = in_features**-0.5
        drawn = torch.empty(r, in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(drawn)
        self.lora_B = nn.Parameter(torch.zeros(out_features, r))

    @property
    def r(self) -> int:
        """The rank."""
        return self.lora_A.shape[0]

    @property
    def scale(self) -> float:
        """What the low-rank product is multiplied with."""
        return self.alpha / (self.r**0.5 if self.rslora else self.r)

    def delta(self) -> torch.Tensor:
        """What is added to the weight, (out_features, in_features), float32."""
        return self.scale * (self.lora_B.float() @ self.lora_A.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = F.linear(x, self.lora_A)  # (…, r)
        product = self.base(x)
        added = torch.addmm(
            product.flatten(0, -2), low.flatten(0, -2), self.lora_B.to(low.dtype).t(), alpha=self.scale
        )
        return added.view(product.shape)


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
    if is_trusted("normed_low_rank", x) and is_plain(RMSNorm, norm):
        parts = [part for part in map(_low_rank_parts, linears) if part is not None]
        if len(parts) == len(linears) and any(part.a is not None for part in parts):
            return fused_normed_low_rank(x, norm.weight, norm.eps, parts)  # type: ignore[arg-type]
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
    if is_trusted("swiglu_low_rank", gate):
        parts = _low_rank_parts(down)
        if parts is not None and parts.a is not None:
            return fused_swiglu_low_rank(gate, up, parts)
    return down(F.silu(gate) * up)


def _low_rank_parts(linear: nn.Module) -> LowRank | None:
    """The matrices of a plain linear map, with or without a low-rank addition; None of anything else."""
    if is_plain(Linear, linear):
        return LowRank(linear.weight)  # type: ignore[arg-type]
    if is_plain(LowRankLinear, linear) and is_plain(Linear, linear.base):  # type: ignore[arg-type]
        return LowRank(linear.base.weight, linear.lora_A, linear.lora_B, linear.scale)  # type: ignore[arg-type,union-attr]
    return None
