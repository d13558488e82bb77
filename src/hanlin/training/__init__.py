"""The training loop and what it needs: optimisers, schedules, checkpoints, guards. Tasks live in stages/."""

from hanlin.training.config import TrainConfig
from hanlin.training.contract import BatchSource, Objective
from hanlin.training.stopping import Interrupted
from hanlin.training.trainer import TrainResult, train

__all__ = ["BatchSource", "Interrupted", "Objective", "TrainConfig", "TrainResult", "train"]
