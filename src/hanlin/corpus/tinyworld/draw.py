"""Randomness by counter, and the split by structure: every draw is a pure function of a key, so records need
no neighbours."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from hanlin.common.errors import HanlinError

T = TypeVar("T")

SPLITS = ("train", "heldout")
HELDOUT_ONE_IN = 8


def digest(*key: Any) -> int:
    """A 64-bit hash of plain values, the same on every platform and in every process."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def split_of(structure: Any) -> str:
    """The split a structure belongs to: 1 in 8 is held out, decided by its content alone and by no seed.

    Args:
        structure: what a record says (people, events, operands …) as nested tuples, never how it is worded.
    """
    return "heldout" if digest("split", structure) % HELDOUT_ONE_IN == 0 else "train"


def check_split(split: str) -> None:
    """Refuse anything but `train` and `heldout`."""
    if split not in SPLITS:
        raise HanlinError("split must be train or heldout, not {split!r}.", split=split)


class Draw:
    """The random choices of one record, from a key such as (seed, split, kind, index)."""

    __slots__ = ("random",)

    def __init__(self, *key: Any) -> None:
        self.random: Callable[[], float] = random.Random(digest(*key)).random

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def below(self, n: int) -> int:
        """An integer in 0 … n-1."""
        return int(self.random() * n)

    def between(self, low: int, high: int) -> int:
        """An integer in low … high, both included."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items; meant for counts much smaller than the sequence."""
        chosen: list[T] = []
        while len(chosen) < count:
            item = items[int(self.random() * len(items))]
            if item not in chosen:
                chosen.append(item)
        return chosen

    def weighted(self, pairs: Sequence[tuple[float, T]]) -> T:
        """One item of (weight, item) pairs."""
        mark = self.random() * sum(weight for weight, _ in pairs)
        for weight, item in pairs:
            mark -= weight
            if mark < 0:
                return item
        return pairs[-1][1]

    def in_split(self, make: Callable[[Draw], T | None], split: str, structure: Callable[[T], Any]) -> T:
        """Call `make` until it gives something whose structure belongs to `split`."""
        check_split(split)
        while True:
            made = make(self)
            if made is not None and split_of(structure(made)) == split:
                return made
