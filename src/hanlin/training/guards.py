"""What keeps a bad step from doing harm: a verdict that stays on the device, and what the host does about
several of them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from hanlin.common.errors import HanlinError

RECENT = 100  # steps within which bad ones are counted together
TOO_MANY = 3  # bad steps among the recent that end trust in what the weights have become


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Of one step, all 0-d tensors on the device: whether it must not be taken, and how many deviations above
    the ordinary its loss and its gradient norm lie."""

    bad: torch.Tensor
    loss_sigmas: torch.Tensor
    norm_sigmas: torch.Tensor


class SpikeGuard:
    """Remembers the last `window` ordinary losses and gradient norms and judges a step by them (OLMo's skip
    rule).

    A step is bad when its loss or norm is not finite or, once `least` steps are known, more than `sigma`
    deviations above the mean. A norm that clipping leaves alone is never a spike: small batches have heavy
    tails there and do no harm. Nothing here waits for the device.
    """

    def __init__(
        self,
        sigma: float,
        max_grad_norm: float,
        device: torch.device | None = None,
        window: int = 128,
        least: int = 64,
    ):
        self.sigma, self.max_grad_norm, self.least = sigma, max_grad_norm, least
        self.seen = torch.zeros(2, window, device=device)  # losses and norms, each a ring
        self.count = torch.zeros((), dtype=torch.int64, device=device)  # ordinary steps so far
        self._places = torch.arange(window, device=device)

    def judge(self, loss: torch.Tensor, norm: torch.Tensor) -> Verdict:
        """Judge a step by its loss and gradient norm, 0-d tensors; an ordinary one joins the memory."""
        values = torch.stack([loss.detach().float(), norm.detach().float()])
        window = len(self._places)
        known = self.count.clamp(max=window)
        mean = self.seen.sum(1) / known.clamp(min=1)
        distances = torch.where(self._places < known, self.seen - mean[:, None], 0.0)
        deviation = (distances.square().sum(1) / known.clamp(min=1)).sqrt()
        sigmas = (values - mean) / torch.maximum(deviation, 1e-6 + 0.02 * mean.abs())
        spike = (sigmas > self.sigma) & (self.count >= self.least)
        bad = ~values.isfinite().all() | spike[0] | (spike[1] & (values[1] > self.max_grad_norm))
        self.seen = torch.where((self._places == self.count % window) & ~bad, values[:, None], self.seen)
        self.count = self.count + ~bad
        return Verdict(bad, sigmas[0], sigmas[1])

    def reason(self, loss: float, norm: float, loss_sigmas: float) -> str:
        """Why a bad step was bad, from the metrics read back: `loss not finite`, `gradient not finite`,
        `loss` or `gradient`."""
        if not math.isfinite(loss):
            return "loss not finite"
        if not math.isfinite(norm):
            return "gradient not finite"
        return "loss" if loss_sigmas > self.sigma else "gradient"

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, JSON-able; float32 values survive exactly."""
        return {"losses": self.seen[0].tolist(), "norms": self.seen[1].tolist(), "count": int(self.count)}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.seen.copy_(torch.tensor([state["losses"], state["norms"]]))
        self.count.fill_(state["count"])


@dataclasses.dataclass
class BadSteps:
    """The bad steps of late, and where the run has been rolled back to before."""

    steps: list[int] = dataclasses.field(default_factory=list)
    rollbacks: list[int] = dataclasses.field(default_factory=list)

    def add(self, step: int) -> bool:
        """Count a bad step; whether there are too many among the recent."""
        self.steps = [earlier for earlier in self.steps if earlier > step - RECENT] + [step]
        return len(self.steps) >= TOO_MANY


def no_checkpoint_error(step: int, checkpoint_dir: Path) -> HanlinError:
    """The error of bad steps that come again after a rollback, or that nothing sound lies before."""
    return HanlinError(
        "Up to step {step}, three of the last hundred steps had an abnormal loss or gradient again, and "
        "going back did not help. The checkpoints in {work} were not touched by them. Lower learning_rate, "
        "or see the documents of those steps with: hanlin inspect spike {work}",
        step=step,
        work=checkpoint_dir,
    )
