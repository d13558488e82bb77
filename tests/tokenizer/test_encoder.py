"""Encoding is by rank: equal to the slow way for any vocabulary, equal to `tokenizers` for ours, and never
quadratic."""

from __future__ import annotations

import functools
import random
import time

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin import _native
from hanlin.tokenizer.files import build_vocabulary
from tests.tokenizer import awkward, reference

ALPHABET = (
    "aab你妳好仠é¥½😀😁\n "  # ¥ and ½ are symbols whose bytes also occur next to one another in 你 and 好
)
words = st.dictionaries(
    st.text(alphabet=ALPHABET, min_size=1, max_size=10).map(str.encode),
    st.integers(1, 5),
    min_size=1,
    max_size=12,
)
strays = st.sampled_from(
    [
        b"\xa0",
        b"\xbd",
        b"\xa9",
        b"\xa5\xbd",
        b"\xbd\xa0",
        b"\xe4",
        b"\xe4\xbd",
        b"\xf0\x9f\x98",
        b"\x80",
        b"\xc3",
    ]
)
text = st.text(alphabet=ALPHABET + "!1仡", max_size=40).map(str.encode)


def encoder_of(pairs: list[tuple[bytes, bytes]]) -> _native.Encoder:
    vocabulary = build_vocabulary(pairs, [])
    return _native.Encoder(vocabulary.tokens, len(vocabulary.tokens), vocabulary.merges)


def spelt(encoder: _native.Encoder, data: bytes) -> list[bytes]:
    return [encoder.decode([index]) for index in encoder.encode(data)]


def slow(pairs: list[tuple[bytes, bytes]], data: bytes) -> list[bytes]:
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(pairs)))}
    return [part for word in _native.pretokens(data) for part in reference.encode(word, ranks)]


@settings(max_examples=400, deadline=None)
@given(words, st.booleans(), st.lists(text | strays | st.binary(max_size=4), max_size=8).map(b"".join))
def test_equals_the_slow_way_for_trained_vocabularies(
    counts: dict[bytes, int], aligned: bool, data: bytes
) -> None:
    counter = _native.PretokenCounter()
    for word, count in counts.items():
        counter.add_word(word, count)
    pairs = [(left, right) for left, right, _ in _native.train(counter, 60, 1, 0, aligned)]
    encoder = encoder_of(pairs)
    assert encoder.aligned or not aligned
    tails = {bytes([byte]) for character in ALPHABET for byte in character.encode()[1:]}
    # may merge with what is before
    invalid = b" ".join(character.encode() + tail for character in ALPHABET for tail in sorted(tails))
    seen = b"".join(counts) + data + invalid
    assert spelt(encoder, seen) == slow(pairs, seen)


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30), st.integers(0, 2**32), text)
def test_equals_the_slow_way_for_any_vocabulary(
    choices: list[tuple[int, int]], seed: int, data: bytes
) -> None:
    """Merges in any order, also such as use tokens before they are made."""
    tokens = sorted({bytes([byte]) for byte in ALPHABET.encode()})
    pairs: list[tuple[bytes, bytes]] = []
    for left, right in choices:
        pair = tokens[left % len(tokens)], tokens[right % len(tokens)]
        if pair not in pairs and len(pair[0] + pair[1]) <= 12:
            pairs.append(pair)
            tokens.append(pair[0] + pair[1])
    random.Random(seed).shuffle(pairs)
    known = {bytes([byte]) for byte in range(256)} | {left + right for left, right in pairs}
    vocabulary = sorted(known)
    ids = {token: index for index, token in enumerate(vocabulary)}
    encoder = _native.Encoder(
        vocabulary, len(vocabulary), [(ids[left], ids[right], ids[left + right]) for left, right in pairs]
    )
    assert spelt(encoder, data) == slow(pairs, data)
    long = data * 9  # past the length where another method takes over
    assert spelt(encoder, long) == slow(pairs, long)


@given(st.lists(st.binary(max_size=30) | text, max_size=5))
def test_batches_equal_single_texts_and_decode_to_what_they_were(texts: list[bytes]) -> None:
    encoder = encoder_of([(b"\xe4", b"\xbd"), (b"\xe4\xbd", b"\xa0"), (b" ", b"a")])
    ids, offsets = encoder.encode_batch(texts)
    assert ids.dtype == numpy.uint32
    assert len(offsets) == len(texts) + 1
    parts = [ids[begin:end].tolist() for begin, end in zip(offsets, offsets[1:], strict=False)]
    assert parts == [encoder.encode(item) for item in texts]
    assert [encoder.decode(part) for part in parts] == texts


def round_trip_of_all(encoder: _native.Encoder, strings: list[bytes]) -> None:
    """Each string's ids decode to it: all together to all of them, and the bytes of each one's tokens are as
    many as its own."""
    ids, offsets = encoder.encode_batch(strings)
    assert encoder.decode(ids.tolist()) == b"".join(strings)
    sizes = numpy.array([len(encoder.decode([index])) for index in range(len(encoder))])
    ends = numpy.concatenate([[0], numpy.cumsum(sizes[ids])])[offsets.astype(numpy.int64)]
    assert numpy.array_equal(numpy.diff(ends), [len(item) for item in strings])


def some_encoders() -> list[_native.Encoder]:
    """Aligned and plain merges of text in which every byte of a character occurs, also beside others than
    its own."""
    text = "".join(
        map(
            chr,
            (
                *range(1, 0x800, 3),
                *range(0x800, 0xD800, 41),
                *range(0xE000, 0x10000, 41),
                *range(0x10000, 0x110000, 4099),
            ),
        )
    )
    counter = _native.PretokenCounter()
    counter.add([text, text, text[::-1], "".join(random.Random(3).choices(text, k=len(text)))])
    learnt = [_native.train(counter, 1500, 1, 0, aligned) for aligned in (True, False)]
    return [encoder_of([(left, right) for left, right, _ in merges]) for merges in learnt]


def test_all_short_byte_strings_come_back() -> None:
    """Every string of one and two bytes; of those of three, a sample that begins with each byte that may
    lead a character."""
    rng = random.Random(5)
    for encoder in some_encoders():
        round_trip_of_all(
            encoder,
            [
                b"",
                *(bytes([byte]) for byte in range(256)),
                *(bytes([a, b]) for a in range(256) for b in range(256)),
            ],
        )
        round_trip_of_all(
            encoder, [bytes([lead, *rng.randbytes(2)]) for lead in range(0xC0, 0x100) for _ in range(1500)]
        )


@pytest.mark.nightly
def test_all_byte_strings_of_three_come_back() -> None:
    for encoder in some_encoders():
        for first in range(256):
            round_trip_of_all(encoder, [bytes([first, b, c]) for b in range(256) for c in range(256)])


@pytest.mark.nightly
@settings(max_examples=50_000, deadline=None)
@given(awkward.raw)
def test_awkward_bytes_are_encoded_the_slow_way(data: bytes) -> None:
    """Invalid UTF-8 too, which no peer takes: by the pre-tokens, which test_scanner.py holds to the pattern,
    and by rank within them."""
    for pairs, encoder in slow_vocabularies():
        assert spelt(encoder, data) == slow(pairs, data)


@functools.cache
def slow_vocabularies() -> list[tuple[list[tuple[bytes, bytes]], _native.Encoder]]:
    counter = _native.PretokenCounter()
    counter.add(
        [
            " ".join([*awkward.CLASS_BORDERS, *awkward.HAN]),
            "".join(awkward.CLASS_BORDERS + awkward.OTHERS + awkward.EMOJI * 3),
            "你好吗 don't 's's",
        ]
    )
    learnt = [
        [(left, right) for left, right, _ in _native.train(counter, 900, 1, 0, aligned)]
        for aligned in (True, False)
    ]
    return [(pairs, encoder_of(pairs)) for pairs in learnt]


@pytest.mark.parametrize("unit", ["a", "好", "😀", " ", "\n", "\xff", "ab", "!?"])
def test_long_runs_take_time_in_proportion(unit: str) -> None:
    pairs = (
        [(unit.encode()[:1] * size, unit.encode()[:1] * size) for size in (1, 2, 4, 8, 16)]
        if len(unit.encode()) == 1
        else []
    )
    pairs += [
        (b"a", b"b"),
        (b"ab", b"ab"),
        (b"\xe5", b"\xa5"),
        (b"\xe5\xa5", b"\xbd"),
        (b"\xe5\xa5\xbd", b"\xe5\xa5\xbd"),
    ]
    encoder = encoder_of(pairs)

    def seconds(size: int) -> float:
        data = (unit * (size // len(unit.encode()))).encode()
        begin = time.process_time()
        assert len(encoder.encode_batch([data])[0]) > 0
        return time.process_time() - begin

    small = max(min(seconds(50_000) for _ in range(3)), 1e-3)
    # a quadratic method would take 32 times more than this allows for
    assert seconds(1_600_000) < 32 * 6 * small


def test_a_vocabulary_that_does_not_fit_together_is_refused() -> None:
    every_byte = [bytes([byte]) for byte in range(256)]
    with pytest.raises(ValueError, match="byte 7 has no token"):
        _native.Encoder([token for token in every_byte if token != b"\x07"], 255, [])
    with pytest.raises(ValueError, match="merge 0"):
        _native.Encoder([*every_byte, b"ab"], 257, [(97, 99, 256)])
    with pytest.raises(ValueError, match="merge 0"):
        _native.Encoder([*every_byte, b"ab"], 257, [(97, 98, 300)])
    with pytest.raises(ValueError, match="merge 0"):  # control tokens take part in no merge
        _native.Encoder([*every_byte, b"ab"], 256, [(97, 98, 256)])
    with pytest.raises(ValueError, match="more ordinary"):
        _native.Encoder(every_byte, 257, [])
    with pytest.raises(IndexError, match="256"):
        _native.Encoder(every_byte, 256, []).decode([256])
    with pytest.raises(TypeError):
        _native.Encoder(every_byte, 256, []).encode(3)


def test_tokens_that_nothing_produces_are_found() -> None:
    every_byte = [bytes([byte]) for byte in range(256)]
    vocabulary = [*every_byte, b"ab", b"bc", b"abc", b"zz", b"a b"]
    encoder = _native.Encoder(vocabulary, len(vocabulary), [(97, 98, 256), (98, 99, 257), (97, 257, 258)])
    lost = {vocabulary[index] for index in encoder.unreachable()}
    assert lost == {b"abc", b"zz", b"a b"}  # a and bc never meet, zz has no merge, a space ends a pre-token
