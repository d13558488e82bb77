"""The training loop and what it needs: optimisers, schedules, checkpoints, guards. Tasks live in stages/."""

from .contract import BatchSource, Objective
from .loop import TrainConfig, TrainResult, train
from .stopping import Interrupted

__all__ = ["BatchSource", "Interrupted", "Objective", "TrainConfig", "TrainResult", "train"]
