"""The GPT-2 family (Radford et al. 2019): learned positions, LayerNorm, GELU, biases; the baseline most
projects began from."""

from __future__ import annotations

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
from hanlin.model.gpt2 import GELU, GPT2Decoder


def _unsupported(raw: Mapping[str, Any]) -> list[str]:
    found = []
    if str(raw.get("activation_function", "gelu_new")) not in GELU:
        found.append("activation_function")
    if raw.get("scale_attn_weights") is False:
        found.append("scale_attn_weights")
    if raw.get("scale_attn_by_inverse_layer_idx"):
        found.append("scale_attn_by_inverse_layer_idx")
    if raw.get("tie_word_embeddings") is False:
        found.append("tie_word_embeddings")
    return found


def _check(config: ModelConfig) -> None:
    if config.num_key_value_heads != config.num_attention_heads:
        raise ConfigError(
            "GPT-2 has no grouped-query attention: num_key_value_heads must equal num_attention_heads"
        )
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        raise ConfigError(
            "GPT-2 needs heads x head_dim = hidden_size, not {heads} x {head_dim}",
            heads=config.num_attention_heads,
            head_dim=config.head_dim,
        )
    if not config.tie_word_embeddings:
        raise ConfigError("GPT-2 as llama.cpp and transformers know it ties its embeddings")


def _parameters(config: ModelConfig) -> int:
    width = config.hidden_size
    attention = 4 * width * width + 4 * width
    mlp = 2 * width * config.intermediate_size + width + config.intermediate_size
    norms = 4 * width
    tables = (config.vocab_size + config.max_position_embeddings) * width
    return tables + config.num_hidden_layers * (attention + mlp + norms) + 2 * width


def _matrix_parameters(config: ModelConfig) -> int:
    return _parameters(config) - config.max_position_embeddings * config.hidden_size


GPT2 = register_family(
    FamilySpec(
        name="gpt2",
        decoder=GPT2Decoder,
        intermediate_size=lambda width: 4 * width,
        check=_check,
        parameters=_parameters,
        matrix_parameters=_matrix_parameters,
        init=InitRule(
            residual=("c_proj.weight",),
            tables=("wte.weight", "wpe.weight"),
            transposed=("c_attn.weight", "c_fc.weight", "c_proj.weight"),
        ),
        hf=HuggingFaceFormat(
            architecture="GPT2LMHeadModel",
            scoring_architecture=None,
            config={
                "n_embd": ConfigField("hidden_size"),
                "n_layer": ConfigField("num_hidden_layers"),
                "n_head": ConfigField("num_attention_heads"),
                "n_inner": ConfigField("intermediate_size"),
                "n_positions": ConfigField("max_position_embeddings"),
                "n_ctx": ConfigField("max_position_embeddings"),
                "activation_function": ConfigField("activation_function"),
                "layer_norm_epsilon": ConfigField("layer_norm_epsilon"),
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
                "attn_pdrop": 0.0,
                "summary_first_dropout": 0.0,
            },
            # What transformers takes where a config.json says nothing.
            defaults={
                "bos_token_id": None,
                "eos_token_id": None,
                "pad_token_id": None,
                "vocab_size": 50257,
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "intermediate_size": None,
                "max_position_embeddings": 1024,
                "layer_norm_epsilon": 1e-5,
                "activation_function": "gelu_new",
                "tie_word_embeddings": True,
            },
            decoder="transformer",
            embedding="wte",
            layers="h",
            unsupported=_unsupported,
        ),
        gguf=GGUFFormat(
            architecture="gpt2",
            layer_names={
                "ln_1.weight": "attn_norm.weight",
                "ln_1.bias": "attn_norm.bias",
                "attn.c_attn.weight": "attn_qkv.weight",
                "attn.c_attn.bias": "attn_qkv.bias",
                "attn.c_proj.weight": "attn_output.weight",
                "attn.c_proj.bias": "attn_output.bias",
                "ln_2.weight": "ffn_norm.weight",
                "ln_2.bias": "ffn_norm.bias",
                "mlp.c_fc.weight": "ffn_up.weight",
                "mlp.c_fc.bias": "ffn_up.bias",
                "mlp.c_proj.weight": "ffn_down.weight",
                "mlp.c_proj.bias": "ffn_down.bias",
            },
            names={
                "transformer.wte.weight": "token_embd.weight",
                "transformer.wpe.weight": "position_embd.weight",
                "transformer.ln_f.weight": "output_norm.weight",
                "transformer.ln_f.bias": "output_norm.bias",
            },
            header={"add_layer_norm_eps": "layer_norm_epsilon"},
            transposed=("c_attn.weight", "c_fc.weight", "c_proj.weight"),
            float32=("transformer.wpe.weight",),
        ),
        grouped_query=False,
        tied_only=True,
    )
)
