"""Personal data replaced by typed tags, by pattern and, where there is one, check digit.

Word boundaries (`\\b`) do not separate digits from Chinese characters, so every pattern carries its own guards.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections import Counter

_PROVINCE = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("[EMAIL]", re.compile(r"(?<![\w.+-])[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", re.A)),
    ("[ID_CARD]", re.compile(r"(?<![\dA-Za-z])[1-9]\d{16}[\dXx](?![\dA-Za-z])", re.A)),
    ("[BANK_CARD]", re.compile(r"(?<![\d.])\d{16,19}(?![\d.])", re.A)),
    ("[PHONE]", re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)", re.A)),
    ("[PHONE]", re.compile(r"(?<![\d-])0\d{2,3}-?\d{7,8}(?![\d-])", re.A)),
    ("[IP]", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)", re.A)),
    ("[PLATE]", re.compile(rf"[{_PROVINCE}][A-HJ-NP-Z][·• ]?[A-HJ-NP-Z0-9]{{5,6}}(?![A-Za-z0-9])", re.A)),
    ("[PASSPORT]", re.compile(r"(?<![A-Za-z0-9])[EGPSD]\d{8}(?![A-Za-z0-9])", re.A)),
    ("[QQ]", re.compile(r"(?<=QQ)(\s*群?号?码?\s*[:：是]?\s*)[1-9]\d{4,10}(?!\d)", re.A | re.I)),
    ("[WECHAT]", re.compile(r"(?<=微信)(\s*号?\s*[:：是]\s*)[A-Za-z][\w-]{5,19}", re.A)),
)


def mask(text: str) -> tuple[str, Counter[str]]:
    """The text with personal data replaced by its tag, and how often each tag was set."""
    counts: Counter[str] = Counter()

    def replacer(tag: str):
        def replace(found: re.Match[str]) -> str:
            if not _valid(tag, found[0]):
                return found[0]
            counts[tag] += 1
            return (found[1] if found.re.groups else "") + tag

        return replace

    for tag, pattern in _PATTERNS:
        text = pattern.sub(replacer(tag), text)
    return text, counts


def _valid(tag: str, value: str) -> bool:
    """What a pattern alone cannot tell: check digits, dates, public addresses."""
    if tag == "[ID_CARD]":
        return id_card_valid(value)
    if tag == "[BANK_CARD]":
        return luhn_valid(value)
    if tag == "[IP]":
        try:
            return ipaddress.IPv4Address(value).is_global
        except ValueError:
            return False
    return True


def id_card_valid(number: str) -> bool:
    """Whether an 18-digit resident number has a real date of birth and the ISO 7064 MOD 11-2 check character."""
    try:
        born = datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number, strict=False))
    return 1800 <= born.year < 2100 and "10X98765432"[total % 11] == number[17].upper()


def luhn_valid(number: str) -> bool:
    """Whether a card number ends in its Luhn check digit."""
    digits = [int(digit) for digit in reversed(number)]
    return sum(digits[0::2]) % 10 == (-sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10
