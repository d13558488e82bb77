"""Texts that a tokenizer may trip over: the borders of the split pattern's classes, scripts side by side,
halves of tokens, no UTF-8."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import strategies as st

_RANGES = re.findall(
    r"\{0x(\w+), 0x(\w+), CharClass",
    (Path(__file__).parents[2] / "native" / "unicode_classes.inc").read_text(),
)
# The first and last character of every range of letters, numbers and spaces, and their neighbours outside.
CLASS_BORDERS = sorted(
    {
        chr(point)
        for first, last in _RANGES
        for point in (int(first, 16) - 1, int(first, 16), int(last, 16), int(last, 16) + 1)
        if not 0xD800 <= point < 0xE000
    }
)
SPACES = [
    *" \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2007\u200a\u2028\u2029\u202f\u205f\u3000",
    "\r\n",
    "\n\n",
    "\n\r",
    "  ",
    " \n",
    "\n ",
]
NO_SPACES = [*"\u180e\u200b\u200c\u200d\u2060\ufeff\x00\x01\x1b\x7f\x80\x9f\xad"]
CONTRACTIONS = [
    quote + end
    for quote in "'’＇"
    for end in (
        "s",
        "S",
        "ſ",
        "t",
        "T",
        "re",
        "Re",
        "rE",
        "VE",
        "ve",
        "m",
        "M",
        "ll",
        "LL",
        "lL",
        "d",
        "D",
        "\u212a",
        "l",
        "r",
        "v",
        "x",
        "",
    )
]
DIGITS = [*"0123456789０９٠٩۵०९๓᠕𝟘𝟿🄀½¼²³¹⁰₉ⅠⅧↈ①㈠㊿〇零万ↂ𐄇𒐀"]
HAN = [*"的一是了我不人在他有这中国小明你好，。！？“”《》、；：—…（）「」々〆㐀䶿鿿𠀀𪛟𰀀豈"]
OTHERS = [*"éàüñßİıŁøæœſǅЖяΩςאبשﷺक्षिनमस्तेกำখ்ကျខ្មែរ한글ㄱᄒ日本語ｱｶﾞぁゔ"]
MARKS = [*"\u0300\u0301\u0308\u0323\u20dd\u20e3\ufe0f\ufe0e\u0489\u093f\u0e33\u3099\U0001d165\U000e0100"]
EMOJI = [
    "😀",
    "👩‍👩‍👧‍👦",
    "👨🏿‍🚀",
    "🇨🇳",
    "🇨",
    "1️⃣",
    "❤️‍🔥",
    "🏴\U000e0067\U000e0062\U000e007f",
    "☺",
    "\u200d",
    "🏽",
    "🫠",
]
NO_CHARACTERS = [
    *"\ufdd0\ufdef\ufffe\uffff\ufffd\U0001fffe\U0001ffff\U0010fffe\U0010ffff\ue000\uf8ff\U000f0000\U00100000\u0378\U000e0fff"
]
CONTROL = [
    "<|im_end|>",
    "<|im_start|>",
    "<think>",
    "</think>",
    "<|endoftext|>",
    "<tool_call>",
    "<|reserved_0|>",
    "<|im_",
    "|>",
    "<|",
    "[UNK]",
]
SNIPPETS = [
    "don't",
    "it's",
    "I'LL",
    "3.14",
    "1,000",
    "2024年10月",
    "https://a.cn/b?c=d&e",
    "def f(x):\n    return x\n",
    "a_b",
    "C++",
    "……",
    "——",
    "￥5",
    "$x^2$",
]

_atoms = st.one_of(
    *(
        st.sampled_from(items)
        for items in (
            SPACES,
            NO_SPACES,
            CONTRACTIONS,
            DIGITS,
            HAN,
            OTHERS,
            MARKS,
            EMOJI,
            NO_CHARACTERS,
            CONTROL,
            SNIPPETS,
            CLASS_BORDERS,
        )
    ),
    st.characters(exclude_categories=["Cs"]),
    st.text("abstdmrevlSTDMREVL' 0\n", max_size=6),
)
_runs = st.tuples(_atoms, st.integers(1, 40)).map(lambda item: item[0] * item[1])
texts = st.lists(st.one_of(_atoms, _atoms, _atoms, _runs), max_size=24).map("".join)

INVALID = [
    b"\x80",
    b"\xbf",
    b"\xc0",
    b"\xc1\xbf",
    b"\xc0\x80",
    b"\xc2",
    b"\xdf",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xe4",
    b"\xe4\xbd",
    b"\xbd\xa0",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xef\xbf",
    b"\xf0\x9f\x98",
    b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf4\x8f\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc",
    b"\xfe",
    b"\xff",
    "你好".encode("gb18030"),
    "你好".encode("utf-16-le"),
]
raw = st.lists(
    st.one_of(_atoms.map(str.encode), st.sampled_from(INVALID), st.binary(max_size=5)), max_size=24
).map(b"".join)


def halves(tokens: list[bytes]) -> st.SearchStrategy[bytes]:
    """Tokens of a vocabulary, whole and cut, behind one another: what tempts an encoder to a wrong merge."""

    def cut(choice: tuple[int, int]) -> bytes:
        token, at = tokens[choice[0]], choice[1]
        return token[at:] if at >= 0 else token[: at + 9]

    return st.lists(
        st.tuples(st.integers(0, len(tokens) - 1), st.integers(-8, 8) | st.just(0)).map(cut), max_size=16
    ).map(b"".join)


def in_context(character: str) -> str:
    """A character where letters, numbers, spaces and all else lead to different cuts."""
    c = character
    return f"a{c}a's{c}'s!{c}a 1{c}1 {c} {c}{c}\n{c}\r\n\n {c} {c}s中{c}中  {c}\t{c}!"
