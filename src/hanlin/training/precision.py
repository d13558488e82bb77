"""Half precision without losing small gradients: a loss scale that finds its own size, and never makes the
host wait."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hanlin.common.devices import device_capabilities

INITIAL = 2.0**16
GROWTH_INTERVAL = 2000  # steps without an overflow after which the scale doubles
_LARGEST = 2.0**40


def train_autocast(device: torch.device) -> torch.autocast:
    """The precision of every forward pass of training: matrix products in the device's `train_dtype`."""
    dtype = device_capabilities(device).train_dtype
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")


class GradientScaler:
    """Dynamic loss scaling for float16 (Micikevicius et al. 2018, §3.2), with the numbers of
    `torch.amp.GradScaler`.

    The loss is multiplied by a power of two before backward and the gradients divided by it after, so that
    they lie within float16's range meanwhile. An overflow (a finite loss, a gradient norm that is not) halves
    the scale and spoils the step, which the caller leaves out; 2,000 steps without one double it. With a
    scale of one nothing is an overflow any
    more: gradients that are not finite then are a fault of the step's own.

    Not torch's class: that one asks the device at each step whether there was an overflow, and reckons in
    float64, which some devices do not have (pytorch#142397). Here the norm is judged that clipping has
    computed anyway, the same on all ranks.

    Args:
        enabled: whether to scale at all; without, every call costs nothing and changes no bit.

    Attributes:
        scale, good, overflows: 0-d tensors on the device: the scale, steps since its last change, overflows
            so far.
    """

    def __init__(self, device: torch.device, enabled: bool):
        self.enabled = enabled
        self.scale = torch.full((), INITIAL if enabled else 1.0, device=device)
        self.good = torch.zeros((), dtype=torch.int64, device=device)
        self.overflows = torch.zeros((), dtype=torch.int64, device=device)
        self._never = torch.zeros((), dtype=torch.bool, device=device)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss to differentiate, float32."""
        return loss * self.scale if self.enabled else loss

    @torch.no_grad()
    def unscale_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide all gradients by the scale, in place; exact, since it is a power of two."""
        gradients = (
            [parameter.grad for parameter in parameters if parameter.grad is not None] if self.enabled else []
        )
        if gradients:
            torch._foreach_mul_(gradients, self.scale.reciprocal())  # type: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def judge(self, loss: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """Whether the step has overflowed, 0-d bool on the device; the scale follows.

        Args:
            loss: 0-d, of the step, as it is without the scale; norm: 0-d, of the unscaled gradients.
        """
        if not self.enabled:
            return self._never
        overflow = loss.isfinite() & ~norm.isfinite() & (self.scale > 1)
        good = torch.where(norm.isfinite(), self.good + 1, torch.where(overflow, 0, self.good))
        grown = good >= GROWTH_INTERVAL
        scale = torch.where(overflow, self.scale / 2, torch.where(grown, self.scale * 2, self.scale))
        self.scale = scale.clamp(1.0, _LARGEST)
        self.good = torch.where(grown, 0, good)
        self.overflows = self.overflows + overflow
        return overflow

    def metrics(self) -> dict[str, torch.Tensor]:
        """`loss_scale` and `overflows` so far, on the device; nothing where nothing is scaled."""
        return {"loss_scale": self.scale, "overflows": self.overflows} if self.enabled else {}

    def state(self) -> dict[str, Any] | None:
        """What a resumed run needs, JSON-able."""
        return (
            {"scale": float(self.scale), "good": int(self.good), "overflows": int(self.overflows)}
            if self.enabled
            else None
        )

    def load(self, state: dict[str, Any] | None) -> None:
        """Take back what `state` gave; a checkpoint of another precision, with none, leaves the scale as it
        is."""
        if self.enabled and state is not None:
            self.scale.fill_(state["scale"])
            self.good.fill_(state["good"])
            self.overflows.fill_(state["overflows"])


def scaler_for(device: torch.device) -> GradientScaler:
    """A scaler that is on where the device trains in float16."""
    return GradientScaler(device, device_capabilities(device).train_dtype == "float16")


@functools.cache
def skips_on_device(device: torch.device) -> bool:
    """Whether the device's fused AdamW leaves everything alone where it is told that a step is bad; tried
    once.

    Where it does not, the verdict has to be read by the host.
    """
    parameter = nn.Parameter(torch.ones(8, device=device))
    try:
        optimizer = torch.optim.AdamW([parameter], fused=True)
        parameter.grad = torch.full_like(parameter, float("nan"))
        optimizer.found_inf = torch.ones((), device=device)  # type: ignore[attr-defined]
        optimizer.step()
    except (RuntimeError, NotImplementedError):
        return False
    return bool((parameter == 1).all()) and all(
        bool(torch.isfinite(value).all()) for value in optimizer.state[parameter].values()
    )
