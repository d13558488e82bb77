"""KTO (Ethayarajh et al. 2024, arXiv 2402.01306): answers with a label each, good or bad, and no pairs.

    L = λ_D·(1 - σ(β(r - z)))  of a good answer,   λ_U·(1 - σ(β(z - r)))  of a bad one

z is what the policy has moved away from the reference, max(0, mean of r over answers that belong to other
prompts). It is estimated over the whole step, before its first micro-batch, in a pass without a gradient:
so the loss of an answer does not depend on what shares its micro-batch or its process. To which prompt an
answer is put for that is drawn once, when the data are encoded, so that the reference's side is cached.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from hanlin.common.config import Range, above
from hanlin.stages.preference.loss import Answers, LabelledLoss, register_loss


@register_loss
@dataclasses.dataclass(frozen=True)
class KTO(LabelledLoss):
    """The loss; half a λ where policy and reference agree.

    Attributes:
        desirable_weight, undesirable_weight: λ_D and λ_U. The paper wants λ_D·n_D between λ_U·n_U and a
            third more, n being the numbers of good and bad answers.
    """

    kind: str = "kto"
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    RANGES: ClassVar[dict[str, Range]] = {
        "beta": above(0),
        "desirable_weight": above(0),
        "undesirable_weight": above(0),
    }

    def judge(
        self, answers: Answers, good: torch.Tensor, kl: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        margin = self.beta * torch.where(good, answers.log_ratio - kl, kl - answers.log_ratio)
        loss = torch.sigmoid(-margin)
        return torch.where(good, self.desirable_weight * loss, self.undesirable_weight * loss), margin
