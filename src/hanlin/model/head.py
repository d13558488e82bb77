"""The head: the only doors from hidden states to the vocabulary. Losses never build the logits of a whole
batch."""

from __future__ import annotations

import torch
from torch import nn

from hanlin.model.fused_ops import is_trusted
from hanlin.model.linear import Embedding, Linear, is_plain
from hanlin.model.losses import (
    chunked_cross_entropy,
    chunked_token_log_probs,
    linear_cross_entropy,
    token_log_probs,
)


class Head:
    """Scores over the vocabulary, by the module that projects to it.

    Not a module itself: its weights belong to `lm_head`, or to the input embedding where embeddings are
    tied, and keep their names.

    Args:
        projection: (…, hidden_size) → (…, vocab_size) when called; with `tied`, by its `as_linear`.
        compiled: let a compiler join the passes over a chunk of logits. For accelerators: a dozen passes
            become two.
    """

    def __init__(self, projection: nn.Module, vocab_size: int, *, tied: bool, compiled: bool = False):
        self.projection = projection
        self.vocab_size = vocab_size
        self.tied = tied
        self.compiled = compiled

    @property
    def is_plain(self) -> bool:
        """Whether the projection is a product with its weight and nothing else."""
        # hooks of an embedding are for its lookup, which is not what the head uses
        return type(self.projection) is Embedding if self.tied else is_plain(Linear, self.projection)

    @property
    def weight(self) -> torch.Tensor:
        """The matrix (vocab_size, hidden_size) of a plain projection."""
        weight = self.projection.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of every vocabulary entry, (…, hidden_size) → (…, vocab_size)."""
        return self.projection.as_linear(hidden) if self.tied else self.projection(hidden)  # type: ignore[operator]

    def cross_entropy(
        self,
        hidden: torch.Tensor,
        labels: torch.Tensor,
        *,
        weights: torch.Tensor | None = None,
        z_loss: float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed cross entropy with optional z-loss; see `losses.linear_cross_entropy`.

        Args:
            hidden: (N, hidden_size), one state for each predicted token; drop ignored ones before the call.
            labels: (N,) int64.
            weights: (N,) float32 weight per token, all one when absent.

        Returns:
            the loss to differentiate, a sum over tokens, and each token's plain negative log likelihood in
            nats, (N,); float32.
        """
        if not (self.is_plain and is_trusted("linear_cross_entropy", hidden)):
            return chunked_cross_entropy(
                self.logits, self.vocab_size, hidden, labels, weights=weights, z_loss=z_loss
            )
        # a CPU's logits stay in its cache: nothing is gained by joining passes
        compiled = self.compiled and hidden.device.type != "cpu"
        return linear_cross_entropy(
            hidden, self.weight, labels, weights=weights, z_loss=z_loss, compiled=compiled
        )

    def token_log_probs(
        self, hidden: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """log p(label) of each token under softmax(logits / temperature), in nats, (N,) float32,
        differentiable.

        Args:
            hidden: (N, hidden_size); labels: (N,) int64.
        """
        if not (self.is_plain and is_trusted("token_log_probs", hidden)):
            return chunked_token_log_probs(self.logits, self.vocab_size, hidden, labels, temperature)
        return token_log_probs(hidden, self.weight, labels, temperature)
