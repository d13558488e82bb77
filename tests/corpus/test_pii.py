"""Personal data is masked by kind, look-alikes are not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.corpus.filters import pii
from hanlin.corpus.filters.pii import id_card_valid, luhn_valid, mask


def id_card(draw: random.Random) -> str:
    body = (
        f"11010519{draw.randint(50, 99)}{draw.randint(1, 12):02d}"
        f"{draw.randint(1, 28):02d}{draw.randint(0, 999):03d}"
    )
    total = sum(
        int(d) * w for d, w in zip(body, (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2), strict=True)
    )
    return body + "10X98765432"[total % 11]


def test_check_digits():
    draw = random.Random(0)
    for _ in range(200):
        number = id_card(draw)
        assert id_card_valid(number)
        wrong = number[:10] + str((int(number[10]) + 1) % 10) + number[11:]
        assert not id_card_valid(wrong)
        place = draw.randrange(14, 17)
        assert not id_card_valid(
            number[:place] + str((int(number[place]) + draw.randint(1, 9)) % 10) + number[place + 1 :]
        )
    assert luhn_valid("4111111111111111") and not luhn_valid("4111111111111112")
    assert id_card_valid("11010519491231002X") and not id_card_valid("110105194912310021")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("我的手机是13812345678，请打", "我的手机是[PHONE]，请打"),
        ("座机010-62345678转1", "座机[PHONE]转1"),
        ("身份证11010519491231002X号", "身份证[ID_CARD]号"),
        ("卡号4111111111111111。", "卡号[BANK_CARD]。"),
        ("写信到zhang.san@example.com.cn吧", "写信到[EMAIL]吧"),
        ("服务器8.8.8.8不通", "服务器[IP]不通"),
        ("车牌京A12345，粤B·D12345", "车牌[PLATE]，[PLATE]"),
        ("护照E12345678", "护照[PASSPORT]"),
        ("加QQ：12345678聊", "加QQ：[QQ]聊"),
        ("微信号：zhang_san88", "微信号：[WECHAT]"),
        ("vx：zhang_san88", "vx：[WECHAT]"),
        ("致电138-1234-5678或138 1234 5678", "致电[PHONE]或[PHONE]"),
        ("+86 13812345678，+8613812345678", "[PHONE]，[PHONE]"),
        ("电话（010）62345678", "电话（[PHONE]"),
        ("新能源粤BD12345，粤Z1234港，京A1234警", "新能源[PLATE]，[PLATE]，[PLATE]"),
        ("护照EA1234567。", "护照[PASSPORT]。"),
    ],
)
def test_each_kind_has_its_tag(text, masked):
    assert mask(text)[0] == masked
    assert sum(mask(text)[1].values()) == masked.count("[")
    assert mask(masked)[0] == masked  # nothing is masked twice


@pytest.mark.parametrize(
    "text",
    [
        "编号138123456789",
        "圆周率3.1415926535897932384626",
        "内网192.168.1.1和127.0.0.1",
        "版本1.2.3.4.5",
        "订单110105194912310021",
        "2023年12月25日",
        "京剧A座12345",
        "QQ很好用，微信也是",
        "概率是0.13812345678",
        "每股3.0101234567元",
        "型号EAB1234567",
    ],
)
def test_look_alikes_stay(text):
    assert mask(text)[0] == text


PIECES = [
    "13812345678",
    "010-62345678",
    "11010519491231002X",
    "4111111111111111",
    "a@b.cn",
    "8.8.8.8",
    "京A12345",
    "E12345678",
    "QQ",
    "微信号:",
    "wx",
    "abc_def1",
    "+86",
    ".",
    "-",
    "京",
    "x",
    "0",
    "7",
    "字",
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, " "]), max_size=8).map("".join))
def test_what_is_not_looked_for_is_not_there(text):
    """Each kind's pattern matches only texts that hold what is needed for it."""
    for _, needed, pattern in pii._KINDS:
        assert needed.search(text) or not pattern.search(text), (needed.pattern, text)
