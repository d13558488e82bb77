"""The metrics of a step: collected on the device, read with one transfer, brought together over the
processes, averaged."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from typing import Any

import torch

from hanlin.common.devices import matmul_peak, memory_mb
from hanlin.common.progress import SOURCE
from hanlin.model import ModelConfig
from hanlin.training.distributed.process_group import ProcessGroup

# the same in every process, or rank 0's counts; all others are summed
_NOT_SUMMED = {
    "loss",
    "grad_norm",
    "bad",
    "idle",
    "loss_sigmas",
    "norm_sigmas",
    "lr",
    "data_seconds",
    "loss_scale",
    "overflows",
}


class StepMetrics:
    """Metrics of one step. What the host knows is a float; what the device computes stays there until
    `read`."""

    def __init__(self) -> None:
        self._on_host: dict[str, float] = {}
        self._on_device: dict[str, torch.Tensor] = {}
        self._stacked: torch.Tensor | None = None

    def add(self, values: Mapping[str, float | torch.Tensor]) -> None:
        """Add metrics by name, each a number or a 0-d tensor."""
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                self._on_device[name] = value
            else:
                self._on_host[name] = float(value)

    def seal(self) -> None:
        """No more will be added: bring the tensors together into a single small one, without waiting for the
        device."""
        if self._on_device:
            self._stacked = torch.stack([value.detach().float() for value in self._on_device.values()])

    def read(self) -> dict[str, float]:
        """All metrics as numbers. This waits until the device has done the step."""
        if self._stacked is None:
            return dict(self._on_host)
        return self._on_host | dict(zip(self._on_device, self._stacked.tolist(), strict=True))


def reduce_metrics(metrics: dict[str, float], group: ProcessGroup) -> dict[str, float]:
    """The metrics of all processes together: summed, but for those that are the same everywhere; shares of
    sources are averaged."""
    own = {name: value for name, value in metrics.items() if name not in _NOT_SUMMED}
    summed: dict[str, float] = collections.defaultdict(float)
    for part in group.all_gather_object(own):
        for name, value in part.items():
            summed[name] += value / group.world_size if name.startswith(SOURCE) else value
    return {name: summed.get(name, value) for name, value in metrics.items()} | summed


def average_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Turn sums into means: `NAME` over `NAME_count` where that exists; bits per byte from nats and bytes."""
    averaged = {}
    for name, value in metrics.items():
        if name.endswith("_count") or name in ("nll", "bytes"):
            continue
        count = metrics.get(f"{name}_count")
        averaged[name] = value if count is None else value / max(count, 1e-9)
    if metrics.get("bytes"):
        averaged["bits_per_byte"] = metrics["nll"] / math.log(2) / metrics["bytes"]
    return averaged


def cost_metrics(
    model: Any, device: torch.device, tokens: int, seconds: float, length: int
) -> dict[str, float]:
    """`mfu`, `memory_mb` and, on an accelerator, `device_memory_mb`.

    MFU is the model's FLOPs (`ModelConfig.flops_per_token`) over what plain matrix products reach on this
    device, measured once. Attention is counted over whole rows, so packed short documents are credited with a
    little more than they cost.

    Args:
        model: with a `config`; without one there is no `mfu`.
        tokens: read in the step by this process, in `seconds`; where there are none, there is no `mfu`.
        length: tokens in a row.
    """
    config = getattr(model, "config", None)
    metrics = memory_mb(device)
    if isinstance(config, ModelConfig) and seconds > 0 and tokens:
        metrics["mfu"] = config.flops_per_token(length) * tokens / seconds / matmul_peak(device)
    return metrics
