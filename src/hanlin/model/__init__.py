"""The transformer: configuration, forward pass, cache, losses over the vocabulary, load and save. Knows
nothing of data or training."""

import hanlin.model.bias_norm
import hanlin.model.families
import hanlin.model.lora  # noqa: F401 - register themselves
from hanlin.model.attention.backends import AttentionChoice
from hanlin.model.causal_lm import CausalLM, RewardModel
from hanlin.model.checkpoint_io import (
    check_weights,
    load_adapted,
    load_model,
    load_reward_model,
    load_weights,
    read_generation_config,
    save_weights,
)
from hanlin.model.config import ModelConfig, ModelShape
from hanlin.model.context import AttentionInputs, ForwardContext
from hanlin.model.copies import detached_copy
from hanlin.model.family import FamilySpec, families, family_of, register_family
from hanlin.model.initialization import init_weights
from hanlin.model.kernels import choose_kernels
from hanlin.model.kv_cache import KVCache
from hanlin.model.losses import linear_cross_entropy, token_log_probs

__all__ = [
    "AttentionChoice",
    "AttentionInputs",
    "CausalLM",
    "FamilySpec",
    "ForwardContext",
    "KVCache",
    "ModelConfig",
    "ModelShape",
    "RewardModel",
    "check_weights",
    "choose_kernels",
    "detached_copy",
    "families",
    "family_of",
    "init_weights",
    "linear_cross_entropy",
    "load_adapted",
    "load_model",
    "load_reward_model",
    "load_weights",
    "read_generation_config",
    "register_family",
    "save_weights",
    "token_log_probs",
]
