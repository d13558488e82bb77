"""The training loop and what it needs: optimisers, schedules, checkpoints, guards. Tasks live in stages/."""

from hanlin.training.contract import BatchSource, Objective
from hanlin.training.loop import TrainConfig, TrainResult, train
from hanlin.training.stopping import Interrupted

__all__ = ["BatchSource", "Interrupted", "Objective", "TrainConfig", "TrainResult", "train"]
