"""Rewards that can be computed: whether an answer's final number is the right one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.common.numbers import reference_number, stated_numbers
from hanlin.rl.rewards.base import Reward, Sample, register_reward
from hanlin.tokenizer.special import END_THINK, THINK


class NumericAnswer:
    """1 when the answer after the thinking states exactly the one right number (`record["answer"]`), else 0.

    Nothing is earned by several numbers, by a number that cannot be read, by a thought that is opened twice,
    never closed, or closed without having been opened: the ways in which a model games such a reward. The
    same number said twice is one number.
    """

    def can_judge(self, record: Mapping[str, Any]) -> bool:
        """Whether the record's answer is a number."""
        return reference_number(record.get("answer")) is not None

    def __call__(self, record: Mapping[str, Any], text: str, opened: bool | None = None) -> float:
        """The reward of one answer.

        Args:
            text: what the model wrote, special tokens included.
            opened: whether the prompt ended inside a block of thought; where that is not known, a block that
                is closed and not opened is taken for the prompt's.
        """
        opens, closes = text.count(THINK), text.count(END_THINK)
        if opened is None:
            opened = closes > opens
        blocks = opens + opened
        if blocks > 1 or closes != blocks or text.find(END_THINK) < text.find(THINK):
            return 0.0
        answer = re.sub(r"<\|[^|>]*\|>", "", text.rpartition(END_THINK)[2])
        wanted, numbers = reference_number(record["answer"]), set(stated_numbers(answer))
        return float(wanted is not None and numbers == {wanted})


numeric_answer = NumericAnswer()


@register_reward
@dataclasses.dataclass(frozen=True)
class NumericReward(Reward):
    """The final number is the right one: see `NumericAnswer`."""

    kind: str = "numeric"

    def can_judge(self, record: Mapping[str, Any]) -> bool:
        """Whether the record's answer is a number."""
        return numeric_answer.can_judge(record)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """1 or 0."""
        return [numeric_answer(sample.record, sample.text, sample.opened) for sample in samples]
