"""Two models on the same tokens: what each token costs under both, how far their predictions are apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from hanlin.common.errors import HanlinError
from hanlin.evaluation.batches import batches_of, padded
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.model import CausalLM

_LOGITS = 1 << 23  # at once, of each model: 32 MiB


@dataclasses.dataclass(frozen=True)
class Beside:
    """Sums over the tokens of each text, (texts,) float64 each.

    Attributes:
        bits: -log2 of the probabilities that the examined model gives.
        other: of those that the other model gives.
        divergence: KL(other ‖ examined) of the predictions, in bits.
        agree: places where both find the same token likeliest.
        tokens: how many there are.
        bytes: of these tokens; control tokens have none.
    """

    bits: np.ndarray
    other: np.ndarray
    divergence: np.ndarray
    agree: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray


@torch.inference_mode()
def read_beside(context: DoctorContext, other: CausalLM) -> Beside:
    """Read the texts of a context with its model and another of the same vocabulary; what does not fit into
    the shorter of the two is left out.

    Raises:
        HanlinError: the vocabularies differ in size.
    """
    model = context.model
    if other.config.vocab_size != model.config.vocab_size:
        raise HanlinError(
            "The two models have vocabularies of {ours} and {theirs} tokens, so that their predictions "
            "cannot be compared.",
            ours=model.config.vocab_size,
            theirs=other.config.vocab_size,
        )
    limit = min(model.config.max_position_embeddings, other.config.max_position_embeddings)
    rows = [row[: limit + 1] for row in context.rows]
    sums = np.zeros((6, len(rows)))
    sizes = np.zeros(model.config.vocab_size)
    tokens = context.tokenizer.vocabulary.tokens
    sizes[: len(tokens)] = [len(token) for token in tokens]
    for batch in batches_of(range(len(rows)), lambda at: len(rows[at]), context.model.device):
        ids = padded([rows[at][:-1] for at in batch])
        states = [each.hidden(ids.to(each.device)) for each in (model, other)]
        for place, at in enumerate(batch):
            labels = rows[at][1:]
            sums[:4, at] = _compared(model, other, [hidden[place] for hidden in states], labels)
            sums[4:, at] = len(labels), sizes[labels].sum()
    return Beside(*sums)


def _compared(
    model: CausalLM, other: CausalLM, states: Sequence[torch.Tensor], labels: np.ndarray
) -> np.ndarray:
    """Bits of both, divergence and agreement, summed over the tokens of one text, (4,)."""
    found = np.zeros(4)
    step = max(1, _LOGITS // model.config.vocab_size)
    for begin in range(0, len(labels), step):
        wanted = torch.from_numpy(labels[begin : begin + step]).to(model.device)
        span = slice(begin, begin + len(wanted))
        ours = model.logits(states[0][span]).float().log_softmax(-1)
        theirs = other.logits(states[1][span]).float().log_softmax(-1).to(ours.device)
        told = [-logs.gather(1, wanted[:, None]).double().sum() for logs in (ours, theirs)]
        # 0 · log 0 is 0
        apart = theirs.exp() * (theirs.clamp(min=-1e4) - ours.clamp(min=-1e4))
        same = (ours.argmax(-1) == theirs.argmax(-1)).sum()
        found += [float(value) for value in (*told, apart.double().sum(), same)]
    found[:3] /= math.log(2)
    return found
