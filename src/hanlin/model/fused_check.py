"""The check that each fused operation has to pass on a device before a training relies on it, as attention
back ends have theirs.

A fused operation is right when its outputs and gradients agree with the plain formula, differentiated by
autograd in float32 on the CPU. One that is not gives way to the modules' own products.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

from hanlin.common.messages import Text
from hanlin.model import fused_low_rank, fused_ops, losses
from hanlin.model.attention.backends import Fault, Warn, first_line, relative_error, tolerance
from hanlin.model.fused_low_rank import LowRank


@dataclasses.dataclass(frozen=True)
class FusedOperation:
    """An operation with a backward pass of its own, beside what it stands for.

    Attributes:
        fused, plain: of the same tensors, the same outputs.
        shapes: of the tensors that get a gradient.
        constants: further tensors, from a generator.
    """

    fused: Callable[..., tuple[torch.Tensor, ...]]
    plain: Callable[..., tuple[torch.Tensor, ...]]
    shapes: tuple[tuple[int, ...], ...]
    constants: Callable[[torch.Generator], tuple[torch.Tensor, ...]] = lambda generator: ()


_TOKENS = 96
_WIDTH = 64
_INNER = 128
_VOCAB = 160
_EPS = 1e-6
_RANK = 8
_SCALE = 2.0


def _normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, weight.shape, weight, _EPS)


def _angles(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    angles = torch.rand(1, _TOKENS, 1, _WIDTH // 2, generator=generator) * 6
    return angles.cos(), angles.sin()


def _labels(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    return (torch.randint(0, _VOCAB, (_TOKENS,), generator=generator),)


def _log_probs(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, head).log_softmax(-1).gather(1, labels[:, None])[:, 0]


def _cross_entropy(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor]:
    return (losses.linear_cross_entropy(hidden, head, labels, z_loss=1e-2)[0],)


def _plain_cross_entropy(
    hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor]:
    z = F.linear(hidden, head).logsumexp(-1).square().sum()
    return (-_log_probs(hidden, head, labels).sum() + 1e-2 * z,)


def _normed_low_rank(x: torch.Tensor, weight: torch.Tensor, *m: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A map with an addition, and one without."""
    maps = [LowRank(m[0], m[1], m[2], _SCALE), LowRank(m[3])]
    return fused_low_rank.fused_normed_low_rank(x, weight, _EPS, maps)


def _plain_normed_low_rank(
    x: torch.Tensor, weight: torch.Tensor, *m: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    normed = _normed(x, weight)
    return F.linear(normed, m[0] + _SCALE * m[2] @ m[1]), F.linear(normed, m[3])


def _swiglu_low_rank(
    gate: torch.Tensor, up: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor]:
    return (fused_low_rank.fused_swiglu_low_rank(gate, up, LowRank(weight, a, b, _SCALE)),)


OPERATIONS: dict[str, FusedOperation] = {
    "rms_norm": FusedOperation(
        lambda x, weight: (fused_ops.fused_rms_norm(x, weight, _EPS),),
        lambda x, weight: (_normed(x, weight),),
        ((2, _TOKENS, _WIDTH), (_WIDTH,)),
    ),
    "rotate": FusedOperation(
        lambda x, cos, sin: (fused_ops.fused_rotate(x, cos, sin),),
        lambda x, cos, sin: (fused_ops.plain_rotate(x, cos, sin),),
        ((2, _TOKENS, 3, _WIDTH),),
        _angles,
    ),
    "normed_linears": FusedOperation(
        lambda x, weight, *matrices: fused_ops.fused_normed_linears(x, weight, _EPS, *matrices),
        lambda x, weight, *matrices: tuple(F.linear(_normed(x, weight), matrix) for matrix in matrices),
        ((2, _TOKENS, _WIDTH), (_WIDTH,), (_WIDTH, _WIDTH), (_WIDTH // 2, _WIDTH)),
    ),
    "swiglu": FusedOperation(
        lambda gate, up, weight: (fused_ops.fused_swiglu(gate, up, weight),),
        lambda gate, up, weight: (F.linear(F.silu(gate) * up, weight),),
        ((2, _TOKENS, _INNER), (2, _TOKENS, _INNER), (_WIDTH, _INNER)),
    ),
    "normed_low_rank": FusedOperation(
        _normed_low_rank,
        _plain_normed_low_rank,
        (
            (2, _TOKENS, _WIDTH),
            (_WIDTH,),
            (_WIDTH, _WIDTH),
            (_RANK, _WIDTH),
            (_WIDTH, _RANK),
            (_WIDTH // 2, _WIDTH),
        ),
    ),
    "swiglu_low_rank": FusedOperation(
        _swiglu_low_rank,
        lambda gate, up, weight, a, b: (F.linear(F.silu(gate) * up, weight + _SCALE * b @ a),),
        ((2, _TOKENS, _INNER), (2, _TOKENS, _INNER), (_WIDTH, _INNER), (_RANK, _INNER), (_WIDTH, _RANK)),
    ),
    "linear_cross_entropy": FusedOperation(
        _cross_entropy, _plain_cross_entropy, ((_TOKENS, _WIDTH), (_VOCAB, _WIDTH)), _labels
    ),
    "token_log_probs": FusedOperation(
        lambda hidden, head, labels: (losses.token_log_probs(hidden, head, labels),),
        lambda hidden, head, labels: (_log_probs(hidden, head, labels),),
        ((_TOKENS, _WIDTH), (_VOCAB, _WIDTH)),
        _labels,
    ),
}


def check_fused_operations(device: torch.device, dtype: torch.dtype, warn: Warn) -> list[str]:
    """Run each fused operation as a training does, and leave those that are wrong for their plain path from
    now on.

    Each is run once a process for a device and a type.

    Args:
        dtype: of the products; autocast's, unless it is float32.
        warn: told of each that is refused.

    Returns:
        the names of those refused.
    """
    refused = []
    for name in OPERATIONS:
        fault = fault_of_operation(name, device, dtype)
        if fault is not None:
            refused.append(name)
            fused_ops.refuse(name, device)
            warn(
                "fused operation {name} is refused on {device}: {fault}; it is computed step by step "
                "instead, slower and to the same result",
                name=name,
                device=device,
                fault=fault,
            )
    return refused


@functools.cache
def fault_of_operation(name: str, device: torch.device, dtype: torch.dtype) -> Fault | None:
    """What is wrong with a fused operation on a device, None when it agrees with the plain formula."""
    operation = OPERATIONS[name]
    generator = torch.Generator().manual_seed(1)
    leaves = [torch.randn(shape, generator=generator) for shape in operation.shapes]
    # matrices as a model has them, lest rounding in half precision be all there is to see
    leaves = [leaf * leaf.shape[-1] ** -0.5 if leaf.ndim == 2 else leaf for leaf in leaves]
    constants = operation.constants(generator)
    expected = _forward_backward(operation.plain, leaves, constants)
    try:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = _forward_backward(
                operation.fused,
                [leaf.to(device) for leaf in leaves],
                tuple(constant.to(device) for constant in constants),
            )
    except Exception as error:  # a kernel that does not build raises what it likes
        return Text("it failed: {error}", error=first_line(error))
    outputs = len(expected) - len(leaves)
    for place, (ours, reference) in enumerate(zip(found, expected, strict=True)):
        ours = ours.detach().to("cpu", torch.float32)
        part = Text("the output") if place < outputs else Text("a gradient")
        if not bool(ours.isfinite().all()):
            return Text("NaN or Inf in {part}", part=part)
        error = relative_error(_rows(ours), _rows(reference))
        if error > tolerance(dtype):
            return Text("{part} off by {error:.1%}", part=part, error=error)
    return None


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """As vectors of the last dimension; a scalar as one of length one."""
    return tensor.reshape(-1, tensor.shape[-1] if tensor.ndim else 1)


def _forward_backward(
    run: Callable[..., tuple[torch.Tensor, ...]],
    leaves: list[torch.Tensor],
    constants: tuple[torch.Tensor, ...],
) -> list[torch.Tensor]:
    """Outputs, and gradients of the leaves for the same gradients of the outputs."""
    with torch.enable_grad():
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        outputs = run(*inputs, *constants)
        generator = torch.Generator().manual_seed(2)
        grads = [
            torch.randn(out.shape, generator=generator).to(out.device, out.dtype)
            if out.ndim
            else out.new_ones(())
            for out in outputs
        ]
        return [*outputs, *torch.autograd.grad(outputs, inputs, grads)]
