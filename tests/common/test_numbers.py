"""Numbers in Chinese numerals; those in digits are tested with the rewards that need them."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from hanlin.common.numbers import spelled_numbers


@pytest.mark.parametrize(
    "text,value",
    [
        ("零", 0),
        ("十", 10),
        ("十八", 18),
        ("二十", 20),
        ("两百", 200),
        ("一百零五", 105),
        ("三百五", 350),
        ("一千零三", 1003),
        ("二〇二四", 2024),
        ("一万二", 12000),
        ("一万零五", 10005),
        ("十二万三千四百五十六", 123456),
        ("二亿三千万", 230_000_000),
        ("一万亿", 10**12),
        ("叁佰伍拾", 350),
        ("负五", -5),
        ("三点一四", Fraction(314, 100)),
        ("零点零五", Fraction(1, 20)),
        ("三分之一", Fraction(1, 3)),
        ("一又二分之一", Fraction(3, 2)),
        ("百分之十二点五", Fraction(1, 8)),
        ("负三分之二", Fraction(-2, 3)),
    ],
)
def test_numerals_are_read(text, value):
    assert spelled_numbers(f"共{text}个") == [value]


def spelled(number: int) -> str:
    """A number below 10^8, spelled as it is said: 零 for a gap, no unit for the last place."""

    def below_myriad(value: int) -> str:
        said, gap = "", False
        for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
            digit = value // unit % 10
            if digit:
                said += ("零" if gap and said else "") + "零一二三四五六七八九"[digit] + name
            gap = not digit
        return said

    high, low = divmod(number, 10_000)
    if not high:
        return below_myriad(low)
    return below_myriad(high) + "万" + (("零" if low < 1000 else "") + below_myriad(low) if low else "")


def test_every_number_is_read_as_it_is_said():
    rng = random.Random(3)
    for _ in range(500):
        number = rng.randrange(1, 10 ** rng.randrange(1, 9))
        assert spelled_numbers(spelled(number)) == [number], (number, spelled(number))


def test_several_numerals_are_read_in_order_and_what_is_none_is_not():
    assert spelled_numbers("三个人分十二个，每人四个") == [3, 12, 4]
    assert spelled_numbers("没有数") == [] == spelled_numbers("零分之三")
