"""Whether the tokenizer suits the text: ids that no training text has, bytes that a token holds, by source,
and characters that fall apart into bytes."""

from __future__ import annotations

from collections import Counter

import numpy as np

from hanlin.common.messages import Text
from hanlin.evaluation.doctors.base import (
    Doctor,
    Finding,
    Sign,
    above,
    below,
    exactly,
    few_texts,
    register_doctor,
    unknown,
)
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.doctors.vocabulary import examples, token_counts, usable_ids
from hanlin.evaluation.statistics import Metric

UNUSED = (0.02, 0.10)  # share of usable ids that no text has: above is yellow, red (ours)
SPLIT = (0.005, 0.02)  # share of characters that fall apart into bytes: above is yellow, red (ours)
POOR = (0.6, 0.4)  # bytes per token of a source against those of all texts: below is yellow, red (ours)
_ENOUGH = 50  # tokens of text for each of the vocabulary, to tell that an id is unused
_SOURCES = 8  # the largest
_LEARN = Text(
    "Learn the tokenizer from text like that which the model is to read (hanlin tokenizer train), and "
    "compare sizes with hanlin tokenizer advise."
)


def split_characters(text: bytes, lengths: np.ndarray) -> tuple[int, int]:
    """Characters of a text in UTF-8 whose bytes stand in more than one token, and all characters.

    Args:
        lengths: bytes of each of its tokens.
    """
    octets = np.frombuffer(text, dtype=np.uint8)
    continues = (octets & 0xC0) == 0x80
    number = np.cumsum(~continues)  # of the character that a byte belongs to
    ends = np.cumsum(lengths)[:-1]
    return len(np.unique(number[ends[continues[ends]]])), int(number[-1]) if len(number) else 0


@register_doctor
class TokenizerDoctor(Doctor):
    """Unused ids, bytes per token by source, characters split into bytes."""

    name = "tokenizer"
    title = Text("Use of the tokenizer")
    order = 45
    labels = {
        "unused": Text("usable ids that no text has"),
        "split": Text("characters that fall apart into bytes"),
        "bytes_per_token": Text("bytes that a token holds"),
        "unreachable": Text("ids that encoding never makes"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        tokens = context.tokenizer.vocabulary.tokens
        metrics = {"unreachable": exactly(len(context.tokenizer.unreachable()) / len(tokens), len(tokens))}
        signs = self._unused(context, metrics)
        if context.documents:
            signs += self._texts(context, metrics)
        if len(metrics) == 1:
            return unknown(
                Text(
                    "It takes text that the model has not seen (--text), or much that it was trained on "
                    "(--dataset)."
                ),
                metrics,
            )
        ordered = {name: metrics[name] for name in sorted(metrics, key=_place)}
        return Finding.of(ordered, signs, Text("The vocabulary suits the text."))

    def _unused(self, context: DoctorContext, metrics: dict[str, Metric]) -> list[Sign]:
        """Of what the model was trained on."""
        if context.dataset is None and context.labelled is None:
            return []
        counts = sum(token_counts(context), np.zeros(context.model.config.vocab_size, dtype=np.int64))
        usable = usable_ids(context)
        total = int(counts.sum())
        if not len(usable) or total < _ENOUGH * len(context.tokenizer.vocabulary.tokens):
            return []
        unused = usable[counts[usable] == 0]
        metrics["unused"] = exactly(len(unused) / len(usable), len(usable))
        if metrics["unused"].value <= UNUSED[0]:
            return []
        return [
            Sign(
                "red" if metrics["unused"].value > UNUSED[1] else "yellow",
                Text(
                    "{count} ids occur in none of the {total} tokens of text, such as {examples}.",
                    count=len(unused),
                    total=total,
                    examples=examples(context, unused),
                ),
                Text(
                    "Text that holds them is read and written badly. Learn a smaller vocabulary from the "
                    "text that the model is trained on (hanlin tokenizer advise)."
                ),
            )
        ]

    def _texts(self, context: DoctorContext, metrics: dict[str, Metric]) -> list[Sign]:
        """Of texts that it has not seen."""
        sizes = np.array([len(token) for token in context.tokenizer.vocabulary.tokens])
        encoded = [np.asarray(ids) for ids in context.tokenizer.encode_batch(context.documents)]
        texts = [context.tokenizer.decode_bytes(ids) for ids in encoded]
        some = [at for at, ids in enumerate(encoded) if len(ids)]
        counts = np.array([split_characters(texts[at], sizes[encoded[at]]) for at in some], dtype=np.float64)
        lengths = np.array([[len(texts[at]), len(encoded[at])] for at in some], dtype=np.float64)
        if not len(some):
            return []
        signs: list[Sign] = []
        metrics["split"] = Metric.ratio(counts[:, 0], counts[:, 1], higher_is_better=False)
        level = above(metrics["split"], *SPLIT)
        if level != "ok":
            signs.append(
                Sign(
                    level,
                    few_texts()
                    if level == "unknown"
                    else Text(
                        "Of the text's characters {share:.1%} are not in the vocabulary and are read as "
                        "bytes.",
                        share=metrics["split"].value,
                    ),
                    Text("") if level == "unknown" else _LEARN,
                )
            )
        metrics["bytes_per_token"] = whole = Metric.ratio(lengths[:, 0], lengths[:, 1])
        sources = Counter(context.sources[at] for at in some)
        for source, _ in sources.most_common(_SOURCES) if len(sources) > 1 else ():
            own = [place for place, at in enumerate(some) if context.sources[at] == source]
            metric = Metric.ratio(lengths[own, 0], lengths[own, 1])
            metrics[f"bytes_per_token/{source}"] = metric
            level = below(metric, POOR[0] * whole.value, POOR[1] * whole.value)
            if level in ("yellow", "red"):
                signs.append(
                    Sign(
                        level,
                        Text(
                            "Text of {source} takes {times:.1f} times as many tokens as the others do.",
                            source=source,
                            times=whole.value / metric.value,
                        ),
                        _LEARN,
                    )
                )
        return signs


def _place(name: str) -> int:
    return list(TokenizerDoctor.labels).index(name.partition("/")[0])
