"""Whole models: a decoder with a head over the vocabulary, or with one score per sequence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from typing_extensions import Unpack

from hanlin.common.errors import ConfigError
from hanlin.model.config import ModelConfig
from hanlin.model.context import AttentionInputs, ForwardContext
from hanlin.model.decoder import Decoder
from hanlin.model.head import Head
from hanlin.model.linear import Linear


class LanguageModel(nn.Module):
    """A decoder that may be compiled; the base of what has something on top of it.

    Attributes:
        recompute_qk: whether wide layers may make queries and keys again in the backward pass; they do on a
            CPU alone.
    """

    recompute_qk = True

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self._compiled: Callable[..., torch.Tensor] | None = None
        self._compiled_blocks = False  # each by itself
        self._decoder = config.spec.hf.decoder
        setattr(self, self._decoder, config.spec.decoder(config))

    @property
    def decoder(self) -> Decoder:
        """Embedding, blocks and final norm, whatever its family calls it."""
        return getattr(self, self._decoder)

    def take_decoder(self, other: LanguageModel) -> None:
        """Compute with another model's decoder, whatever has taken the place of its modules."""
        setattr(self, self._decoder, other.decoder)

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
    def checkpoint_activations(self) -> bool:
        """Whether each block is computed again in the backward pass instead of being kept (Chen et al.
        2016): a third more work, far less memory."""
        return self.decoder.checkpoints

    @checkpoint_activations.setter
    def checkpoint_activations(self, wanted: bool) -> None:
        self.decoder.checkpoints = wanted

    @property
    def compiled(self) -> bool:
        """Whether training runs a compiled decoder."""
        return self._compiled is not None or self._compiled_blocks

    def compile_decoder(self, by_block: bool = False) -> None:
        """Compile the blocks for whole rows (training); passes with a cache stay as they are. Names and
        weights do not change.

        Embeddings stay outside: the compiler adds up their gradients in no fixed order, and a run would not
        have its bits again. Each shape is compiled by itself, since what came before must not change a
        result.

        Args:
            by_block: compile what a block does between the hooks of `fully_shard`, which bring its weights
                together and scatter them; one graph serves all blocks. As torchtitan does
                (`torchtitan/distributed/compile.py`). Passes without gradients are compiled too then.
        """
        if not by_block:
            self._compiled = torch.compile(self.decoder.run, dynamic=False)
            return
        self._compiled_blocks = True
        for block in self.decoder.blocks:
            block.compile(dynamic=False)

    def forget_compiled(self) -> None:
        """Run uncompiled from now on."""
        self._compiled = None
        self._compiled_blocks = False

    def context(self, ids: torch.Tensor, **inputs: Unpack[AttentionInputs]) -> ForwardContext:
        """What one forward pass of these ids (B, T) shares; made by the caller who wants to read what layers
        add to the loss."""
        return ForwardContext(ids, self.product_dtype, self.config, **inputs)

    def hidden(
        self,
        ids: torch.Tensor,
        context: ForwardContext | None = None,
        **inputs: Unpack[AttentionInputs],
    ) -> torch.Tensor:
        """Hidden states after the final norm.

        Args:
            ids: (B, T) int64.
            context: `self.context(ids, …)`, made anew for each pass; else one is made of the `inputs`.
            inputs: see `AttentionInputs`.

        Returns:
            (B, T, hidden_size).
        """
        return self.run_decoder(ids, self.context(ids, **inputs) if context is None else context)

    def run_decoder(self, ids: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Hidden states (B, T, hidden_size), by the compiled decoder where there is one and it serves."""
        trains = torch.is_grad_enabled() and context.cache is None
        context.recompute_qk = (
            self.recompute_qk
            and trains
            and ids.is_cpu
            and not self.compiled
            and not self.checkpoint_activations
        )
        run = self._compiled if trains and self._compiled is not None else self.decoder.run
        hidden = run(self.decoder.embed(ids, context), context)
        context.end()
        return hidden


class CausalLM(LanguageModel):
    """A language model. `forward` gives logits; `hidden` stops before the head, for losses that never build
    all logits."""

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

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of every vocabulary entry, (…, hidden_size) → (…, vocab_size)."""
        return self.head.logits(hidden)

    def forward(
        self,
        ids: torch.Tensor,
        context: ForwardContext | None = None,
        **inputs: Unpack[AttentionInputs],
    ) -> torch.Tensor:
        """Logits (B, T, vocab_size) for token ids (B, T); arguments as in `hidden`."""
        return self.logits(self.hidden(ids, context, **inputs))


class RewardModel(LanguageModel):
    """A decoder with one score per sequence, stock `…ForSequenceClassification` with a single label (names
    `model.`, `score.`)."""

    def __init__(self, config: ModelConfig):
        if config.spec.hf.scoring_architecture is None:
            raise ConfigError("a reward model can't have family {family}", family=config.family)
        super().__init__(config)
        self.score = Linear(config.hidden_size, 1)

    def forward(
        self,
        ids: torch.Tensor,
        context: ForwardContext | None = None,
        **inputs: Unpack[AttentionInputs],
    ) -> torch.Tensor:
        """Score of the prefix ending at each token, (B, T); read it at a sequence's last token. Arguments as
        in `hidden`."""
        return self.score(self.hidden(ids, context, **inputs)).squeeze(-1)
