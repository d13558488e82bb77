"""Matrices in 4 bits (NF4 with double quantisation, Dettmers et al. 2023, QLoRA) and in 8 bits: codes and
scales, to the bit those of bitsandbytes.

NF4: values of a block of 64 over the block's largest magnitude, each as the nearest of 16 quantiles of a
normal distribution; two codes a byte, the first in the high half. The blocks' magnitudes, less their mean,
are quantised again in blocks of 256 with 256 values whose step grows with them (Dettmers et al. 2022, "8-bit
optimizers"): 4.127 bits a weight instead of 4.5.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import torch

Quantization = Literal["", "nf4", "int8"]

BLOCK = 64
NESTED_BLOCK = 256
# quantiles of N(0, 1), over the largest, with an exact zero
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_SMALLEST = 1e-38  # a block of zeros is divided by it


@functools.cache
def dynamic_values() -> tuple[float, ...]:
    """The 256 values in [-1, 1] that magnitudes of blocks are quantised to: seven decades, each with twice as
    many steps as the one below."""
    found = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        means = 10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)
        found += means.tolist() + (-means).tolist()
    return tuple(sorted(found))


def _nearest(values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Place of the nearest entry of a sorted table, of the lower one half-way."""
    return torch.bucketize(values, (table[:-1] + table[1:]) / 2, out_int32=True)


def _scaled(values: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (n,) over the largest magnitude of their block, and those magnitudes; the last block may be
    short."""
    whole = len(values) - len(values) % size
    blocks = values[:whole].view(-1, size)
    largest = blocks.abs().amax(1)
    scaled = (blocks * (1.0 / largest.clamp(min=_SMALLEST))[:, None]).clamp_(-1, 1).flatten()
    if whole < len(values):
        rest = values[whole:]
        last = rest.abs().max().clamp(min=_SMALLEST)
        largest = torch.cat((largest, last[None]))
        scaled = torch.cat((scaled, (rest * (1.0 / last)).clamp(-1, 1)))
    return scaled, largest


def _times_blocks(values: torch.Tensor, largest: torch.Tensor, size: int) -> torch.Tensor:
    """What `_scaled` divided, multiplied again."""
    whole = len(values) - len(values) % size
    if whole == len(values):
        return (values.view(-1, size) * largest[:, None]).flatten()
    head = values[:whole].view(-1, size) * largest[:-1, None]
    return torch.cat((head.flatten(), values[whole:] * largest[-1]))


@dataclasses.dataclass(frozen=True)
class NF4Matrix:
    """A matrix in NF4.

    Attributes:
        codes: (⌈n/2⌉,) uint8.
        absmax: of the blocks, float32; their codes in uint8 where they are quantised again.
        nested_absmax, offset: of those, (blocks/256,) and 0-d; None where they are not.
    """

    shape: tuple[int, ...]
    codes: torch.Tensor
    absmax: torch.Tensor
    nested_absmax: torch.Tensor | None = None
    offset: torch.Tensor | None = None

    def block_absmax(self) -> torch.Tensor:
        """The blocks' largest magnitudes, float32."""
        if self.nested_absmax is None or self.offset is None:
            return self.absmax
        table = torch.tensor(dynamic_values(), device=self.absmax.device)
        return _times_blocks(table[self.absmax.int()], self.nested_absmax, NESTED_BLOCK) + self.offset

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The matrix that the codes stand for; products in float32, rounded once."""
        table = torch.tensor(NF4_VALUES, device=self.codes.device)
        places = torch.stack((self.codes >> 4, self.codes & 15), 1).flatten()
        count = self.shape[0] * self.shape[1]
        values = table[places.int()][:count]
        return _times_blocks(values, self.block_absmax(), BLOCK).view(self.shape).to(dtype)


def quantize_nf4(matrix: torch.Tensor, double_quant: bool = True) -> NF4Matrix:
    """A matrix in NF4, blocks row by row.

    Args:
        double_quant: the blocks' magnitudes in 8 bits.
    """
    scaled, absmax = _scaled(matrix.detach().flatten().float(), BLOCK)
    places = _nearest(scaled, torch.tensor(NF4_VALUES, device=scaled.device)).to(torch.uint8)
    if len(places) % 2:
        places = torch.cat((places, places.new_full((1,), 7)))
    codes = (places[::2] << 4) | places[1::2]
    if not double_quant:
        return NF4Matrix(tuple(matrix.shape), codes, absmax)
    offset = absmax.mean()
    nested, nested_absmax = _scaled(absmax - offset, NESTED_BLOCK)
    table = torch.tensor(dynamic_values(), device=nested.device)
    return NF4Matrix(
        tuple(matrix.shape), codes, _nearest(nested, table).to(torch.uint8), nested_absmax, offset
    )


@dataclasses.dataclass(frozen=True)
class Int8Matrix:
    """A matrix in 8 bits, each row over its largest magnitude.

    Attributes:
        codes: as the matrix, int8, from -127 to 127; absmax: of the rows, float32.
    """

    codes: torch.Tensor
    absmax: torch.Tensor

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The matrix that the codes stand for; products in float32, rounded once."""
        return (self.codes.float() * (self.absmax / 127)[:, None]).to(dtype)


def quantize_int8(matrix: torch.Tensor) -> Int8Matrix:
    """A matrix in 8 bits, row by row."""
    wide = matrix.detach().float()
    absmax = wide.abs().amax(1)
    codes = (wide * (127 / absmax.clamp(min=_SMALLEST))[:, None]).round().to(torch.int8)
    return Int8Matrix(codes, absmax)
