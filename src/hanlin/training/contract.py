"""What a stage gives the trainer: a batch source and an objective.

    source.micro_batches(step, model, shard)  ->  [micro-batch, ...]      what this process reads at a step
    objective(model, micro_batch)             ->  summed loss, metrics
    objective.num_items(micro_batch)          ->  how many items (tokens, pairs) that loss is summed over

The gradient of a step is Σ loss / Σ num_items over all its micro-batches in all processes.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import hash_json
from hanlin.training.distributed.shard import FULL, DataShard


class BatchSource(abc.ABC):
    """What to read at each step.

    Attributes:
        uniform: the micro-batches of a step have the same shapes in every step, so that compiling may pay.
        generates: it writes with the model, which then is given to it with all weights in this process.
    """

    uniform: ClassVar[bool] = False
    generates: ClassVar[bool] = False

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the samples depend on, by name (dataset, seed, …), JSON-able. A resume with another one is
        refused and told what differs."""

    @abc.abstractmethod
    def micro_batches(self, step: int, model: nn.Module, shard: DataShard = FULL) -> list[Any]:
        """The micro-batches of one shard of a step's samples.

        A pure function of the step, of the weights where it `generates`, and of `state_dict` where it
        remembers. The samples of all shards together are the same, in the same order, however many shards
        there are.

        A micro-batch has `ids` (rows, T), `to(device)`, `documents` for reports, and may have `split()`:
        itself in two, for when memory runs out, or itself alone when it cannot be cut. One without rows is
        empty: it counts in `num_items` and nothing is computed of it. A step in which every process has only
        empty ones, or none at all, is counted and changes neither weights nor optimiser state.
        """

    def metrics(self) -> dict[str, float]:
        """Metrics of the samples read last, to log beside the objective's. As those, `NAME` is divided by
        `NAME_count`."""
        return {}

    def state_dict(self) -> dict[str, Any] | None:
        """What the source remembers between steps, in this process: nested dicts and lists of tensors and
        JSON-able values.

        It is saved with every checkpoint. None for a source that is a function of the step; one that
        remembers never returns None.
        """
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned in this process, after a resume or a rollback.

        Raises:
            NotImplementedError: the source remembers nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} has no state to load")

    def merge_state_dicts(self, states: Sequence[dict[str, Any]], shard: DataShard) -> dict[str, Any]:
        """This process' state, made from those of another number of processes.

        Raises:
            HanlinError: this source cannot do that.
        """
        raise HanlinError(
            "The state of the data source in this checkpoint is that of {written} processes, and there are "
            "{now}. Go on with {written} processes.",
            written=len(states),
            now=shard.world_size,
        )


class Objective(abc.ABC):
    """A loss over one micro-batch."""

    @abc.abstractmethod
    def num_items(self, batch: Any) -> float:
        """Number of items (tokens, pairs) that the loss of a micro-batch is summed over."""

    @abc.abstractmethod
    def __call__(
        self, model: nn.Module, batch: Any
    ) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """Summed loss to differentiate, and summed metrics to log.

        Auxiliary losses that layers leave in the forward pass (a router's load balancing) are added here, by
        the objective that ran it. A metric `NAME` is divided by `NAME_count` where that exists. One that is a
        0-d tensor is read a step later, so that nothing waits for the device.
        """

    def per_sequence_loss(self, model: nn.Module, batch: Any) -> torch.Tensor | None:
        """The loss of each document of a micro-batch, (documents,), to say who made a step bad; None where it
        has no such thing."""
        return None


def config_hash(identity: Mapping[str, Any]) -> str:
    """Hash of what the samples of a run depend on, as `BatchSource.identity` names it."""
    return hash_json(dict(identity))
