"""The hand-written scanner is the regular expression in tokenizer.json, as `tokenizers` executes it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin._native import pretokens
from hanlin.tokenizer.special import PATTERN

tokenizers = pytest.importorskip("tokenizers")
ORACLE = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")

TRICKY = [*"abSTDMrevl'’ſK!。，_1²Ⅷ一é\u0301ｱ😀\u200b\t\r\n\v\f\x1c\x85\xa0\u2028\u3000", " ", "  ", "\n\n", "'s", "'LL", "'re", " '"]
texts = st.lists(st.sampled_from(TRICKY) | st.characters(exclude_categories=["Cs"]), max_size=30).map("".join)


def oracle(text: str) -> list[bytes]:
    return [piece.encode() for piece, _ in ORACLE.pre_tokenize_str(text)]


@settings(max_examples=3000, deadline=None)
@given(texts)
def test_equals_the_regular_expression(text: str) -> None:
    assert pretokens(text) == oracle(text)


def test_every_code_point_is_classified_alike() -> None:
    """Each character stands where letters, numbers, spaces and all else lead to different cuts."""
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    for begin in range(0, len(points), 2048):
        text = "".join(f"a{c}'s {c}!a{c}\n1" for c in map(chr, points[begin : begin + 2048]))
        assert pretokens(text) == oracle(text), f"between U+{points[begin]:04X} and U+{points[min(begin + 2047, len(points) - 1)]:04X}"


@given(st.lists(st.binary(max_size=6) | texts.map(str.encode), max_size=8).map(b"".join))
def test_any_bytes_are_cut_without_loss(data: bytes) -> None:
    parts = pretokens(data)
    assert b"".join(parts) == data
    assert all(parts)


@given(texts, st.binary(min_size=1, max_size=3), texts)
def test_bytes_that_are_no_characters_are_symbols(before: str, junk: bytes, after: str) -> None:
    """Each byte that decodes to nothing cuts as a symbol would: U+FFFD in its place gives the same boundaries."""
    data = before.encode() + junk + after.encode()
    stand_in, position = [], 0
    for character in data.decode("utf-8", "surrogateescape"):
        stray = 0xD800 <= ord(character) < 0xE000
        stand_in.append("\ufffd" if stray else character)
        position += 1 if stray else len(character.encode())
    assert position == len(data)
    lengths = [len(part.decode("utf-8", "surrogateescape")) for part in pretokens(data)]
    assert lengths == [len(part.decode()) for part in oracle("".join(stand_in))]
