"""llama (Touvron et al. 2023) and qwen3 (Yang et al. 2025): rotary positions, RMS norm, SwiGLU, grouped-query
attention; qwen3 has QK-norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hanlin.common.errors import ConfigError
from hanlin.model.config import ModelConfig
from hanlin.model.family import (
    ConfigField,
    FamilySpec,
    GGUFFormat,
    HuggingFaceFormat,
    InitRule,
    register_family,
)
from hanlin.model.transformer import TransformerDecoder

_CONFIG = {
    "hidden_size": ConfigField("hidden_size"),
    "intermediate_size": ConfigField("intermediate_size"),
    "num_hidden_layers": ConfigField("num_hidden_layers"),
    "num_attention_heads": ConfigField("num_attention_heads"),
    "num_key_value_heads": ConfigField("num_key_value_heads"),
    "head_dim": ConfigField("head_dim"),
    "hidden_act": "silu",
    "max_position_embeddings": ConfigField("max_position_embeddings"),
    "rms_norm_eps": ConfigField("rms_norm_eps"),
    "rope_theta": ConfigField("rope_theta"),
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
}
# What transformers takes where a config.json says nothing.
_DEFAULTS = {
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def _rope_theta(raw: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    rope = raw.get("rope_parameters") or {}
    given = [place["rope_theta"] for place in (rope, raw) if place.get("rope_theta") is not None]
    return {"rope_theta": ("rope_theta", given[0] if given else 10000.0)}


def _unsupported(raw: Mapping[str, Any]) -> list[str]:
    found = []
    rope = raw.get("rope_parameters") or {}
    if (
        not isinstance(rope, dict)
        or rope.get("rope_type", "default") != "default"
        or rope.keys() - {"rope_type", "rope_theta"}
    ):
        found.append("rope_parameters")
    if raw.get("rope_scaling"):
        found.append("rope_scaling")
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        found.append("hidden_act")
    layers = raw.get("layer_types")
    if layers is not None and (
        not isinstance(layers, list) or any(kind != "full_attention" for kind in layers)
    ):
        found.append("layer_types")
    return found


def _check(config: ModelConfig) -> None:
    if config.head_dim % 2:
        raise ConfigError(
            "head_dim {head_dim} is odd; rotary embeddings need pairs", head_dim=config.head_dim
        )


def _parameters(config: ModelConfig) -> int:
    width = config.hidden_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    attention = width * (2 * queries + 2 * keys)
    norms = 2 * width + (2 * config.head_dim if config.spec.qk_norm else 0)
    block = attention + 3 * width * config.intermediate_size + norms
    tables = 1 if config.tie_word_embeddings else 2
    return tables * config.vocab_size * width + config.num_hidden_layers * block + width


def _matrix_parameters(config: ModelConfig) -> int:
    looked_up = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return _parameters(config) - looked_up


LLAMA = register_family(
    FamilySpec(
        name="llama",
        decoder=TransformerDecoder,
        intermediate_size=lambda width: (width * 8 // 3 + 31) // 32 * 32,
        check=_check,
        parameters=_parameters,
        matrix_parameters=_matrix_parameters,
        init=InitRule(
            residual=("o_proj.weight", "down_proj.weight"),
            tables=("embed_tokens.weight", "lm_head.weight", "score.weight"),
        ),
        hf=HuggingFaceFormat(
            architecture="LlamaForCausalLM",
            scoring_architecture="LlamaForSequenceClassification",
            config=_CONFIG | {"mlp_bias": False},
            defaults=_DEFAULTS
            | {
                "vocab_size": 32000,
                "intermediate_size": 11008,
                "num_key_value_heads": None,
                "head_dim": None,
                "max_position_embeddings": 2048,
            },
            decoder="model",
            embedding="embed_tokens",
            layers="layers",
            read=_rope_theta,
            unsupported=_unsupported,
        ),
        gguf=GGUFFormat(
            architecture="llama",
            layer_names={
                "input_layernorm.weight": "attn_norm.weight",
                "self_attn.q_proj.weight": "attn_q.weight",
                "self_attn.k_proj.weight": "attn_k.weight",
                "self_attn.v_proj.weight": "attn_v.weight",
                "self_attn.o_proj.weight": "attn_output.weight",
                "post_attention_layernorm.weight": "ffn_norm.weight",
                "mlp.gate_proj.weight": "ffn_gate.weight",
                "mlp.up_proj.weight": "ffn_up.weight",
                "mlp.down_proj.weight": "ffn_down.weight",
            },
            names={
                "model.embed_tokens.weight": "token_embd.weight",
                "model.norm.weight": "output_norm.weight",
                "lm_head.weight": "output.weight",
            },
            header={
                "add_head_count_kv": "num_key_value_heads",
                "add_layer_norm_rms_eps": "rms_norm_eps",
                "add_rope_freq_base": "rope_theta",
                "add_key_length": "head_dim",
                "add_value_length": "head_dim",
                "add_rope_dimension_count": "head_dim",
                "add_vocab_size": "vocab_size",
            },
            interleaved=("q_proj.weight", "k_proj.weight"),
        ),
        qk_norm_twin="qwen3",
    )
)
QWEN3 = register_family(
    dataclasses.replace(
        LLAMA,
        name="qwen3",
        hf=dataclasses.replace(
            LLAMA.hf,
            architecture="Qwen3ForCausalLM",
            scoring_architecture="Qwen3ForSequenceClassification",
            config=_CONFIG | {"use_sliding_window": False},
            defaults=_DEFAULTS
            | {
                "vocab_size": 151936,
                "intermediate_size": 22016,
                "num_key_value_heads": 32,
                "head_dim": 128,
                "max_position_embeddings": 32768,
            },
        ),
        gguf=dataclasses.replace(
            LLAMA.gguf,
            architecture="qwen3",
            layer_names={
                **LLAMA.gguf.layer_names,
                "self_attn.q_norm.weight": "attn_q_norm.weight",
                "self_attn.k_norm.weight": "attn_k_norm.weight",
            },
            header={
                method: field
                for method, field in LLAMA.gguf.header.items()
                if method not in ("add_rope_dimension_count", "add_vocab_size")
            },
            interleaved=(),
        ),
        qk_norm=True,
        qk_norm_twin="llama",
    )
)
