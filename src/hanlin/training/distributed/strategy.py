"""Many processes, one training: the same samples and the same steps whatever their number.

`torchrun` starts the processes; `joined` finds out about them; a `Team` is what the loop asks. A step's samples depend on the step
alone, and each member takes its share of them; gradients are Σ loss / Σ weight over all members, as over all micro-batches.
Everything that is decided by a clock, a signal or a lack of memory is decided together, so no member waits for one that went elsewhere.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from hanlin.common.errors import HanlinError
from hanlin.model import load_weights
from hanlin.training.config import TrainConfig
from hanlin.training.distributed.shard import WHOLE, Share
from hanlin.training.optim.optimizers import Optimizers

T = TypeVar("T")
_TIMEOUT = 600.0  # seconds until a member that says nothing is given up; HANLIN_DIST_TIMEOUT changes it


class _Step(nn.Module):
    """The objective of one micro-batch as a module: whatever a loss does with the model happens within its `forward`, where the engines
    that reduce gradients and gather weights see it. (Calls past them leave the ranks' gradients apart.)"""

    def __init__(self, model: nn.Module, objective: Any):
        super().__init__()
        self.model, self._objective = model, objective

    def forward(self, batch: Any, judge: bool = False) -> Any:
        """(loss, figures), or with `judge` the loss of each document."""
        return (
            self._objective.per_document(self.model, batch) if judge else self._objective(self.model, batch)
        )


class Team:
    """The processes of one training, and this one among them. This class is one process alone: it asks nobody."""

    share = WHOLE
    sharded = (
        False  # whether gradients are brought together in every backward pass, and nobody has all of them
    )
    writes_shards = False  # whether every process writes its part of a checkpoint
    compiles = True  # whether the model may be compiled
    _step: nn.Module

    @property
    def size(self) -> int:
        """Processes."""
        return self.share.size

    @property
    def first(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return self.share.rank == 0

    # ---------------------------------------------------------------- what the members tell one another, on the host

    def gather(self, value: T) -> list[T]:
        """Every member's value, in their order; small, and on the host."""
        return [value]

    def by_first(self, action: Callable[[], T]) -> T:
        """What `action` returns in the first process, which alone does it. Its error is everybody's."""
        return action()

    def apart(self) -> Team:
        """The same members, for words of other threads: what is said there never meets what is said here. Call it in every process."""
        return self

    # ---------------------------------------------------------------- a step

    def prepare(self, model: nn.Module, objective: Any) -> None:
        """Make the model's gradients common. Before the optimisers are made: parameters may be replaced."""
        self._step = _Step(model, objective)

    def optimizers(self, model: nn.Module, config: TrainConfig, offload: bool) -> Optimizers:
        """What updates the model that `prepare` was given; `offload`: with its state in host memory.

        Raises:
            HanlinError: `config` asks for what this team cannot do.
        """
        if config.parallel == "deepspeed":
            raise HanlinError(
                "train.parallel=deepspeed 只用于单个阶段的命令（hanlin pretrain、sft……，前面可加 torchrun），hanlin run 不用它。请去掉它，或一个阶段一个阶段地训练。",
                "train.parallel=deepspeed is for the commands of one stage (hanlin pretrain, sft, …, with torchrun or without), not for hanlin run. Leave it out, or train stage by stage.",
            )
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
        """Summed loss and figures of a micro-batch."""
        return self._step(batch)

    def per_document(self, batch: Any) -> torch.Tensor:
        """The loss of each document of a micro-batch, (documents,)."""
        return self._step(batch, judge=True)

    @contextlib.contextmanager
    def accumulating(self, sync: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch; with `sync`, gradients are common afterwards."""
        yield

    def reduce_gradients(self) -> None:
        """Make gradients common that were all accumulated without `sync`."""

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over the members of a tensor on the device."""
        return value

    def clip(self, model: nn.Module, limit: float) -> torch.Tensor:
        """Scale the gradients down to a norm of `limit`; the norm they had, 0-d."""
        return nn.utils.clip_grad_norm_(model.parameters(), limit)

    def whole(self, model: nn.Module) -> nn.Module:
        """The model with all its weights at hand, to generate with."""
        return model

    def require_same(self, model: nn.Module) -> None:
        """Check that every member has the same weights.

        Raises:
            HanlinError: they have not.
        """

    def full_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """All weights in host memory; in the first process, the others may have nothing."""
        return {name: tensor.detach().to("cpu").contiguous() for name, tensor in model.state_dict().items()}

    def checkpoint_weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Weights for the first process to write a checkpoint of, on any device. Call it in every process."""
        return model.state_dict()

    def load_weights(self, model: nn.Module, file: Path) -> None:
        """Fill the model from a file that holds all its weights.

        Raises:
            HanlinError: as `model.load_weights`.
        """
        load_weights(model, file)


class DataParallel(Team):
    """Every process has the whole model; gradients are averaged by DistributedDataParallel (Li et al. 2020)."""

    def __init__(self, device: torch.device):
        self.device = device
        self.share = Share(dist.get_rank(), dist.get_world_size())
        # Words among hosts have a group of their own: nothing said here waits for the device, or is waited for by it.
        self._control: Any = dist.new_group(backend="gloo", timeout=_timeout())

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def by_first(self, action: Callable[[], T]) -> T:
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = action()
            except HanlinError as error:
                outcome[1] = (error.zh, error.en)
            except BaseException as error:
                outcome[1] = (f"第一个进程出错：{error!r}", f"the first process failed: {error!r}")
                dist.broadcast_object_list([None, outcome[1]], src=0, group=self._control)
                raise
        dist.broadcast_object_list(outcome, src=0, group=self._control)
        if outcome[1] is not None:
            error = HanlinError(*outcome[1])
            error.already_reported = not self.first
            raise error
        return outcome[0]

    def apart(self) -> Team:
        other = copy.copy(self)
        other._control = dist.new_group(backend="gloo", timeout=_timeout())
        return other

    def prepare(self, model: nn.Module, objective: Any) -> None:
        ids = None if self.device.type == "cpu" else [self.device]
        # Buffers are tables that never change; to send them before a forward pass would also wait for a process that has no memory left.
        engine: Any = nn.parallel.DistributedDataParallel
        word = (
            "forward_sync_buffers"
            if "forward_sync_buffers" in inspect.signature(engine.__init__).parameters
            else "broadcast_buffers"
        )
        self._step = engine(_Step(model, objective), device_ids=ids, **{word: False})

    @contextlib.contextmanager
    def accumulating(self, sync: bool) -> Iterator[None]:
        with contextlib.nullcontext() if sync else self._step.no_sync():  # type: ignore[operator]
            yield

    def per_document(self, batch: Any) -> torch.Tensor:
        return self._step.module(batch, judge=True)  # type: ignore[operator]

    def reduce_gradients(self) -> None:
        for parameter in self._step.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.size

    def total(self, value: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(value)
        return value

    def require_same(self, model: nn.Module) -> None:
        words = {torch.float32: torch.int32, torch.float64: torch.int64}
        sums = [
            tensor.view(words.get(tensor.dtype, torch.int16)).sum(dtype=torch.int64)
            for tensor in model.state_dict().values()
        ]
        found = self.gather(torch.stack(sums).tolist())
        if any(other != found[0] for other in found):
            raise HanlinError(
                "各进程的权重不一样了：梯度没有合到一起，或某台机器算错了。已停止，先前的检查点完好。",
                "The processes' weights differ: gradients were not brought together, or a machine computes wrongly. Stopped; the earlier checkpoints are whole.",
            )


class Sharded(DataParallel):
    """Every process has a part of each weight, its gradient and its optimiser state (FSDP2, `fully_shard`); in float32 throughout.

    Args:
        hybrid: shard among the processes of a machine and repeat that on every machine (HSDP).
    """

    sharded = writes_shards = True

    def __init__(self, device: torch.device, hybrid: bool = False):
        super().__init__(device)
        from torch.distributed.device_mesh import init_device_mesh

        local = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        if hybrid and self.size % local:
            raise HanlinError(
                f"hsdp 要求每台机器的进程数相同（{self.size} 不是 {local} 的倍数）。请用 fsdp。",
                f"hsdp needs the same number of processes on each machine ({self.size} is not a multiple of {local}). Use fsdp.",
            )
        shape, names = (
            ((self.size // local, local), ("replicate", "shard")) if hybrid else ((self.size,), ("shard",))
        )
        self.mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)

    def prepare(self, model: nn.Module, objective: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        self._step = _Step(model, objective)
        layers: Any = model.decoder.blocks  # type: ignore[union-attr]
        for layer in layers:
            fully_shard(layer, mesh=self.mesh)
        # embeddings, final norm and head: one group, since the first and the last may be one matrix
        fully_shard(self._step, mesh=self.mesh)

    @contextlib.contextmanager
    def accumulating(self, sync: bool) -> Iterator[None]:
        yield  # gradients are reduced after each micro-batch: a whole gradient is what sharding is to save

    def per_document(self, batch: Any) -> torch.Tensor:
        return self._step(batch, judge=True)

    def reduce_gradients(self) -> None:
        raise RuntimeError("sharded gradients are reduced in the backward pass")

    def clip(self, model: nn.Module, limit: float) -> torch.Tensor:
        return super().clip(model, limit).full_tensor()  # type: ignore[attr-defined]

    def whole(self, model: nn.Module) -> nn.Module:
        """A copy: the sharded layers would bring their weights together at every token, and the processes write answers of unlike lengths."""
        parameters: dict[str, Any] = dict(model.named_parameters())
        return detached_copy(model, {name: part.detach().full_tensor() for name, part in parameters.items()})

    def require_same(self, model: nn.Module) -> None:
        """Each weight is in one place only."""

    def full_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        found = {}
        for name, tensor in model.state_dict().items():
            full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            if self.first:
                found[name] = full.detach().to("cpu").contiguous()
        return found


def detached_copy(model: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    """The model with these whole weights and its own buffers, not to be trained."""
    with torch.device("meta"):
        copy = type(model)(model.config)  # type: ignore[call-arg, arg-type]
    copy.load_state_dict(weights, strict=False, assign=True)
    for name, buffer in model.named_buffers():
        holder, _, last = name.rpartition(".")
        copy.get_submodule(holder).register_buffer(last, buffer, persistent=False)
    return copy.requires_grad_(False)


ALONE = Team()  # for what asks a team but trains nothing


def _timeout() -> datetime.timedelta:
    return datetime.timedelta(seconds=float(os.environ.get("HANLIN_DIST_TIMEOUT", _TIMEOUT)))
