"""Rewards that can be computed: whether an answer's final number is the right one."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_END_THINK, _THINK = "</think>", "<think>"


def final_numbers(text: str) -> list[str]:
    """Numbers an answer states, after its thinking; full-width digits count, control tokens do not."""
    answer = text.rpartition(_END_THINK)[2]
    answer = re.sub(r"<\|[^|>]*\|>", "", answer)
    return _NUMBER.findall(unicodedata.normalize("NFKC", answer))


def numeric_answer(record: dict[str, Any], text: str) -> float:
    """1 when the answer after the thinking states exactly the one right number (`record["answer"]`), else 0.

    Nothing is earned by several numbers, by a thought that is opened twice, never closed, or closed without being opened
    more often than it was: the ways in which a model games such a reward.
    """
    prompted = 1 if text.count(_END_THINK) > text.count(_THINK) else 0  # `<think>` may stand in the prompt
    if text.count(_THINK) + prompted > 1 or text.count(_END_THINK) != text.count(_THINK) + prompted:
        return 0.0
    numbers = set(final_numbers(text))
    return float(len(numbers) == 1 and float(numbers.pop()) == float(record["answer"]))
