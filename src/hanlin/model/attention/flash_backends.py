"""Attention within documents by kernels of accelerators, which skip what a mask would throw away:
FlexAttention and varlen.

Both need no mask of (T, T) and ask nothing of the device. `attention.attend` with `packed_mask` is the
reference they are held against; which one a run uses is chosen elsewhere, after each has been compared with
it on the device at hand.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.attention.varlen import varlen_attn

BLOCK = 128  # FlexAttention's own; a block of queries against a block of keys is the least it skips


def _segments(doc_ids: torch.Tensor) -> torch.Tensor:
    """Documents of each row numbered from zero in their order, (B, T) int64."""
    steps = torch.zeros_like(doc_ids, dtype=torch.int64)
    steps[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    return steps.cumsum(1)


# ------------------------------------------------------------------ FlexAttention


def block_mask(doc_ids: torch.Tensor) -> Any:
    """The `BlockMask` of causal attention within documents, from the first and last document of each block.

    `create_block_mask` would evaluate all (T, T) places; this touches (T/128)² blocks, and no size depends
    on the data, so the host does not wait and nothing is compiled again.

    Args:
        doc_ids: (B, T) int, equal within a document, whose tokens are next to each other.
    """
    from torch.nn.attention.flex_attention import BlockMask

    rows, length = doc_ids.shape
    blocks = math.ceil(length / BLOCK)
    segments = _segments(doc_ids)
    padded = (
        torch.nn.functional.pad(segments[:, None].float(), (0, blocks * BLOCK - length), mode="replicate")[
            :, 0
        ]
        .long()
        .view(rows, blocks, BLOCK)
    )
    first = padded[..., 0]  # (B, blocks)
    last = padded[..., -1]
    order = torch.arange(blocks, device=doc_ids.device)
    earlier = order[:, None] > order  # queries, keys
    same = order[:, None] == order
    touches = (last[:, None, :] >= first[:, :, None]) & (earlier | same)
    # one document from the keys' first to the queries' last
    inside = touches & earlier & (first[:, None, :] == last[:, :, None])
    if length % BLOCK:
        inside[:, -1] = False  # the last queries are fewer than a block: each is looked at

    def allowed(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (segments[b, q] == segments[b, k]) & (q >= k)

    def listed(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts = chosen.sum(-1, dtype=torch.int32)
        return counts[:, None], torch.argsort(chosen.int(), dim=-1, descending=True, stable=True).int()[
            :, None
        ]

    return BlockMask.from_kv_blocks(
        *listed(touches & ~inside),
        *listed(inside),
        BLOCK_SIZE=BLOCK,
        mask_mod=allowed,
        seq_lengths=(length, length),
    )


@functools.cache
def _compiled_flex() -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flex_document_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any) -> torch.Tensor:
    """Causal attention within documents by FlexAttention (Dong et al. 2024). It has no backward pass on a
    CPU.

    Args:
        q: (B, T, H, D); k, v: (B, T, Hkv, D) with H a multiple of Hkv.
        mask: `block_mask` of the rows.

    Returns:
        (B, T, H, D), contiguous, in v's type.
    """
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = (x.transpose(1, 2).to(v.dtype) for x in (q, k, v))  # autocast does not know this operator
    attention = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
    return (
        attention(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2).contiguous()
    )


# ------------------------------------------------------------------ varlen


class Bounds(NamedTuple):
    """Where the documents of a flattened batch begin: `common.documents.document_starts`, and an upper bound
    of their tokens."""

    starts: torch.Tensor
    longest: int


_PARAMETERS = inspect.signature(varlen_attn).parameters
# another word since torch 2.11
_CAUSAL: dict[str, Any] = {"is_causal": True} if "is_causal" in _PARAMETERS else {"window_size": (-1, 0)}
_KNOWS_GROUPS = "enable_gqa" in _PARAMETERS


def varlen_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    """Causal attention within documents by FlashAttention's variable lengths (Dao 2023). CUDA alone, in half
    precision.

    Tokens behind the last bound would have gradients of NaN (pytorch#176793); ours end with the rows.

    Args:
        q: (B, T, H, D); k, v: (B, T, Hkv, D) with H a multiple of Hkv.
        bounds: of the rows, on their device.

    Returns:
        (B, T, H, D), contiguous, in v's type.
    """
    group = q.shape[2] // k.shape[2]
    options = _CAUSAL
    if group > 1 and _KNOWS_GROUPS:
        options = {**_CAUSAL, "enable_gqa": True}
    elif group > 1:
        k = k.repeat_interleave(group, dim=2)
        v = v.repeat_interleave(group, dim=2)
    flat = [x.flatten(0, 1).to(v.dtype) for x in (q, k, v)]
    starts = bounds.starts
    longest = bounds.longest
    mixed: Any = varlen_attn(*flat, starts, starts, longest, longest, **options)  # type: ignore[call-arg]
    return mixed.view(q.shape)
