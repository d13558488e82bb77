"""What a stage gives the loop: where its samples come from, and what is to be made smaller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from hanlin.training.distributed.shard import FULL, DataShard


class BatchSource(Protocol):
    """What to read at each step.

    A source may also have an `identity`, a dict of what its samples depend on by name (dataset, seed, …): then a refused
    resume says which of these changed; `uniform`, true when its micro-batches have the same shapes in every step, so that compiling may
    pay; `generates`, true when it writes with the model, which then is whole wherever its weights are.
    """

    @property
    def fingerprint(self) -> str:
        """Changes when the samples of a resumed run would."""
        ...

    def micro_batches(self, step: int, model: nn.Module, shard: DataShard = FULL) -> list[Any]:
        """One process' share of a step's samples as micro-batches: a pure function of the step (and, for reinforcement learning, of the
        weights). The samples of all shares together are the same, in the same order, however many there are.

        A micro-batch has `ids` (rows, T), `to(device)`, `documents` for reports, and `split()`: itself in two, for when
        memory runs out, or itself alone when it cannot be cut. With `idle` true there is nothing to learn from it; a step in which
        that holds everywhere is counted, and changes neither weights nor optimiser state.
        """
        ...


class Objective(Protocol):
    """A loss over one micro-batch. With `per_sequence_loss(model, batch) -> (documents,)` it can also say who made a step bad."""

    def num_items(self, batch: Any) -> float:
        """Number of items (tokens, pairs) the loss of this micro-batch is summed over."""
        ...

    def __call__(
        self, model: nn.Module, batch: Any
    ) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """Summed loss to differentiate, and summed figures to log; `weight` of a figure is the objective's weight.

        A figure that is a 0-d tensor is read a step later, so that nothing waits for the device.
        """
        ...


def means(figures: dict[str, float]) -> dict[str, float]:
    """Turn summed figures into means: `name` over `name_count` where that exists; bits per byte from nats and bytes."""
    result = {}
    for name, value in figures.items():
        if name.endswith("_count") or name in ("nll", "bytes"):
            continue
        count = figures.get(f"{name}_count")
        result[name] = value if count is None else value / max(count, 1e-9)
    if figures.get("bytes"):
        result["bits_per_byte"] = figures["nll"] / math.log(2) / figures["bytes"]
    return result
