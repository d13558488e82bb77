"""What preference optimisation spoils while its margin grows: the likelihood of the chosen answers falls with
that of the rejected ones, and greedy answers begin to repeat themselves. Either refuses the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, joined
from hanlin.dataset import TokenDataset
from hanlin.evaluation import FEWEST, Metric
from hanlin.evaluation.doctors.loops import repeated_grams
from hanlin.evaluation.item_scores import item_ids
from hanlin.evaluation.likelihood import document_bits
from hanlin.evaluation.paired import non_inferiority
from hanlin.evaluation.statistics import difference
from hanlin.inference import Engine, SamplingParams
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer

Guards = Mapping[str, tuple[Metric, Metric, float]]

BITS, REPETITION = "chosen_bits_per_token", "greedy_repetition"
ALLOWED_FALL = 0.1  # of the chosen answers' log-probability per token
REPETITION_FLOOR = 0.01  # a model that repeats less is taken for one that repeats so much: twice 0 is 0
ANSWERS, REPLIES, REPLY_TOKENS = 200, 40, 96  # likelihoods and greedy replies that are looked at, at most


def harm(
    before: CausalLM,
    after: CausalLM,
    tokenizer: Tokenizer,
    data: TokenDataset,
    chosen: Sequence[int],
    *,
    falls: bool = False,
) -> Guards:
    """By metric its value after and before, and the loss that is allowed: of the chosen answers' bits per
    token a tenth, of the share of repeated 4-grams in greedy replies as much again.

    Args:
        data, chosen: conversations, and the numbers of those whose answers are preferred.
        falls: the loss is meant to lower the chosen answers, whose likelihood is no sign of harm then.
    """
    conversations = _conversations(data, chosen[:ANSWERS])
    prompts = [ids[: int(mask.argmax())].tolist() for ids, mask in conversations[:REPLIES]]
    found = {REPETITION: [_repetition(model, tokenizer, prompts) for model in (after, before)]}
    allowed = {REPETITION: max(found[REPETITION][1].value, REPETITION_FLOOR)}
    if not falls:
        found[BITS] = [_bits(model, conversations) for model in (after, before)]
        allowed[BITS] = ALLOWED_FALL * found[BITS][1].value
    return {name: (metrics[0], metrics[1], allowed[name]) for name, metrics in found.items()}


def refuse_harm(guards: Guards, stage: str) -> None:
    """Refuse a model that is shown to be harmed, of a stage that no gate judges.

    Raises:
        HanlinError: with what it lost, and what to do.
    """
    asked = {
        name: (difference(after, before), allowed)
        for name, (after, before, allowed) in guards.items()
        if min(after.n, before.n) >= FEWEST
    }
    judged = zip(asked, non_inferiority(list(asked.values())), strict=True)
    lost = [name for name, finding in judged if finding.outcome == "refused"]
    if lost:
        raise HanlinError(
            "{stage} is not published: {losses}. The margin grew at the cost of the answers themselves. "
            "Lower the learning rate, raise sft_weight, or take a loss that holds the chosen answer up "
            "(dpop, rpo, apo-zero); refuse_harm: false publishes it all the same.",
            stage=stage,
            losses=joined([loss_text(name, *guards[name]) for name in lost], Text(", ")),
        )


def loss_text(name: str, after: Metric, before: Metric, allowed: float) -> Text:
    """A loss with its figures."""
    return Text(
        "{name} went from {old:.3f} to {new:.3f} ({allowed:.3f} more is allowed)",
        name=name,
        old=before.value,
        new=after.value,
        allowed=allowed,
    )


Conversation = tuple[np.ndarray, np.ndarray]


def _conversations(data: TokenDataset, documents: Sequence[int]) -> list[Conversation]:
    """Ids, int64, and mask, bool, of documents."""
    mask, starts = data.mask, data.starts
    assert mask is not None
    return [
        (np.asarray(data.document(at), np.int64), np.asarray(mask[starts[at] : starts[at + 1]], bool))
        for at in documents
    ]


def _bits(model: CausalLM, conversations: Sequence[Conversation]) -> Metric:
    """-log2 probability of the answers per token."""
    ids, masks = (list(part) for part in zip(*conversations, strict=True))
    tokens = np.array([mask[1:].sum() for mask in masks])
    return Metric.ratio(
        document_bits(model, ids, masks),
        tokens,
        ids=item_ids(row.tolist() for row in ids),
        higher_is_better=False,
    )


def _repetition(model: CausalLM, tokenizer: Tokenizer, prompts: Sequence[list[int]]) -> Metric:
    """Share of 4-grams of a greedy reply that stood before in it (seq-rep-4), a mean over replies."""
    training = model.training
    model.eval()
    replies = Engine(model, tokenizer).generate(
        prompts, SamplingParams(temperature=0.0, max_new_tokens=REPLY_TOKENS)
    )
    model.train(training)
    counts = [repeated_grams(reply.ids) for reply in replies]
    shares = [repeated / max(1, grams) for repeated, grams in counts]
    return Metric.mean(shares, ids=item_ids(prompts), higher_is_better=False)
