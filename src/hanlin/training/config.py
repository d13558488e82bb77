"""How to train, whatever the task: the `train` section of a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from hanlin.common.config import Range, above, at_least, require_ranges
from hanlin.common.errors import ConfigError, HanlinError
from hanlin.model import AttentionChoice
from hanlin.training.schedule import Schedule

Parallel = Literal["ddp", "fsdp", "hsdp", "deepspeed"]
AsyncSave = Literal[True, False, "auto"]
OnSaveError = Literal["stop", "warn"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever the task.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak rate of the block matrices (one scale for Muon and AdamW).
        embedding_scale: factor on it for embeddings and head.
        beta2: decay of AdamW's second moment.
        schedule, warmup_ratio, decay_ratio, min_lr_ratio: see `learning_rate_factor`; both ratios are shares
            of the steps.
        max_grad_norm: largest gradient norm.
        spike_sigma: a step whose loss or gradient norm lies this many standard deviations above the last 128
            is skipped.
        max_seconds: training stops after this much of it, with the model it has; those of interrupted parts
            count. The schedule goes by steps alone: a run that is cut off ends at whatever rate it has
            reached, and how many steps that is hangs on the machine.
        checkpoint_seconds: time between checkpoints of a run in progress.
        permanent_checkpoint_interval: there is a checkpoint at every multiple of it besides: only to these is
            a run rolled back, since where the others lie depends on the clock, and a run may not.
        async_save: write checkpoints while the next steps are computed, from a copy of the state in host
            memory: true, false, or `auto`, where the device has memory of its own or several processes train.
        on_save_error: whether a checkpoint that cannot be written stops the run or is only warned of.
        parallel: how several processes share the work: `ddp` (each has the whole model), `fsdp` (each has a
            part of it), `hsdp` (parts within a machine, repeated on every one), `deepspeed` (as its
            `ds_config.json` says). It changes where things are, not what is computed.
        deepspeed_config: that file, for `deepspeed`; see `deepspeed_config.settle` for what it may say.
        offload_optimizer: keep the optimiser's state in host memory, where the device has memory of its own;
            see `Optimizers`.
        compile: `torch.compile` the model: true, false, or `auto`, where the run is long enough to earn back
            what compiling costs.
        attention: how attention is computed, a name of `model.backends.BACKENDS`; `auto`, the first of the
            device's row that is right there.
    """

    steps: int = 100
    learning_rate: float = 3e-3
    embedding_scale: float = 1.0
    muon: bool = True
    weight_decay: float = 0.1
    beta2: float = 0.95
    schedule: Schedule = "wsd"
    warmup_ratio: float = 0.02
    decay_ratio: float = 0.5
    min_lr_ratio: float = 0.0
    max_grad_norm: float = 1.0
    spike_sigma: float = 6.0
    max_seconds: float | None = None
    checkpoint_seconds: float = 60.0
    permanent_checkpoint_interval: int = 250
    async_save: AsyncSave = "auto"
    on_save_error: OnSaveError = "stop"
    offload_optimizer: bool = False
    parallel: Parallel = "ddp"
    deepspeed_config: Path | None = None
    compile: Literal[True, False, "auto"] = "auto"
    attention: AttentionChoice = "auto"

    RANGES: ClassVar[dict[str, Range]] = {
        "steps": at_least(1),
        "learning_rate": above(0),
        "embedding_scale": above(0),
        "weight_decay": at_least(0),
        "beta2": Range(0, 1, open_high=True),
        "warmup_ratio": Range(0, 1),
        "decay_ratio": Range(0, 1),
        "min_lr_ratio": Range(0, 1),
        "max_grad_norm": above(0),
        "spike_sigma": above(0),
        "max_seconds": above(0),
        "checkpoint_seconds": at_least(0),
        "permanent_checkpoint_interval": at_least(1),
    }

    def __post_init__(self):
        require_ranges(self)
        if not 0 <= self.warmup_ratio + self.decay_ratio <= 1:
            raise ConfigError(
                "warmup_ratio {warmup_ratio} and decay_ratio {decay_ratio} are shares of the steps and may "
                "not exceed 1 together",
                warmup_ratio=self.warmup_ratio,
                decay_ratio=self.decay_ratio,
            )
        if self.deepspeed_config is not None and self.parallel != "deepspeed":
            raise HanlinError(
                "deepspeed_config is given, but parallel is {parallel}. Write parallel: deepspeed, or "
                "leave deepspeed_config out.",
                parallel=self.parallel,
            )
