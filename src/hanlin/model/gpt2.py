"""The GPT-2 family (Radford et al. 2019): learned positions, LayerNorm, GELU, biases; the baseline most
projects began from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn

from hanlin.model.config import ModelConfig
from hanlin.model.decoder import Decoder
from hanlin.model.linear import Conv1D, Embedding
from hanlin.model.norm import LayerNorm

if TYPE_CHECKING:
    from hanlin.model.context import ForwardContext


# GPT-2's activations by their names in transformers: torch's approximation of each.
GELU: dict[str, Literal["none", "tanh"]] = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}


class GPT2Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.c_attn = Conv1D(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = Conv1D(config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        batch, length, hidden = x.shape
        q, k, v = (
            part.view(batch, length, -1, self.head_dim) for part in self.c_attn(x).split(hidden, dim=-1)
        )
        return self.c_proj(context.attend(self.layer, q, k, v).view(batch, length, hidden))


class GPT2MLP(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.c_fc = Conv1D(config.hidden_size, config.intermediate_size)
        self.c_proj = Conv1D(config.intermediate_size, config.hidden_size)
        self.approximate = GELU[config.activation_function]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))


class GPT2Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.ln_1 = LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(self, x: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), context)
        return x + self.mlp(self.ln_2(x))


class GPT2Decoder(Decoder):
    """Embedding, blocks and final norm (`transformer.` in the checkpoint)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.h = nn.ModuleList(GPT2Block(config, layer) for layer in range(config.num_hidden_layers))
        self.ln_f = LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)

    @property
    def embedding(self) -> Embedding:
        return self.wte

    @property
    def blocks(self) -> nn.ModuleList:
        return self.h

    @property
    def final_norm(self) -> LayerNorm:
        return self.ln_f

    def embed(self, ids: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Embeddings with those of the positions, (B, T, hidden_size)."""
        x = self.wte(ids) if context.inputs_embeds is None else context.inputs_embeds
        return x + self.wpe(context.positions)
