"""Tokens that the model hardly met in training (Land & Bartolo 2024, "Fishing for Magikarp").

First the tokens that no text can contain are set aside: control tokens, pieces that are not UTF-8, and those
that encoding never makes. Of the rest, those whose embeddings look most like rows that were never trained are
verified: a token that the model gives no probability above 1 % anywhere it stands, nor where a prompt has it
repeated, is undertrained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hanlin.common.messages import Text
from hanlin.evaluation.batches import batches_of, padded
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, exactly, register_doctor, unknown
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.doctors.prompts import REPETITIONS
from hanlin.evaluation.doctors.vocabulary import (
    examples,
    is_text,
    token_counts,
    token_text,
    training_tokens,
    usable_ids,
)
from hanlin.evaluation.statistics import Metric

VERIFIED = (0.001, 0.01)  # share of the vocabulary: above is yellow, red (Land & Bartolo find .1 to 1 %)
LEAST = 0.01  # probability below which a token counts as unknown to the model
CANDIDATES = 0.02  # of the usable tokens are verified
_FEWEST_FOUND = 3  # in a small vocabulary one token is a large share
_FEWEST_CANDIDATES, _KNOWN, _PLACES, _BEFORE = 20, 40, 8, 48
_CAN_REPEAT = 0.8  # of the commonest tokens have to pass, or verification says nothing
ADVICE = Text(
    "Text that holds them is read and written badly. Train on text in which they occur by themselves, or "
    "learn a smaller vocabulary from the text that the model is trained on (hanlin tokenizer advise)."
)


@register_doctor
class TokensDoctor(Doctor):
    """Verified undertrained tokens."""

    name = "tokens"
    title = Text("Undertrained tokens")
    order = 50
    labels = {
        "undertrained": Text("share of the vocabulary that is verified as undertrained"),
        "known_pass": Text("common tokens that pass the same verification"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        tokens = context.tokenizer.vocabulary.tokens
        usable = usable_ids(context)
        if len(usable) < _FEWEST_CANDIDATES:
            return unknown(Text("The vocabulary has next to no tokens but bytes."))
        counted = token_counts(context)
        candidates = usable[np.argsort(_indicator(context)[usable], kind="stable")]
        candidates = candidates[: max(_FEWEST_CANDIDATES, int(CANDIDATES * len(usable)))]
        others = np.setdiff1d(usable, candidates)
        # of conversations much is read and not learnt; so the common tokens are those of the texts
        if counted:
            known = others[np.argsort(-counted[0][others], kind="stable")][:_KNOWN]
        else:
            known = others[:: max(1, len(others) // _KNOWN)][:_KNOWN]
        most = _most_probable(context, [*candidates.tolist(), *known.tolist()])
        passed = most[len(candidates) :] >= LEAST
        found = candidates[most[: len(candidates)] < LEAST]
        metrics = {
            "undertrained": exactly(len(found) / len(tokens), len(tokens)),
            "known_pass": Metric.proportion(int(passed.sum()), len(known)),
        }
        signs: list[Sign] = []
        if passed.mean() < _CAN_REPEAT:
            del metrics["undertrained"]
            signs.append(
                Sign(
                    "unknown",
                    Text(
                        "The model gives even common tokens little probability where they stand, so that "
                        "undertrained ones cannot be told apart."
                    ),
                )
            )
        elif len(found) >= _FEWEST_FOUND and metrics["undertrained"].value > VERIFIED[0]:
            signs.append(
                Sign(
                    "red" if metrics["undertrained"].value > VERIFIED[1] else "yellow",
                    Text(
                        "{count} tokens were hardly trained, such as {examples}.",
                        count=len(found),
                        examples=examples(context, found),
                    ),
                    ADVICE,
                )
            )
        return Finding.of(
            metrics,
            signs,
            Text("The tokens that look least trained are known to the model."),
            {
                "undertrained": [token_text(context, at) for at in found.tolist()],
                "not_text": sum(not is_text(token) for token in tokens),
                "tokens_counted": int(sum(counts.sum() for counts in counted)),
            },
        )


def _indicator(context: DoctorContext) -> np.ndarray:
    """How trained each row of the embedding looks, (V,), the least first.

    Tied to the head: the cosine distance from the mean of rows that no text uses (reserved control tokens,
    rows of padding, bytes that UTF-8 never has). Otherwise the length of the row.
    """
    model, tokenizer = context.model, context.tokenizer
    rows = model.decoder.embedding.weight.detach().double().cpu()
    reserved = [at for name, at in tokenizer.special.items() if "reserved" in name]
    never = [0xC0, 0xC1, *range(0xF5, 0x100)]
    unused = [
        *reserved,
        *range(tokenizer.vocab_size, model.config.vocab_size),
        *(
            at
            for at, token in enumerate(tokenizer.vocabulary.tokens)
            if len(token) == 1 and token[0] in never
        ),
    ]
    if not model.config.tie_word_embeddings or not unused:
        return rows.norm(dim=1).numpy()
    centre = rows[torch.tensor(unused)].mean(0, keepdim=True)
    return (1 - torch.nn.functional.cosine_similarity(rows, centre)).numpy()


@torch.inference_mode()
def _most_probable(context: DoctorContext, ids: Sequence[int]) -> np.ndarray:
    """Highest probability of each token among places where it stands in `training_tokens` and where a prompt
    has it repeated, (ids,)."""
    before = context.start
    rows: list[np.ndarray] = []
    owners: list[int] = []
    for place, at in enumerate(ids):
        for prompt in REPETITIONS:
            parts = [context.tokenizer.encode(part) for part in prompt.split("{token}")]
            row = list(before)
            for number, part in enumerate(parts):
                row += ([at] if number else []) + part
            rows.append(np.array(row, dtype=np.int64))
            owners.append(place)
    for stands in training_tokens(context):
        where = np.flatnonzero(np.isin(stands, np.asarray(ids)))
        tokens_there = np.asarray(stands[where], dtype=np.int64)
        for place, at in enumerate(ids):
            found = where[tokens_there == at]
            for end in found[:: max(1, len(found) // _PLACES)][:_PLACES].tolist():
                if end:
                    rows.append(_before(context, np.asarray(stands[max(0, end - _BEFORE) : end]), before))
                    owners.append(place)
    most = np.zeros(len(ids))
    for batch in batches_of(range(len(rows)), lambda at: len(rows[at]), context.model.device):
        hidden = context.model.hidden(padded([rows[at] for at in batch], context.model.device))
        last = hidden[torch.arange(len(batch)), torch.tensor([len(rows[at]) - 1 for at in batch])]
        shares = context.model.logits(last).float().softmax(-1).cpu().numpy()
        for place, at in enumerate(batch):
            most[owners[at]] = max(most[owners[at]], shares[place, ids[owners[at]]])
    return most


def _before(context: DoctorContext, ids: np.ndarray, start: list[int]) -> np.ndarray:
    """What precedes a token in its document: nothing from before the document's beginning."""
    ends = np.flatnonzero(ids == context.tokenizer.eos_id)
    own = ids[ends[-1] + 1 :] if len(ends) else ids
    row = np.array([*(start if len(ends) else []), *own.tolist()], dtype=np.int64)
    return row if len(row) else np.array([context.tokenizer.eos_id], dtype=np.int64)
