"""Data parallelism: every process has the whole model, and gradients are averaged (DistributedDataParallel,
Li et al. 2020)."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hanlin.training.distributed.process_group import TorchProcessGroup
from hanlin.training.distributed.strategy import ObjectiveModule, Strategy


class DDPStrategy(Strategy):
    """All weights in every process of `torch.distributed`, on `device`."""

    def __init__(self, device: torch.device):
        super().__init__(TorchProcessGroup())
        self.device = device

    def wrap(self, model: nn.Module, objective: Any) -> None:
        # Buffers are tables that never change; to send them before a forward pass would also wait for a
        # process that has no memory left.
        engine: Any = nn.parallel.DistributedDataParallel
        known = inspect.signature(engine.__init__).parameters
        no_buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        device_ids = None if self.device.type == "cpu" else [self.device]
        self._module = engine(ObjectiveModule(model, objective), device_ids=device_ids, **{no_buffers: False})

    @contextlib.contextmanager
    def gradient_sync(self, enabled: bool) -> Iterator[None]:
        with contextlib.nullcontext() if enabled else self._module.no_sync():  # type: ignore[operator]
            yield

    def per_sequence_loss(self, batch: Any) -> torch.Tensor:
        return self._module.module(batch, per_sequence=True)  # type: ignore[operator]

    def reduce_gradients(self) -> None:
        for parameter in self._module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.group.world_size
