"""The transformer of qwen3 and llama. Modules carry the Hugging Face names, so state_dict keys are the file's
keys."""

from __future__ import annotations

import functools

import torch
from torch import nn

from hanlin.model.config import ModelConfig
from hanlin.model.context import ForwardContext
from hanlin.model.decoder import Decoder
from hanlin.model.fused_ops import recompute_in_backward, rotate
from hanlin.model.linear import Embedding, Linear, normed_linears, swiglu
from hanlin.model.norm import RMSNorm
from hanlin.model.rope import rotary_table

# From this width on queries and keys are made again in the backward pass: a seventh less is kept for it, at
# a cost that could not be measured (width 512, on a CPU); at 256 it costs 2 % of a step, and such models are
# small anyway.
RECOMPUTE_QK_WIDTH = 512


class Attention(nn.Module):
    """Grouped-query attention; qwen3 normalises each head's queries and keys before the rotation
    (QK-norm)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        hidden = config.hidden_size
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(hidden, queries)
        self.k_proj = Linear(hidden, keys)
        self.v_proj = Linear(hidden, keys)
        self.o_proj = Linear(queries, hidden)
        self.recompute_qk = config.spec.qk_norm and config.hidden_size >= RECOMPUTE_QK_WIDTH
        if config.spec.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(self, x: torch.Tensor, norm: nn.Module, context: ForwardContext) -> torch.Tensor:
        """Attention of norm(x), (B, T, hidden_size); the norm comes along because it is fused with the
        projections."""
        batch, length, _ = x.shape
        projected = normed_linears(x, norm, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (part.view(batch, length, -1, self.head_dim) for part in projected)
        make_q = functools.partial(self._norm_and_rotate, q, self.q_norm, context)
        make_k = functools.partial(self._norm_and_rotate, k, self.k_norm, context)
        q = make_q()  # (B, T, H, D)
        k = make_k()  # (B, T, Hkv, D)
        recomputed = [(q, make_q), (k, make_k)] if context.recompute_qk and self.recompute_qk else []
        with recompute_in_backward(recomputed):
            attended = context.attend(self.layer, q, k, v)
        return self.o_proj(attended.view(batch, length, -1))

    def _norm_and_rotate(self, part: torch.Tensor, norm: nn.Module, context: ForwardContext) -> torch.Tensor:
        return rotate(norm(part), context.cos, context.sin)


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        """SwiGLU of norm(x), (B, T, hidden_size); the norm comes along because it is fused with the
        projections."""
        gate, up = normed_linears(x, norm, self.gate_proj, self.up_proj)
        return swiglu(gate, up, self.down_proj)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        x = x + self.self_attn(x, self.input_layernorm, context)
        return x + self.mlp(x, self.post_attention_layernorm)


class TransformerDecoder(Decoder):
    """Embedding, blocks and final norm of qwen3 and llama (`model.` in the checkpoint)."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        cos, sin = rotary_table(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def embedding(self) -> Embedding:
        return self.embed_tokens

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    @property
    def final_norm(self) -> RMSNorm:
        return self.norm

    def embed(self, ids: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Embeddings (B, T, hidden_size); the context learns its rotation angles."""
        x = self.embed_tokens(ids) if context.inputs_embeds is None else context.inputs_embeds
        context.cos = self.cos[context.positions][:, :, None].to(x.dtype)  # (B, T, 1, D/2)
        context.sin = self.sin[context.positions][:, :, None].to(x.dtype)
        return x
