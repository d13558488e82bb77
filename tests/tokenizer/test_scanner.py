"""The hand-written scanner is the regular expression in tokenizer.json, as `tokenizers` executes it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin import _native
from hanlin._native import pretokens
from hanlin.tokenizer.files import build_vocabulary, tokenizer_json
from hanlin.tokenizer.special import PATTERN

tokenizers = pytest.importorskip("tokenizers")
ORACLE = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
# As llama.cpp has it: numbers first, then GPT-2's pattern on what lies between them.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
IN_TWO_STEPS = tokenizers.pre_tokenizers.Sequence(
    [tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in (r"\p{N}", GPT2)]
)

TRICKY = [
    *"abSTDMrevl'’ſK!。，_1²Ⅷ一é\u0301ｱ😀\u200b\t\r\n\v\f\x1c\x85\xa0\u2028\u3000",
    " ",
    "  ",
    "\n\n",
    "'s",
    "'LL",
    "'re",
    " '",
    " 1",
    "\n 2",
]
texts = st.lists(st.sampled_from(TRICKY) | st.characters(exclude_categories=["Cs"]), max_size=30).map("".join)


def oracle(text: str, split=ORACLE) -> list[bytes]:
    return [piece.encode() for piece, _ in split.pre_tokenize_str(text)]


@settings(max_examples=1500, deadline=None)
@given(texts)
def test_equals_the_regular_expression(text: str) -> None:
    assert pretokens(text) == oracle(text) == oracle(text, IN_TWO_STEPS)


def test_every_character_is_classified_alike() -> None:
    """Each character stands where letters, numbers, spaces and all else lead to different cuts, and hence to
    different ids.

    Merges that span a cut show it: a and the character's first byte if it is a letter, ! and that byte if it
    is a symbol, its last byte and a newline if it is a space.
    """
    octets = [bytes([byte]) for byte in range(256)]
    vocabulary = build_vocabulary(
        [
            *((b"a", lead) for lead in octets),
            *((b"!", lead) for lead in octets),
            *((last, b"\n") for last in octets),
        ],
        [],
    )
    ours = _native.Encoder(vocabulary.tokens, len(vocabulary.tokens), vocabulary.merges)
    peer = tokenizers.Tokenizer.from_str(tokenizer_json(vocabulary).decode())
    # where characters are; then some of the void
    planes = [
        *range(0xD800),
        *range(0xE000, 0x40000),
        *range(0xE0000, 0xE1000),
    ]
    points = [*planes, *range(0x40000, 0xE0000, 61), *range(0xE1000, 0x110000, 61)]
    texts = [
        "".join(f"a{c}1!{c}1{c}\n1" for c in map(chr, points[begin : begin + 2048]))
        for begin in range(0, len(points), 2048)
    ]
    for index, (text, theirs) in enumerate(zip(texts, peer.encode_batch_fast(texts), strict=True)):
        assert ours.encode(text) == theirs.ids, f"among the 2048 from U+{points[index * 2048]:04X}"


@given(st.lists(st.binary(max_size=6) | texts.map(str.encode), max_size=8).map(b"".join))
def test_any_bytes_are_cut_without_loss(data: bytes) -> None:
    parts = pretokens(data)
    assert b"".join(parts) == data
    assert all(parts)


@given(texts, st.binary(min_size=1, max_size=3), texts)
def test_bytes_that_are_no_characters_are_symbols(before: str, junk: bytes, after: str) -> None:
    """Each byte that decodes to nothing cuts as a symbol would: U+FFFD in its place gives the same
    boundaries."""
    data = before.encode() + junk + after.encode()
    stand_in, position = [], 0
    for character in data.decode("utf-8", "surrogateescape"):
        stray = 0xD800 <= ord(character) < 0xE000
        stand_in.append("\ufffd" if stray else character)
        position += 1 if stray else len(character.encode())
    assert position == len(data)
    lengths = [len(part.decode("utf-8", "surrogateescape")) for part in pretokens(data)]
    assert lengths == [len(part.decode()) for part in oracle("".join(stand_in))]
