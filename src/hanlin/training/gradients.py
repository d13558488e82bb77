"""The gradient of a step over all its micro-batches and all processes, whatever memory allows.

accumulate                      a step: as often as micro-batches have to be halved
  -> _forward_backward          all micro-batches once: forward, backward, sums
       -> Strategy.loss         the objective, where the engines that reduce gradients see it
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hanlin.common.progress import Progress
from hanlin.training.contract import Objective
from hanlin.training.distributed.strategy import Strategy
from hanlin.training.memory import (
    cut,
    desync_error,
    halve,
    is_out_of_memory,
    out_of_memory_error,
    release_memory,
    remember_halvings,
)
from hanlin.training.optim.optimizers import Optimizers
from hanlin.training.precision import GradientScaler, train_autocast


@dataclasses.dataclass(frozen=True)
class StepGradients:
    """What accumulating a step leaves besides the gradients themselves.

    Attributes:
        batches: this process' micro-batches as they were cut in the end, without empty ones.
        padding: micro-batches that it went through besides, for nothing, so that all processes make as many
            passes.
        loss: of the step, Σ loss / Σ num_items, 0-d on the device.
        metrics: summed over this process' micro-batches.
        is_empty: no process had anything to compute; there are no gradients.
    """

    batches: list[Any]
    padding: list[Any]
    loss: torch.Tensor
    metrics: dict[str, float | torch.Tensor]
    is_empty: bool = False


class GradientAccumulator:
    """Accumulates the gradient of a step; halves its micro-batches when memory runs out, with the same
    samples and the same gradient.

    Attributes:
        microbatch_halvings: how often memory has asked for micro-batches half as large.
    """

    def __init__(
        self,
        objective: Objective,
        strategy: Strategy,
        optimizers: Optimizers,
        scaler: GradientScaler,
        device: torch.device,
        checkpoint_dir: Path,
        progress: Progress,
    ):
        self.objective = objective
        self.strategy = strategy
        self.group = strategy.group
        self.optimizers = optimizers
        self.scaler = scaler
        self.device = device
        self.checkpoint_dir = checkpoint_dir
        self.progress = progress
        self.microbatch_halvings = 0
        self._fitting = 0  # elements of the largest micro-batch that memory has been seen to hold

    def accumulate(self, step: int, batches: Sequence[Any]) -> StepGradients:
        """The gradient of a step's micro-batches, as its source made them.

        A process that runs out of memory while the others exchange gradients would keep them waiting. So as
        long as micro-batches of this size have not been seen to fit everywhere, gradients are exchanged only
        after all have said that theirs are there.

        Raises:
            HanlinError: not even one row fits, or memory ran out where gradients are exchanged in every
                backward pass.
        """
        items = sum(self.objective.num_items(batch) for batch in batches)  # empty micro-batches count as well
        batches = cut([batch for batch in batches if len(batch.ids)], self.microbatch_halvings)
        while True:
            largest = max((batch.ids.numel() for batch in batches), default=0)
            reports = self.group.all_gather_object((items, len(batches), largest, self._fitting))
            total_items = sum(report[0] for report in reports) or 1.0
            passes = [report[1] for report in reports]
            if not any(passes):
                return StepGradients([], [], torch.zeros(()), {}, is_empty=True)
            padding = self._padding(batches, passes)
            largest_of_all = max(report[2] for report in reports)
            fits = all((size or largest_of_all) <= fitting for _, _, size, fitting in reports)
            sync = self.strategy.sharded or (self.group.world_size > 1 and fits)
            message, result = "", None
            try:
                result = self._forward_backward(batches, padding, total_items, sync)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                message = str(error).splitlines()[0]
            if sync and message:
                remember_halvings(self.checkpoint_dir, self.microbatch_halvings + 1)
                raise desync_error(message)
            message = max(self.group.all_gather_object(message)) if not sync else ""
            if not message:
                assert result is not None
                if not sync:
                    self.strategy.reduce_gradients()
                self._fitting = max(self._fitting, largest or largest_of_all)
                return StepGradients(batches, padding, self.group.all_reduce_sum(result[0]), result[1])
            self.optimizers.zero_grad()
            release_memory(self.device)
            smaller = halve(batches)
            if not any(self.group.all_gather_object(len(smaller) > len(batches))):
                raise out_of_memory_error(message)
            batches = smaller
            self.microbatch_halvings += 1
            rows = max((len(batch.ids) for batch in batches), default=0)
            self.progress.warn(
                "out of memory at step {step}; from here on a micro-batch has {rows} rows at most, with "
                "the same samples and gradients",
                step=step,
                rows=rows,
            )

    def _padding(self, batches: list[Any], passes: list[int]) -> list[Any]:
        """What this process goes through with a loss of zero until it has made as many passes as any other.

        Its own last micro-batch again; where it has none, one of another process' (sharded weights are
        gathered in every pass, so nobody may leave one out).
        """
        borrowed = None
        if not all(passes):
            lender = passes.index(max(passes))
            offers = self.group.all_gather_object(batches[-1] if self.group.rank == lender else None)
            borrowed = offers[lender]
        return [batches[-1] if batches else borrowed] * (max(passes) - len(batches))

    def _forward_backward(
        self, batches: list[Any], padding: list[Any], total_items: float, sync: bool
    ) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        """Loss, 0-d, and summed metrics of this process' micro-batches; gradients are accumulated in the
        parameters."""
        loss_sum = torch.zeros((), device=self.device)
        metrics: dict[str, float | torch.Tensor] = collections.defaultdict(float)
        last = len(batches) + len(padding) - 1
        for index, micro_batch in enumerate([*batches, *padding]):
            batch = micro_batch.to(self.device)
            with self.strategy.gradient_sync(enabled=sync and index == last):
                with train_autocast(self.device):
                    loss, summed = self.strategy.loss(batch)
                if index >= len(batches):
                    (loss * 0.0).backward()
                    continue
                # the engines average over the processes, which is undone here
                scaled = self.scaler.scaled(loss / (total_items / self.group.world_size))
                scaled.backward()
            loss_sum += loss.detach()
            for name, value in summed.items():
                metrics[name] += value
        return loss_sum / total_items, metrics
