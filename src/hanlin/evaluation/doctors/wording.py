"""Whether a score depends on how the question is put: one task of choices under several wordings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.items import Item
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, above, register_doctor, unknown
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.doctors.prompts import BEFORE_ANSWER, WORDINGS
from hanlin.evaluation.likelihood import document_bits
from hanlin.evaluation.statistics import FEWEST, Metric

SPREAD = (0.02, 0.05)  # standard deviation of the score over wordings: above is yellow, red (ours)
VOID = 2  # a claimed difference of fewer standard deviations than these rests on the wording
_RESAMPLES = 1000
_MOST = 100  # questions: each is read once for every choice and wording


def spread_over_wordings(hits: np.ndarray, seed: int = 0) -> Metric:
    """Standard deviation over wordings of the share of right answers, with a 95 % interval over items.

    Items drawn anew vary the shares of wordings that are all as good, so that the deviation of a resample is
    too large on average. The basic bootstrap (2 · value − quantile; Davison & Hinkley 1997, 5.2) takes that
    off.

    Args:
        hits: (items, wordings), 1 where the answer is right.
    """
    value = float(hits.mean(0).std(ddof=1))
    drawn = np.random.default_rng(seed).integers(0, len(hits), (_RESAMPLES, len(hits)))
    spreads = np.array([hits[rows].mean(0).std(ddof=1) for rows in drawn])
    low, high = (2 * value - float(end) for end in np.quantile(spreads, (0.975, 0.025)))
    return Metric(value, min(value, max(0.0, low)), max(value, high), len(hits), higher_is_better=False)


@register_doctor
class PromptsDoctor(Doctor):
    """Accuracy under five wordings of the same questions, and its standard deviation over them.

    Choices are compared by the likelihood of their characters, through the chat template where the model
    answers.
    """

    name = "prompts"
    title = Text("Wording of questions")
    order = 140
    needs = ("tasks",)
    labels = {
        "spread": Text("standard deviation of the score over wordings"),
        "score": Text("right answers, all wordings together"),
        **{
            f"wording/{number}": Text("right answers, wording {number}", number=number)
            for number in range(1, len(WORDINGS) + 1)
        },
    }

    def examine(self, context: DoctorContext) -> Finding:
        items = [item for item in context.items if len(item.choices) > 1 and item.question]
        if len(items) < FEWEST:
            return unknown(Text("It takes {fewest} questions with choices (--data, --tasks).", fewest=FEWEST))
        asked = [item for item in items if _fits(context, item)][:_MOST]
        if len(asked) < FEWEST:
            return unknown(Text("The questions are longer than the model's positions."))
        hits = np.stack([_hits(context, asked, wording) for wording in WORDINGS], axis=1)
        chance = float(np.mean([1 / len(item.choices) for item in asked]))
        metrics = {"spread": spread_over_wordings(hits, context.seed)}
        means = hits.mean(1)
        metrics["score"] = Metric.mean(means, chance=chance)
        for number in range(len(WORDINGS)):
            metrics[f"wording/{number + 1}"] = Metric.share(hits[:, number], chance=chance)
        spread = metrics["spread"].value
        void = Text(
            "Under one wording, a difference of less than {void:.1%} between two models says nothing.",
            void=VOID * spread,
        )
        level = above(metrics["spread"], *SPREAD)
        signs = [Sign("ok", void)]
        if level != "ok":
            best = hits.mean(0)
            signs = [
                Sign(
                    level,
                    Text(
                        "The score of {task} goes from {low:.1%} to {high:.1%} with the wording of the "
                        "question. {void}",
                        task=context.task,
                        low=float(best.min()),
                        high=float(best.max()),
                        void=void,
                    ),
                    Text(
                        "Compare models under several wordings, and fine-tune on questions that are put in "
                        "more ways."
                    ),
                )
            ]
        return Finding.of(
            metrics,
            signs,
            Text("The score hardly depends on the wording."),
            {"task": context.task, "wordings": list(WORDINGS)},
        )


def _fits(context: DoctorContext, item: Item) -> bool:
    """Whether it can be asked whole under every wording."""
    longest = max(len(ids) for wording in WORDINGS for ids, _ in _rows(context, item, wording))
    return longest <= context.model.config.max_position_embeddings + 1


def _hits(context: DoctorContext, items: Sequence[Item], wording: str) -> np.ndarray:
    """Of each item 1 where the right choice is likeliest by its characters, and its part where several are,
    (items,)."""
    rows = [row for item in items for row in _rows(context, item, wording)]
    bits = document_bits(context.model, [ids for ids, _ in rows], [mask for _, mask in rows])
    ends = np.cumsum([len(item.choices) for item in items])[:-1]
    found = []
    for item, own in zip(items, np.split(bits, ends), strict=True):
        values = own / [len(choice) for choice in item.choices]
        best = np.flatnonzero(values == values.min())
        found.append(float(item.gold in best) / len(best))
    return np.array(found)


def _rows(context: DoctorContext, item: Item, wording: str) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """Ids of the question with each choice, and which of them are the choice."""
    tokenizer = context.tokenizer
    question = wording.format_map(item.fields())
    if context.chat:
        head = tokenizer.encode_conversation(
            [{"role": "user", "content": question}], add_generation_prompt=True
        )[0]
    else:
        head = [*context.start, *tokenizer.encode(question + BEFORE_ANSWER)]
    made = []
    for choice in item.choices:
        said = tokenizer.encode(choice)
        made.append(
            (np.array([*head, *said], dtype=np.int64), np.array([False] * len(head) + [True] * len(said)))
        )
    return made
