"""One transformer in three families. Modules carry the Hugging Face names, so state_dict keys are the file's keys."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from hanlin.common.errors import ConfigError
from hanlin.model.config import ModelConfig
from hanlin.model.context import ForwardContext
from hanlin.model.decoder import Decoder
from hanlin.model.fused_ops import recompute_in_backward, rotate
from hanlin.model.head import Head
from hanlin.model.kv_cache import KVCache
from hanlin.model.linear import Embedding, Linear, normed_linears, swiglu
from hanlin.model.norm import RMSNorm
from hanlin.model.rope import rotary_table

# From this width on queries and keys are made again in the backward pass: a seventh less is kept for it, at a cost that could not be
# measured (width 512, on a CPU); at 256 it costs 2 % of a step, and such models are small anyway.
RECOMPUTE_QK_WIDTH = 512


class Attention(nn.Module):
    """Grouped-query attention; qwen3 normalises each head's queries and keys before the rotation (QK-norm)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        hidden, queries, keys = (
            config.hidden_size,
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
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

    def forward(self, x: torch.Tensor, norm: RMSNorm, context: ForwardContext) -> torch.Tensor:
        """Attention of norm(x), (B, T, hidden_size)."""
        batch, length, _ = x.shape
        projected = normed_linears(x, norm, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (part.view(batch, length, -1, self.head_dim) for part in projected)
        turn_q, turn_k = (
            functools.partial(self._turn, part, norm, context)
            for part, norm in ((q, self.q_norm), (k, self.k_norm))
        )
        q, k = turn_q(), turn_k()  # (B, T, H, D) and (B, T, Hkv, D)
        with recompute_in_backward(
            {turn_q: q, turn_k: k} if context.recompute_qk and self.recompute_qk else {}
        ):
            attended = context.attend(self.layer, q, k, v)
        return self.o_proj(attended.view(batch, length, -1))

    def _turn(self, part: torch.Tensor, norm: nn.Module, context: ForwardContext) -> torch.Tensor:
        return rotate(norm(part), context.cos, context.sin)


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        """SwiGLU of norm(x), (B, T, hidden_size)."""
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
        x = self.embed_tokens(ids)
        context.cos = self.cos[context.positions][:, :, None].to(x.dtype)  # (B, T, 1, D/2)
        context.sin = self.sin[context.positions][:, :, None].to(x.dtype)
        return x


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
