"""What is between token ids and the head, whatever the family: embedding, blocks, final norm."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import torch
from torch import nn

from hanlin.model.fused_ops import run_block
from hanlin.model.linear import Embedding
from hanlin.model.norm import Norm

if TYPE_CHECKING:
    from hanlin.model.context import ForwardContext


class Decoder(nn.Module, abc.ABC):
    """The base of the families' decoders. Modules carry the Hugging Face names, so state_dict keys are the
    file's keys.

    A block is called as block(x, context) with x (B, T, hidden_size), and returns the same shape.

    Attributes:
        checkpoints: whether blocks are computed again in the backward pass instead of being kept.
    """

    checkpoints = False

    @property
    @abc.abstractmethod
    def embedding(self) -> Embedding:
        """The table of token embeddings, which is the head as well where embeddings are tied."""

    @property
    @abc.abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The layers, in order."""

    @property
    @abc.abstractmethod
    def final_norm(self) -> Norm:
        """The norm behind the last layer."""

    @abc.abstractmethod
    def embed(self, ids: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """What the first block reads, (B, T, hidden_size); the context learns what all blocks share of the
        positions."""

    def run(self, x: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """All blocks and the final norm, (B, T, hidden_size)."""
        for block in self.blocks:
            x = run_block(block, x, context, self.checkpoints)
        return self.final_norm(x)
