"""Losses over a vocabulary that never build the logits of a whole batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from hanlin.model.fused_ops import cast_gradient

CHUNK_ELEMENTS = 1 << 22  # logits held at once: 16 MiB in float32, half of a desktop CPU's cache
# on an accelerator: 256 MiB in bfloat16. A chunk reads and writes the head's whole gradient, so few are
# better
DEVICE_CHUNK_ELEMENTS = 1 << 27
BLOCK = 128
# at least: the gradient of the head is a product over a chunk's rows, a third as fast over 163 as over 512
CHUNK_ROWS = 256


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    return max(CHUNK_ROWS, (CHUNK_ELEMENTS if device.type == "cpu" else DEVICE_CHUNK_ELEMENTS) // vocab_size)


def _product_type(hidden: torch.Tensor) -> torch.dtype:
    """The type to multiply in: autocast's where that is on. It does not reach products that write into a
    given tensor, nor in-place ones."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _in_blocks(hidden: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same with rows of zeros behind, to a multiple of `BLOCK`, where a CPU multiplies in half precision.

    oneDNN makes kernels for every number of rows, and each batch has another: fine-tuning the demo's model
    took 1.6 GB instead of 0.8.
    """
    missing = (
        -len(hidden) % BLOCK if hidden.device.type == "cpu" and _product_type(hidden).itemsize < 4 else 0
    )
    return tuple(
        F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, missing)) if missing else tensor
        for tensor in (hidden, *others)
    )


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, within one product where the types allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def logit_gradients(
    logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross entropy and z-loss of a chunk with their gradient, as plain expressions that a compiler makes
    two passes of.

    Args:
        logits: (n, V); labels: (n,) int64; scale: (n,) float32 weight of each.

    Returns:
        negative log likelihoods (n,) float32, the weighted loss, 0-d float32, and its gradient (n, V) in the
        logits' type.
    """
    wide = logits.float()
    logsumexp = wide.logsumexp(-1)
    nll = logsumexp - wide.gather(1, labels[:, None]).squeeze(1)
    total = ((nll + z_loss * logsumexp.square()) * scale).sum()
    # d/dlogits = p·(1 + 2·z·logsumexp) - onehot
    grad = (wide - logsumexp[:, None]).exp() * ((1 + 2 * z_loss * logsumexp) * scale)[:, None]
    is_label = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    return nll, total, torch.where(is_label, grad - scale[:, None], grad).to(logits.dtype)


def _logit_gradients_in_place(
    logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same, writing over the logits: the fastest without a compiler."""
    dtype = logits.dtype
    logits = logits.float()
    right = logits.gather(1, labels[:, None]).squeeze(1)
    highest = logits.amax(-1)
    powers = logits.sub_(highest[:, None]).exp_()  # in place: the logits are not needed again
    total_power = powers.sum(-1)
    logsumexp = highest + total_power.log()
    nll = logsumexp - right
    total = ((nll + z_loss * logsumexp.square()) * scale).sum()
    # p = powers / total_power
    grad = powers.mul_(((1 + 2 * z_loss * logsumexp) * scale / total_power)[:, None])
    grad.scatter_add_(1, labels[:, None], -scale[:, None])
    return nll, total, grad.to(dtype)


@functools.cache
def _compiled_logit_gradients() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    # the last chunk of a batch has fewer rows, as many as there happen to be
    return torch.compile(logit_gradients, dynamic=True)


class _LinearCrossEntropy(torch.autograd.Function):
    """Σ weight·(-log p(label)) + z_loss·weight·logsumexp², gradients computed while the logits are at
    hand."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, weights, z_loss, dtype, compiled, wanted):
        wants_hidden, wants_weight = wanted
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        nll = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        states = hidden.to(dtype)
        head = weight.to(dtype)
        grad_hidden = torch.empty_like(states) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        gradients = _compiled_logit_gradients() if compiled else _logit_gradients_in_place
        rows = chunk_rows(weight.shape[0], hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, hidden.shape[0], rows):
                part = slice(start, start + rows)
                nll[part], loss, grad = gradients(
                    states[part] @ head.t(), labels[part], weights[part], z_loss
                )
                total += loss
                if grad_hidden is not None:
                    torch.mm(grad, head, out=grad_hidden[part])
                if grad_weight is not None:
                    _add_product(grad_weight, grad.t(), states[part])
        ctx.grads = cast_gradient(grad_hidden, hidden.dtype), cast_gradient(grad_weight, weight.dtype)
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx, grad_total, _):
        if ctx.grads is None:
            raise RuntimeError(
                "linear_cross_entropy can be differentiated once: its gradients are computed with it and "
                "then given away"
            )
        grads = [None if grad is None else grad.mul_(grad_total) for grad in ctx.grads]
        ctx.grads = None
        return *grads, None, None, None, None, None, None


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    z_loss: float = 0.0,
    compiled: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross entropy of a linear head, with optional z-loss (PaLM, Chowdhery et al. 2022, §5), in
    chunks.

    Under autocast the products are made in its type, the softmax and the sum of the head's gradient in
    float32.

    A gradient is computed only for what requires one.

    Args:
        hidden: (N, d) states, one for each predicted token; drop ignored ones before the call.
        weight: (V, d) head.
        labels: (N,) int64.
        weights: (N,) float32 weight per token, all one when absent.
        z_loss: coefficient of logsumexp², which keeps logits from drifting.
        compiled: let a compiler join the passes over the logits. For accelerators: a dozen passes become two.

    Returns:
        the loss to differentiate, a sum over tokens, and each token's plain negative log likelihood in nats,
        (N,); float32.
    """
    if weights is None:
        weights = torch.ones(labels.shape[0], dtype=torch.float32, device=hidden.device)
    count = len(hidden)
    hidden, labels, weights = _in_blocks(hidden, labels, weights)
    wanted = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in (hidden, weight))
    loss, nll = _LinearCrossEntropy.apply(
        hidden, weight, labels, weights, z_loss, _product_type(hidden), compiled, wanted
    )
    return loss, nll[:count]


class _TokenLogProbs(torch.autograd.Function):
    """log p(label) per token; the logits are computed again in backward instead of being kept."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, temperature, dtype):
        states = hidden.to(dtype)
        head = weight.to(dtype)
        result = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        rows = chunk_rows(weight.shape[0], hidden.device)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = (states[part] @ head.t()).float() / temperature
            result[part] = logits.gather(1, labels[part, None]).squeeze(1) - logits.logsumexp(-1)
        ctx.save_for_backward(hidden, weight, labels)
        ctx.temperature = temperature
        ctx.dtype = dtype
        return result

    @staticmethod
    def backward(ctx, grad_output):
        hidden, weight, labels = ctx.saved_tensors
        states = hidden.to(ctx.dtype)
        head = weight.to(ctx.dtype)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(states) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        rows = chunk_rows(weight.shape[0], hidden.device)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            scale = grad_output[part, None] / ctx.temperature
            grad = torch.softmax((states[part] @ head.t()).float() / ctx.temperature, dim=-1).mul_(-scale)
            grad.scatter_add_(1, labels[part, None], scale)
            grad = grad.to(ctx.dtype)
            if grad_hidden is not None:
                torch.mm(grad, head, out=grad_hidden[part])
            if grad_weight is not None:
                _add_product(grad_weight, grad.t(), states[part])
        return (
            cast_gradient(grad_hidden, hidden.dtype),
            cast_gradient(grad_weight, weight.dtype),
            None,
            None,
            None,
        )


def token_log_probs(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """log p(label) of each token under softmax(hidden·weightᵀ / temperature), differentiable, in chunks.

    Args:
        hidden: (N, d); weight: (V, d); labels: (N,) int64.

    Returns:
        (N,) float32, in nats.
    """
    count = len(hidden)
    hidden, labels = _in_blocks(hidden, labels)
    return _TokenLogProbs.apply(hidden, weight, labels, temperature, _product_type(hidden))[:count]


# ------------------------------------------------------------------ any projection: a module that is more
# than its weight


def chunked_cross_entropy(
    project: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`linear_cross_entropy` with any projection to the vocabulary; a chunk's logits are computed again in
    backward.

    Args:
        project: (n, d) → (n, V).
    """
    if weights is None:
        weights = torch.ones(labels.shape[0], dtype=torch.float32, device=hidden.device)

    def of_chunk(
        states: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = project(states).float()
        logsumexp = logits.logsumexp(-1)
        nll = logsumexp - logits.gather(1, labels[:, None]).squeeze(1)
        return ((nll + z_loss * logsumexp.square()) * weights).sum(), nll

    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    nlls = [total.new_empty(0)]
    rows = chunk_rows(vocab_size, hidden.device)
    for start in range(0, hidden.shape[0], rows):
        part = slice(start, start + rows)
        loss, nll = recomputed(of_chunk, hidden[part], labels[part], weights[part])
        total = total + loss
        nlls.append(nll.detach())
    return total, torch.cat(nlls)


def chunked_token_log_probs(
    project: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """`token_log_probs` with any projection to the vocabulary; a chunk's logits are computed again in
    backward.

    Args:
        project: (n, d) → (n, V).
    """

    def of_chunk(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = project(states).float() / temperature
        return logits.gather(1, labels[:, None]).squeeze(1) - logits.logsumexp(-1)

    rows = chunk_rows(vocab_size, hidden.device)
    parts = [torch.zeros(0, dtype=torch.float32, device=hidden.device)]
    for start in range(0, hidden.shape[0], rows):
        parts.append(recomputed(of_chunk, hidden[start : start + rows], labels[start : start + rows]))
    return torch.cat(parts)


def recomputed(function: Callable[..., Any], *inputs: torch.Tensor) -> Any:
    """The function's value, of which the backward pass keeps the inputs alone."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)
