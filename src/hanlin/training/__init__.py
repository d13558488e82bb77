"""The training loop and what it needs: optimisers, schedules, checkpoints, guards. Tasks live in stages/."""

from .loop import BatchSource, Interrupted, Objective, TrainConfig, TrainResult, train

__all__ = ["BatchSource", "Interrupted", "Objective", "TrainConfig", "TrainResult", "train"]
