"""The corpus artefact: ground truth on the embedded world, determinism, the held-out part, accounts,
refusals."""

from __future__ import annotations

import json
import random
import time

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.corpus.builder.build import CorpusConfig, build_corpus, read_corpus
from hanlin.corpus.dedup.fingerprints import DedupConfig, comparison_key
from hanlin.corpus.filters.clean import Cleaner
from hanlin.corpus.filters.rules import PRESETS
from hanlin.corpus.readers.read import read_documents

SHORT = CorpusConfig(preset="zh-short", heldout_fraction=0.05)


def parts(path) -> tuple[list, list]:
    return list(read_corpus(path)), list(read_corpus(path, "heldout"))


@pytest.mark.parametrize("seed", [3, 11])
def test_injected_dirt_goes_and_good_documents_stay(tmp_path, seed):
    from hanlin.corpus import tinyworld

    documents = list(tinyworld.documents(seed, 12_000, dirt=tinyworld.Dirt(rate=0.06)))
    began = time.process_time()
    path = build_corpus(documents, tmp_path / "c", SHORT, seed=seed)
    assert len(documents) / (time.process_time() - began) > 3000  # 60,000 in 20 s
    score = tinyworld.check_cleaning(documents, [item["text"] for part in parts(path) for item in part])
    print(score)
    assert score.dirt_removed >= 0.99 * score.dirt_total
    assert score.good_lost <= 0.005 * score.good_total
    assert all(set(item) == {"text", "source"} for item in read_corpus(path))  # labels do not travel


def test_the_same_input_gives_the_same_bytes_and_labels_are_not_looked_at(tmp_path, prose):
    documents = [{"text": prose(i % 250, 80), "source": f"s{i % 3}"} for i in range(300)]
    labelled = [item | {"dirt": "spam", "id": i} for i, item in enumerate(documents)]
    one, two = (
        build_corpus(documents, tmp_path / "a", SHORT, seed=1),
        build_corpus(iter(labelled), tmp_path / "b", SHORT, seed=1),
    )
    assert read_manifest(one).content_hash == read_manifest(two).content_hash
    assert sorted(file.name for file in one.iterdir()) == [
        "clusters.jsonl.zst",
        "documents.jsonl.zst",
        "heldout.jsonl.zst",
        "manifest.json",
        "quarantine.jsonl",
        "report.json",
    ]


def test_held_out_documents_hang_on_text_and_seed_alone(tmp_path, prose):
    documents = [{"text": prose(i, 80), "source": f"s{i % 2}"} for i in range(400)]
    train, held = parts(build_corpus(documents, tmp_path / "a", SHORT, seed=1))
    assert len(train) + len(held) == 400 and {item["source"] for item in held} == {"s0", "s1"}
    assert len(held) == 20
    assert not {comparison_key(item["text"]) for item in train} & {
        comparison_key(item["text"]) for item in held
    }
    random.Random(0).shuffle(documents)
    again = parts(build_corpus(documents, tmp_path / "b", SHORT, seed=1))[1]
    assert {item["text"] for item in again} == {item["text"] for item in held}
    other = parts(build_corpus(documents, tmp_path / "c", SHORT, seed=2))[1]
    assert {item["text"] for item in other} != {item["text"] for item in held}


@pytest.mark.parametrize(
    ("count", "fraction", "most", "held"),
    [(19, 0.01, 9, 0), (20, 0.01, 9, 1), (100, 0.1, 4, 4), (50, 0.0, 9, 0)],
)
def test_how_many_are_held_out(tmp_path, prose, count, fraction, most, held):
    config = CorpusConfig(preset="zh-short", heldout_fraction=fraction, heldout_max=most)
    documents = [{"text": prose(i, 80), "source": "s"} for i in range(count)]
    assert len(parts(build_corpus(documents, tmp_path / "c", config))[1]) == held


def test_accounts_add_up(tmp_path, prose):
    documents = [
        {"text": text, "source": f"s{i % 3}"}
        for i in range(90)
        for text in (prose(i % 80, 90), "短", "x" * 200)
    ]
    path = build_corpus(documents, tmp_path / "c", SHORT)
    drops, metrics = json.loads((path / "report.json").read_bytes()), read_manifest(path).metrics
    train, held = parts(path)
    assert (
        metrics["documents_read"] == 270
        and metrics["documents_kept"] == len(train)
        and metrics["heldout_documents"] == len(held)
    )
    assert metrics["bytes_kept"] == sum(len(item["text"].encode()) for item in train)
    assert len(train) + len(held) + sum(about["count"] for about in drops["rules"].values()) == 270
    for source, account in drops["sources"].items():
        for what in ("documents", "characters", "bytes"):
            assert (
                account["read"][what]
                == account["kept"][what] + account["heldout"][what] + account["dropped"][what]
            )
        assert account["dropped"]["documents"] == sum(account["rules"].values())
        assert account["kept"]["documents"] == sum(item["source"] == source for item in train)
        # histograms are of what cleaning left
        cleaned = 90 - account["rules"]["too_short"] - account["rules"]["han_share"]
        assert sum(account["lengths"].values()) == account["scripts"]["simplified"] == cleaned and set(
            account["scripts"]
        ) == {"simplified"}
    assert drops["rules"]["exact_duplicate"]["count"] == 10


def test_near_duplicates_name_their_twin_and_never_straddle_the_split(tmp_path, prose):
    texts = [prose(i, 150) for i in range(60)]
    documents = [{"text": text, "source": "s"} for text in texts] + [
        {"text": text[:-9] + "完了。", "source": "s"} for text in texts
    ]
    path = build_corpus(documents, tmp_path / "c", CorpusConfig(preset="zh-short", heldout_fraction=0.3))
    train, held = parts(path)
    assert len(train) + len(held) == 60
    for sample in json.loads((path / "report.json").read_bytes())["rules"]["near_duplicate"]["samples"]:
        assert sample["duplicate_of"][:100] == sample["text"][:100]
    off = CorpusConfig(
        shuffle=False, preset="none", heldout_fraction=0, dedup=DedupConfig(exact=False, near=False)
    )
    assert [item["text"] for item in parts(build_corpus(documents, tmp_path / "d", off))[0]] == [
        item["text"] for item in documents
    ]


def test_personal_data_is_masked_on_request(tmp_path, prose):
    documents = [{"text": prose(i, 60) + f"电话1381234{i:04d}。"} for i in range(30)]
    path = build_corpus(documents, tmp_path / "c", CorpusConfig(preset="zh-short", mask_pii=True))
    assert all("[PHONE]" in item["text"] for item in read_corpus(path)) and read_manifest(path).metrics[
        "masked"
    ] == {"[PHONE]": 30}


def test_files_and_quarantine(tmp_path, write, prose):
    write(
        "in/a.jsonl".replace("/", "_"),
        [{"text": prose(i, 90)} for i in range(30)] + ["not json", {"text": 5}],
    )
    path = build_corpus(
        f"{tmp_path}/in_*.jsonl", tmp_path / "c", CorpusConfig(preset="zh-short", source="file"), key="k"
    )
    manifest = read_manifest(path)
    assert manifest.kind == "corpus" and manifest.key == "k" and manifest.metrics["quarantined"] == 2
    entries = [
        json.loads(line) for line in (path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [entry["line"] for entry in entries] == [31, 32] and all(entry["reason"] for entry in entries)
    assert {item["source"] for item in read_corpus(path)} == {"in_a"}
    assert manifest.config["cleaning"]["min_chars"] == PRESETS["zh-short"].min_chars


def test_refusals_leave_nothing_behind(tmp_path, write):
    (tmp_path / "empty.jsonl").write_text("")
    cases = [
        [],
        [{"text": "短"}] * 9,
        [{"words": "x"}],
        tmp_path / "missing.jsonl",
        tmp_path / "empty.jsonl",
        [write("a.jsonl", [{"instruction": "问", "output": "答"}])],
    ]
    for sources in cases:
        with pytest.raises(HanlinError):
            build_corpus(sources, tmp_path / "out", SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "empty.jsonl"]
    with pytest.raises(HanlinError, match="zh-web"):
        CorpusConfig(preset="zh")
    with pytest.raises(HanlinError, match=r"too_short\) 9"):
        build_corpus([{"text": "短"}] * 9, tmp_path / "out", SHORT)


def test_a_one_document_corpus_is_a_corpus(tmp_path, prose):
    assert len(parts(build_corpus([{"text": prose(1)}], tmp_path / "c", SHORT))[0]) == 1


def test_a_damaged_corpus_is_not_read(tmp_path, prose):
    path = build_corpus([{"text": prose(i)} for i in range(30)], tmp_path / "c", SHORT)
    data = (path / "documents.jsonl.zst").read_bytes()
    (path / "documents.jsonl.zst").write_bytes(data[:-20])
    with pytest.raises(HanlinError, match="documents.jsonl.zst"):
        read_corpus(path)


def test_texts_wait_on_disk(tmp_path, prose, monkeypatch):
    """Three times the text needs no more memory: only what is known about each document stays, and what is
    sorted at once."""
    import tracemalloc

    from hanlin.corpus.builder import writer

    monkeypatch.setattr(writer, "BUCKET_BYTES", 1 << 20)
    long = prose(0, 20_000)

    def peak(count: int) -> int:
        documents = ({"text": long[at * 37 :] + long[: at * 37]} for at in range(count))
        tracemalloc.start()
        build_corpus(
            documents, tmp_path / str(count), CorpusConfig(preset="none", dedup=DedupConfig(near=False))
        )
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(450) - peak(150) < 3e6  # the texts themselves are 13 MB more


def test_real_web_text_end_to_end(tmp_path, shared):
    paths = [
        shared("fixtures/skypile_2021-31_zh_head_0000.50.jsonl"),
        shared("fixtures_dirty/duplicates_skypile.jsonl"),
        shared("fixtures_dirty/crlf_bom_skypile.jsonl"),
    ]
    path = build_corpus(paths, tmp_path / "c", CorpusConfig())
    train, held = parts(path)
    assert len(train) + len(held) <= 50  # the other two files hold nothing new
    clean = sum(item is not None for item in Cleaner(PRESETS["zh-web"])(list(read_documents(paths[0]))))
    assert len(train) + len(held) >= clean - 2


def test_a_sample_hangs_on_each_text_alone(tmp_path, prose):
    documents = [{"text": prose(i, 80), "source": "s"} for i in range(600)]
    kept = {}
    for name, sample in (("third", 0.3), ("half", 0.5)):
        train, held = parts(
            build_corpus(documents, tmp_path / name, CorpusConfig(preset="zh-short", sample=sample))
        )
        kept[name] = {item["text"] for item in train + held}
        assert abs(len(kept[name]) - 600 * sample) < 4 * (600 * sample * (1 - sample)) ** 0.5
    assert kept["third"] < kept["half"]  # a larger sample holds the smaller one
    random.Random(0).shuffle(documents)
    again = parts(build_corpus(documents, tmp_path / "again", CorpusConfig(preset="zh-short", sample=0.3)))
    assert {item["text"] for part in again for item in part} == kept["third"]
