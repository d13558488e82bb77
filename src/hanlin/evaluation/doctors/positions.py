"""Whether the model gains from a longer context: bits per token by position, and the same tokens with what
precedes them near by alone."""

from __future__ import annotations

import numpy as np

from hanlin.common.messages import Text
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, above, register_doctor, unknown
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.likelihood import document_bits
from hanlin.evaluation.statistics import FEWEST, Metric

WORSE = (1.02, 1.10)  # bits with the whole context against those with the end of it: above is yellow, red
SHORTEST = 32  # tokens of context that can be examined
_BUCKETS = [(1, 1), *((2**k + 1 if k > 1 else 2, 2 ** (k + 1)) for k in range(1, 20))]


@register_doctor
class PositionsDoctor(Doctor):
    """Bits of the last quarter of long texts with the whole context and with three eighths of it.

    A text's end may be easier or harder than its middle, so positions are judged by the same tokens: what is
    farther away must not make them less likely. A fault of positions beyond three eighths of the context
    shows; one of all positions shows as a bad model.
    """

    name = "positions"
    title = Text("Positions")
    order = 60
    needs = ("text",)
    labels = {
        "whole_to_near": Text("bits of a text's last quarter: whole context / near context"),
        "last_to_middle": Text("bits per token: last quarter / middle half"),
        **{
            f"bits/{first}-{last}": Text("bits per token number {first} to {last}", first=first, last=last)
            for first, last in _BUCKETS[1:]
        },
        "bits/1-1": Text("bits per token number 1"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        table = context.table
        metrics: dict[str, Metric] = {}
        lengths = sorted((len(row) - 1 for row in context.rows), reverse=True)
        size = lengths[FEWEST * 2 - 1] if len(lengths) >= FEWEST * 2 else lengths[-1]
        size = max(size, lengths[FEWEST - 1] if len(lengths) >= FEWEST else 0)
        signs: list[Sign] = []
        long = [at for at, row in enumerate(context.rows) if len(row) > size]
        for first, last in _BUCKETS:
            there = (table.position >= first) & (table.position <= last)
            owners = np.unique(table.document[there])
            if len(owners) >= FEWEST:
                bits = table.by_document(table.bits, there)[owners]
                counts = table.by_document(np.ones(len(table.bits)), there)[owners]
                metrics[f"bits/{first}-{last}"] = Metric.ratio(bits, counts, higher_is_better=False)
        if len(long) < FEWEST or size < SHORTEST:
            return unknown(
                Text(
                    "It takes {fewest} texts of {shortest} tokens or more (--text) to judge positions.",
                    fewest=FEWEST,
                    shortest=SHORTEST,
                ),
                metrics,
            )
        judged = {"whole_to_near": self._whole_to_near(context, long, size)}
        chosen = np.isin(table.document, long)
        late = chosen & (table.position > 3 * size // 4) & (table.position <= size)
        middle = chosen & (table.position > size // 4) & (table.position <= 3 * size // 4)
        judged["last_to_middle"] = Metric.ratio(
            table.by_document(table.bits, late)[long] / late.sum(),
            table.by_document(table.bits, middle)[long] / middle.sum(),
            higher_is_better=False,
        )
        level = above(judged["whole_to_near"], *WORSE)
        if level != "ok":
            signs.append(
                Sign(
                    level,
                    Text(
                        "With {size} tokens before them the same tokens are less likely than with the last "
                        "of those alone: positions far from the beginning are broken or untrained.",
                        size=size,
                    ),
                    Text(
                        "Check rope_theta, max_position_embeddings and the position ids of packed documents; "
                        "train at that length."
                    ),
                )
            )
        elif judged["whole_to_near"].high >= 1:
            signs.append(Sign("ok", Text("A longer context was not seen to help either.")))
        return Finding.of(
            judged | metrics,
            signs,
            Text("Up to {size} tokens of context, what is farther away does no harm.", size=size),
            {"length": size, "texts": len(long), "trained_at": context.seen},
        )

    @staticmethod
    def _whole_to_near(context: DoctorContext, long: list[int], size: int) -> Metric:
        before = context.start
        whole, near = [], []
        masks_whole, masks_near = [], []
        start, scored = 5 * size // 8, 3 * size // 4
        for at in long:
            row = context.rows[at][: size + 1]
            whole.append(row)
            masks_whole.append(np.arange(len(row)) > scored)
            short = np.concatenate([np.array(before, dtype=np.int64), row[start:]])
            near.append(short)
            masks_near.append(np.arange(len(short)) > scored - start + len(before))
        return Metric.ratio(
            document_bits(context.model, whole, masks_whole),
            document_bits(context.model, near, masks_near),
            higher_is_better=False,
        )
