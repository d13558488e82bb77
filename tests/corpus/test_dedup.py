"""Signatures estimate Jaccard as theory and datasketch say; what is dropped has a verified earlier duplicate
that stays."""

from __future__ import annotations

import random
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.corpus.dedup.fingerprints import (
    DedupConfig,
    MinHasher,
    batch_of,
    comparison_key,
    comparison_keys,
    digests,
)
from hanlin.corpus.dedup.search import near_duplicates

CONFIG = DedupConfig()
HAN = [chr(point) for point in range(0x4E00, 0x9FA5)]


def pair(draw: random.Random, similarity: float, size: int = 300) -> tuple[str, str]:
    """Two texts that share a beginning, so that their 5-gram sets have about the similarity asked for."""
    shared = "".join(draw.choices(HAN, k=round(size * 2 * similarity / (1 + similarity)) + 4))
    return tuple(shared + "".join(draw.choices(HAN, k=size + 4 - len(shared))) for _ in range(2))


def true_jaccard(left: str, right: str, size: int = 5) -> float:
    sets = [{text[i : i + size] for i in range(len(text) - size + 1)} for text in (left, right)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_bare_text_ignores_what_retyping_changes_and_keeps_what_matters():
    assert comparison_key("你好，世界！ Ａbc。\n") == comparison_key("你好世界ａBC") == "你好世界abc"
    assert comparison_key("2+2=4") != comparison_key("2×2=4") != comparison_key("224")
    assert comparison_key("圆周率是3.14。") != comparison_key("圆周率是314")
    assert comparison_key("1-2月") == comparison_key("１－２月") and comparison_key("完-了") == "完了"
    equal, same, other = digests(comparison_keys(["一，二", "一二", "二一"])).tolist()
    assert equal == same != other


def _whole(text: str) -> str:
    """Without halves of surrogate pairs."""
    return text.encode("utf-8", "ignore").decode()


def keys_of(texts: list[str]) -> list[str]:
    batch = comparison_keys(texts)
    return [batch[index].decode() for index in range(len(batch))]


def test_the_core_makes_the_bare_text_of_every_code_point_alone_and_among_others():
    points = [chr(point) for point in range(0x110000)]
    for before, after in (("", ""), ("一", "二"), ("1", "2"), ("a", "\u0301")):
        texts = [before + character + after for character in points]
        wrong = [
            hex(index)
            for index, (found, text) in enumerate(zip(keys_of(texts), texts, strict=True))
            if found != comparison_key(_whole(text))
        ]
        assert not wrong, (before, after, wrong[:10])


def test_the_core_makes_the_bare_text_of_random_texts():
    draw = random.Random(4)
    marks = [
        chr(point)
        for point in range(0x110000)
        if unicodedata.combining(chr(point)) or unicodedata.decomposition(chr(point))
    ]
    pools = [
        [*"12９٣-－.:：/%，。 \n…一二aΣσς가각ᄀ힣ﾊﾞが½㎏⑴\u3099\u0301\u200d\ud800"],
        marks,
        [chr(point) for point in range(0x110000)],
    ]
    texts = [
        "".join(draw.choice(draw.choice(pools)) for _ in range(draw.randint(0, 12))) for _ in range(60_000)
    ]
    for text, found in zip(texts, keys_of(texts), strict=True):
        assert found == comparison_key(_whole(text)), ascii(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=30), max_size=6))
def test_the_core_makes_the_bare_text_of_any_texts(texts):
    assert keys_of(texts) == [comparison_key(_whole(text)) for text in texts]
    whole = [text.encode("utf-8", "ignore") for text in texts]
    assert keys_of(whole) == keys_of(batch_of(whole)) == [comparison_key(text.decode()) for text in whole]


def test_digests_tell_texts_apart():
    draw = random.Random(2)
    texts = list(
        {"".join(draw.choices("一二a", k=draw.randint(0, 20))) for _ in range(20_000)}
        | {"一" * size for size in range(3000)}
    )
    found = digests(batch_of(texts))
    assert found.shape == (len(texts), 2) and found.dtype == np.uint64
    for half in (0, 1):
        assert len(np.unique(found[:, half])) == len(texts)
    bits = np.unpackbits(found.view(np.uint8), axis=1).mean(axis=0)
    assert abs(bits - 0.5).max() < 5 * 0.5 / len(texts) ** 0.5


def test_signatures_do_not_depend_on_the_batch():
    draw = random.Random(1)
    texts = [
        "".join(draw.choices(HAN, k=draw.choice([0, 1, 4, 5, 50, 300_000 if i == 3 else 9])))
        for i in range(40)
    ]
    hasher = MinHasher(CONFIG)
    together = hasher(texts)
    assert together.dtype == np.uint32
    assert together.shape == (40, 112)
    np.testing.assert_array_equal(together, np.concatenate([hasher([text]) for text in texts]))


@pytest.mark.parametrize("similarity", [0.9, 0.7, 0.5, 0.2])
def test_estimates_agree_with_the_truth_as_well_as_datasketch(similarity):
    datasketch = pytest.importorskip("datasketch")
    draw = random.Random(similarity)
    hasher = MinHasher(CONFIG)
    ours, theirs, truths = [], [], []
    for _ in range(120):
        texts = pair(draw, similarity, 120)
        truths.append(true_jaccard(*texts))
        left, right = hasher(texts)
        ours.append((left == right).mean())
        sketches = []
        for text in texts:
            sketch = datasketch.MinHash(num_perm=112)
            sketch.update_batch([text[i : i + 5].encode() for i in range(len(text) - 4)])
            sketches.append(sketch)
        theirs.append(sketches[0].jaccard(sketches[1]))
    spread = np.sqrt(similarity * (1 - similarity) / 112)
    for estimates in (ours, theirs):
        error = np.array(estimates) - truths
        assert abs(error.mean()) < 4 * spread / np.sqrt(120)  # unbiased
        assert 0.75 < error.std() / spread < 1.3  # with binomial spread
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * np.sqrt(2) * spread / np.sqrt(120)


@pytest.mark.parametrize("similarity", [0.9, 0.8, 0.7, 0.5])
def test_recall_follows_the_curve_of_the_bands(similarity):
    draw = random.Random(5)
    pairs = [pair(draw, similarity) for _ in range(500)]
    texts = [text for both in pairs for text in both]
    config = DedupConfig(threshold=0.01)  # every candidate counts
    keeper = near_duplicates(texts, config)
    found = [index for index in range(0, 1000, 2) if keeper[index + 1] == index]
    truth = np.mean([true_jaccard(*both) for both in pairs])
    expected = 1 - (1 - truth**8) ** 14
    assert truth == pytest.approx(similarity, abs=0.01)
    assert abs(len(found) / 500 - expected) < 4 * np.sqrt(max(expected * (1 - expected), 0.002) / 500)


def mixed(seed: int, count: int) -> list[str]:
    """Texts of which many are edits of earlier ones, some of them edits of edits."""
    draw = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        if texts and draw.random() < 0.5:
            text = list(draw.choice(texts))
            for _ in range(draw.randint(0, 6)):
                text[draw.randrange(len(text))] = draw.choice(HAN)
            texts.append("".join(text))
        else:
            texts.append("".join(draw.choices(HAN, k=draw.randint(60, 200))))
    return texts


def test_every_dropped_document_has_an_earlier_kept_twin_and_none_is_missed_beyond_theory():
    texts = mixed(3, 600)
    keeper = near_duplicates(texts, CONFIG)
    kept = [i for i in range(len(texts)) if keeper[i] == i]
    dropped = [i for i in range(len(texts)) if keeper[i] != i]
    assert len(dropped) > 100
    for late in dropped:
        early = keeper[late]
        assert early < late and keeper[early] == early
        assert true_jaccard(texts[early], texts[late]) >= CONFIG.threshold
    missed = sum(
        true_jaccard(texts[i], texts[j]) >= CONFIG.threshold
        for n, i in enumerate(kept)
        for j in kept[:n]
        if abs(len(texts[i]) - len(texts[j])) < 60
    )
    assert missed <= 0.1 * len(dropped)  # recall at 0.8 is 0.92 and rises


def test_a_crowd_of_near_copies_collapses_to_the_earliest_without_pairing_everyone_with_everyone():
    draw = random.Random(2)
    base = draw.choices(HAN, k=400)
    texts = []
    for _ in range(6000):
        text = base.copy()
        text[draw.randrange(400)] = draw.choice(HAN)
        texts.append("".join(text))
    began = time.process_time()
    keeper = near_duplicates(texts, CONFIG)
    assert (keeper == 0).mean() > 0.999
    assert time.process_time() - began < 20  # 18 million pairs would take minutes


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count):
    texts = ["一二三四五六"] * count
    assert list(near_duplicates(texts, CONFIG)) == list(range(count))


def test_duplicates_fixture(shared):
    from hanlin.corpus.readers.read import read_documents

    texts = [item["text"] for item in read_documents(shared("fixtures_dirty/duplicates_skypile.jsonl"))]
    keys = [comparison_key(text) for text in texts]
    exact = {index for index, text in enumerate(keys) if text in keys[:index]}
    keeper = near_duplicates(texts, CONFIG)
    near = {index for index in range(len(keys)) if keeper[index] != index}
    assert len(exact) >= 10 and exact <= near  # 5 exact and 5 with other punctuation
    assert len(near) >= 13 and min(near) >= 20  # the wrapped ones too, and never one of the 20 originals
