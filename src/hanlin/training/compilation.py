"""Whether compiling the model earns back the time it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hanlin.common.devices import traits
from hanlin.model import CausalLM, RewardModel


def compiling_pays(
    model: CausalLM | RewardModel, batches: Sequence[Any], steps: int, device: torch.device
) -> bool:
    """Whether a run of `steps` such steps does enough work for `torch.compile`.

    By arithmetic, not by the clock: a run that goes on elsewhere or later has to decide alike. Steps whose rows differ in
    shape compile again for each, so only uniform micro-batches count.

    Args:
        batches: the micro-batches of one step, with `ids` (B, T).
    """
    shapes = {tuple(batch.ids.shape) for batch in batches}
    if len(shapes) != 1 or not compiler_present(device):
        return False
    rows, length = shapes.pop()
    work = model.config.flops_per_token(length) * rows * length * len(batches) * steps
    return work >= traits(device).compile_flops


def compiler_present(device: torch.device) -> bool:
    """Whether what `torch.compile` needs on this device is installed: a C++ compiler for a CPU, Triton elsewhere."""
    import importlib.util
    import os
    import shutil

    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
    return importlib.util.find_spec("triton") is not None
