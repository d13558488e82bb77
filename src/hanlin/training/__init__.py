"""The training loop and what it needs: optimisers, schedules, checkpoints, guards. Tasks live in stages/."""

from hanlin.training.config import TrainConfig
from hanlin.training.contract import BatchSource, Objective
from hanlin.training.run import train
from hanlin.training.run_state import TrainResult
from hanlin.training.stopping import Interrupted

__all__ = ["BatchSource", "Interrupted", "Objective", "TrainConfig", "TrainResult", "train"]
