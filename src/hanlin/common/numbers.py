"""Numbers that a text states, as exact fractions: a rounding cannot earn anything, and 7.5, 15/2, 7½ and 750%
are one number.

One parser reads both a reference and what a model said.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from fractions import Fraction
from typing import Any

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


_SPELLED_DIGITS = {
    character: value
    for value, characters in enumerate(
        ("零〇", "一壹", "二两贰", "三叁", "四肆", "五伍", "六陆", "七柒", "八捌", "九玖")
    )
    for character in characters
}
_SPELLED_UNITS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_DIGIT = f"[{''.join(_SPELLED_DIGITS)}]"
_WHOLE = f"[{''.join((*_SPELLED_DIGITS, *_SPELLED_UNITS, *_MYRIADS))}]+"
_SPELLED = re.compile(
    rf"""(?P<sign>负)?
    (?: 百分之(?P<percent>{_WHOLE}(?:点{_DIGIT}+)?)
      | (?:(?P<whole>{_WHOLE})又)?(?P<of>{_WHOLE})分之(?P<part>{_WHOLE})
      | (?P<plain>{_WHOLE}(?:点{_DIGIT}+)?) )""",
    re.VERBOSE,
)


def spelled_numbers(text: str) -> list[Fraction]:
    """Every number that a text spells in Chinese numerals, in order: 三百二十, 二〇二四, 三点五, 三分之一,
    百分之十二, 一万二 (12,000), 负五. The 一 of 一起 is one of them."""
    found = []
    for match in _SPELLED.finditer(text):
        if match["percent"]:
            value = _spelled(match["percent"]) / 100
        elif match["of"]:
            bottom = _spelled(match["of"])
            if not bottom:
                continue
            value = _spelled(match["whole"] or "零") + _spelled(match["part"]) / bottom
        else:
            value = _spelled(match["plain"])
        found.append(-value if match["sign"] else value)
    return found


def _spelled(text: str) -> Fraction:
    """The value of one numeral, with or without a decimal part."""
    whole, _, decimals = text.partition("点")
    value = Fraction(_spelled_integer(whole))
    if decimals:
        value += Fraction(int("".join(str(_SPELLED_DIGITS[each]) for each in decimals)), 10 ** len(decimals))
    return value


def _spelled_integer(text: str) -> int:
    if all(character in _SPELLED_DIGITS for character in text):  # 二〇二四, place by place
        return int("".join(str(_SPELLED_DIGITS[character]) for character in text))
    total = section = digit = 0
    unit = 10  # that a digit at the end counts tenths of: the 五 of 三百五 is 50
    for character in text:
        if character in _SPELLED_DIGITS:
            digit = _SPELLED_DIGITS[character]
            unit = 10 if digit == 0 else unit
        elif character in _SPELLED_UNITS:
            unit = _SPELLED_UNITS[character]
            section += (digit or 1) * unit
            digit = 0
        else:
            unit = _MYRIADS[character]
            section += digit
            total = (total + section) * unit if unit > 10**4 else total + section * unit
            section = digit = 0
    return total + section + digit * unit // 10
