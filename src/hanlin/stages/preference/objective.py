"""The objective of preference optimisation on pairs: any loss of the table, with the curves that tell whether
it does harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hanlin.dataset import Batch
from hanlin.stages.pairs import split_pairs
from hanlin.stages.preference.log_probs import answer_log_probs
from hanlin.stages.preference.loss import Answers, PairLoss
from hanlin.stages.preference.reference import Reference
from hanlin.training import Objective


class PairObjective(Objective):
    """Sum of a loss over pairs.

    Its curves, means over pairs: `accuracy`, the share with a positive margin; `margin`; `chosen_logp` and
    `rejected_logp`, log-probabilities per token; and beside a reference `chosen_log_ratio` and
    `rejected_log_ratio`, the same less those of the reference (LD-DPO's with its weights). A chosen answer
    that falls with the rejected one is the sign that the loss does harm.

    Args:
        reference: None for a loss that needs none.
    """

    def __init__(self, loss: PairLoss, reference: Reference | None = None):
        self.loss, self.reference = loss, reference

    def num_items(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.documents) / 2

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """Summed loss over the pairs of a micro-batch."""
        context = model.context(batch.ids, **batch.attention_kwargs)
        policy, lengths = answer_log_probs(model, batch, self.loss.tail_weight, context)
        reference = torch.zeros_like(policy)
        if self.reference is not None:
            reference = self.reference.log_probs(batch)
        sides = [split_pairs(values, batch) for values in (policy, reference, lengths)]
        chosen, rejected = (Answers(*values) for values in zip(*sides, strict=True))
        loss, margin = self.loss(chosen, rejected)
        count = self.num_items(batch)
        return context.with_aux(loss.sum(), self._curves(chosen, rejected, margin), count)

    @torch.no_grad()
    def _curves(
        self, chosen: Answers, rejected: Answers, margin: torch.Tensor
    ) -> dict[str, float | torch.Tensor]:
        """Sums over the pairs, and their number."""
        curves: dict[str, float | torch.Tensor] = {"accuracy": (margin > 0).sum(), "margin": margin.sum()}
        for name, answers in (("chosen", chosen), ("rejected", rejected)):
            curves[f"{name}_logp"] = answers.mean.sum()
            if self.reference is not None:
                curves[f"{name}_log_ratio"] = (answers.log_ratio / answers.length).sum()
        return curves | {f"{name}_count": len(margin) for name in curves}

    def per_sequence_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Mean loss per token of each answer, chosen and rejected alike, (documents,)."""
        log_probs, lengths = answer_log_probs(model, batch)
        return -log_probs / lengths
