"""A model on a benchmark of choices: accuracy in five normalisations from one pass, the likelihood of the
right answer, and what could have done as well."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hanlin.common.errors import HanlinError
from hanlin.evaluation.benchmarks.items import Form, Item, Normalisation, Prompt, identity
from hanlin.evaluation.loglikelihood import Boundary, LogLikelihood, Sequenced, Sequencer, score_groups
from hanlin.evaluation.ngram import NGramModel
from hanlin.evaluation.statistics import Metric
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer

NORMALISATIONS: tuple[Normalisation, ...] = ("sum", "token", "char", "byte", "pmi")


@dataclasses.dataclass(frozen=True)
class Scored:
    """One item after the model was asked.

    Attributes:
        choices: log likelihood of each choice after the question.
        bare: and after none; None where the prompt has no such form (whole sentences).
        chars, bytes: sizes of each choice.
    """

    item: Item
    choices: tuple[LogLikelihood, ...]
    bare: tuple[LogLikelihood, ...] | None
    chars: tuple[int, ...]
    bytes: tuple[int, ...]

    def values(self, normalisation: Normalisation) -> np.ndarray | None:
        """What the choices are compared by, (choices,); None where there is nothing to compare by."""
        totals = np.array([choice.total for choice in self.choices])
        if normalisation == "pmi":
            return None if self.bare is None else totals - np.array([choice.total for choice in self.bare])
        return totals / _sizes(self, normalisation)

    def picked(self, normalisation: Normalisation) -> int:
        """The choice with the highest value; the first of equals, as in lm-evaluation-harness."""
        values = self.values(normalisation)
        assert values is not None
        return int(np.argmax(values))

    def credit(self, normalisation: Normalisation, first_of_equals: bool = False) -> float:
        """1 where the right choice has the highest value, and its part where several have: a model that finds
        all the same gets what chance would. (Where the right one always comes first, as in pairs, the first
        of equals would be right.)"""
        values = self.values(normalisation)
        assert values is not None and self.item.gold is not None
        if first_of_equals:
            return float(int(np.argmax(values)) == self.item.gold)
        best = np.flatnonzero(values == values.max())
        return float(self.item.gold in best) / len(best)


def _sizes(scored: Scored, normalisation: Normalisation) -> np.ndarray:
    sizes = {
        "token": [choice.tokens for choice in scored.choices],
        "char": scored.chars,
        "byte": scored.bytes,
    }
    return np.array(sizes.get(normalisation, [1] * len(scored.choices)), dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class ChoiceResult:
    """A benchmark's outcome.

    Attributes:
        accuracy: under the prompt's main normalisation, beside the best of its controls.
        by_normalisation: the same in all five that apply.
        controls: share of items that each control gets right.
        gold_bits: bits for each byte of the right answer; None for whole sentences and letters.
        margin: how many more bits per byte the best wrong answer needs than the right one; below 0 for a
            model that knows nothing, since the best of several is seldom as bad as one.
        straddling, cut: share of items with a token on the boundary, and with a context that was cut.
        scored: the items.
    """

    accuracy: Metric
    by_normalisation: Mapping[Normalisation, Metric]
    controls: Mapping[str, float]
    gold_bits: Metric | None
    margin: Metric | None
    straddling: float
    cut: float
    scored: tuple[Scored, ...]


def score_items(
    model: CausalLM,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    prompt: Prompt,
    *,
    boundary: Boundary = "bytes",
    shots: Sequence[Item] = (),
    on_items: Callable[[int], None] | None = None,
) -> list[Scored]:
    """Ask the model. An item that doesn't fit in the model loses the beginning of its context.

    Raises:
        HanlinError: a choice that is longer than the model's context; the log probabilities are not finite.
    """
    prefix = model.config.bos_token_id
    if boundary == "tokens" and prefix is None:
        prefix = model.config.eos_token_id  # what lm-evaluation-harness puts before an empty context
    sequencer = Sequencer(tokenizer, boundary, prefix, model.config.max_position_embeddings + 1)
    asked = [prompt.requests(item, shots) for item in items]
    bare = [prompt.bare_requests(item) for item in items] if prompt.bare is not None else []
    groups = [sequencer(requests) for requests in asked]
    alone = _distinct([sequencer(requests) for requests in bare])
    answered = score_groups(model, groups, on_items)
    unasked = score_groups(model, [[row] for row in alone[0]])
    found = []
    for at, (item, requests, values) in enumerate(zip(items, asked, answered, strict=True)):
        if not all(math.isfinite(value.total) for value in values):
            raise HanlinError(
                "The model's log probabilities of item {item} are not finite: its weights are damaged, or "
                "its training diverged.",
                item=item.id,
            )
        found.append(
            Scored(
                item,
                tuple(values),
                tuple(unasked[place][0] for place in alone[1][at]) if bare else None,
                tuple(len(request.measured) for request in requests),
                tuple(len(request.measured.encode()) for request in requests),
            )
        )
    return found


def _distinct(groups: Sequence[Sequence[Sequenced]]) -> tuple[list[Sequenced], list[list[int]]]:
    """Sequences of all groups without repeats (letters are the same for every item), and the place of each
    group's among them."""
    rows: list[Sequenced] = []
    known: dict[tuple[bytes, int], int] = {}
    places = []
    for group in groups:
        mine = []
        for row in group:
            key = row.ids.tobytes(), row.start
            if key not in known:
                known[key] = len(rows)
                rows.append(row)
            mine.append(known[key])
        places.append(mine)
    return rows, places


def judge_items(
    scored: Sequence[Scored],
    prompt: Prompt,
    form: Form,
    *,
    ngram: Sequence[Scored] | None = None,
    first_of_equals: bool = False,
) -> ChoiceResult:
    """Accuracies, controls and likelihoods of scored items.

    Args:
        ngram: the same items scored by an n-gram model, for the control.
        first_of_equals: count as lm-evaluation-harness does, see `Scored.credit`.
    """
    items = identity([score.item for score in scored])
    by_normalisation = {}
    for normalisation in NORMALISATIONS:
        if all(score.values(normalisation) is not None for score in scored):
            credits = np.array([score.credit(normalisation, first_of_equals) for score in scored])
            by_normalisation[normalisation] = Metric.share(credits, **items)
    hits = controls(scored, prompt, form, ngram=ngram)
    best = max(hits, key=lambda name: hits[name].mean())
    chance = float(hits["chance"].mean())
    accuracy = dataclasses.replace(by_normalisation[prompt.main], chance=chance)
    accuracy = accuracy.with_control(best, Metric.share(hits[best], **items))
    bits = margin = None
    if form == "cloze":
        right, wrong, sizes = _gold_bits(scored)
        bits = Metric.ratio(right * sizes, sizes, **items, higher_is_better=False)
        margin = Metric.mean(wrong - right, **items)
    count = len(scored)
    return ChoiceResult(
        accuracy,
        by_normalisation,
        {name: float(values.mean()) for name, values in hits.items()},
        bits,
        margin,
        sum(any(choice.straddles for choice in score.choices) for score in scored) / count,
        sum(any(choice.cut for choice in score.choices) for score in scored) / count,
        tuple(scored),
    )


def _gold_bits(scored: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits per byte of each item's right answer and of its likeliest wrong one, and the bytes of the right
    one, (items,) each."""
    right, wrong, sizes = [], [], []
    for score in scored:
        bits = -np.array([choice.total for choice in score.choices]) / math.log(2) / np.array(score.bytes)
        gold = score.item.gold
        assert gold is not None
        right.append(bits[gold])
        wrong.append(min(np.delete(bits, gold)))
        sizes.append(score.bytes[gold])
    return np.array(right), np.array(wrong), np.array(sizes, dtype=np.float64)


def controls(
    scored: Sequence[Scored], prompt: Prompt, form: Form, *, ngram: Sequence[Scored] | None = None
) -> dict[str, np.ndarray]:
    """What could have done as well without understanding: name → how much of each item it gets right,
    (items,).

    * chance: one in as many as there are choices;
    * majority: the place that is right most often, as who knows the labels' shares would say (not of pairs,
      whose right one is put first);
    * longest: the longest choice; of equals each gets its part;
    * answer only: the model without the question;
    * n-gram: a model of five tokens, by the same rule.
    """
    gold = [score.item.gold for score in scored]
    usual = Counter(gold).most_common(1)[0][0]
    found = {
        "chance": np.array([1 / len(score.choices) for score in scored]),
        **({} if form == "pairs" else {"majority": np.array([float(right == usual) for right in gold])}),
        "longest": np.array([_longest(score) for score in scored]),
    }
    if all(score.bare is not None for score in scored):
        found["answer only"] = np.array([_answer_only(score, prompt.main) for score in scored])
    if ngram is not None:
        rule: Normalisation = "char" if prompt.main == "pmi" else prompt.main
        found["5-gram"] = np.array([score.credit(rule) for score in ngram])
    return found


def _longest(score: Scored) -> float:
    longest = [at for at, size in enumerate(score.chars) if size == max(score.chars)]
    return float(score.item.gold in longest) / len(longest)


def _answer_only(score: Scored, main: Normalisation) -> float:
    """Whether the right answer is the likeliest without the question; by characters where the main rule
    would take that very likelihood off."""
    assert score.bare is not None
    alone = dataclasses.replace(score, choices=score.bare)
    return alone.credit("char" if main == "pmi" else main)


def ngram_scores(
    control: NGramModel, tokenizer: Tokenizer, scored: Sequence[Scored], prompt: Prompt
) -> list[Scored]:
    """The same items by an n-gram model: a continuation's bits are those of the whole text without those of
    its beginning."""
    sequencer = Sequencer(tokenizer, "bytes", tokenizer.eos_id, 1 << 30)
    rows = [row for score in scored for row in sequencer(prompt.requests(score.item))]
    # it has a start mark of its own
    whole = control.bits([row.ids[1:] for row in rows])
    begun = control.bits([row.ids[1 : row.start] for row in rows])
    logs = iter((begun - whole) * math.log(2))
    found = []
    for score in scored:
        values = tuple(dataclasses.replace(choice, total=float(next(logs))) for choice in score.choices)
        found.append(dataclasses.replace(score, choices=values, bare=None))
    return found
