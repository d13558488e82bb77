"""One hash for every kind of number."""

from __future__ import annotations

import random

import numpy as np
import torch

from hanlin.common.random import (
    GOLDEN_GAMMA,
    MASK64,
    as_int64,
    splitmix64,
    splitmix64_array,
    splitmix64_tensor,
)


def test_the_generator_is_the_published_one():
    """The first outputs of SplitMix64 from state 1234567, as in the reference implementation (Vigna, public
    domain)."""
    outputs = [splitmix64((1234567 + (index + 1) * GOLDEN_GAMMA) & MASK64) for index in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_integers_arrays_and_tensors_agree():
    rng = random.Random(0)
    values = [0, 1, MASK64, 1 << 63, *(rng.getrandbits(64) for _ in range(500))]
    expected = [splitmix64(value) for value in values]
    assert splitmix64_array(np.asarray(values, dtype=np.uint64)).tolist() == expected
    tensor = splitmix64_tensor(torch.tensor([as_int64(value) for value in values]))
    assert tensor.tolist() == [as_int64(value) for value in expected]
