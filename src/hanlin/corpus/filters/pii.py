"""Personal data replaced by typed tags, by pattern and, where there is one, check digit.

Word boundaries (`\\b`) do not separate digits from Chinese characters, so every pattern carries its own
guards. Each kind is looked
for only in texts that hold what it cannot do without, which a scan of the text tells: most texts hold none
of it.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections import Counter
from typing import NamedTuple

_PROVINCE = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


class _Kind(NamedTuple):
    tag: str
    needed: re.Pattern[str]
    pattern: re.Pattern[str]


# What is needed begins with a set of characters, which `re` scans for at several hundred MB/s.
_AT = re.compile("@")
_DIGITS = re.compile("[0-9]{5}")
_GROUPED = re.compile("[0-9]{3}[- ][0-9]{4}|[0-9]{5}")
_DOTTED = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_PLATED = re.compile(f"[{_PROVINCE}][A-HJ-NP-Z]")
_LETTERED = re.compile(r"[EGPSD][A-Z]?[0-9]{7}")
_WEIXIN = re.compile("[微vVwW][信xX]")
_KINDS = (
    _Kind("[EMAIL]", _AT, re.compile(r"(?<![\w.+-])[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", re.A)),
    _Kind("[ID_CARD]", _DIGITS, re.compile(r"(?<![\dA-Za-z])[1-9]\d{16}[\dXx](?![\dA-Za-z])", re.A)),
    _Kind("[BANK_CARD]", _DIGITS, re.compile(r"(?<![\d.])\d{16,19}(?![\d.])", re.A)),
    # Mobile: bare, grouped 3-4-4, with the country's code; not the decimals of a number.
    _Kind(
        "[PHONE]",
        _GROUPED,
        re.compile(
            r"(?<!\d)(?<!\d\.)(?:(?:\+|00)86[- ]?)?1[3-9]\d(?:\d{8}|-\d{4}-\d{4}| \d{4} \d{4})(?!\d)", re.A
        ),
    ),
    _Kind(
        "[PHONE]",
        _DIGITS,
        re.compile(
            r"(?<![\d-])(?<!\d\.)0\d{2,3}-?\d{7,8}(?![\d-])|(?<=[(（])0\d{2,3}[)）] ?\d{7,8}(?![\d-])", re.A
        ),
    ),
    _Kind("[IP]", _DOTTED, re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)", re.A)),
    _Kind(
        "[PLATE]",
        _PLATED,
        re.compile(
            rf"[{_PROVINCE}][A-HJ-NP-Z][·• ]?"
            rf"(?:[A-HJ-NP-Z0-9]{{4}}[挂学警港澳]|[A-HJ-NP-Z0-9]{{5,6}}(?![A-Za-z0-9]))",
            re.A,
        ),
    ),
    _Kind(
        "[PASSPORT]",
        _LETTERED,
        re.compile(r"(?<![A-Za-z0-9])(?:[EGPSD]\d{8}|E[A-HJ-NP-Z]\d{7})(?![A-Za-z0-9])", re.A),
    ),
    _Kind(
        "[QQ]", _DIGITS, re.compile(r"(?<=QQ)(\s*群?号?码?\s*[:：是]?\s*)[1-9]\d{4,10}(?!\d)", re.A | re.I)
    ),
    _Kind(
        "[WECHAT]",
        _WEIXIN,
        re.compile(r"(?:(?<=微信)|(?<=[vw]x))(\s*号?\s*[:：是]\s*)[a-z][\w-]{5,19}", re.A | re.I),
    ),
)

_NEEDED = tuple(dict.fromkeys(kind.needed for kind in _KINDS))


def mask(text: str) -> tuple[str, Counter[str]]:
    """The text with personal data replaced by its tag, and how often each tag was set.

    Kinds: e-mail addresses, resident identity numbers (ISO 7064 MOD 11-2 and a real date), bank cards
        (Luhn), mobile and landline
    phones, public IPv4 addresses, number plates, passports; QQ and WeChat accounts after their keyword.
    """
    counts: Counter[str] = Counter()

    def replacer(tag: str):
        def replace(found: re.Match[str]) -> str:
            if not _valid(tag, found[0]):
                return found[0]
            counts[tag] += 1
            return (found[1] if found.re.groups else "") + tag

        return replace

    present = {needed for needed in _NEEDED if needed.search(text)}
    for tag, needed, pattern in _KINDS:
        if needed in present:
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
    """Whether an 18-digit resident number has a real date of birth and the ISO 7064 MOD 11-2 check
    character."""
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
