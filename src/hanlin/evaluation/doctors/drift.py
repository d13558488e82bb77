"""How far training has moved the model from the one it began with: on bare text, and in the length of its
replies."""

from __future__ import annotations

import numpy as np

from hanlin.common.messages import Text
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, above, few_texts, register_doctor, unknown
from hanlin.evaluation.doctors.beside import read_beside
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.statistics import FEWEST, Metric
from hanlin.model import CausalLM

BITS = (1.01, 1.05)  # bits against those of the model before: above is yellow, red (ours)
LENGTH = 1.5  # length of replies against its: above is yellow (ours)


@register_doctor
class DriftDoctor(Doctor):
    """KL divergence from the model before, change of bits per byte, change of reply lengths.

    Both models read the same texts and reply to the same prompts under the same settings, so that each
    interval is one over pairs.
    """

    name = "drift"
    title = Text("Drift")
    order = 120
    needs = ("text", "against")
    labels = {
        "bits_ratio": Text("bits per byte of unseen text: model / model before"),
        "bits_per_byte": Text("bits per byte of unseen text"),
        "kl": Text("KL divergence from the model before, bits per token"),
        "length_ratio": Text("length of replies: model / model before"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        previous = context.previous
        assert previous is not None
        if len(context.rows) < FEWEST:
            return unknown(few_texts())
        before = previous.open()
        both = read_beside(context, before)
        own = Metric.ratio(both.bits, both.bytes, higher_is_better=False)
        metrics = {
            "bits_ratio": Metric.ratio(both.bits, both.other, higher_is_better=False),
            "bits_per_byte": own.with_control(
                "previous", Metric.ratio(both.other, both.bytes, higher_is_better=False)
            ),
            "kl": Metric.ratio(both.divergence, both.tokens, higher_is_better=False),
        }
        signs: list[Sign] = []
        level = above(metrics["bits_ratio"], *BITS)
        if level != "ok":
            signs.append(
                Sign(
                    level,
                    Text(
                        "Unseen text costs {share:.1%} more bits than before this training: some of it has "
                        "been forgotten.",
                        share=metrics["bits_ratio"].value - 1,
                    ),
                    Text(
                        "Mix text into the stage (text_share), lower its learning rate, train it for fewer "
                        "steps, or hold it to the model before (kl, sft_weight)."
                    ),
                )
            )
        signs += self._lengths(context, before, metrics, chats=previous.chat)
        return Finding.of(
            metrics, signs, Text("The model has kept what the one before it knew."), {"before": previous.name}
        )

    @staticmethod
    def _lengths(
        context: DoctorContext, before: CausalLM, metrics: dict[str, Metric], *, chats: bool
    ) -> list[Sign]:
        if context.chat != chats:
            return [Sign("ok", Text("Lengths of replies are not compared: only one of the two answers."))]
        ours, theirs = (
            np.array([len(reply.ids) for reply in replies], dtype=np.float64)
            for replies in (context.replies, context.replies_of(before))
        )
        if not theirs.sum():
            return []
        metrics["length_ratio"] = Metric.ratio(ours, theirs, higher_is_better=False)
        if above(metrics["length_ratio"], LENGTH, float("inf")) != "yellow":
            return []
        return [
            Sign(
                "yellow",
                Text("Replies have grown {times:.1f} times as long.", times=metrics["length_ratio"].value),
                Text(
                    "Compare rewards of short and long replies: preference and reinforcement often pay for "
                    "length alone. Check with the doctors eos and loops."
                ),
            )
        ]
