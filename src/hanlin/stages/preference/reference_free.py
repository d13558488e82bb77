"""Losses of a pair that need no reference. Notation as in `loss`; s̄ = s/|y|."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
import torch.nn.functional as F

from hanlin.common.config import Range, at_least
from hanlin.stages.preference.loss import Answers, PairLoss, register_loss

Compared = tuple[torch.Tensor, torch.Tensor]


@register_loss
@dataclasses.dataclass(frozen=True)
class SimPO(PairLoss):
    """-log σ(β(s̄_w - s̄_l) - γ), Meng et al. 2024 (arXiv 2405.14734).

    The same constant per token on both sides changes nothing, and neither does repeating either answer with
    the same log-probabilities. The learning rate decides: a tenth of DPO's, and answers that ramble are the
    sign of too large a one.

    Attributes:
        gamma_ratio: γ/β, the margin per token that is asked for; 0.3-0.5 in the paper.
    """

    kind: str = "simpo"
    beta: float = 2.0
    gamma_ratio: float = 0.5
    needs_reference: ClassVar[bool] = False

    RANGES: ClassVar[dict[str, Range]] = {"gamma_ratio": at_least(0)}

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        margin = self.beta * (chosen.mean - rejected.mean)
        return -F.logsigmoid(margin - self.beta * self.gamma_ratio), margin


@register_loss
@dataclasses.dataclass(frozen=True)
class ORPO(PairLoss):
    """-s̄_w - β·log σ(o_w - o_l) with the log-odds o = s̄ - log(1 - e^s̄), Hong et al. 2024
    (arXiv 2403.07691), whose λ is β here: fine-tuning and preference in one, so the learning rate is that of
    fine-tuning, and no SFT need go before it.

    The log-odds of an answer that is certain are infinite; s̄ is held below -1e-6 there.
    """

    kind: str = "orpo"
    sft_weight: float = 1.0
    needs_reference: ClassVar[bool] = False

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        better, worse = log_odds(chosen.mean), log_odds(rejected.mean)
        return -self.beta * F.logsigmoid(better - worse), better - worse


@register_loss
@dataclasses.dataclass(frozen=True)
class CPO(PairLoss):
    """-log σ(β(s_w - s_l)) - α·s̄_w with α = `sft_weight`, Xu et al. 2024 (arXiv 2401.08417): DPO against a
    uniform reference, held by the likelihood of the chosen answer."""

    kind: str = "cpo"
    sft_weight: float = 1.0
    needs_reference: ClassVar[bool] = False

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        margin = self.beta * (chosen.policy - rejected.policy)
        return -F.logsigmoid(margin), margin


def log_odds(log_prob: torch.Tensor) -> torch.Tensor:
    """log(p/(1-p)) of p = e^log_prob, without loss near p = 0 and p = 1 (Mächler 2012)."""
    clamped = log_prob.clamp(max=-1e-6)
    near_one = torch.log(-torch.expm1(clamped.clamp(min=-math.log(2))))
    near_zero = torch.log1p(-torch.exp(clamped.clamp(max=-math.log(2))))
    return clamped - torch.where(clamped > -math.log(2), near_one, near_zero)
