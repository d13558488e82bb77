"""Losses of a pair against a reference. Notation as in `loss`; m = β(r_w - r_l) is the margin.

Which of them differ, and where: DPO, cDPO, robust, hinge, IPO, EXO see the margin alone, so both answers may
fall together; NCA, BCO, SPPO and APO see each log-ratio and hold the chosen answer up. Bounded in both
directions are APO and EXO; robust DPO has no lower bound.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
import torch.nn.functional as F

from hanlin.common.config import Range, at_least
from hanlin.stages.preference.loss import Answers, PairLoss, ReferencedLoss, register_loss

Compared = tuple[torch.Tensor, torch.Tensor]
_HALF = Range(0, 0.5, open_high=True)


@register_loss
@dataclasses.dataclass(frozen=True)
class DPO(ReferencedLoss):
    """-log σ(m), Rafailov et al. 2023 (arXiv 2305.18290); ln 2 where policy and reference agree.

    The defaults are for small models: the log-ratio per token with β = 2, and a fifth of the anchor.
    """

    kind: str = "dpo"
    beta: float = 2.0
    length_normalized: bool = True
    sft_weight: float = 0.2

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        margin = self.margin(chosen, rejected)
        return -F.logsigmoid(margin), margin


@register_loss
@dataclasses.dataclass(frozen=True)
class ConservativeDPO(ReferencedLoss):
    """-(1-ε)·log σ(m) - ε·log σ(-m): of the labels a share ε is taken to be wrong (Mitchell 2023). Least at
    m = log((1-ε)/ε), so that the margin stops growing; ln 2 where policy and reference agree."""

    kind: str = "cdpo"
    label_smoothing: float = 0.1

    RANGES: ClassVar[dict[str, Range]] = {"label_smoothing": _HALF}

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        margin = self.margin(chosen, rejected)
        right, wrong = F.logsigmoid(margin), F.logsigmoid(-margin)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * wrong, margin


@register_loss
@dataclasses.dataclass(frozen=True)
class RobustDPO(ReferencedLoss):
    """[-(1-ε)·log σ(m) + ε·log σ(-m)] / (1-2ε), Chowdhury et al. 2024 (arXiv 2403.00409): with a share ε of
    flipped labels its expectation is DPO's loss of the right ones. Unbounded below."""

    kind: str = "robust"
    label_smoothing: float = 0.1

    RANGES: ClassVar[dict[str, Range]] = {"label_smoothing": _HALF}

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        margin = self.margin(chosen, rejected)
        right, wrong = F.logsigmoid(margin), F.logsigmoid(-margin)
        loss = -(1 - self.label_smoothing) * right + self.label_smoothing * wrong
        return loss / (1 - 2 * self.label_smoothing), margin


@register_loss
@dataclasses.dataclass(frozen=True)
class IPO(PairLoss):
    """(r_w/|y_w| - r_l/|y_l| - 1/(2β))², Azar et al. 2023 (arXiv 2310.12036), whose τ is β here: a margin
    to be met, not to be maximised. 1/(4β²) where policy and reference agree.

    Per token, as its authors computed it; of summed log-ratios the square would explode, and is not offered.
    """

    kind: str = "ipo"

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        apart = chosen.log_ratio / chosen.length - rejected.log_ratio / rejected.length
        return (apart - 1 / (2 * self.beta)).square(), self.beta * apart


@register_loss
@dataclasses.dataclass(frozen=True)
class Hinge(ReferencedLoss):
    """max(0, 1 - m), Zhao et al. 2023 (SLiC, arXiv 2305.10425): a pair with a margin of 1 teaches nothing any
    more. 1 where policy and reference agree."""

    kind: str = "hinge"

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        margin = self.margin(chosen, rejected)
        return torch.relu(1 - margin), margin


@register_loss
@dataclasses.dataclass(frozen=True)
class APOZero(ReferencedLoss):
    """1 - σ(βr_w) + σ(βr_l), D'Oosterlinck et al. 2024 (arXiv 2408.06266, formula 7): the chosen rises and
    the rejected falls; for chosen answers better than the model's own. 1 at the start."""

    kind: str = "apo-zero"

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        better, worse = self.rewards(chosen, rejected)
        loss = torch.sigmoid(-self.beta * better) + torch.sigmoid(self.beta * worse)
        return loss, self.beta * (better - worse)


@register_loss
@dataclasses.dataclass(frozen=True)
class APODown(ReferencedLoss):
    """σ(βr_w) + 1 - σ(m), D'Oosterlinck et al. 2024 (formula 8): both fall, the rejected faster; for chosen
    answers worse than the model's own. 1 at the start."""

    kind: str = "apo-down"
    lowers_chosen: ClassVar[bool] = True

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        better, worse = self.rewards(chosen, rejected)
        margin = self.beta * (better - worse)
        return torch.sigmoid(self.beta * better) + torch.sigmoid(-margin), margin


@register_loss
@dataclasses.dataclass(frozen=True)
class BCO(ReferencedLoss):
    """-log σ(βr_w) - log σ(-βr_l): binary classification of either answer, Jung et al. 2024
    (arXiv 2404.04656), for pairs without its reward shift. 2·ln 2 at the start."""

    kind: str = "bco"

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        better, worse = self.rewards(chosen, rejected)
        loss = -F.logsigmoid(self.beta * better) - F.logsigmoid(-self.beta * worse)
        return loss, self.beta * (better - worse)


@register_loss
@dataclasses.dataclass(frozen=True)
class NCA(ReferencedLoss):
    """-log σ(βr_w) - ½·log σ(-βr_w) - ½·log σ(-βr_l), Chen et al. 2024 (arXiv 2402.05369): noise contrast
    that fits the likelihood itself, not its difference. 2·ln 2 at the start."""

    kind: str = "nca"

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        better, worse = (self.beta * reward for reward in self.rewards(chosen, rejected))
        loss = -F.logsigmoid(better) - 0.5 * F.logsigmoid(-better) - 0.5 * F.logsigmoid(-worse)
        return loss, better - worse


@register_loss
@dataclasses.dataclass(frozen=True)
class EXO(ReferencedLoss):
    """KL(q ‖ p) of q = (σ(m), σ(-m)) and p = (1-ε, ε), Ji et al. 2024 (arXiv 2402.00856, formula 16): the
    reverse KL, which DPO's loss has the other way round. ε > 0 is needed: without it p has no support."""

    kind: str = "exo"
    label_smoothing: float = 1e-3

    RANGES: ClassVar[dict[str, Range]] = {
        "label_smoothing": Range(0, 0.5, open_low=True, open_high=True),
    }

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        margin = self.margin(chosen, rejected)
        right = torch.sigmoid(margin) * (F.logsigmoid(margin) - math.log1p(-self.label_smoothing))
        wrong = torch.sigmoid(-margin) * (F.logsigmoid(-margin) - math.log(self.label_smoothing))
        return right + wrong, margin


@register_loss
@dataclasses.dataclass(frozen=True)
class SPPO(ReferencedLoss):
    """(r_w - 1/(2β))² + (r_l + 1/(2β))², Wu et al. 2024 (arXiv 2405.00675), with probability 1 that the
    chosen answer wins. 1/(2β²) at the start."""

    kind: str = "sppo"

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        better, worse = self.rewards(chosen, rejected)
        aim = 1 / (2 * self.beta)
        return (better - aim).square() + (worse + aim).square(), self.beta * (better - worse)


@register_loss
@dataclasses.dataclass(frozen=True)
class DPOP(PairLoss):
    """-log σ(β[r_w - r_l - λ·max(0, -r_w)]), Pal et al. 2024 (DPO-Positive, arXiv 2402.13228): whatever the
    chosen answer loses is paid for λ times. ln 2 at the start.

    Attributes:
        penalty: λ; the paper takes 5 to 500 with summed log-probabilities.
    """

    kind: str = "dpop"
    penalty: float = 5.0

    RANGES: ClassVar[dict[str, Range]] = {"penalty": at_least(0)}

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        better, worse = chosen.log_ratio, rejected.log_ratio
        loss = -F.logsigmoid(self.beta * (better - worse - self.penalty * torch.relu(-better)))
        return loss, self.beta * (better - worse)


@register_loss
@dataclasses.dataclass(frozen=True)
class RPO(DPO):
    """DPO of summed log-ratios with the whole anchor, Pang et al. 2024 (arXiv 2404.19733): -log σ(m) +
    α·NLL(y_w)/|y_w| with α = `sft_weight`."""

    kind: str = "rpo"
    beta: float = 0.1
    length_normalized: bool = False
    sft_weight: float = 1.0


@register_loss
@dataclasses.dataclass(frozen=True)
class LengthDesensitizedDPO(PairLoss):
    """DPO in which the tokens of an answer beyond the length of the shorter one count α times, under policy
    and reference alike, Liu et al. 2024 (LD-DPO, arXiv 2409.06411). ln 2 at the start.

    Attributes:
        alpha: 1 is DPO of summed log-ratios, 0 compares what both have in length; 0.3-0.6 in the paper.
    """

    kind: str = "ld-dpo"
    alpha: float = 0.5

    RANGES: ClassVar[dict[str, Range]] = {"alpha": Range(0, 1)}

    @property
    def tail_weight(self) -> float:
        """α."""
        return self.alpha

    def compare(self, chosen: Answers, rejected: Answers) -> Compared:
        margin = self.beta * (chosen.log_ratio - rejected.log_ratio)
        return -F.logsigmoid(margin), margin
