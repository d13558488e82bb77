"""Log-probabilities of the answers of a packed batch."""

from __future__ import annotations

from typing import Any

import torch

from hanlin.dataset import Batch
from hanlin.model import ForwardContext
from hanlin.stages.pairs import sum_by_document


def answer_log_probs(
    model: Any, batch: Batch, tail_weight: float = 1.0, context: ForwardContext | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log π of each document's answer, and its number of tokens; (documents,) each.

    Args:
        tail_weight: weight of the tokens that an answer of a pair has more than the other one.
    """
    context = context or model.context(batch.ids, **batch.attention_kwargs)
    hidden = batch.gather_loss_tokens(model.hidden(batch.ids, context))
    values = model.head.token_log_probs(hidden, batch.gather_loss_tokens(batch.labels))
    sums, lengths = sum_by_document(values, batch)
    if tail_weight == 1.0:
        return sums, lengths
    return sum_by_document(values * _tail_weights(lengths, batch, tail_weight), batch)[0], lengths


def _tail_weights(lengths: torch.Tensor, batch: Batch, tail_weight: float) -> torch.Tensor:
    """1 for the tokens within the shorter answer's length of a pair, `tail_weight` beyond; (loss tokens,).

    The tokens of a document lie behind one another, documents in the order of `batch.documents`.
    """
    owner = batch.gather_loss_tokens(batch.doc_ids)
    first = (lengths.cumsum(0) - lengths)[owner]
    place = torch.arange(len(owner), device=owner.device) - first
    index = {document: at for at, document in enumerate(batch.documents)}
    partner = torch.tensor([index[document ^ 1] for document in batch.documents], device=owner.device)
    shared = torch.minimum(lengths, lengths[partner])[owner]
    return torch.where(place < shared, 1.0, tail_weight)
