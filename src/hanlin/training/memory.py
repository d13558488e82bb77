"""What to do when memory runs out: the same samples in smaller pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..common.errors import HanlinError

_CPU_ALLOCATOR = ("not enough memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device or the machine has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _CPU_ALLOCATOR)


def release_memory(device: torch.device) -> None:
    """Give back what the allocator of an accelerator keeps for later."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def halve(batches: Sequence[Any]) -> list[Any]:
    """Every micro-batch cut in two by its `split()`; one that cannot be cut stays whole."""
    return [part for batch in batches for part in (batch.split() if hasattr(batch, "split") else [batch])]


def cut(batches: Sequence[Any], halvings: int) -> list[Any]:
    """The micro-batches of a step, cut in two as many times as memory has asked for so far."""
    for _ in range(halvings):
        batches = halve(batches)
    return list(batches)


def does_not_fit(message: str) -> HanlinError:
    """The error when not even one row fits."""
    return HanlinError(
        f"内存不足：一次只放一行也放不下（{message}）。请减小 seq_len，或用更小的模型（hidden_size、num_hidden_layers）、内存更大的设备。已保存的检查点没有改动。",
        f"Out of memory: not even one row at a time fits ({message}). Lower seq_len, or take a smaller model (hidden_size, num_hidden_layers) "
        "or a device with more memory. The checkpoints are as they were.",
    )
