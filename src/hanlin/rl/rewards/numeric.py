"""Rewards that can be computed: whether an answer's final number is the right one.

One parser of numbers reads both the reference and what the model said, into exact fractions: a rounding
cannot earn anything, and 7.5, 15/2, 7½ and 750% are one number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from hanlin.rl.rewards.base import Reward, Sample, register_reward
from hanlin.tokenizer.special import END_THINK, THINK

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
_NUMBER = re.compile(
    rf"""(?P<hundredth>百分之)?
    (?P<sign>(?<![0-9.)\]A-Za-z%])[-+]|负)?
    (?: (?P<whole>{_DIGITS}) (?:又|[ ]) (?P<part>[0-9]+) / (?P<of>[0-9]+)    # 3又1/2, 3 1/2
      | (?P<top>{_DECIMAL}) [ ]? / [ ]? (?P<bottom>{_DECIMAL})               # 15/2
      | (?P<plain>{_DECIMAL})? (?P<vulgar>[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒])             # ½, 3½
      | (?P<decimal>{_DECIMAL}) )                                            # 1,200.5
    (?P<percent>[ ]?[%‰])?""",
    re.VERBOSE,
)
_SCIENTIFIC = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?[eE][-+]?[0-9]{1,2}")
_OPERATES_BEHIND, _OPERATES_BEFORE = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ^π!]|/[0-9]"), "√^"
_PLAIN = str.maketrans(
    {
        "％": "%",
        "／": "/",
        "⁄": "/",
        "∕": "/",
        "．": ".",
        "－": "-",
        "−": "-",
        "﹣": "-",
        "＋": "+",
        "　": " ",
    }
)
_LONGEST = 300  # characters of a number that is worth reading


def stated_numbers(text: str) -> list[Fraction | None]:
    """Every number a text states, in order; None for one that is there but cannot be read, as 5², √2, 1/0.

    Decimals, thousands separators (1,200), fractions (15/2), mixed numbers (3又1/2, 3½), signs (-, −, 负)
    and percentages (12% and 百分之12 are 0.12) are read, in digits of any width or script. A full-width
    comma separates; a superscript is no digit.
    """
    plain = "".join(map(_digit, text)).translate(_PLAIN)
    return [_value(match, plain) for match in _NUMBER.finditer(plain)]


@functools.cache
def _digit(character: str) -> str:
    """A decimal digit of any script as ASCII; anything else as it is: NFKC would make 52 of 5²."""
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)


def _value(match: re.Match[str], text: str) -> Fraction | None:
    before = text[match.start() - 1 : match.start()]
    if (
        len(match[0]) > _LONGEST
        or (before and before in _OPERATES_BEFORE)
        or _OPERATES_BEHIND.match(text, match.end())
    ):
        return None
    found = {name: said.replace(",", "") for name, said in match.groupdict(default="").items()}
    try:
        if found["of"]:
            value = Fraction(found["whole"]) + Fraction(int(found["part"]), int(found["of"]))
        elif found["bottom"]:
            value = Fraction(found["top"]) / Fraction(found["bottom"])
        elif found["vulgar"]:
            value = Fraction(found["plain"] or 0) + Fraction(
                unicodedata.numeric(found["vulgar"])
            ).limit_denominator(10)
        else:
            value = Fraction(found["decimal"])
    except ZeroDivisionError:
        return None
    value /= 1000 if "‰" in found["percent"] else 100 if found["percent"] else 1
    value /= 100 if found["hundredth"] else 1
    return -value if found["sign"] in ("-", "负") else value


def reference_number(answer: Any) -> Fraction | None:
    """The number that a record's `answer` is, a JSON number or a string that holds one and nothing else;
    None when it is none."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float, str)):
        return None
    if isinstance(answer, float):
        return Fraction(repr(answer)) if math.isfinite(answer) else None
    if isinstance(answer, int):
        return Fraction(answer)
    text = "".join(map(_digit, answer.strip())).translate(_PLAIN)
    if _SCIENTIFIC.fullmatch(text):
        return Fraction(text)
    match = _NUMBER.fullmatch(text)
    return None if match is None else _value(match, text)


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
