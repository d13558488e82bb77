"""Fully sharded data parallelism: every process has a part of each weight, its gradient and its optimiser
state.

FSDP2 (`fully_shard`), layer by layer, in float32 throughout; layers are gathered when they are needed.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from hanlin.common.errors import HanlinError
from hanlin.model import detached_copy
from hanlin.training.distributed.process_group import TorchProcessGroup
from hanlin.training.distributed.strategy import ObjectiveModule, Strategy


class FSDPStrategy(Strategy):
    """Weights sharded over the processes of `torch.distributed`.

    Gradients are reduced after each micro-batch: a whole gradient is what sharding is to save.

    Args:
        hybrid: shard among the processes of a machine and repeat that on every machine (HSDP).

    Raises:
        HanlinError: `hybrid`, and the machines have different numbers of processes.
    """

    sharded = True
    writes_shards = True

    def __init__(self, device: torch.device, hybrid: bool = False):
        from torch.distributed.device_mesh import init_device_mesh

        super().__init__(TorchProcessGroup())
        world_size = self.group.world_size
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        if hybrid and world_size % local:
            raise HanlinError(
                "hsdp needs the same number of processes on each machine ({world_size} is not a multiple "
                "of {local}). Use fsdp.",
                world_size=world_size,
                local=local,
            )
        shape = (world_size // local, local) if hybrid else (world_size,)
        names = ("replicate", "shard") if hybrid else ("shard",)
        self.mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)

    def wrap(self, model: nn.Module, objective: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        self._module = ObjectiveModule(model, objective)
        layers: Any = model.decoder.blocks  # type: ignore[union-attr]
        for layer in layers:
            fully_shard(layer, mesh=self.mesh)
        # embeddings, final norm and head: one group, since the first and the last may be one matrix
        fully_shard(self._module, mesh=self.mesh)

    def reduce_gradients(self) -> None:
        raise RuntimeError("sharded gradients are reduced in the backward pass")

    def clip_grad_norm(self, model: nn.Module, max_norm: float) -> torch.Tensor:
        return super().clip_grad_norm(model, max_norm).full_tensor()  # type: ignore[attr-defined]

    def unsharded(self, model: nn.Module) -> nn.Module:
        """A copy: sharded layers would gather their weights at every token, and the processes write answers
        of unlike lengths."""
        parameters: dict[str, Any] = dict(model.named_parameters())
        return detached_copy(model, {name: part.detach().full_tensor() for name, part in parameters.items()})

    def assert_replicas_equal(self, model: nn.Module) -> None:
        """Nothing to compare: each weight is in one place only."""

    def full_state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        weights = {}
        for name, tensor in model.state_dict().items():
            full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            if self.group.is_rank0:
                weights[name] = full.detach().to("cpu").contiguous()
        return weights
