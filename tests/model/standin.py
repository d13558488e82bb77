"""torch's varlen operator on a CPU: its own front and autograd formula over kernels of ours, document by
document. No more than a simulation."""

from __future__ import annotations

import functools

import torch
from torch.nn.attention import varlen

from hanlin.model.attention.reference import attend

HALVES = (torch.bfloat16, torch.float16)


def _one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return attend(*(x.transpose(0, 1)[None] for x in (q, k, v)), None)[0].transpose(0, 1)


def _documents(starts: torch.Tensor, longest: int, tokens: int):
    assert starts[0] == 0 and starts[-1] == tokens, "tokens behind the last bound"
    for begin, end in zip(starts.tolist(), starts[1:].tolist(), strict=False):
        assert end - begin <= longest
        if begin < end:
            yield slice(begin, end)


def _forward(
    q,
    k,
    v,
    starts,
    same_starts,
    longest,
    same_longest,
    is_causal=False,
    scale=None,
    window_size=None,
    enable_gqa=False,
    *rest,
):
    if q.dtype not in HALVES:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    assert (
        torch.equal(starts, same_starts)
        and longest == same_longest
        and is_causal
        and q.dtype == k.dtype == v.dtype
    )
    out = torch.empty_like(q)
    for part in _documents(starts, longest, len(q)):
        out[part] = _one(q[part], k[part], v[part])
    return out, torch.zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)


def _backward(grad, q, k, v, out, lse, starts, same_starts, longest, *rest):
    grads = [torch.empty_like(x) for x in (q, k, v)]
    for part in _documents(starts, longest, len(q)):
        for whole, found in zip(
            grads, _one_backward(*(x[part].transpose(0, 1).float() for x in (grad, q, k, v))), strict=True
        ):
            whole[part] = found.transpose(0, 1).to(whole.dtype)
    return tuple(grads)


def _one_backward(grad, q, k, v):
    """Gradients of softmax(q·kᵀ/√d)·v, all (H, T, D), written out: autograd is out of reach within a
    kernel."""
    groups, scale = len(q) // len(k), q.shape[-1] ** -0.5
    heads = [x.repeat_interleave(groups, 0) for x in (k, v)]
    shares = torch.softmax(
        (q @ heads[0].mT * scale).masked_fill(
            torch.ones(q.shape[1], q.shape[1]).triu(1).bool(), float("-inf")
        ),
        -1,
    )
    inner = grad @ heads[1].mT
    scores = shares * (inner - (inner * shares).sum(-1, keepdim=True)) * scale
    together = lambda x: x.view(len(k), groups, *x.shape[1:]).sum(1)  # noqa: E731
    return scores @ heads[0], together(scores.mT @ q), together(shares.mT @ grad)


@functools.cache
def varlen_on_cpu() -> None:
    """Give the operator kernels for the CPU, in half precision as on CUDA."""
    varlen._varlen_attn.register_kernel("cpu")(_forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(_backward)
