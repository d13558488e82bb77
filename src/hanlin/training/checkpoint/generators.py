"""The state of every random generator that a step might use, as tensors."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn


def generator_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """State of the generators: torch's, the accelerator's, numpy's, Python's."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - whoever uses it must find it as it was
    version, words, following = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*map(int, keys), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor(
            [gauss, 0.0 if following is None else following, following is not None], dtype=torch.float64
        ),
        "python": torch.tensor([version, *words], dtype=torch.int64),
    }
    device = next(model.parameters()).device
    if device.type != "cpu":
        tensors["accelerator"] = torch.get_device_module(device).get_rng_state(device)
    return tensors


def restore_generators(tensors: dict[str, torch.Tensor]) -> None:
    """Take back what `generator_tensors` returned."""
    torch.set_rng_state(tensors["torch"])
    *keys, position, has_gauss = tensors["numpy"].tolist()
    gauss, following, has_following = tensors["numpy_gauss"].tolist()
    np.random.set_state(("MT19937", np.asarray(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, *words = tensors["python"].tolist()
    random.setstate((version, tuple(words), following if has_following else None))
    if "accelerator" in tensors and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        torch.get_device_module(device).set_rng_state(tensors["accelerator"])
