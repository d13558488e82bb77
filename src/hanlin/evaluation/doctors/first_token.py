"""Whether the first token of a text was ever learnt: its bits given the start token, beside those of knowing
nothing but how often each token begins a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hanlin.common.messages import Text
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, above, few_texts, register_doctor, unknown
from hanlin.evaluation.doctors.context import DoctorContext, token_table
from hanlin.evaluation.statistics import FEWEST, Metric

TIMES = (1.1, 1.5)  # bits against those of the frequencies: above is yellow, red (ours)
_READ = 20_000  # documents whose first tokens are counted


def first_token_bits(firsts: Sequence[int], counted: np.ndarray | None, vocab_size: int) -> np.ndarray:
    """-log2 of each first token's share among other first tokens, smoothed by Witten and Bell (1991) with
    equal shares of all tokens, (texts,). It bounds their entropy from above.

    Args:
        counted: first tokens of other texts; those of the same texts but one each when absent.
    """
    ids = np.asarray(firsts, dtype=np.int64)
    counts = np.bincount(ids if counted is None else counted, minlength=vocab_size).astype(np.float64)
    own = counts[ids] - (counted is None)
    total = counts.sum() - (counted is None)
    kinds = (counts > 0).sum() - ((own == 0) & (counted is None))
    return -np.log2((own + kinds / vocab_size) / np.maximum(total + kinds, 1))


@register_doctor
class FirstTokenDoctor(Doctor):
    """Bits of a text's first token given the start token, against its frequency as a first token."""

    name = "first_token"
    title = Text("First token")
    order = 40
    needs = ("text",)
    labels = {
        "bits": Text("bits of a text's first token"),
        "frequency": Text("bits of it by the frequency of first tokens"),
        "ratio": Text("the one divided by the other"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        config = context.model.config
        start = config.bos_token_id if config.bos_token_id is not None else context.tokenizer.eos_id
        firsts = [ids[0] for ids in context.tokenizer.encode_batch(context.documents) if ids]
        if len(firsts) < FEWEST:
            return unknown(few_texts())
        rows = [np.array([start, first], dtype=np.int64) for first in firsts]
        table = token_table(context.model, rows)
        bits = table.by_document(table.bits)
        counted = None
        if context.dataset is not None:
            read = min(_READ, len(context.dataset))
            counted = np.asarray(context.dataset.tokens[context.dataset.starts[:read]], dtype=np.int64)
        expected = first_token_bits(firsts, counted, config.vocab_size)
        metrics = {
            "ratio": Metric.ratio(bits, expected, higher_is_better=False),
            "bits": Metric.mean(bits, higher_is_better=False),
            "frequency": Metric.mean(expected, higher_is_better=False),
        }
        level = above(metrics["ratio"], *TIMES)
        signs = []
        if config.bos_token_id is None:
            signs.append(
                Sign(
                    "yellow",
                    Text(
                        "The model has no start token (bos_token_id of its config.json), so it was never "
                        "trained to begin a text. Chatting is not touched by that."
                    ),
                    Text("Begin texts with some characters; to train it, pretrain again with a start token."),
                )
            )
        elif level != "ok":
            signs.append(
                Sign(
                    level,
                    Text("The model begins texts worse than their frequencies would."),
                    Text("Check that documents begin with the start token in pretraining; train again."),
                )
            )
        return Finding.of(metrics, signs, Text("The model knows how texts begin."))
