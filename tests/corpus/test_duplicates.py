"""What the search finds hangs on the documents alone: not on tasks, batches, workers, memory, or where it was
killed."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from hanlin._native import KeyReader, KeyWriter
from hanlin.common.errors import HanlinError
from hanlin.corpus.builder.boilerplate import Boilerplate, BoilerplateConfig, LineCounter, common_lines
from hanlin.corpus.dedup import search
from hanlin.corpus.dedup.fingerprints import DedupConfig, batch_of, comparison_keys
from hanlin.corpus.dedup.search import (
    Cluster,
    DuplicateSearch,
    clusters,
    find_duplicates,
    key_ranges,
    read_cluster,
    read_duplicates,
    write_clusters,
)
from hanlin.corpus.dedup.sketches import SketchWriter, TextSpill

CONFIG = DedupConfig()
HAN = [chr(point) for point in range(0x4E00, 0x9FA5)]


def corpus(seed: int, count: int) -> list[str]:
    """Texts of which many repeat or edit earlier ones, and a crowd of edits of the first."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices(HAN, k=120))]
    for _ in range(count - 1):
        kind = draw.random()
        if kind < 0.4:
            texts.append("".join(draw.choices(HAN, k=draw.randint(0, 150))))
            continue
        text = list(texts[0] if kind < 0.6 else draw.choice(texts))
        for _ in range(0 if kind < 0.7 else draw.randint(0, 5)):
            if text:
                text[draw.randrange(len(text))] = draw.choice(HAN)
        texts.append("，".join(["".join(text), ""]))
    return texts


def sketched(
    folder: Path, texts: list[str], cuts: list[int], batch: int, config: DedupConfig = CONFIG
) -> list[Path]:
    """Sketches of the stretches between the cuts."""
    paths = []
    for number, (begin, end) in enumerate(itertools.pairwise([0, *cuts, len(texts)])):
        with SketchWriter(folder / f"sketch-{number}", config, memory=1 << 16) as sketch:
            for first in range(begin, end, batch):
                sketch.add(texts[first : min(first + batch, end)])
        paths.append(folder / f"sketch-{number}")
    return paths


def found(result: Path) -> np.ndarray:
    return np.concatenate([np.empty(0, search.DUPLICATE), *read_duplicates(result)])


def fetcher(texts: list[str]):
    def fetch(numbers: np.ndarray):
        assert (np.diff(numbers.astype(np.int64)) > 0).all()  # ascending: kind to the disk
        yield from (texts[number] for number in numbers.tolist())

    return fetch


@pytest.fixture
def frugal(monkeypatch):
    monkeypatch.setattr(search, "LEAST_MEMORY", 1)


def test_the_result_is_the_same_for_every_division_of_the_work(tmp_path, frugal):
    texts = corpus(1, 1500)
    expected = found(
        find_duplicates(sketched(tmp_path / "a", texts, [], 1500), fetcher(texts), CONFIG, tmp_path / "a")
    )
    assert len(expected) > 600 and expected["exact"].sum() > 100
    for number, (cuts, batch, memory, workers) in enumerate(
        [([1], 7, 1 << 17, 1), ([300, 300, 1400], 100, 1 << 20, 3), ([700], 1000, 30_000, 2)]
    ):
        folder = tmp_path / str(number)
        paths = sketched(folder, texts, cuts, batch)
        again = found(
            find_duplicates(paths, fetcher(texts), CONFIG, folder / "search", memory=memory, workers=workers)
        )
        np.testing.assert_array_equal(again, expected)
    ranges = DuplicateSearch(paths, CONFIG, tmp_path / "r", memory=30_000).ranges()
    assert len(ranges) > 50  # so it was indeed divided


def test_what_goes_is_tied_to_an_earlier_document_that_stays(tmp_path):
    texts = corpus(2, 800)
    result = found(
        find_duplicates(sketched(tmp_path, texts, [], 800), fetcher(texts), CONFIG, tmp_path / "search")
    )
    assert (np.diff(result["document"].astype(np.int64)) > 0).all() and (
        result["keeper"] < result["document"]
    ).all()
    assert not set(result["keeper"].tolist()) & set(result["document"].tolist())
    keys = comparison_keys(texts)
    first = {}
    for number in range(len(texts)):
        first.setdefault(keys[number], number)
    exact = {number for number in range(len(texts)) if first[keys[number]] != number}
    assert set(result["document"][result["exact"] == 1].tolist()) == exact
    for item in result:
        grams = [
            {text[i : i + 5] for i in range(max(1, len(text) - 4))}
            for text in (keys[int(item[name])].decode() for name in ("document", "keeper"))
        ]
        similarity = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
        assert similarity >= CONFIG.threshold and item["similarity"] == pytest.approx(similarity, abs=1e-6)


@pytest.mark.parametrize("exact, near", [(True, False), (False, True)])
def test_exact_and_near_alone(tmp_path, exact, near):
    config = DedupConfig(exact=exact, near=near)
    texts = corpus(3, 400)
    result = found(
        find_duplicates(
            sketched(tmp_path, texts, [], 50, config), fetcher(texts), config, tmp_path / "search"
        )
    )
    assert len(result) and set(result["exact"].tolist()) == {int(exact)}
    assert not exact or (result["similarity"] == 1).all()


def test_a_search_that_was_killed_goes_on_and_finds_the_same(tmp_path, frugal, monkeypatch):
    texts = corpus(4, 700)
    paths = sketched(tmp_path, texts, [300], 100)
    expected = found(find_duplicates(paths, fetcher(texts), CONFIG, tmp_path / "whole", memory=100_000))
    write, left = search.atomic_write, [0]

    def dying(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(path, data)

    kills = 0
    for after in (0, 1, 2, 5, 9, 1000):
        left[0] = after
        monkeypatch.setattr(search, "atomic_write", dying)
        try:
            again = found(find_duplicates(paths, fetcher(texts), CONFIG, tmp_path / "killed", memory=100_000))
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 4
    np.testing.assert_array_equal(again, expected)
    changed = texts[:350]
    shorter = find_duplicates(
        sketched(tmp_path / "other", changed, [], 10),
        fetcher(changed),
        CONFIG,
        tmp_path / "killed",
        memory=100_000,
    )
    assert found(shorter)["document"].max() < 350  # another search does not take this one's files for its own


def test_clusters_hold_every_duplicate_once(tmp_path):
    texts = corpus(5, 600)
    path = find_duplicates(sketched(tmp_path, texts, [], 600), fetcher(texts), CONFIG, tmp_path / "search")
    result = found(path)
    whole = list(clusters(path))
    assert whole == list(clusters(path, memory=1000))
    assert [cluster.keeper for cluster in whole] == sorted({*result["keeper"].tolist()})
    assert (
        sorted((number, cluster.keeper) for cluster in whole for number, _, _ in cluster.members)
        == result[["document", "keeper"]].tolist()
    )
    assert write_clusters(path, tmp_path / "clusters.jsonl") == len(whole)
    for document in (whole[0].keeper, whole[-1].members[-1][0]):
        shown = read_cluster(tmp_path / "clusters.jsonl", document)
        assert isinstance(shown, Cluster) and (
            document == shown.keeper or document in [member[0] for member in shown.members]
        )
    alone = next(
        number
        for number in range(600)
        if number not in {*result["document"].tolist(), *result["keeper"].tolist()}
    )
    assert read_cluster(tmp_path / "clusters.jsonl", alone) is None


def test_a_sketch_of_other_shingles_and_too_little_memory_are_refused(tmp_path):
    paths = sketched(tmp_path, ["一二三"], [], 1)
    with pytest.raises(HanlinError, match="sketch-0"):
        find_duplicates(paths, fetcher([]), DedupConfig(shingle=4), tmp_path / "search")
    with pytest.raises(HanlinError, match="16 MiB"):
        find_duplicates(paths, fetcher([]), CONFIG, tmp_path / "search", memory=1 << 20)
    (tmp_path / "sketch-0" / "bands").write_bytes((tmp_path / "sketch-0" / "bands").read_bytes()[:-8])
    with pytest.raises(RuntimeError, match="cut short"):
        find_duplicates(paths, fetcher(["一二三"]), CONFIG, tmp_path / "search")


@pytest.mark.parametrize("seed", range(4))
def test_pairs_of_keys_agree_with_comparing_everyone(tmp_path, seed):
    draw = np.random.default_rng(seed)
    count, first = 40_000, 1000  # beyond the least a writer keeps in memory, so that it writes several runs
    keys = draw.choice(draw.integers(0, 1 << 64, 30_000, np.uint64), count)
    writer = KeyWriter(str(tmp_path / "keys"), 0)
    documents = np.sort(draw.integers(0, 20_000, count)).astype(np.uint32)
    writer.add(keys, documents)
    writer.close()
    reader = KeyReader([(str(tmp_path / "keys"), first)])
    assert sum(reader.sizes) == count
    gone = (draw.random(first + 15_000) < 0.1).astype(np.uint8)
    groups: dict[int, list[int]] = {}
    for key, document in zip(
        (keys >> np.uint64(20)).tolist(), (documents.astype(int) + first).tolist(), strict=True
    ):
        if document >= len(gone) or not gone[document]:
            groups.setdefault(key, []).append(document)
    expected = sorted(
        {
            late << 32 | early
            for group in groups.values()
            for early, late in itertools.combinations(sorted(group), 2)
            if early != late
        }
    )
    parts: list[np.ndarray] = []
    ranges = key_ranges(reader.sizes, draw.integers(2_000, 2_000_000))
    assert (
        ranges[0][0] == 0
        and ranges[-1][1] == (1 << 64) - 1
        and all(a[1] + 1 == b[0] for a, b in itertools.pairwise(ranges))
    )
    for low, high in ranges:
        reader.pairs(low, high, gone, 32, 32, 100, parts.append)
    assert all((np.diff(part) > 0).all() for part in parts if len(part) > 1)
    assert np.unique(np.concatenate(parts)).tolist() == expected
    common, counts = reader.common(0, (1 << 64) - 1, 3)
    having = {}
    for key, document in zip(keys.tolist(), documents.tolist(), strict=True):
        having.setdefault(key, set()).add(document)
    assert dict(zip(common.tolist(), counts.tolist(), strict=True)) == {
        key: len(who) for key, who in having.items() if len(who) >= 3
    }


def test_spilled_texts_come_back(tmp_path):
    texts = [text.encode() for text in corpus(6, 300)]
    with open(tmp_path / "texts", "w+b") as file:
        spill = TextSpill(file)
        for begin in range(0, 300, 7):
            spill.add(batch_of(texts[begin : begin + 7]))
            spill.add(batch_of([]))
            next(iter(spill(np.array([0], np.uint32))))  # reading in between
        numbers = np.array([0, 5, 6, 7, 299], np.uint32)
        assert list(spill(numbers)) == [texts[number] for number in numbers]


def test_lines_of_many_documents_of_one_source_go(tmp_path):
    draw = random.Random(7)
    config = BoilerplateConfig(documents=5, min_chars=4, max_chars=20)
    texts, sources = [], []
    for number in range(40):
        own = ["".join(draw.choices(HAN, k=15)) for _ in range(3)]
        lines = [
            own[0],
            "版权所有，翻印必究" if number % 2 else "版权所有 翻印必究！",
            "太短",
            own[1],
            "很" * 21,
            own[2],
        ]
        texts.append("\n".join([*lines, *(["四次而已的行"] * (3 if number < 4 else 0))]))
        sources.append("甲" if number < 36 else "乙")
    for number, (begin, end) in enumerate([(0, 10), (10, 40)]):
        with LineCounter(tmp_path / str(number), config) as counter:
            counter.add(texts[begin:end], sources[begin:end])
    common = common_lines([tmp_path / "0", tmp_path / "1"], config)
    assert common[1].tolist() == [36]
    boilerplate = Boilerplate(common, config)
    cleaned = boilerplate(texts, sources)
    for number, (before, after) in enumerate(zip(texts, cleaned, strict=True)):
        gone = [line for line in before.split("\n") if line not in after.split("\n")]
        # four documents of the other source are too few
        assert [line[:4] for line in gone] == (["版权所有"] if number < 36 else [])
        assert after == "\n".join(line for line in before.split("\n") if line not in gone)
    assert boilerplate.lines.to_dict()["boilerplate_line"]["count"] == 36
    assert Boilerplate(common[:, :0], config)(texts, sources) == texts
    small = BoilerplateConfig(documents=5, min_chars=4, max_chars=20, max_share=0.05)
    assert Boilerplate(common, small)(texts, sources) == texts  # more than that share of each would go
