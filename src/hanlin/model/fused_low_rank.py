"""Linear maps with low-rank additions behind one norm, and SwiGLU with one, their backward passes written
out: the frozen matrices get no gradient, and the low-rank products of several maps are one.

The A of q, k and v (or of gate and up) are stacked, so that their products with the normed input are a single
one with (3r, d). Where nothing is added this is `fused_ops`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hanlin.model.fused_ops import cast_gradient, norm_backward, normalise


@dataclasses.dataclass(frozen=True)
class LowRank:
    """weight + scale · b @ a, or the weight alone.

    Attributes:
        weight: (n, d); a: (r, d); b: (n, r).
    """

    weight: torch.Tensor
    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    scale: float = 0.0

    def to(self, dtype: torch.dtype) -> LowRank:
        """With all matrices in one type."""
        return LowRank(
            self.weight.to(dtype),
            None if self.a is None else self.a.to(dtype),
            None if self.b is None else self.b.to(dtype),
            self.scale,
        )


def _product(x: torch.Tensor, weight: torch.Tensor, low: torch.Tensor, b: torch.Tensor, scale: float):
    """x @ weightᵀ + scale · low @ bᵀ, (N, n); x: (N, d); low: (N, r)."""
    return F.linear(x, weight).addmm_(low, b.t(), alpha=scale)


class _NormedLowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, scales, *tensors):
        count = len(scales)
        matrices, downs, ups = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        unit, scale = normalise(x, eps)
        normed = unit.mul_(weight.float()).to(matrices[0].dtype).flatten(0, -2)  # (N, d)
        stacked = torch.cat([a for a in downs if a is not None])  # (Σr, d)
        low = F.linear(normed, stacked)
        shape = x.shape[:-1]
        products, start = [], 0
        for matrix, a, b, factor in zip(matrices, downs, ups, scales, strict=True):
            if a is None:
                product = F.linear(normed, matrix)
            else:
                product = _product(normed, matrix, low[:, start : start + len(a)], b, factor)
                start += len(a)
            products.append(product.view(*shape, -1))
        ctx.scales = scales
        ctx.save_for_backward(x, weight, scale, low, *tensors)
        return tuple(products)

    @staticmethod
    def backward(ctx, *grads):
        x, weight, scale, low, *tensors = ctx.saved_tensors
        count = len(ctx.scales)
        matrices, downs, ups = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        wants_x, wants_weight, _, _, *wants = ctx.needs_input_grad
        unit = x.float() * scale
        normed = (unit * weight.float()).to(low.dtype).flatten(0, -2)
        above = [grad.flatten(0, -2) for grad in grads]
        results: list[torch.Tensor | None] = [None] * (3 * count)
        grad_low = torch.empty_like(low)
        start = 0
        for index, (a, b, factor) in enumerate(zip(downs, ups, ctx.scales, strict=True)):
            if wants[index]:
                results[index] = above[index].t() @ normed
            if a is None:
                continue
            part = slice(start, start + len(a))
            start += len(a)
            torch.mm(above[index], b, out=grad_low[:, part]).mul_(factor)
            if wants[2 * count + index]:
                results[2 * count + index] = (above[index].t() @ low[:, part]).mul_(factor)
        grad_stacked = grad_low.t() @ normed if any(wants[count : 2 * count]) else None
        start = 0
        for index, a in enumerate(downs):
            if a is not None and grad_stacked is not None:
                results[count + index] = grad_stacked[start : start + len(a)]
                start += len(a)
        grad_x = grad_weight = None
        if wants_x or wants_weight:
            grad_normed = grad_low @ torch.cat([a for a in downs if a is not None])
            for grad, matrix in zip(above, matrices, strict=True):
                grad_normed.addmm_(grad, matrix)
            grad_x, grad_weight = norm_backward(
                grad_normed.float().view(x.shape), unit, weight.float(), scale, (wants_x, wants_weight)
            )
        return cast_gradient(grad_x, x.dtype), cast_gradient(grad_weight, weight.dtype), None, None, *results


def fused_normed_low_rank(
    x: torch.Tensor, weight: torch.Tensor, eps: float, maps: Sequence[LowRank]
) -> tuple[torch.Tensor, ...]:
    """`rms_norm(x, weight, eps) @ (weight + scale · b @ a)ᵀ` for each of the maps, without the sum of the
    matrices being made; the normed input is computed again in backward.

    Args:
        x: (…, d); weight: (d,); maps: at least one with an addition.

    Returns:
        (…, n) for each map, in the matrices' type (the autocast type where that is on).
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        maps = [one.to(torch.get_autocast_dtype(device)) for one in maps]
    return _NormedLowRank.apply(
        x,
        weight,
        eps,
        tuple(one.scale for one in maps),
        *(one.weight for one in maps),
        *(one.a for one in maps),
        *(one.b for one in maps),
    )


class _SwiGLULowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up, weight, a, b, scale):
        inner = F.silu(gate).mul_(up).flatten(0, -2)  # (N, f)
        low = F.linear(inner, a)
        ctx.scale = scale
        ctx.save_for_backward(gate, up, weight, a, b, low)
        return _product(inner, weight, low, b, scale).view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        gate, up, weight, a, b, low = ctx.saved_tensors
        wants_gate, wants_up, wants_weight, wants_a, wants_b, _ = ctx.needs_input_grad
        above = grad.flatten(0, -2)
        silu = F.silu(gate)
        inner = silu * up
        flat = inner.flatten(0, -2)
        grad_low = (above @ b).mul_(ctx.scale)
        grad_weight = above.t() @ flat if wants_weight else None
        grad_a = grad_low.t() @ flat if wants_a else None
        grad_b = (above.t() @ low).mul_(ctx.scale) if wants_b else None
        if not (wants_gate or wants_up):
            return None, None, grad_weight, grad_a, grad_b, None
        grad_inner = (above @ weight).addmm_(grad_low, a).view(gate.shape)
        torch.mul(grad_inner, up, out=inner)
        # element by element: may write where it reads
        torch.ops.aten.silu_backward.grad_input(inner, gate, grad_input=inner)
        return inner, grad_inner.mul_(silu), grad_weight, grad_a, grad_b, None


def fused_swiglu_low_rank(gate: torch.Tensor, up: torch.Tensor, down: LowRank) -> torch.Tensor:
    """(silu(gate)·up) @ (weight + scale · b @ a)ᵀ; the product of the two is computed again in backward.

    Args:
        gate, up: (…, f).

    Returns:
        (…, d), in gate's type (the autocast type where that is on).
    """
    device = gate.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        gate, up = gate.to(dtype), up.to(dtype)
    down = down.to(gate.dtype)
    return _SwiGLULowRank.apply(gate, up, down.weight, down.a, down.b, down.scale)
