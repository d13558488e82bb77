"""What to do when memory runs out: the same samples in smaller pieces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hanlin.common.atomic import read_json, write_json
from hanlin.common.errors import HanlinError

_MEMORY = "memory.json"
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


def remember_halvings(checkpoint_dir: Path, halvings: int) -> None:
    """Note for the next start how often micro-batches are to be halved."""
    write_json(checkpoint_dir / _MEMORY, {"halvings": halvings})


def remembered_halvings(checkpoint_dir: Path) -> int:
    """What `remember_halvings` noted; 0 if nothing."""
    return int(read_json(checkpoint_dir / _MEMORY)["halvings"]) if (checkpoint_dir / _MEMORY).is_file() else 0


def desync_error(message: str) -> HanlinError:
    """The error when one of several processes has no memory left while the others wait for its gradients."""
    return HanlinError(
        "One process ran out of memory ({message}) while the others waited for its gradients. Run the same "
        "command again (torchrun --max-restarts does): it goes on from the newest checkpoint with "
        "micro-batches half as large and the same samples.",
        message=message,
    )


def out_of_memory_error(message: str) -> HanlinError:
    """The error when not even one row fits."""
    return HanlinError(
        "Out of memory: not even one row at a time fits ({message}). Lower seq_len, or take a smaller "
        "model (hidden_size, num_hidden_layers) or a device with more memory. The checkpoints are as they "
        "were.",
        message=message,
    )
