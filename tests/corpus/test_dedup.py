"""Signatures estimate Jaccard as theory and datasketch say; what is dropped has a verified earlier twin that stays."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from hanlin.corpus.dedup import DedupConfig, MinHasher, digest, jaccard, near_duplicates, shingle_hashes, skeleton

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
    assert skeleton("你好，世界！ Ａbc。\n") == skeleton("你好世界ａBC") == "你好世界abc"
    assert skeleton("2+2=4") != skeleton("2×2=4") != skeleton("224")
    assert skeleton("圆周率是3.14。") != skeleton("圆周率是314")
    assert skeleton("1-2月") == skeleton("１－２月") and skeleton("完-了") == "完了"
    assert digest(skeleton("一，二")) == digest(skeleton("一二")) != digest(skeleton("二一"))


def test_shingles_are_those_of_the_texts_and_do_not_cross_them():
    draw = random.Random(0)
    texts = ["".join(draw.choices("一二三ab𠮷", k=draw.randint(0, 30))) for _ in range(200)]
    hashes, bounds = shingle_hashes(texts, 5)
    seen: dict[str, int] = {}
    for text, start, end in zip(texts, bounds[:-1], bounds[1:], strict=True):
        grams = [text[i : i + 5] for i in range(max(1, len(text) - 4))]
        assert end - start == len(grams)
        for gram, value in zip(grams, hashes[start:end], strict=True):
            assert seen.setdefault(gram, int(value)) == int(value)
    assert len(set(seen.values())) == len(seen)


def test_signatures_do_not_depend_on_the_batch():
    draw = random.Random(1)
    texts = ["".join(draw.choices(HAN, k=draw.choice([0, 1, 4, 5, 50, 300_000 if i == 3 else 9]))) for i in range(40)]
    hasher = MinHasher(CONFIG)
    together = hasher(texts)
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
    keeper = near_duplicates(MinHasher(config)(texts), texts.__getitem__, config)
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
    keeper = near_duplicates(MinHasher(CONFIG)(texts), texts.__getitem__, CONFIG)
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


def test_jaccard_of_arrays():
    assert jaccard(np.array([1, 2, 3]), np.array([2, 3, 4])) == 0.5
    assert jaccard(np.array([1]), np.array([], int)) == 0.0


def test_a_crowd_of_near_copies_collapses_to_the_earliest_without_pairing_everyone_with_everyone():
    draw = random.Random(2)
    base = draw.choices(HAN, k=400)
    texts = []
    for _ in range(6000):
        text = base.copy()
        text[draw.randrange(400)] = draw.choice(HAN)
        texts.append("".join(text))
    signatures = MinHasher(CONFIG)(texts)
    began = time.process_time()
    keeper = near_duplicates(signatures, texts.__getitem__, CONFIG)
    assert (keeper == 0).mean() > 0.999
    assert time.process_time() - began < 20  # 18 million pairs would take minutes


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count):
    texts = ["一二三四五六"] * count
    assert list(near_duplicates(MinHasher(CONFIG)(texts), texts.__getitem__, CONFIG)) == list(range(count))


def test_throughput_is_thousands_of_short_documents_a_second():
    draw = random.Random(0)
    texts = ["".join(draw.choices(HAN, k=100)) for _ in range(6000)]
    began = time.process_time()
    bare = [skeleton(text) for text in texts]
    keeper = near_duplicates(MinHasher(CONFIG)(bare), bare.__getitem__, CONFIG)
    assert len(keeper) / (time.process_time() - began) > 3000


def test_duplicates_fixture(shared):
    from hanlin.corpus.readers import read_documents

    bare = [skeleton(item["text"]) for item in read_documents(shared("fixtures_dirty/duplicates_skypile.jsonl"))]
    exact = {index for index, text in enumerate(bare) if text in bare[:index]}
    keeper = near_duplicates(MinHasher(CONFIG)(bare), bare.__getitem__, CONFIG)
    near = {index for index in range(len(bare)) if keeper[index] != index}
    assert len(exact) >= 10 and exact <= near  # 5 exact and 5 with other punctuation
    assert len(near) >= 13 and min(near) >= 20  # the wrapped ones too, and never one of the 20 originals
