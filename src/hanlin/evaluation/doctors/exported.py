"""Whether the files that were exported are the same model: exported and quantised forms beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, above, few_texts, register_doctor, unknown
from hanlin.evaluation.doctors.beside import read_beside
from hanlin.evaluation.doctors.context import DoctorContext, OtherModel, Reply
from hanlin.evaluation.statistics import FEWEST, Metric
from hanlin.model import CausalLM

BITS = (1.005, 1.02)  # bits against those of the model: above is yellow, red (ours)
_REPLIES = 32


@register_doctor
class ExportDoctor(Doctor):
    """Of each export change of bits per byte, greedy agreement, and where greedy replies part."""

    name = "export"
    title = Text("Exports")
    order = 130
    needs = ("text", "exports")
    labels = {
        "bits_ratio": Text("bits per byte of unseen text: export / model"),
        "agreement": Text("places of unseen text where both find the same token likeliest"),
        "same_replies": Text("greedy replies that are the same to the end"),
        "divergence": Text("of the others, median of the token at which they part"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        if len(context.rows) < FEWEST:
            return unknown(few_texts())
        metrics: dict[str, Metric] = {}
        signs: list[Sign] = []
        for export in context.exports:
            try:
                other = export.open()
                found = self._measured(context, other)
            except HanlinError as error:
                signs.append(
                    Sign("unknown", Text("{name} was not read back: {error}", name=export.name, error=error))
                )
                continue
            metrics |= {f"{name}/{export.name}": metric for name, metric in found.items()}
            signs += self._judged(export, found["bits_ratio"])
        return Finding.of(metrics, signs, Text("What was exported is the same model."))

    @staticmethod
    def _measured(context: DoctorContext, other: CausalLM) -> dict[str, Metric]:
        both = read_beside(context, other)
        found = {
            "bits_ratio": Metric.ratio(both.other, both.bits, higher_is_better=False),
            "agreement": Metric.ratio(both.agree, both.tokens),
        }
        prompts = context.prompts[0][:_REPLIES]
        ours, theirs = (
            context.answers(model, prompts, {"temperature": 0.0}) for model in (context.model, other)
        )
        parted = first_differences(ours, theirs)
        found["same_replies"] = Metric.proportion(len(prompts) - len(parted), len(prompts))
        if len(parted):
            found["divergence"] = Metric.median(parted)
        return found

    @staticmethod
    def _judged(export: OtherModel, ratio: Metric) -> list[Sign]:
        level = above(ratio, *BITS)
        if level == "ok":
            return []
        return [
            Sign(
                level,
                Text(
                    "{name} needs {share:.1%} more bits than the model it was made from.",
                    name=export.name,
                    share=ratio.value - 1,
                ),
                Text(
                    "Export it again if the model has changed since; otherwise take a type of more bits "
                    "(f16, q8_0)."
                ),
            )
        ]


def first_differences(ours: Sequence[Reply], theirs: Sequence[Reply]) -> np.ndarray:
    """Of each pair of replies that are not the same, the number of the first token that differs, counted from
    1; (pairs,)."""
    parted = [
        (mine.ids, other.ids) for mine, other in zip(ours, theirs, strict=True) if mine.ids != other.ids
    ]
    return np.array([len(os.path.commonprefix(pair)) + 1 for pair in parted], dtype=np.float64)
