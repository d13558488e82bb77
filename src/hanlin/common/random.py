"""Counter-based random bits: SplitMix64's finaliser (Steele, Lea & Flood 2014), the same on every platform
and version.

What is drawn by hashing an index does not depend on what was drawn before, so any part of a sequence can be
had alone. One function for each kind of number: a Python int, a numpy array, a torch tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's increment: 2^64 over the golden ratio, made odd
MASK64 = (1 << 64) - 1
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def splitmix64(x: int) -> int:
    """64 bits for an unsigned 64-bit integer."""
    x = ((x ^ (x >> 30)) * _FIRST) & MASK64
    x = ((x ^ (x >> 27)) * _SECOND) & MASK64
    return x ^ (x >> 31)


def splitmix64_array(values: np.ndarray) -> np.ndarray:
    """64 bits for each value; uint64 in and out, any shape."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(_SECOND)
    return values ^ (values >> np.uint64(31))


def splitmix64_tensor(values: torch.Tensor) -> torch.Tensor:
    """64 bits for each value, on its device; int64 in and out, of the same bits as the unsigned integers."""
    x = (values ^ shift_right(values, 30)) * as_int64(_FIRST)  # int64 arithmetic wraps, as the hash wants
    x = (x ^ shift_right(x, 27)) * as_int64(_SECOND)
    return x ^ shift_right(x, 31)


def shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift of int64, as if it were unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def as_int64(x: int) -> int:
    """The int64 of the same bits as an unsigned 64-bit integer."""
    return x - (1 << 64) if x >> 63 else x
