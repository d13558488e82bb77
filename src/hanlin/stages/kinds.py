"""The kinds of stages that ship with the package; importing this fills the tables."""

from hanlin.stages import pretrain, reward_model, rl, sft
from hanlin.stages.preference import stage as preference

__all__ = ["preference", "pretrain", "reward_model", "rl", "sft"]
