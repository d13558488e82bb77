"""Learning from pieces gives the merges that learning from uncut pre-tokens gives, however the text was
cut."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin import _native
from hanlin.common.errors import HanlinError
from hanlin.tokenizer import train_tokenizer
from tests.tokenizer.test_trainer import some_text

texts = st.lists(st.text(alphabet="ab 你好吗我们的，\n0é😀", max_size=24), min_size=1, max_size=14)


def learn(
    documents,
    new_tokens: int,
    min_frequency: int,
    max_characters: int,
    floor: int | None = None,
    shards: int = 1,
    runs: Path | None = None,
):
    """Merges from pieces, cut at the floor that is asked for at first, and how often they were counted."""
    counted = [_native.BigramCounts() for _ in range(shards)]
    for index, document in enumerate(documents):
        counted[index % shards].add([document])
    bigram_counts = counted[0]
    for other in counted[1:]:
        bigram_counts.merge(other)
    floor = bigram_counts.floor_that_leaves(2 * new_tokens) if floor is None else floor
    passes = 0
    while True:
        passes += 1
        limits = {} if runs is None else {"table_bytes": 1, "folder": str(runs)}  # a run for every document
        counters = [_native.PieceCounter(bigram_counts, floor, **limits) for _ in range(shards)]
        for index, document in enumerate(documents):
            counters[index % shards].add([document])
        for other in counters[1:]:
            counters[0].merge(other)
        merges, least, complete = _native.train_pieces(counters[0], new_tokens, min_frequency, max_characters)
        assert all(count >= least >= min_frequency for *_, count in merges)
        if complete:
            return merges, passes
        floor = max(min_frequency, least // 4)


def uncut(documents: list[str], new_tokens: int, min_frequency: int, max_characters: int):
    counter = _native.PretokenCounter()
    counter.add(documents)
    return _native.train(counter, new_tokens, min_frequency, max_characters, True)


@settings(max_examples=2000, deadline=None)
@given(
    texts,
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(0, 3),
    st.sampled_from([None, 1, 3, 1000]),
    st.integers(1, 3),
)
def test_pieces_give_what_uncut_words_give(
    documents, new_tokens, min_frequency, max_characters, floor, shards
):
    merges, passes = learn(documents, new_tokens, min_frequency, max_characters, floor, shards)
    assert merges == uncut(documents, new_tokens, min_frequency, max_characters) and passes < 8


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.binary(max_size=20).map(lambda data: data.replace(b"\0", "你好".encode())), min_size=1, max_size=8
    )
)
def test_any_bytes_can_be_counted(documents):
    assert learn(documents, 20, 1, 0)[0] == uncut(documents, 20, 1, 0)


@pytest.mark.parametrize("name", ["web_crawl_noisy.jsonl.zst", "classical.jsonl.zst", "law.jsonl.zst"])
def test_pieces_give_what_uncut_words_give_on_real_text(name: str):
    documents = some_text(name, 3_000_000)
    merges, passes = learn(documents, 6000, 2, 0)
    assert merges == uncut(documents, 6000, 2, 0) and passes == 1
    random.Random(1).shuffle(documents)
    assert learn(documents, 6000, 2, 8, shards=2)[0] == uncut(documents, 6000, 2, 8)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, st.integers(1, 30), st.integers(1, 3))
def test_counts_on_disk_are_the_same(tmp_path, documents, new_tokens, shards):
    merges, _ = learn(documents, new_tokens, 1, 0, None, shards, tmp_path)
    assert merges == uncut(documents, new_tokens, 1, 0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, st.integers(0, 30), st.booleans(), st.integers(1, 3), st.integers(0, 3))
def test_threads_and_memory_change_no_byte(
    tmp_path_factory, documents, new_tokens, aligned, threads, memory_bits
):
    """Memory for hardly any table of pieces, but for all the symbols: what was not thinned must be the
    same."""

    def trained(threads: int, memory: int):
        out = tmp_path_factory.mktemp("tokenizer")
        try:
            train_tokenizer(
                (text for text in documents),
                272 + new_tokens,
                out / "t",
                aligned=aligned,
                min_frequency=1,
                threads=threads,
                memory=memory,
            )
        except HanlinError as error:
            return str(error)
        return (out / "t" / "tokenizer.json").read_bytes()

    # the roles' names count, too
    memory = 11 * (sum(map(len, documents)) + 60) << memory_bits if memory_bits else 0
    assert trained(threads, memory) == trained(1, 0)


@pytest.mark.parametrize("name", ["web_crawl_noisy.jsonl.zst", "classical.jsonl.zst"])
def test_threads_and_memory_change_no_byte_on_real_text(tmp_path, name: str):
    documents = some_text(name, 6_000_000)
    made = set()
    for threads, memory in ((1, 0), (2, 0), (3, 0), (1, 40 << 20), (2, 40 << 20), (3, 20 << 20)):
        out = tmp_path / f"{threads}-{memory}"
        train_tokenizer(iter(documents), 8000, out, threads=threads, memory=memory)
        assert json.loads((out / "manifest.json").read_text())["metrics"].get("thinning", 1) == 1
        made.add((out / "tokenizer.json").read_bytes())
    assert len(made) == 1


def test_a_run_that_cannot_be_written_is_an_error(tmp_path):
    bigram_counts = _native.BigramCounts()
    bigram_counts.add(["你好吗"])
    with pytest.raises(RuntimeError, match="No such file"):
        _native.PieceCounter(bigram_counts, 1, 1, 0, str(tmp_path / "nowhere")).add(["你好吗"])


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: str(tmp_path / "gone"))
    with pytest.raises(HanlinError, match="memory"):
        train_tokenizer(iter(["你好吗，我很好。" * 40] * 3), 300, tmp_path / "t", memory=4)


def test_thinning_is_a_function_of_the_pieces_and_costs_little():
    """A quarter of the memory the pieces need: other merges, in part, but the text is as short."""
    documents = some_text("web_translated.jsonl.zst", 4_000_000)
    train, heldout = documents[:-100], documents[-100:]
    bigram_counts = _native.BigramCounts()
    bigram_counts.add(train)
    floor = bigram_counts.floor_that_leaves(4500)
    lengths, thinned = {}, {}
    for symbols in (0, 100_000):
        learnt = []
        for order in (train, train[::-1]):
            pieces = _native.PieceCounter(bigram_counts, floor, 0, symbols)
            pieces.add(order)
            learnt.append(_native.train_pieces(pieces, 3000)[0])
            thinned[symbols] = pieces.thinning
        assert learnt[0] == learnt[1]
        tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right, _ in learnt[0]]
        ids = {token: index for index, token in enumerate(tokens)}
        encoder = _native.Encoder(
            tokens, len(tokens), [(ids[a], ids[b], ids[a + b]) for a, b, _ in learnt[0]]
        )
        lengths[symbols] = len(encoder.encode_batch(heldout)[0])
    assert thinned[0] == 1 and thinned[100_000] >= 4
    assert lengths[100_000] < 1.005 * lengths[0]


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(1, 40), st.integers(1, 30))
def test_thinned_counts_still_put_characters_together_first(documents, new_tokens, symbols):
    """Thinned, a pair may seem more frequent than its characters; it waits for them all the same."""
    bigram_counts = _native.BigramCounts()
    bigram_counts.add(documents)
    pieces = _native.PieceCounter(bigram_counts, 1, 0, symbols)
    pieces.add(documents)
    known = {bytes([byte]) for byte in range(256)}
    for left, right, _ in _native.train_pieces(pieces, new_tokens, 1)[0]:
        assert left in known and right in known
        known.add(left + right)


def test_text_whose_characters_were_not_counted_is_refused():
    bigram_counts = _native.BigramCounts()
    bigram_counts.add(["你好"])
    with pytest.raises(ValueError, match="not been counted"):
        _native.PieceCounter(bigram_counts, 1).add(["再见"])


def test_an_iterator_may_be_read_twice(tmp_path: Path):
    documents = ["甲乙丙丁戊己庚辛" * 2 + "，今天天气好。你好吗？我们很好。"] * 3
    once = train_tokenizer(iter(documents), 256 + 16 + 20, tmp_path / "once")
    again = train_tokenizer(iter(documents[::-1]), 256 + 16 + 20, tmp_path / "again")
    assert once.vocabulary == again.vocabulary


def test_counts_beyond_32_bits():
    """In the square, in the table beside it, and of characters that are later than either."""
    bigram_counts = _native.BigramCounts()
    bigram_counts.add(
        ["".join(map(chr, range(0x4E00, 0x4E00 + 3000))), "".join(map(chr, range(0x20000, 0x20000 + 64_000)))]
    )
    for word in ("一丁", chr(0x4E00 + 2500) + chr(0x4E00 + 2800), chr(0x20000 + 63_990) * 2):
        for count in (2**32 - 2, 1, 1, 2**33, 5):
            bigram_counts.add_word(word, count)
    counts = [bigram_counts.floor_that_leaves(rank) for rank in (1, 2, 3, 4)]
    # the first stands in the text as well
    assert counts == [
        2**32 + 2**33 + 6,
        2**32 + 2**33 + 5,
        2**32 + 2**33 + 5,
        1,
    ]


def test_more_characters_than_sixteen_bits():
    plane = [chr(point) for point in range(0x20000, 0x20000 + 70_000)]
    documents = ["".join(plane)] + [(plane[-1] + plane[-2]) * 3 + plane[5] + "你好" for _ in range(4)]
    assert learn(documents, 12, 2, 0)[0] == uncut(documents, 12, 2, 0)
