"""Whether to compile the model: where that earns back the time it takes, and every process can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hanlin.common.devices import device_capabilities
from hanlin.common.progress import Progress
from hanlin.model import CausalLM, RewardModel
from hanlin.training.config import TrainConfig
from hanlin.training.distributed.strategy import Strategy


def agree_to_compile(
    config: TrainConfig,
    uniform: bool,
    model: CausalLM | RewardModel,
    batches: Sequence[Any],
    strategy: Strategy,
    device: torch.device,
    progress: Progress,
) -> bool:
    """Compile the model where that is asked for, or pays; in every process or in none. Whether it was.

    Decided once, from the size of a step and the number of them alone, so that a resumed run computes as the
    first one did.

    Args:
        uniform: micro-batches have the same shapes in every step; where they change, each would be compiled.
        batches: the micro-batches of one step.
    """
    wanted = config.compile
    if wanted == "auto":
        wanted = uniform and compiling_pays(model, batches, config.steps, device)
    if wanted and not strategy.can_compile:
        if config.compile is True:
            progress.warn("deepspeed does not compile yet: compile is ignored")
        wanted = False
    if not all(strategy.group.all_gather_object(wanted)):
        return False
    model.compile_decoder(by_block=strategy.sharded)
    progress.note("compiling the model, so the first step takes longer (train.compile=false for none)")
    return True


def compiling_pays(
    model: CausalLM | RewardModel, batches: Sequence[Any], steps: int, device: torch.device
) -> bool:
    """Whether a run of `steps` such steps does enough work for `torch.compile`.

    By arithmetic, not by the clock: a run that goes on elsewhere or later has to decide alike. Steps whose
    rows differ in shape compile again for each, so only uniform micro-batches count.

    Args:
        batches: the micro-batches of one step, with `ids` (B, T).
    """
    shapes = {tuple(batch.ids.shape) for batch in batches}
    if len(shapes) != 1 or not compiler_present(device):
        return False
    rows, length = shapes.pop()
    work = model.config.flops_per_token(length) * rows * length * len(batches) * steps
    return work >= device_capabilities(device).compile_flops


def compiler_present(device: torch.device) -> bool:
    """Whether what `torch.compile` needs on this device is installed: a C++ compiler for a CPU, Triton
    elsewhere."""
    import importlib.util
    import os
    import shutil

    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
    return importlib.util.find_spec("triton") is not None
