"""What the layers of one forward pass share."""

from __future__ import annotations

import torch

from hanlin.model.attention.backends import PackedShape, backend_for
from hanlin.model.attention.reference import attend, cache_mask
from hanlin.model.kv_cache import KVCache


class ForwardContext:
    """What every layer of one forward pass shares: positions, rotation angles, what a token may look at, cache.

    Attributes:
        recompute_qk: wide layers make normed and turned queries and keys again in the backward pass: what they are made of is kept as well.
    """

    def __init__(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor | None,
        doc_ids: torch.Tensor | None,
        cache: KVCache | None,
        dtype: torch.dtype,
        doc_starts: torch.Tensor | None = None,
    ):
        batch, length = ids.shape
        steps = torch.arange(length, device=ids.device)
        self.cache, self.mask, self.recompute_qk = cache, None, False
        self.cos = self.sin = torch.empty(0)
        if cache is not None:
            self.positions = cache.lengths[:, None] + steps
            self.filled = int(self.positions.max()) + 1
            self.mask = cache_mask(self.positions, self.filled, dtype)
            return
        self.positions = steps.expand(batch, length) if positions is None else positions
        self.backend = backend_for(ids.device, dtype)
        self.mask = self.backend.prepare(PackedShape(doc_ids, doc_starts, batch, length, ids.device, dtype))

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention of this pass's queries (B, T, H, D) to all that they may look at; (B, T, H, D), contiguous."""
        if self.cache is None:
            return self.backend.run(q, k, v, self.mask)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        self.cache.update(layer, k, v, self.positions)
        k, v = self.cache.keys[layer][:, :, : self.filled], self.cache.values[layer][:, :, : self.filled]
        return attend(q, k, v, self.mask).transpose(1, 2).contiguous()
