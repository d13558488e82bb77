"""From the gradient of a step to new weights: unscale, clip, judge, update."""

from __future__ import annotations

import torch
from torch import nn

from hanlin.training.config import TrainConfig
from hanlin.training.distributed.strategy import Strategy
from hanlin.training.guards import SpikeGuard
from hanlin.training.optim.optimizers import Optimizers
from hanlin.training.precision import GradientScaler, skips_on_device
from hanlin.training.schedule import learning_rate_factor


class WeightUpdate:
    """Updates the weights by a step's gradient, unless the step is bad. Nothing here waits for an
    accelerator."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        strategy: Strategy,
        optimizers: Optimizers,
        scaler: GradientScaler,
        guard: SpikeGuard,
        device: torch.device,
    ):
        self.model = model
        self.config = config
        self.strategy = strategy
        self.optimizers = optimizers
        self.scaler = scaler
        self.guard = guard
        self.device = device

    def learning_rate(self, step: int) -> float:
        """The peak learning rate times the schedule's factor."""
        return self.config.learning_rate * self._factor(step)

    def __call__(self, step: int, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """Update with the gradients that the parameters hold, and drop them.

        Args:
            loss: of the step, 0-d on the device.

        Returns:
            what is to be logged, 0-d on the device: `loss`, `grad_norm` before clipping, `bad`,
            `loss_sigmas`, `norm_sigmas`, and the loss scale where there is one.
        """
        self.scaler.unscale_(self.model.parameters())
        grad_norm = self.strategy.clip_grad_norm(self.model, self.config.max_grad_norm)
        verdict = self.guard.judge(loss, grad_norm)
        overflow = self.scaler.judge(loss, grad_norm)
        bad = verdict.bad if skips_on_device(self.device) else verdict.bad.cpu()
        self.optimizers.step(self._factor(step), bad)
        return {
            "loss": loss,
            "grad_norm": grad_norm,
            "bad": verdict.bad & ~overflow,
            "loss_sigmas": verdict.loss_sigmas,
            "norm_sigmas": verdict.norm_sigmas,
        } | self.scaler.metrics()

    def _factor(self, step: int) -> float:
        config = self.config
        return learning_rate_factor(
            step,
            config.steps,
            schedule=config.schedule,
            warmup_ratio=config.warmup_ratio,
            decay_ratio=config.decay_ratio,
            min_lr_ratio=config.min_lr_ratio,
        )
