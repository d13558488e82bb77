"""Preallocated keys and values of the tokens already read."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from hanlin.model.config import ModelConfig


class KVCache:
    """Keys and values per layer, shape (batch, key-value heads, max_length, head_dim), and how much of each
    row is filled.

    A forward pass with a cache writes its T tokens at `lengths[b] … lengths[b]+T-1` and lets each attend to
    every position up to its own. It does not advance: the caller does, by the number of *real* tokens of
    each row, so prompts of different lengths can be read in one padded pass (the padding is overwritten by
    what follows).

    Attributes:
        lengths: (batch,) int64 on the device, how much of each row is filled.
        host_lengths: the same numbers on the host, (batch,) int64, so that nobody has to wait for the device
            to learn them.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        shape = (batch_size, config.num_key_value_heads, max_length, config.head_dim)
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.host_lengths = np.zeros(batch_size, dtype=np.int64)

    @property
    def max_length(self) -> int:
        """Positions a row can hold."""
        return self.keys[0].shape[2]

    @property
    def longest(self) -> int:
        """Filled positions of the fullest row."""
        return int(self.host_lengths.max())

    def rows(self, start: int, stop: int) -> KVCache:
        """A cache that is the rows start … stop-1 of this one, sharing its memory."""
        view = copy.copy(self)
        view.keys = [keys[start:stop] for keys in self.keys]
        view.values = [values[start:stop] for values in self.values]
        view.lengths = self.lengths[start:stop]
        view.host_lengths = self.host_lengths[start:stop]
        return view

    def set_lengths(self, lengths: int | Sequence[int]) -> None:
        """Say how much of each row is filled; one number is that of all."""
        self.host_lengths[:] = lengths
        if isinstance(lengths, int):
            self.lengths.fill_(lengths)
        else:
            self.lengths.copy_(torch.tensor(lengths, dtype=torch.int64))

    def advance(self, counts: int | Sequence[int]) -> None:
        """Say that so many more positions of each row are filled; one number is that of all."""
        if isinstance(counts, int):
            self.host_lengths += counts
            self.lengths += counts
        else:
            self.set_lengths((self.host_lengths + np.asarray(counts)).tolist())

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """Write keys and values (B, Hkv, T, D) at `positions` (B, T) of one layer."""
        rows = torch.arange(positions.shape[0], device=positions.device)[:, None]
        self.keys[layer][rows, :, positions] = keys.transpose(1, 2)
        self.values[layer][rows, :, positions] = values.transpose(1, 2)
