"""Sources stay with their documents however the texts come, and a dirty end of one is found; clean ones are
left in peace."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hanlin.common.manifest import artifact
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.dataset import TextRows, TokenDataset, TokenDatasetWriter, build_text_dataset, tail_alarm
from hanlin.dataset import shards as shards_module
from hanlin.dataset.packing import IGNORE_INDEX
from hanlin.dataset.tail import tail_text
from hanlin.model import ModelShape
from hanlin.stages.base import Job
from hanlin.stages.pretrain import pretrain
from hanlin.stages.supervised import NextTokenLoss, RowSource, SupervisedConfig
from hanlin.tokenizer.token_bytes import token_bytes
from hanlin.training import TrainConfig
from hanlin.training.metrics import average_metrics
from tests.support import tiny_model, tiny_tokenizer

DOCUMENTS = [
    {"text": f"第{i}篇，小明去了图书馆。" * (1 + i % 5), "source": ("网页", "books", "<qa>")[i % 7 % 3]}
    for i in range(300)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "t")


def write(path, documents):
    path.write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents), encoding="utf-8")
    return path


def sources_of(dataset: TokenDataset) -> list[str]:
    assert dataset.sources is not None and len(dataset.sources) == len(dataset)
    return [dataset.source_names[number] for number in dataset.sources]


def test_every_document_keeps_its_source_whether_from_files_or_objects(tokenizer, tmp_path):
    """One source begins with `<`, which the fast reader leaves to the full parser."""
    wanted = [d["source"] for d in DOCUMENTS]
    from_objects = build_text_dataset(iter(DOCUMENTS), tokenizer, tmp_path / "a", threads=2)
    from_file = build_text_dataset(
        write(tmp_path / "d.jsonl", DOCUMENTS), tokenizer, tmp_path / "b", threads=2
    )
    assert sources_of(from_objects) == wanted == sources_of(from_file)
    assert from_objects.manifest.metrics["sources"] == {
        name: wanted.count(name) for name in from_objects.source_names
    }
    assert from_objects.manifest.content_hash == from_file.manifest.content_hash


def test_shapes_with_and_without_a_source_and_keys_in_any_order(tokenizer, tmp_path):
    mixed = [
        (
            {"source": d["source"], "text": d["text"]},
            d,
            {"text": d["text"]},
            {"text": d["text"], "source": None},
            {"text": d["text"], "id": 3},
        )[i % 5]
        for i, d in enumerate(DOCUMENTS)
    ]
    wanted = [d.get("source") or "file" for d in mixed]
    assert (
        sources_of(build_text_dataset(write(tmp_path / "file.jsonl", mixed), tokenizer, tmp_path / "d"))
        == wanted
    )


def test_files_without_sources_are_named_after_themselves_and_objects_have_none(tokenizer, tmp_path):
    bare = [{"text": d["text"]} for d in DOCUMENTS]
    files = [write(tmp_path / f"{name}.jsonl", bare[:50]) for name in ("one", "two")]
    (tmp_path / "three.txt").write_text("小明去了图书馆。", encoding="utf-8")
    dataset = build_text_dataset([*files, tmp_path / "three.txt"], tokenizer, tmp_path / "d")
    assert sources_of(dataset) == ["one"] * 50 + ["two"] * 50 + ["three"] * (len(dataset) - 100)
    without = build_text_dataset(iter(bare), tokenizer, tmp_path / "e")
    assert (
        without.sources is None
        and without.source_names == []
        and not (tmp_path / "e" / "sources.bin").exists()
    )


def test_a_killed_job_goes_on_with_its_sources(tokenizer, tmp_path, monkeypatch):
    file = write(tmp_path / "d.jsonl", DOCUMENTS * 40)
    whole = build_text_dataset(file, tokenizer, tmp_path / "whole")

    class Killed(BaseException):
        pass

    saved = []

    def die(name):
        saved.append(name)
        if name == "dataset.saved" and len(saved) > 1:
            raise Killed

    monkeypatch.setattr("hanlin.common.savepoint.SECONDS", 0.0)
    monkeypatch.setattr(shards_module, "failpoint", die)
    with pytest.raises(Killed):
        build_text_dataset(file, tokenizer, tmp_path / "d")
    monkeypatch.setattr(shards_module, "failpoint", lambda name: None)
    assert (
        build_text_dataset(file, tokenizer, tmp_path / "d").manifest.content_hash
        == whole.manifest.content_hash
    )


def test_the_sources_of_a_step_are_those_of_its_documents(tokenizer, tmp_path):
    dataset = build_text_dataset(iter(DOCUMENTS), tokenizer, tmp_path / "d")
    source = RowSource(
        TextRows(dataset, 64, 1), SupervisedConfig(seq_len=64, batch_tokens=512, micro_tokens=128)
    )
    assert source.metrics() == {}
    batches = source.micro_batches(3, None)  # type: ignore[arg-type]
    read = [DOCUMENTS[document]["source"] for batch in batches for document in batch.documents]
    assert source.metrics() == pytest.approx(
        {f"source/{name}": read.count(name) / len(read) for name in set(read)}
    )


def test_the_loss_of_each_source_is_that_of_its_documents(tokenizer, tmp_path):
    """Beside one document after another, whole in its row."""
    dataset = build_text_dataset(iter(DOCUMENTS[:60]), tokenizer, tmp_path / "d")
    model, sizes = tiny_model("qwen3", tokenizer), token_bytes(tokenizer)
    rows = TextRows(dataset, 64, 1)
    batch = rows.batch([0, 1, 2])
    objective = NextTokenLoss(sizes, dataset=dataset)
    bits, learned = dict.fromkeys(dataset.source_names, 0.0), dict.fromkeys(dataset.source_names, 0)
    with torch.no_grad():
        _, figures = objective(model, batch)
        for owner, document in enumerate(batch.documents):
            place = batch.doc_ids == owner
            ids, labels = batch.ids[place], batch.labels[place]
            name = DOCUMENTS[document]["source"]
            kept = labels != IGNORE_INDEX
            bits[name] += float(
                F.cross_entropy(model(ids[None])[0][kept], labels[kept], reduction="sum")
            ) / math.log(2)
            learned[name] += int(sizes[labels[kept]].sum())
    shown = average_metrics({name: float(value) for name, value in figures.items()})
    expected = {f"bits_per_byte/{name}": bits[name] / learned[name] for name in bits if learned[name]}
    assert len(expected) > 1 and {
        name: value for name, value in shown.items() if "/" in name
    } == pytest.approx(expected, rel=1e-4)
    assert shown["bits_per_byte"] == pytest.approx(sum(bits.values()) / sum(learned.values()), rel=1e-4)


# ------------------------------------------------------------------ tails


def dataset_of(path, documents, sources=None) -> TokenDataset:
    names = sorted(set(sources or []))
    with artifact(path, "dataset") as written:
        writer = TokenDatasetWriter(written.path, 1000)
        for ids in documents:
            writer.add(ids)
        writer.close()
        if sources:
            np.array([names.index(name) for name in sources], dtype=np.uint16).tofile(
                written.path / "sources.bin"
            )
            written.metrics = {"sources": {name: sources.count(name) for name in names}}
    return TokenDataset(path)


def clean(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Documents of some topics, each with its own words, lengths with a heavy tail, some words that follow
    one another."""
    topics = rng.dirichlet(np.full(600, 0.05), 5) * 0.6 + rng.dirichlet(np.full(600, 0.3)) * 0.4
    found = []
    for topic in rng.integers(0, 5, count):
        ids = rng.choice(600, int(np.clip(rng.lognormal(3.5, 1.0), 5, 800)), p=topics[topic])
        ids[1::3] = (ids[:-1:3] * 7 + 1)[: len(ids[1::3])] % 600
        found.append(ids)
    return found


def test_clean_sources_raise_hardly_an_alarm(tmp_path):
    """200 random orders of clean documents, small and large sources: one alarm in a hundred at most."""
    rng, alarms, judged = np.random.default_rng(0), 0, 0
    documents = clean(rng, 1500)
    for number in range(200):
        chosen = rng.permutation(len(documents))[: (60, 300, 1500)[number % 3]]
        found = tail_alarm(dataset_of(tmp_path / "d", [documents[i] for i in chosen]))
        judged += len(found)
        alarms += any(tail.suspicious for tail in found)
    assert alarms <= 2 and judged >= 180


@pytest.mark.parametrize(("dirt", "above"), [("noise", True), ("one text over and over", False)])
def test_a_dirty_tail_is_found_in_its_source_alone(tmp_path, monkeypatch, dirt, above):
    rng = np.random.default_rng(1)
    documents, sources = clean(rng, 2400), ["甲", "乙", "丙"] * 800
    places = [i for i, name in enumerate(sources) if name == "乙"][-20:]
    for place in places:
        documents[place] = rng.integers(0, 1000, 80) if above else np.tile(documents[1], 4)
    found = tail_alarm(dataset_of(tmp_path / "d", documents, sources))
    assert {tail.source: tail.suspicious for tail in found} == {"甲": False, "乙": True, "丙": False}
    assert found[0].source == "乙" and found[0].first == places[0] and (found[0].ratio > 2) == above
    for language, word in (("zh", "困惑度"), ("en", "perplexity")):
        monkeypatch.setenv("HANLIN_LANG", language)
        assert word in tail_text(found) and "乙" in tail_text(found) and "甲" not in tail_text(found)


def test_the_largest_sources_come_first_and_a_long_tail_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("hanlin.dataset.tail._JUDGED", 100)
    rng = np.random.default_rng(3)
    documents, sources = clean(rng, 900), ["小"] * 200 + ["大"] * 700
    for place in range(700, 900):
        documents[place] = rng.integers(0, 1000, 80)
    (found,) = tail_alarm(dataset_of(tmp_path / "d", documents, sources), share=0.25, most=1)
    assert found.source == "大" and found.suspicious and found.documents == 175 and found.first == 725


def test_pretraining_warns_of_a_dirty_tail_once(tmp_path, tokenizer):
    rng = np.random.default_rng(4)
    words = ["".join(rng.choice(list("天地人你我他山水火土"), 40)) for _ in range(5)]
    texts = [{"text": words[i % 5] * 3, "source": "书"} for i in range(400)]
    for place in range(380, 400):
        texts[place]["text"] = "".join(chr(code) for code in rng.integers(33, 126, 200))
    dataset = build_text_dataset(iter(texts), tokenizer, tmp_path / "d")

    class Told(Progress):
        def __init__(self):
            self.warnings: list[str] = []

        def warn(self, message, /, **fields) -> None:
            self.warnings.append(Text.of(message, **fields).en)

    told = Told()
    config = SupervisedConfig(TrainConfig(steps=1), seq_len=64, batch_tokens=128, micro_tokens=128)
    shape = ModelShape(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).config(
        tokenizer.vocab_size, tokenizer.eos_id
    )
    for _ in range(2):
        pretrain(
            dataset.path, tokenizer.path, shape, config, Job(tmp_path / "model", tmp_path / "work", told)
        )
    assert len(told.warnings) == 1 and "number 380" in told.warnings[0]


def test_what_is_too_small_to_judge_is_left_out(tmp_path):
    assert tail_alarm(dataset_of(tmp_path / "d", clean(np.random.default_rng(2), 39))) == []
