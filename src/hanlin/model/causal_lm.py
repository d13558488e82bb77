"""Whole models: a decoder with a head over the vocabulary, or with one score per sequence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from hanlin.common.errors import ConfigError
from hanlin.model.config import ModelConfig
from hanlin.model.context import ForwardContext
from hanlin.model.decoder import Decoder
from hanlin.model.head import Head
from hanlin.model.kv_cache import KVCache
from hanlin.model.linear import Linear


class _Model(nn.Module):
    """A trunk that may be compiled, and something on top of it.

    Attributes:
        recompute_qk: whether wide layers may make queries and keys again in the backward pass; they do on a CPU alone.
    """

    recompute_qk = True

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self._compiled: Callable[..., torch.Tensor] | None = None
        self._compiled_blocks = False
        self._decoder = config.spec.hf.decoder
        setattr(self, self._decoder, config.spec.decoder(config))

    @property
    def checkpoint_activations(self) -> bool:
        """Whether each block is computed again in the backward pass instead of being kept (Chen et al. 2016): a third more work, far less memory."""
        return self.decoder.checkpoints

    @checkpoint_activations.setter
    def checkpoint_activations(self, wanted: bool) -> None:
        self.decoder.checkpoints = wanted

    @property
    def decoder(self) -> Decoder:
        """Embedding, blocks and final norm, whatever its family calls it."""
        return getattr(self, self._decoder)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.decoder.final_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of its norms and so of its hidden states; matrices may be stored in another."""
        return self.decoder.final_norm.weight.dtype

    @property
    def product_dtype(self) -> torch.dtype:
        """What queries, keys and values are in: autocast's type where it is on."""
        weight = self.decoder.final_norm.weight
        kind = weight.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype

    @property
    def compiled(self) -> bool:
        """Whether training runs a compiled trunk."""
        return self._compiled is not None or self._compiled_blocks

    def compile_decoder(self, by_block: bool = False) -> None:
        """Compile the blocks for whole rows (training); passes with a cache stay as they are. Names and weights do not change.

        Embeddings stay outside: the compiler adds up their gradients in no fixed order, and a run would not have its bits again.
        Each shape is compiled by itself, since what came before must not change a result.

        Args:
            by_block: compile what a block does between the hooks of `fully_shard`, which bring its weights together and scatter
                them; one graph serves all blocks. As torchtitan does (`torchtitan/distributed/compile.py`). Passes without
                gradients are compiled too then.
        """
        if not by_block:
            self._compiled = torch.compile(self.decoder.run, dynamic=False)
            return
        self._compiled_blocks = True
        for block in self.decoder.blocks:
            block.compile(dynamic=False)

    def run_decoder(self, ids: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Hidden states (B, T, hidden_size)."""
        compiled = self._compiled is not None and context.cache is None and torch.is_grad_enabled()
        context.recompute_qk = (
            self.recompute_qk
            and ids.is_cpu
            and torch.is_grad_enabled()
            and context.cache is None
            and not self.compiled
            and not self.checkpoint_activations
        )
        run = self._compiled if compiled else self.decoder.run
        return run(self.decoder.embed(ids, context), context)  # type: ignore[misc]


class CausalLM(_Model):
    """A language model. `forward` gives logits; `hidden` stops before the head, for losses that never build all logits."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)

    @property
    def head(self) -> Head:
        """From hidden states to the vocabulary: logits and the losses that never build all of them."""
        tied = self.config.tie_word_embeddings
        return Head(
            self.decoder.embedding if tied else self.lm_head,
            self.config.vocab_size,
            tied=tied,
            compiled=self.compiled,
        )

    def hidden(
        self,
        ids: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        doc_ids: torch.Tensor | None = None,
        doc_starts: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Hidden states after the final norm.

        Args:
            ids: (B, T) int64.
            positions: (B, T) position of each token in its document; 0 … T-1 when absent. Ignored with a cache.
            doc_ids: (B, T) for packed rows: tokens attend only within equal ids.
            doc_starts: `common.documents.document_starts` of doc_ids, which spares some attention back ends a wait for the device.
            cache: keys and values of earlier tokens; see `KVCache`.

        Returns:
            (B, T, hidden_size).
        """
        return self.run_decoder(
            ids, ForwardContext(ids, positions, doc_ids, cache, self.product_dtype, doc_starts)
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of every vocabulary entry, (…, vocab_size)."""
        return self.head.logits(hidden)

    def forward(
        self,
        ids: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        doc_ids: torch.Tensor | None = None,
        doc_starts: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Logits (B, T, vocab_size) for token ids (B, T); arguments as in `hidden`."""
        return self.logits(
            self.hidden(ids, positions=positions, doc_ids=doc_ids, doc_starts=doc_starts, cache=cache)
        )


class RewardModel(_Model):
    """A trunk with one score per sequence, stock `…ForSequenceClassification` with a single label (names `model.`, `score.`)."""

    def __init__(self, config: ModelConfig):
        if config.spec.hf.scoring_architecture is None:
            raise ConfigError("a reward model can't have family {family}", family=config.family)
        super().__init__(config)
        self.score = Linear(config.hidden_size, 1)

    def forward(
        self,
        ids: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        doc_ids: torch.Tensor | None = None,
        doc_starts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Score of the prefix ending at each token, (B, T); read it at a sequence's last token."""
        hidden = self.run_decoder(
            ids, ForwardContext(ids, positions, doc_ids, None, self.product_dtype, doc_starts)
        )
        return self.score(hidden).squeeze(-1)
