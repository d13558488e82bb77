"""Preallocated keys and values of the tokens already read."""

from __future__ import annotations

import torch

from hanlin.model.config import ModelConfig


class KVCache:
    """Keys and values per layer, shape (batch, key-value heads, max_length, head_dim), and how much of each row is filled.

    A forward pass with a cache writes its T tokens at `lengths[b] … lengths[b]+T-1` and lets each attend to every
    position up to its own. It does not advance `lengths`: the caller does, by the number of *real* tokens of each row,
    so prompts of different lengths can be read in one padded pass (the padding is overwritten by what follows).
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
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)]
        self.values = [
            torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)
        ]
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)

    @property
    def max_length(self) -> int:
        """Positions a row can hold."""
        return self.keys[0].shape[2]

    def select(self, rows: torch.Tensor) -> None:
        """Keep only `rows` (int64 indices), in that order."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        self.lengths = self.lengths[rows]

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """Write keys and values (B, Hkv, T, D) at `positions` (B, T) of one layer."""
        rows = torch.arange(positions.shape[0], device=positions.device)[:, None]
        self.keys[layer][rows, :, positions] = keys.transpose(1, 2)
        self.values[layer][rows, :, positions] = values.transpose(1, 2)
