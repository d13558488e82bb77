"""Whether a written answer is the right one.

Strictly: it stands alone where the answer belongs, behind 答案是 or ####, or in the last line. Leniently: the
right number is the last one of the text, the way most published scores are counted, which also rewards a text
that never comes to an end.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from hanlin.common.numbers import reference_number, spelled_numbers, stated_numbers
from hanlin.evaluation.benchmarks.base import Verdict

_MARKER = re.compile(
    r"####|(?:答案|结果)(?:应该|应当|就)?(?:是|为|[:：])[:：]?|答[:：]|Answer:", re.IGNORECASE
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_TEX = re.compile(r"\\(?:boxed|text|mathrm)\s*|[${}*]|\\[,!;() \[\]]")


def judge(reference: str, text: str) -> Verdict:
    """The verdict on a text whose answer should be a number or, where the reference is none, words."""
    return (
        judge_words(reference, text) if reference_number(reference) is None else judge_number(reference, text)
    )


def judge_words(reference: str, text: str) -> Verdict:
    """The verdict on a text whose answer should be certain words: strictly nothing else stands in the
    answer's place, leniently they occur somewhere. Width and case of letters don't count, nor do blanks and
    marks at the ends."""
    wanted = _plain(reference)
    return Verdict(strict=_plain(_answer_place(text)) == wanted, lenient=wanted in _plain(text))


def judge_number(reference: str, text: str) -> Verdict:
    """The verdict on a text whose answer should be a number.

    Numbers are compared as fractions: 1,200 and 1200, ０.５ and 1/2, 三分之一 and 1/3 are equal. A percentage
    is its hundredth, or, since questions that ask for per cent have answers with and without the sign, its
    number. Chinese numerals count where a line (or, leniently, the text) has no digits.
    """
    wanted = reference_number(reference)
    assert wanted is not None, reference
    text = _TEX.sub("", _FRACTION.sub(r"\1/\2", text)).replace("\\%", "%")
    place = _answer_place(text)
    return Verdict(
        strict=any(set(numbers) == {wanted} for numbers in _readings(place)),
        lenient=any(numbers[-1:] == [wanted] for numbers in _readings(text)),
    )


def _answer_place(text: str) -> str:
    """The line that should hold the answer: what follows the last marker, else the last line."""
    behind = text
    for match in _MARKER.finditer(text):
        behind = text[match.end() :]
    lines = [line for line in behind.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[-1] if behind is text else lines[0]


def _plain(text: str) -> str:
    text = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text.strip("".join(each for each in set(text) if unicodedata.category(each)[0] in "PS"))


def _readings(text: str) -> list[list[Fraction | None]]:
    """The numbers that a text states, percentages read as hundredths and as they stand."""
    digits = stated_numbers(text)
    if not digits:
        return [list(spelled_numbers(text))]
    return [digits, stated_numbers(re.sub("[%％]", "", text))]
