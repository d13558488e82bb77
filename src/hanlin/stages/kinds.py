"""The kinds of stages that ship with the package; importing this fills the tables."""

from hanlin.stages import distillation, distillation_on_policy, dpo, pretrain, reward_model, rl, sft

__all__ = ["distillation", "distillation_on_policy", "dpo", "pretrain", "reward_model", "rl", "sft"]
