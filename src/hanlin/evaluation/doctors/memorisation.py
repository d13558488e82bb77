"""Whether the model recites its training text: exact continuations of training sequences, beside those of
text it has not seen (Carlini et al. 2023)."""

from __future__ import annotations

import math

import numpy as np

from hanlin.common.messages import Text
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, register_doctor, unknown
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.intervals import Interval
from hanlin.evaluation.statistics import FEWEST, Metric
from hanlin.inference import Engine, SamplingParams

ABOVE = (0.005, 0.05)  # share of exact continuations more than in unseen text: above is yellow, red (ours)
PREFIX = 50  # tokens before, and tokens that have to be the same
SHORTEST = 16  # the same where texts are shorter; below, chance would continue them
_MORE = 2  # times as many sequences as texts


def difference_interval(ours: Metric, theirs: Metric) -> Interval:
    """95 % interval of the difference of two independent proportions from their Wilson intervals (Newcombe
    1998, method 10)."""
    gap = ours.value - theirs.value
    return (
        gap - math.hypot(ours.value - ours.low, theirs.high - theirs.value),
        gap + math.hypot(ours.high - ours.value, theirs.value - theirs.low),
    )


@register_doctor
class MemorisationDoctor(Doctor):
    """Share of sequences whose next tokens the model writes exactly, greedily, given those before."""

    name = "memorisation"
    title = Text("Memorisation")
    order = 110
    needs = ("text", "dataset")
    labels = {
        "above_control": Text("exact continuations in training text more than in unseen text"),
        "training": Text("training sequences that are continued exactly"),
        "unseen": Text("unseen sequences that are continued exactly"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        data = context.dataset
        assert data is not None
        unseen = context.bare_rows
        lengths = sorted(map(len, unseen), reverse=True)
        enough = lengths[min(len(lengths), 4 * FEWEST) - 1] if lengths else 0
        size = min(PREFIX, enough // 2, context.seen // 2 - 1)
        held = [row[: 2 * size] for row in unseen if len(row) >= 2 * size]
        if size < SHORTEST or len(held) < FEWEST:
            return unknown(
                Text(
                    "It takes {fewest} texts of {shortest} tokens or more (--text).",
                    fewest=FEWEST,
                    shortest=2 * SHORTEST,
                )
            )
        long = np.flatnonzero(data.lengths >= 2 * size)
        if len(long) < FEWEST:
            return unknown(Text("The dataset has too few documents of {size} tokens.", size=2 * size))
        rng = np.random.default_rng(context.seed)
        drawn = rng.choice(long, min(len(long), _MORE * context.count), replace=False)
        trained = [np.asarray(data.document(at)[: 2 * size], dtype=np.int64) for at in sorted(drawn)]
        ours, theirs = (self._recited(context, rows, size) for rows in (trained, held))
        low, high = difference_interval(ours, theirs)
        metrics = {
            "above_control": Metric(
                ours.value - theirs.value, low, high, min(ours.n, theirs.n), higher_is_better=False
            ),
            "training": ours,
            "unseen": theirs,
        }
        signs: list[Sign] = []
        if low > ABOVE[0]:
            signs.append(
                Sign(
                    "red" if low > ABOVE[1] else "yellow",
                    Text(
                        "Given {size} tokens of a training text, the model recites the next {size} more "
                        "often than those of unseen text.",
                        size=size,
                    ),
                    Text("Deduplicate the corpus, train for fewer epochs or on more text."),
                )
            )
        return Finding.of(
            metrics,
            signs,
            Text(
                "It was not seen to recite training text more often than unseen text ({size} tokens each).",
                size=size,
            ),
            {"tokens": size},
        )

    @staticmethod
    def _recited(context: DoctorContext, rows: list[np.ndarray], size: int) -> Metric:
        prompts = [[*context.start, *row[:size].tolist()] for row in rows]
        params = SamplingParams(max_new_tokens=size, temperature=0.0, ignore_eos=True)
        written = Engine(context.model, context.tokenizer).generate(prompts, params)
        same = sum(done.ids == row[size:].tolist() for done, row in zip(written, rows, strict=True))
        return Metric.proportion(same, len(rows), higher_is_better=False)
