"""Whether a model knows in which order items were published (Oren et al. 2023, Proving test set contamination
in black-box language models).

Who has not seen the file finds no order of its items likelier than another, whatever he knows of their
subject: items can be exchanged. So the p value is a proof, unlike any likelihood of the items themselves.
What it needs is a model that saw the items one after another in one text, and often enough.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from hanlin.evaluation.benchmarks.items import Item
from hanlin.evaluation.intervals import student_tail
from hanlin.evaluation.likelihood import document_bits
from hanlin.evaluation.statistics import Metric
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer

SHARDS = 50  # at most, as in the paper
FEWEST_SHARDS = 10
SHORTEST_SHARD = 3  # items: fewer hardly have an order
SHUFFLES = 10  # of each shard; their mean is what its published order is held against


@dataclasses.dataclass(frozen=True)
class Ordering:
    """The outcome of the test.

    Attributes:
        p_value: one-sided, that shuffled orders do as well as the published one.
        gain: bits that the published order of a shard saves, beside the mean of its shuffles.
        items: that were used, in shards of equal size.
    """

    p_value: float
    gain: Metric
    shards: int
    items: int


def item_text(item: Item) -> str:
    """An item as it would stand in a text, with its choices and its answer."""
    answer = item.answer if item.gold is None else item.choices[item.gold]
    options = item.fields()["options"]
    parts: tuple[str, ...] = (item.passage, item.question, options, answer)
    return "\n".join(part for part in parts if part)


def shards_of(count: int) -> list[range]:
    """Runs of equally many consecutive items, none where the items are too few; the last items of a number
    that doesn't divide are left out."""
    shards = min(SHARDS, count // SHORTEST_SHARD)
    if shards < FEWEST_SHARDS:
        return []
    size = count // shards
    return [range(at * size, (at + 1) * size) for at in range(shards)]


def ordering_test(
    model: CausalLM,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    seed: int = 0,
    shuffles: int = SHUFFLES,
    separator: str = "\n\n",
) -> Ordering | None:
    """Test whether the model finds texts likelier in their order than shuffled.

    Each shard gives one number, the bits of its shuffles' mean less those of its order; Student's t of these
    numbers against 0, from their distribution's exact tail.

    Args:
        texts: in the published order.

    Returns:
        None where the texts are too few.
    """
    shards = shards_of(len(texts))
    if not shards:
        return None
    rng = np.random.default_rng(seed)
    rows: list[str] = []
    for shard in shards:
        orders = [np.arange(len(shard)), *(_other_order(rng, len(shard)) for _ in range(shuffles))]
        rows += [separator.join(texts[shard[int(at)]] for at in order) for order in orders]
    before = [] if model.config.bos_token_id is None else [model.config.bos_token_id]
    ids = [np.array([*before, *row], dtype=np.int64) for row in tokenizer.encode_batch(rows)]
    bits = document_bits(model, ids).reshape(len(shards), 1 + shuffles)
    return of_bits(bits, len(shards) * len(shards[0]))


def of_bits(bits: np.ndarray, items: int) -> Ordering:
    """The test, of the bits that each shard takes: in its order, then shuffled, (shards, 1 + shuffles)."""
    saved = bits[:, 1:].mean(axis=1) - bits[:, 0]
    error = float(saved.std(ddof=1)) / math.sqrt(len(saved))
    mean = float(saved.mean())
    t = mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0
    gain = Metric.mean(saved)
    return Ordering(student_tail(t, len(saved) - 1), gain, len(saved), items)


def _other_order(rng: np.random.Generator, count: int) -> np.ndarray:
    """A random order other than the published one."""
    while True:
        order = rng.permutation(count)
        if (order != np.arange(count)).any():
            return order
