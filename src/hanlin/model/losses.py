"""Losses over a vocabulary that never build the logits of a whole batch."""

from __future__ import annotations

import torch

CHUNK_ELEMENTS = 1 << 22  # logits held at once: 16 MiB in float32, half of a desktop CPU's cache
CHUNK_ROWS = 256  # at least: the gradient of the head is a product over a chunk's rows, a third as fast over 163 as over 512


def _chunk_rows(vocab_size: int) -> int:
    return max(CHUNK_ROWS, CHUNK_ELEMENTS // vocab_size)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, within one product where the types allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class _LinearCrossEntropy(torch.autograd.Function):
    """Σ weight·(-log p(label)) + z_loss·weight·logsumexp², gradients computed while the logits are at hand."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, weights, z_loss):
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        nll = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        rows = _chunk_rows(weight.shape[0])
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = (hidden[part] @ weight.t()).float()  # (n, V)
            right, scale = logits.gather(1, labels[part, None]).squeeze(1), weights[part]
            highest = logits.amax(-1)
            powers = logits.sub_(highest[:, None]).exp_()  # in place: the logits are not needed again
            total_power = powers.sum(-1)
            logsumexp = highest + total_power.log()
            nll[part] = logsumexp - right
            total += ((nll[part] + z_loss * logsumexp.square()) * scale).sum()
            # d/dlogits = p·(1 + 2·z·logsumexp) - onehot, with p = powers / total_power
            grad = powers.mul_(((1 + 2 * z_loss * logsumexp) * scale / total_power)[:, None])
            grad.scatter_add_(1, labels[part, None], -scale[:, None])
            grad = grad.to(hidden.dtype)
            torch.mm(grad, weight, out=grad_hidden[part])
            _add_product(grad_weight, grad.t(), hidden[part])
        ctx.grads = grad_hidden, grad_weight.to(weight.dtype)
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx, grad_total, _):
        if ctx.grads is None:
            raise RuntimeError("linear_cross_entropy can be differentiated once: its gradients are computed with it and then given away")
        grad_hidden, grad_weight = ctx.grads
        ctx.grads = None
        return grad_hidden.mul_(grad_total), grad_weight.mul_(grad_total), None, None, None


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, weights: torch.Tensor | None = None, z_loss: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross entropy of a linear head, with optional z-loss (PaLM, Chowdhery et al. 2022, §5), in chunks.

    Args:
        hidden: (N, d) states, one for each predicted token; drop ignored ones before the call.
        weight: (V, d) head.
        labels: (N,) int64.
        weights: (N,) float32 weight per token, all one when absent.
        z_loss: coefficient of logsumexp², which keeps logits from drifting.

    Returns:
        the loss to differentiate, a sum over tokens, and each token's plain negative log likelihood in nats, (N,); float32.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        weight = weight.to(hidden.dtype)
    if weights is None:
        weights = torch.ones(labels.shape[0], dtype=torch.float32, device=hidden.device)
    return _LinearCrossEntropy.apply(hidden, weight, labels, weights, z_loss)


class _TokenLogProbs(torch.autograd.Function):
    """log p(label) per token; the logits are computed again in backward instead of being kept."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, temperature):
        result = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        rows = _chunk_rows(weight.shape[0])
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = (hidden[part] @ weight.t()).float() / temperature
            result[part] = logits.gather(1, labels[part, None]).squeeze(1) - logits.logsumexp(-1)
        ctx.save_for_backward(hidden, weight, labels)
        ctx.temperature = temperature
        return result

    @staticmethod
    def backward(ctx, grad_output):
        hidden, weight, labels = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        rows = _chunk_rows(weight.shape[0])
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            scale = grad_output[part, None] / ctx.temperature
            grad = torch.softmax((hidden[part] @ weight.t()).float() / ctx.temperature, dim=-1).mul_(-scale)
            grad.scatter_add_(1, labels[part, None], scale)
            grad = grad.to(hidden.dtype)
            torch.mm(grad, weight, out=grad_hidden[part])
            _add_product(grad_weight, grad.t(), hidden[part])
        return grad_hidden, grad_weight.to(weight.dtype), None, None


def token_log_probs(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """log p(label) of each token under softmax(hidden·weightᵀ / temperature), differentiable, in chunks.

    Args:
        hidden: (N, d); weight: (V, d); labels: (N,) int64.

    Returns:
        (N,) float32, in nats.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        weight = weight.to(hidden.dtype)
    return _TokenLogProbs.apply(hidden, weight, labels, temperature)
