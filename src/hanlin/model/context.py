"""What the layers of one forward pass share: what they are told of the tokens, and what they have to say
beside their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import torch

from hanlin.model.attention.backends import BACKENDS, PackedShape, backend_for
from hanlin.model.attention.reference import attend, branch_mask, cache_mask
from hanlin.model.config import ModelConfig
from hanlin.model.kv_cache import KVCache


class AttentionInputs(TypedDict, total=False):
    """What a forward pass may be told beside its token ids, by keyword; each may be left out, or None.

    positions: (B, T) int64, position of each token in its document; 0 … T-1 when absent. Ignored with a
        cache.
    doc_ids: (B, T) for packed rows: tokens attend only within equal ids.
    doc_starts: `common.documents.document_starts` of doc_ids, which spares some attention back ends a wait
        for the device.
    cache: keys and values of earlier tokens; see `KVCache`.
    branches: (B, T) int64, texts that begin alike in one row: a token of branch n > 0 sees what it could
        see without this of branch 0, the trunk, and of its own branch. Give their positions, which run on
        from the trunk's in each. Not with a cache.
    inputs_embeds: (B, T, hidden_size), read in place of the embeddings of the ids.
    """

    positions: torch.Tensor | None
    doc_ids: torch.Tensor | None
    doc_starts: torch.Tensor | None
    cache: KVCache | None
    branches: torch.Tensor | None
    inputs_embeds: torch.Tensor | None


class ForwardContext:
    """One forward pass: positions, rotation angles, what a token may look at, the cache; and what layers add
    to the loss.

    Args:
        ids: (B, T) int64.
        dtype: of queries, keys and values.
        config: of the model, whose heads attention is for.

    Attributes:
        cos, sin: (B, T, 1, head_dim/2), rotation angles of the positions, where the family has them.
        recompute_qk: wide layers make normed and turned queries and keys again in the backward pass, and
            keep what they are made of.
        aux_losses: what layers add to the loss (a router's balance), each 0-d and a mean over the pass's
            tokens, its coefficient in it.
    """

    def __init__(
        self,
        ids: torch.Tensor,
        dtype: torch.dtype,
        config: ModelConfig,
        *,
        positions: torch.Tensor | None = None,
        doc_ids: torch.Tensor | None = None,
        doc_starts: torch.Tensor | None = None,
        cache: KVCache | None = None,
        branches: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ):
        batch, length = ids.shape
        steps = torch.arange(length, device=ids.device)
        self.cache = cache
        self.inputs_embeds = inputs_embeds
        self.cos = self.sin = torch.empty(0)
        self.recompute_qk = False
        self.aux_losses: list[torch.Tensor] = []
        self._metrics: dict[str, list[torch.Tensor]] = {}
        self._ended = False
        if cache is not None:
            self.positions = cache.lengths[:, None] + steps
            self.filled = (
                cache.longest + length
            )  # known on the host: to ask the device would be to wait for it
            self.mask = cache_mask(self.positions, self.filled, dtype)
            return
        self.positions = steps.expand(batch, length) if positions is None else positions
        if branches is not None:
            self.backend = BACKENDS["masked_sdpa"]
            self.mask = branch_mask(branches, doc_ids, dtype)
            return
        groups = config.num_attention_heads // config.num_key_value_heads
        self.backend = backend_for(ids.device, dtype, config.head_dim, groups)
        self.mask = self.backend.prepare(PackedShape(doc_ids, doc_starts, batch, length, ids.device, dtype))

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention of this pass's queries (B, T, H, D) to all that they may look at; (B, T, H, D),
        contiguous."""
        if self.cache is None:
            return self.backend.run(q, k, v, self.mask)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        self.cache.update(layer, k, v, self.positions)
        k = self.cache.keys[layer][:, :, : self.filled]
        v = self.cache.values[layer][:, :, : self.filled]
        return attend(q, k, v, self.mask).transpose(1, 2).contiguous()

    # ---------------------------------------------------------------- what layers say

    def add_aux_loss(self, loss: torch.Tensor) -> None:
        """Called by a layer: a term of the loss, 0-d, a mean over the pass's tokens, times its
        coefficient."""
        if not self._ended:
            self.aux_losses.append(loss)

    def add_metric(self, name: str, value: torch.Tensor) -> None:
        """Called by a layer: a figure to log, 0-d; of several layers the mean is logged."""
        if not self._ended:
            self._metrics.setdefault(name, []).append(value.detach())

    def end(self) -> None:
        """The decoder is through: what layers say from now on, they say again, as they are recomputed in the
        backward pass."""
        self._ended = True

    @property
    def metrics(self) -> dict[str, torch.Tensor]:
        """What layers have to log, by name; `aux_loss` is the sum of the losses they added."""
        found = {name: torch.stack(values).mean() for name, values in self._metrics.items()}
        if self.aux_losses:
            found["aux_loss"] = torch.stack(self.aux_losses).sum().detach()
        return found

    def with_aux(
        self, loss: torch.Tensor, metrics: Mapping[str, float | torch.Tensor], items: float
    ) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """An objective's loss and metrics with what the layers of its forward pass added.

        Args:
            loss: a sum over `items` tokens, pairs or answers; so the means that layers gave are weighted
                with their number.
            metrics: summed metrics, as an objective returns them.
        """
        if self.aux_losses:
            loss = loss + items * torch.stack(self.aux_losses).sum()
        for name, value in self.metrics.items():
            metrics = {**metrics, name: value * items, f"{name}_count": items}
        return loss, metrics
