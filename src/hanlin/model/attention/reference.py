"""Causal attention behind one function; documents packed in one row never see each other.

On a CPU whole rows go through `document_attention`, which multiplies only what a document may see; elsewhere,
and while generating with a cache, through PyTorch's `scaled_dot_product_attention`. `backends` says which
where, and checks it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F

TILE = 128  # queries multiplied at once: 64 … 128 are equally fast here, 256 a fifth slower (32 MiB of cache)


class Tile(NamedTuple):
    """Queries `first … last-1` of the flat batch, which look at keys `start … last-1`.

    `mask` (last-first, last-first) is added to the scores among the tile's own tokens; keys before it are
    all seen.
    """

    start: int
    first: int
    last: int
    mask: torch.Tensor


@functools.lru_cache(maxsize=8)
def _causal(size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((size, size), float("-inf"), dtype=dtype).triu(1)


def tiles_of(doc_ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[Tile]:
    """Cut packed rows into tiles: long documents into equal parts, short neighbours together.

    Args:
        doc_ids: (B, T) int, equal within a document; rows never share one.
    """
    rows, length = doc_ids.shape
    flat = doc_ids.reshape(-1)
    begins = torch.ones(flat.shape[0], dtype=torch.bool)
    torch.ne(flat[1:], flat[:-1], out=begins[1:])
    begins[::length] = True
    edges = [*torch.nonzero(begins).squeeze(1).tolist(), rows * length]
    tiles = []
    index = 0
    while index < len(edges) - 1:
        start = edges[index]
        end = edges[index + 1]
        index += 1
        if end - start > TILE:
            parts = -(-(end - start) // TILE)
            size = -(-(end - start) // parts)
            for first in range(start, end, size):
                last = min(first + size, end)
                tiles.append(Tile(start, first, last, _causal(last - first, dtype)))
            continue
        alone = True
        while index < len(edges) - 1 and edges[index + 1] - start <= TILE:
            end = edges[index + 1]
            index += 1
            alone = False
        mask = _causal(end - start, dtype)
        if not alone:
            document = begins[start:end].cumsum(0)
            mask = mask.masked_fill(document[:, None] != document[None, :], float("-inf"))
        tiles.append(Tile(start, start, end, mask))
    return tiles


# Of the last two batches, found again by their documents: every layer asks for the same, forward and
# backward, of whichever model. Replaced as a whole and never changed, since a thread may be looking while
# another writes.
_last_tiles: tuple[tuple[torch.Tensor, torch.dtype, list[Tile]], ...] = ()


def _tiles(doc_ids: torch.Tensor, dtype: torch.dtype) -> list[Tile]:
    global _last_tiles
    known = _last_tiles
    for seen, kind, tiles in known:
        if kind == dtype and torch.equal(seen, doc_ids):
            return tiles
    tiles = tiles_of(doc_ids, dtype)
    _last_tiles = ((doc_ids.clone(), dtype, tiles), *known[:1])
    return tiles


def _fold(x: torch.Tensor, tile: Tile, heads: int) -> torch.Tensor:
    """A tile's rows of (N, H, D) as (Hkv, group·rows, D): the queries of one key-value head behind one
    another."""
    part = x[tile.first : tile.last]
    size = part.shape[0]
    group = x.shape[1] // heads
    return part.view(size, heads, group, -1).permute(1, 2, 0, 3).reshape(heads, group * size, -1)


def _unfold(x: torch.Tensor, out: torch.Tensor, tile: Tile, heads: int) -> None:
    """Put (Hkv, group·rows, D) back into a tile's rows of (N, H, D)."""
    size = tile.last - tile.first
    group = out.shape[1] // heads
    out[tile.first : tile.last].view(size, heads, group, -1).copy_(
        x.view(heads, group, size, -1).permute(2, 0, 1, 3)
    )


def _probabilities(queries: torch.Tensor, keys: torch.Tensor, tile: Tile) -> torch.Tensor:
    """softmax(queries·keysᵀ + mask), (Hkv, group·rows, keys), from queries already scaled."""
    scores = torch.bmm(queries, keys[:, tile.start : tile.last].mT)
    size = tile.last - tile.first
    scores.view(keys.shape[0], -1, size, tile.last - tile.start)[..., tile.first - tile.start :].add_(
        tile.mask
    )
    return torch.softmax(scores, -1)


def _flat(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scaled queries (N, H, D), keys and values (Hkv, N, D), in float32 at least.

    Tiles are of all sizes, and oneDNN would make a bfloat16 kernel for each (measured here, with documents
    of 60 tokens: 12.6 instead of 15.4 thousand tokens a second at 1.3M parameters, 1,009 instead of 608 MB).
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    q_flat, k_flat, v_flat = (x.flatten(0, 1).to(wide) for x in (q, k, v))
    return q_flat * q.shape[-1] ** -0.5, k_flat.transpose(0, 1), v_flat.transpose(0, 1)


@torch.library.custom_op("hanlin::document_attention", mutates_args=())
def document_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, doc_ids: torch.Tensor
) -> torch.Tensor:
    """Causal attention within documents, tile by tile, without the products that a mask would throw away.

    A document of n tokens costs n² / 2 products, whatever else its row holds. Probabilities are computed
    again in backward. Measured here (two cores, forward and backward) against
    `scaled_dot_product_attention`: 4 rows of 512 with 8 heads of 64, 50 → 36 ms in one document each, 52 →
    25 ms in documents of 150 tokens and a mask.

    Args:
        q: (B, T, H, D); k, v: (B, T, Hkv, D) with H a multiple of Hkv. On a CPU.
        doc_ids: (B, T) int, equal within a document; rows never share one.

    Returns:
        (B, T, H, D), contiguous.
    """
    q_flat, k_flat, v_flat = _flat(q, k, v)
    out = torch.empty(q.shape, dtype=q.dtype)
    flat = out.view(q_flat.shape)
    heads = k.shape[2]
    with torch.autocast("cpu", enabled=False):
        for tile in _tiles(doc_ids, q_flat.dtype):
            shares = _probabilities(_fold(q_flat, tile, heads), k_flat, tile)
            _unfold(torch.bmm(shares, v_flat[:, tile.start : tile.last]), flat, tile, heads)
    return out


@torch.library.custom_op("hanlin::document_attention_backward", mutates_args=())
def _document_attention_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, doc_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q_flat, k_flat, v_flat = _flat(q, k, v)
    wide = q_flat.dtype
    grad_flat = grad.contiguous().flatten(0, 1).to(wide)
    grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=wide) for x in (q, k, v))
    k_out = grad_k.flatten(0, 1).transpose(0, 1)
    v_out = grad_v.flatten(0, 1).transpose(0, 1)
    heads = k.shape[2]
    for tile in _tiles(doc_ids, wide):
        queries = _fold(q_flat, tile, heads)
        above = _fold(grad_flat, tile, heads)
        shares = _probabilities(queries, k_flat, tile)
        seen = slice(tile.start, tile.first)
        own = slice(tile.first, tile.last)
        before = tile.first - tile.start
        grad_shares = torch.bmm(above, v_flat[:, tile.start : tile.last].mT)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_shares, shares, -1, wide)
        for out, part in ((v_out, torch.bmm(shares.mT, above)), (k_out, torch.bmm(grad_scores.mT, queries))):
            out[:, own] = part[:, before:]  # this tile is the first to look at its own tokens
            if before:  # sums over all tiles that look at a token
                out[:, seen] += part[:, :before]
        _unfold(
            torch.bmm(grad_scores, k_flat[:, tile.start : tile.last]), grad_q.view(q_flat.shape), tile, heads
        )
    return grad_q.mul_(q.shape[-1] ** -0.5).to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@document_attention.register_fake
def _(q, k, v, doc_ids):
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@_document_attention_backward.register_fake
def _(grad, q, k, v, doc_ids):
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))


def _remember(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return *_document_attention_backward(grad, *ctx.saved_tensors), None


document_attention.register_autograd(_backward, setup_context=_remember)


def packed_mask(doc_ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Additive mask (B, 1, T, T): 0 where key j ≤ query i lies in the same document, -inf elsewhere.

    Args:
        doc_ids: (B, T) int, equal within a document. Padding is a document of its own.
    """
    length = doc_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=doc_ids.device).tril()
    allowed = (doc_ids[:, :, None] == doc_ids[:, None, :]) & causal
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, float("-inf"))[:, None]


def branch_mask(
    branches: torch.Tensor, doc_ids: torch.Tensor | None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Additive mask (B, 1, T, T): 0 where key j ≤ query i lies in the same document, and in the trunk or in
    the query's own branch; -inf elsewhere.

    Args:
        branches: (B, T) int, 0 for the trunk. doc_ids: (B, T) int, or None for one document a row.
    """
    key, query = branches[:, None, :], branches[:, :, None]
    allowed = (key == 0) | (key == query)
    if doc_ids is not None:
        allowed &= doc_ids[:, None, :] == doc_ids[:, :, None]
    allowed = allowed.tril()
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, float("-inf"))[:, None]


def cache_mask(positions: torch.Tensor, filled: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Additive mask (B, 1, T, filled) for queries at absolute `positions` (B, T) over cached keys 0 …
    filled-1."""
    keys = torch.arange(filled, device=positions.device)
    hidden = keys[None, None, :] > positions[:, :, None]
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, float("-inf"))[:, None]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Scaled dot-product attention with grouped key-value heads.

    Args:
        q: (B, H, T, D).
        k, v: (B, Hkv, S, D), with H a multiple of Hkv.
        mask: additive (B, 1, T, S), or None for plain causal attention with S = T.

    Returns:
        (B, H, T, D).
    """
    batch, heads, length, dim = q.shape
    groups = heads // k.shape[1]
    if groups > 1 and length == 1:
        # One query token: fold the group into query rows, so that keys and values are read once and never
        # copied.
        folded = q.view(batch, k.shape[1], groups, dim)
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask).view(batch, heads, 1, dim)
    if groups > 1:
        k = k.repeat_interleave(groups, dim=1)
        v = v.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and length > 1)
