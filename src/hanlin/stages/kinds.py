"""The kinds of stages that ship with the package; importing this fills the tables."""

from hanlin.stages import dpo, pretrain, reward_model, rl, sft

__all__ = ["dpo", "pretrain", "reward_model", "rl", "sft"]
