"""What a preference loss is: a function of the log-probabilities of answers, with its own parameters.

Losses of pairs derive from `PairLoss`. In the formulas of this package s is the log-probability of an answer
y under the policy, s' under the reference, |y| its number of tokens, w and l stand for the chosen and the
rejected answer, and r = s - s' is the log-ratio; σ is the logistic function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch

from hanlin.common.config import Range, Tagged, above, at_least, require_ranges
from hanlin.common.messages import Text
from hanlin.common.registry import Registry

LOSSES: Registry[PreferenceLoss] = Registry(Text("preference loss"))


@dataclasses.dataclass(frozen=True)
class Answers:
    """Log-probabilities of answers, each (answers,) float32.

    Attributes:
        policy: log π(y|x), summed over the tokens of y.
        reference: the same of the reference, without a gradient; zeros for a loss that has none.
        length: number of tokens of y, at least 1.
    """

    policy: torch.Tensor
    reference: torch.Tensor
    length: torch.Tensor

    @property
    def log_ratio(self) -> torch.Tensor:
        """r = log π(y|x) - log π_ref(y|x)."""
        return self.policy - self.reference

    @property
    def mean(self) -> torch.Tensor:
        """log π(y|x) / |y|."""
        return self.policy / self.length

    def __getitem__(self, index: torch.Tensor | list[int]) -> Answers:
        return Answers(self.policy[index], self.reference[index], self.length[index])


@dataclasses.dataclass(frozen=True)
class PreferenceLoss(Tagged):
    """A loss and its parameters.

    Attributes:
        sft_weight: α of the anchor α·NLL(chosen)/|chosen| that is added to any loss (RPO, Pang et al. 2024,
            arXiv 2404.19733): it holds the likelihood of what is preferred where the difference alone would
            lower both answers.

    Class attributes:
        needs_reference: the loss reads the reference's log-probabilities.
        lowers_chosen: it is meant to lower the chosen answer too, so that its fall is no sign of harm.
    """

    kind: str = ""
    sft_weight: float = 0.0

    RANGES: ClassVar[dict[str, Range]] = {"sft_weight": at_least(0)}
    kind_alone: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True
    lowers_chosen: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_ranges(self)

    @classmethod
    def variant(cls, values: Mapping[str, Any], where: Text) -> type:
        """By `kind`; a section without one is DPO's."""
        return LOSSES.get(str(values.get("kind") or "dpo"), where)

    @property
    def tail_weight(self) -> float:
        """Weight of the tokens of an answer beyond the length of the shorter one of its pair (LD-DPO)."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class PairLoss(PreferenceLoss):
    """A loss of pairs.

    Attributes:
        beta: scale of what is compared.
    """

    beta: float = 0.1

    RANGES: ClassVar[dict[str, Range]] = {"beta": above(0)}

    def __call__(self, chosen: Answers, rejected: Answers) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of each pair with its anchor, and its margin, which is positive where the policy prefers the
        chosen answer more than is the case anyway; (pairs,) each."""
        loss, margin = self.compare(chosen, rejected)
        if self.sft_weight:
            loss = loss + self.sft_weight * -chosen.mean
        return loss, margin.detach()

    def compare(self, chosen: Answers, rejected: Answers) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and margin of each pair, (pairs,) each, without the anchor."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class LabelledLoss(PreferenceLoss):
    """A loss of single answers, each with a label; pairs are taken apart for it."""

    def __call__(
        self, answers: Answers, good: torch.Tensor, kl: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of each answer with its anchor, and its margin, positive where the answer is on the side of
        its label; (answers,) each.

        Args:
            good: label of each answer, (answers,) bool.
            kl: 0-d, how far the policy is from the reference, without a gradient.
        """
        loss, margin = self.judge(answers, good, kl)
        if self.sft_weight:
            loss = loss + self.sft_weight * torch.where(good, -answers.mean, 0.0)
        return loss, margin.detach()

    def judge(
        self, answers: Answers, good: torch.Tensor, kl: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and margin of each answer, without the anchor."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ReferencedLoss(PairLoss):
    """A loss of the log-ratios of both answers.

    Attributes:
        length_normalized: log-ratios are divided by |y|, so that the margin does not grow with the length
            of the answers; β is then some ten times as large.
    """

    length_normalized: bool = False

    def rewards(self, chosen: Answers, rejected: Answers) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-ratios of both sides, per token where that is asked for, (pairs,) each."""
        if self.length_normalized:
            return chosen.log_ratio / chosen.length, rejected.log_ratio / rejected.length
        return chosen.log_ratio, rejected.log_ratio

    def margin(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        """β(r_w - r_l), (pairs,)."""
        better, worse = self.rewards(chosen, rejected)
        return self.beta * (better - worse)


_Loss = TypeVar("_Loss", bound=PreferenceLoss)


def register_loss(cls: type[_Loss]) -> type[_Loss]:
    """Enter a loss in the table by its `kind`'s default, as a decorator."""
    LOSSES.register(str(cls.__dataclass_fields__["kind"].default), cls)
    return cls
