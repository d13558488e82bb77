"""Where weights, gradients and optimiser state are when several processes train together.

    who                    file                what each process has
    SingleProcess          strategy.py         everything
    DDPStrategy            ddp.py              all weights; gradients are averaged
    FSDPStrategy           fsdp.py             a part of each weight, its gradient and its optimiser state
    DeepSpeedStrategy      deepspeed.py        what its ds_config.json says (ZeRO 1, 2, 3)

The trainer asks the strategy to `wrap` the model, then for each micro-batch the `loss` within
`gradient_sync`, and for each step `clip_grad_norm`. It changes where things are, never what is computed: a
step's samples depend on the step alone, each process takes its `data_shard` of them, and gradients are Σ loss
/ Σ num_items over all processes, as over all micro-batches. What is decided by a clock, a signal or a lack of
memory is decided by all processes together, so none waits for one that went elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hanlin.common.errors import HanlinError
from hanlin.model import load_weights
from hanlin.training.config import TrainConfig
from hanlin.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hanlin.training.distributed.shard import DataShard
from hanlin.training.optim.optimizers import Optimizers


class ObjectiveModule(nn.Module):
    """The objective of one micro-batch as a module.

    Whatever a loss does with the model happens within this `forward`, where the engines that reduce gradients
    and gather weights see it. Calls past them leave the ranks' gradients apart.
    """

    def __init__(self, model: nn.Module, objective: Any):
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Any, per_sequence: bool = False) -> Any:
        """(summed loss, metrics) of a micro-batch, or with `per_sequence` the loss of each document,
        (documents,)."""
        if per_sequence:
            return self._objective.per_sequence_loss(self.model, batch)
        return self._objective(self.model, batch)


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model without its frozen parameters."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


class Strategy:
    """How the processes of `group` share one training. The defaults are right where every process has all
    weights.

    Attributes:
        sharded: no process has all gradients or all weights; gradients are reduced in every backward pass.
        writes_shards: every process writes its part of a checkpoint, instead of rank 0 all of it.
        can_compile: the model may be compiled.
    """

    sharded = False
    writes_shards = False
    can_compile = True
    _module: nn.Module

    def __init__(self, group: ProcessGroup = SINGLE_PROCESS):
        self.group = group

    @property
    def data_shard(self) -> DataShard:
        """This process' part of a step's samples."""
        return DataShard(self.group.rank, self.group.world_size)

    # ---------------------------------------------------------------- a step

    def wrap(self, model: nn.Module, objective: Any) -> None:
        """Take model and objective. Before the optimisers are made: parameters may be replaced."""
        self._module = ObjectiveModule(model, objective)

    def build_optimizers(self, model: nn.Module, config: TrainConfig, offload: bool) -> Optimizers:
        """The optimisers of the wrapped model; `offload`: with their state in host memory.

        Raises:
            HanlinError: `config` asks for what this strategy cannot do.
        """
        return Optimizers(
            model,
            learning_rate=config.learning_rate,
            muon=config.muon,
            embedding_scale=config.embedding_scale,
            weight_decay=config.weight_decay,
            betas=(0.9, config.beta2),
            offload=offload,
        )

    def loss(self, batch: Any) -> Any:
        """Summed loss and metrics of a micro-batch on the device."""
        return self._module(batch)

    def per_sequence_loss(self, batch: Any) -> torch.Tensor:
        """The loss of each document of a micro-batch, (documents,)."""
        return self._module(batch, per_sequence=True)

    @contextlib.contextmanager
    def gradient_sync(self, enabled: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch; where `enabled`, gradients are reduced over the
        processes in the backward pass."""
        yield

    def reduce_gradients(self) -> None:
        """Average over the processes what was accumulated without `gradient_sync`."""

    def clip_grad_norm(self, model: nn.Module, max_norm: float) -> torch.Tensor:
        """Scale the gradients down to a norm of `max_norm`; returns the norm they had, 0-d, on the device."""
        return nn.utils.clip_grad_norm_(model.parameters(), max_norm)

    # ---------------------------------------------------------------- the state

    def unsharded(self, model: nn.Module) -> nn.Module:
        """The model with all its weights in this process, to generate with. Call it in every process."""
        return model

    def assert_replicas_equal(self, model: nn.Module) -> None:
        """Check that every process has the same weights.

        Raises:
            HanlinError: they have not.
        """
        if self.group.world_size == 1:
            return
        integers = {torch.float32: torch.int32, torch.float64: torch.int64}
        sums = [
            tensor.view(integers.get(tensor.dtype, torch.int16)).sum(dtype=torch.int64)
            for tensor in trained_weights(model).values()
        ]
        checksums = self.group.all_gather_object(torch.stack(sums).tolist())
        if any(other != checksums[0] for other in checksums):
            raise HanlinError(
                "The processes' weights differ: gradients were not brought together, or a machine computes "
                "wrongly. Stopped; the earlier checkpoints are whole."
            )

    def full_state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """All weights in host memory; complete in rank 0, possibly empty elsewhere. Call it in every
        process."""
        return {name: tensor.detach().to("cpu").contiguous() for name, tensor in model.state_dict().items()}

    def checkpoint_weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Weights as a checkpoint of this strategy holds them, on any device: those that are trained, since
        frozen ones come with the model that training begins with. Call it in every process."""
        return trained_weights(model)

    def load_weights(self, model: nn.Module, file: Path) -> None:
        """Fill the model from a file that holds all its trained weights.

        Raises:
            HanlinError: as `model.load_weights`.
        """
        trained = trained_weights(model)
        load_weights(model, file, file_names=lambda name: name if name in trained else None)


class SingleProcess(Strategy):
    """One process: nothing to share out and nothing to bring together."""

    def build_optimizers(self, model: nn.Module, config: TrainConfig, offload: bool) -> Optimizers:
        if config.parallel == "deepspeed":
            raise HanlinError(
                "train.parallel=deepspeed is for the commands of one stage (hanlin pretrain, sft, …, with "
                "torchrun or without), not for hanlin run. Leave it out, or train stage by stage."
            )
        return super().build_optimizers(model, config, offload)
