"""Causal attention behind one function; documents packed in one row never see each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def packed_mask(doc_ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Additive mask (B, 1, T, T): 0 where key j ≤ query i lies in the same document, -inf elsewhere.

    Args:
        doc_ids: (B, T) int, equal within a document. Padding is a document of its own.
    """
    length = doc_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=doc_ids.device).tril()
    allowed = (doc_ids[:, :, None] == doc_ids[:, None, :]) & causal
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, float("-inf"))[:, None]


def cache_mask(positions: torch.Tensor, filled: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Additive mask (B, 1, T, filled) for queries at absolute `positions` (B, T) over cached keys 0 … filled-1."""
    keys = torch.arange(filled, device=positions.device)
    hidden = keys[None, None, :] > positions[:, :, None]
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, float("-inf"))[:, None]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Scaled dot-product attention with grouped key-value heads.

    Args:
        q: (B, H, T, D).
        k, v: (B, Hkv, S, D) with H a multiple of Hkv.
        mask: additive (B, 1, T, S), or None for plain causal attention with S = T.

    Returns:
        (B, H, T, D).
    """
    batch, heads, length, dim = q.shape
    groups = heads // k.shape[1]
    if groups > 1 and length == 1:
        # One query token: fold the group into query rows, so that keys and values are read once and never copied.
        folded = q.view(batch, k.shape[1], groups, dim)
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask).view(batch, heads, 1, dim)
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and length > 1)
