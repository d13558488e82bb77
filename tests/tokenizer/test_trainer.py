"""Training is exact: equal to a slow reference, equal to `tokenizers` up to ties, and blind to the order of
documents."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin import _native
from hanlin.corpus.readers.read import read_documents
from hanlin.tokenizer.special import PATTERN, from_letters
from tests.tokenizer import reference

SHARED = Path(__file__).parents[3] / "shared"

# Few letters, so that runs and ties abound; characters that share their first or last bytes.
words = st.dictionaries(
    st.text(alphabet="aab你妳好仠é😀😁🐀", min_size=1, max_size=10).map(str.encode),
    st.integers(1, 5),
    min_size=1,
    max_size=12,
)


def learn(
    counts: dict[bytes, int],
    new_tokens: int,
    min_frequency: int = 2,
    max_characters: int = 0,
    aligned: bool = True,
):
    counter = _native.PretokenCounter()
    for word, count in counts.items():
        counter.add_word(word, count)
    return _native.train(counter, new_tokens, min_frequency, max_characters, aligned)


@settings(max_examples=1500, deadline=None)
@given(words, st.integers(0, 40), st.integers(1, 3), st.integers(0, 4), st.booleans())
def test_equals_the_reference(
    counts: dict[bytes, int], new_tokens: int, min_frequency: int, max_characters: int, aligned: bool
) -> None:
    expected = reference.train(counts, new_tokens, min_frequency, max_characters, aligned)
    assert learn(counts, new_tokens, min_frequency, max_characters, aligned) == expected


def counted(counts: dict[bytes, int]) -> _native.PretokenCounter:
    counter = _native.PretokenCounter()
    for word, count in counts.items():
        counter.add_word(word, count)
    return counter


@settings(max_examples=1000, deadline=None)
@given(
    words,
    st.integers(0, 40),
    st.integers(1, 3),
    st.integers(0, 4),
    st.integers(1, 3),
    st.sampled_from([0, 1, 8, 1 << 26]),
)
def test_plain_in_little_memory_gives_the_same(
    counts, new_tokens, min_frequency, max_characters, threads, places_at_once
) -> None:
    """On several threads, with places listed in several rounds and tidied meanwhile."""
    merges = _native.train_plain(
        counted(counts), new_tokens, min_frequency, max_characters, None, threads, places_at_once
    )
    assert merges == learn(counts, new_tokens, min_frequency, max_characters, aligned=False)


@pytest.mark.parametrize("name", ["web_crawl_noisy.jsonl.zst", "code_python.jsonl.zst"])
def test_plain_in_little_memory_gives_the_same_on_real_text(name: str) -> None:
    counter = count(some_text(name, 4_000_000))
    expected = _native.train(counter, 6000, 2, 16, False)
    for threads, places_at_once in ((1, 100_000), (2, 1 << 26), (3, 10_000)):
        copy = _native.PretokenCounter()
        copy.merge(counter)
        assert _native.train_plain(copy, 6000, 2, 16, None, threads, places_at_once) == expected


@settings(max_examples=1000, deadline=None)
@given(
    st.dictionaries(
        st.text(alphabet="abc", min_size=1, max_size=14).map(str.encode),
        st.integers(1, 3),
        min_size=1,
        max_size=10,
    )
)
def test_no_token_is_made_twice(counts: dict[bytes, int]) -> None:
    """By exhaustion of short repetitive words; the reason is in native/learner.hpp."""
    merges = learn(counts, 200, 1)
    assert merges == reference.train(counts, 200, 1)
    assert len({left + right for left, right, _ in merges}) == len(merges)


def some_text(name: str, size: int, seed: int = 0) -> list[str]:
    path = SHARED / "data" / "pretrain_zh" / name
    if not path.exists():
        pytest.skip(f"{path} not present")
    texts: list[str] = []
    for document in read_documents(path):
        texts.append(document["text"])
        size -= len(document["text"].encode())
        if size <= 0:
            break
    random.Random(seed).shuffle(texts)
    return texts


def count(texts: list[str]) -> _native.PretokenCounter:
    counter = _native.PretokenCounter()
    counter.add(texts)
    return counter


def test_equals_the_reference_on_real_text() -> None:
    texts = [text[:400] for text in some_text("web_crawl_noisy.jsonl.zst", 20_000)][:15]
    counter = count(texts)
    for aligned in (True, False):
        assert _native.train(counter, 150, 2, 6, aligned) == reference.train(
            dict(counter.words()), 150, 2, 6, aligned
        )


@pytest.mark.parametrize(
    "name", ["web_crawl_noisy.jsonl.zst", "code_python.jsonl.zst", "classical.jsonl.zst"]
)
def test_plain_equals_hugging_face_up_to_ties(name: str) -> None:
    """Where counts are equal `tokenizers` prefers smaller ids, we smaller bytes; so each list must be a
    right choice at every step."""
    plain_and_hugging_face(some_text(name, 100_000), 500, 2)


def plain_and_hugging_face(texts: list[str], new_tokens: int, min_frequency: int) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    counter = count(texts)
    ours = [(left, right) for left, right, _ in _native.train(counter, new_tokens, min_frequency, 0, False)]

    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    peer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    options = {
        "vocab_size": 256 + new_tokens,
        "min_frequency": min_frequency,
        "initial_alphabet": alphabet,
        "show_progress": False,
    }
    peer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(**options))
    theirs = [(from_letters(a), from_letters(b)) for a, b in json.loads(peer.to_str())["model"]["merges"]]

    found = dict(counter.words())
    for merges in (ours, theirs):
        assert len(merges) <= new_tokens
        for step, (chosen, highest) in enumerate(reference.counts_along(found, merges)):
            assert chosen == highest >= min_frequency, f"merge {step}: {merges[step]}"
        if len(merges) < new_tokens:  # it ended because no pair was frequent enough: one more step shows it
            *_, (_, left_over) = reference.counts_along(found, [*merges, (b"", b"")])
            assert left_over < min_frequency
    assert len(ours) == new_tokens == len(theirs) or len(ours) < new_tokens > len(theirs)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name", ["web_crawl_noisy.jsonl.zst", "code_python.jsonl.zst", "classical.jsonl.zst"]
)
def test_plain_equals_hugging_face_up_to_ties_at_length(name: str) -> None:
    """As above with 10 times the text, down to the least frequency, where both must stop for want of a
    pair."""
    texts = some_text(name, 1_000_000)
    plain_and_hugging_face(texts, 2000, 2)
    plain_and_hugging_face([text[:300] for text in texts[:40]], 100_000, 8)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name", ["web_crawl_noisy.jsonl.zst", "code_python.jsonl.zst", "classical.jsonl.zst"]
)
@pytest.mark.parametrize("max_characters", [0, 4])
def test_aligned_pieces_equal_the_slow_reference_on_real_text(name: str, max_characters: int) -> None:
    """What `hanlin tokenizer train` does (bigram_counts, cutting, pieces) beside a recount of every pair of
    uncut pre-tokens at every step."""
    from tests.tokenizer.test_pieces import learn as learn_from_pieces

    texts = some_text(name, 100_000)
    merges, _ = learn_from_pieces(texts, 200, 2, max_characters, shards=3)
    assert merges == reference.train(dict(count(texts).words()), 200, 2, max_characters, True)


@given(
    st.lists(st.text(alphabet="ab 你好\n!", max_size=20), max_size=12),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
)
def test_order_and_splitting_do_not_matter(texts: list[str], rng: random.Random, parts: int) -> None:
    expected = _native.train(count(texts), 50, 1)
    shuffled = texts[:]
    rng.shuffle(shuffled)
    merged = _native.PretokenCounter()
    for part in range(parts):
        merged.merge(count(shuffled[part::parts]))
    assert _native.train(merged, 50, 1) == expected
    assert merged.words() == count(texts).words()


@given(st.lists(st.text(max_size=30), max_size=6))
def test_counts_are_of_the_pretokens(texts: list[str]) -> None:
    expected = Counter(word for text in texts for word in _native.pretokens(text))
    counter = count(texts)
    assert dict(counter.words()) == expected
    assert (counter.total, counter.distinct) == (expected.total(), len(expected))
    assert counter.bytes == sum(len(text.encode()) for text in texts)


@given(st.dictionaries(st.binary(min_size=1, max_size=8), st.integers(1, 4), max_size=8), st.booleans())
def test_any_bytes_can_be_trained_on(counts: dict[bytes, int], aligned: bool) -> None:
    for left, right, _ in learn(counts, 100, 1, 0, aligned):
        assert (
            not aligned
            or reference.is_within_character(left + right)
            or (reference.is_whole(left) and reference.is_whole(right))
        )


def test_interrupting_stops_the_training() -> None:
    class Stop(Exception):
        pass

    def refuse(done: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        _native.train(count(["你好吗" * 3]), 5, 1, 0, True, refuse)
