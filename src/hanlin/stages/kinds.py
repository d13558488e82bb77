"""The kinds of stages that ship with the package; importing this fills the tables."""

from hanlin.stages import distillation, distillation_on_policy, pretrain, reward_model, rl, sft
from hanlin.stages.preference import stage as preference

__all__ = [
    "distillation",
    "distillation_on_policy",
    "preference",
    "pretrain",
    "reward_model",
    "rl",
    "sft",
]
