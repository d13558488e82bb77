"""Whether the model was trained on the questions that it is asked: the questions looked up in its training
texts, and its score on those that are there beside the others."""

from __future__ import annotations

from collections.abc import Sequence

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import CLOZE
from hanlin.evaluation.benchmarks.choice import score_items
from hanlin.evaluation.contamination.exposure import (
    CanaryGroup,
    canary_groups,
    canary_texts,
    with_exposure,
)
from hanlin.evaluation.contamination.lookup import Lookup, Texts, lookup_text
from hanlin.evaluation.contamination.verdict import (
    VERDICTS,
    Contamination,
    cluster_names,
    judge_sightings,
)
from hanlin.evaluation.doctors.base import LACKS, Doctor, Finding, Sign, register_doctor, unknown
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.statistics import FEWEST, Metric

SEEN = 0.5  # share of the questions above which there is nothing left to compare with (ours)


@register_doctor
class ContaminationDoctor(Doctor):
    """Questions found in the training tokens, and what they do to the score; `ok` only where planted canaries
    were found by the same lookup."""

    name = "contamination"
    title = Text("Contamination")
    order = 120
    needs = ("questions",)
    labels = {
        "seen": Text("questions that stand in the training texts"),
        "difference": Text("score on these less score on the others"),
        "seen_score": Text("score on questions that stand in the training texts"),
        "unseen_score": Text("score on the other questions"),
        "exposure": Text("bits that the model knows of the canaries planted most often (1.4 of 6 by chance)"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        texts = [
            Texts.of_tokens(tokens, context.tokenizer)
            for tokens in (context.dataset, context.labelled)
            if tokens is not None
        ]
        if not texts:
            return unknown(LACKS["dataset"])
        items, canaries = context.questions, context.canaries
        wanted = {"questions": [lookup_text(item, CLOZE) for item in items]}
        if canaries is not None:
            wanted["canaries"] = canary_texts(canaries.drawn())
        lookup = Lookup(wanted)
        for part in texts:
            lookup.read(part)
        found = lookup.found()
        groups: list[CanaryGroup] = []
        if canaries is not None:
            groups = with_exposure(
                canary_groups(canaries, found["canaries"]), canaries, context.model, context.tokenizer
            )
        clusters = cluster_names(
            [item.cluster or item.id for item in items], [item.subject for item in items]
        )
        judged = judge_sightings(
            found["questions"],
            self._scores(context),
            clusters,
            control_found=any(group.in_texts for group in groups),
        )
        details = judged.to_dict() | {
            "canaries": [
                {"times": group.times, "in_texts": group.in_texts, "p": group.p_value} for group in groups
            ]
        }
        return Finding.of(self._metrics(judged, groups), self._signs(judged), VERDICTS["clean"], details)

    @staticmethod
    def _scores(context: DoctorContext) -> list[float] | None:
        """What the model gets of each question; None where answers are written."""
        if not all(item.choices for item in context.questions):
            return None
        scored = score_items(context.model, context.tokenizer, context.questions, CLOZE)
        return [score.credit(CLOZE.main) for score in scored]

    @staticmethod
    def _metrics(judged: Contamination, groups: Sequence[CanaryGroup]) -> dict[str, Metric]:
        named = {"seen": judged.share, "seen_score": judged.dirty, "unseen_score": judged.clean}
        metrics = {name: metric for name, metric in named.items() if metric is not None}
        gap = judged.to_dict()["difference"]
        if gap is not None and judged.dirty is not None and judged.clean is not None:
            count = min(judged.dirty.n, judged.clean.n)
            metrics["difference"] = Metric(gap["value"], gap["low"], gap["high"], count, False)
        if groups:
            most = max(groups, key=lambda group: group.times)
            if most.exposure is not None:
                metrics["exposure"] = most.exposure
        return metrics

    @staticmethod
    def _signs(judged: Contamination) -> list[Sign]:
        share, gap = judged.share, judged.gap
        if judged.verdict == "clean":
            return []
        if judged.verdict != "seen" or share is None:
            return [Sign("unknown", VERDICTS[judged.verdict])]
        advice = Text(
            "Report the score on unseen questions alone, and drop the questions from the corpus "
            "(hanlin corpus build --decontaminate)."
        )
        enough = (
            judged.dirty is not None
            and judged.clean is not None
            and min(judged.dirty.n, judged.clean.n) >= FEWEST
        )
        if gap is not None and enough and gap.low > 0:
            meaning = Text(
                "{share:.1%} of the questions stand in the training texts, and the model does better on "
                "them.",
                share=share.value,
            )
            return [Sign("red", meaning, advice)]
        meaning = Text("{share:.1%} of the questions stand in the training texts.", share=share.value)
        return [Sign("red" if share.n >= FEWEST and share.low > SEEN else "yellow", meaning, advice)]
