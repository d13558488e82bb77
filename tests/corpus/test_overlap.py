"""Passages of benchmarks are found in documents, whatever the punctuation, and chance is not taken for
one."""

from __future__ import annotations

import random
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.corpus.builder.build import CorpusConfig, build_corpus, read_corpus
from hanlin.corpus.dedup.decontamination import PASSAGE, Benchmarks
from hanlin.corpus.dedup.fingerprints import comparison_key, comparison_keys

QUESTION = "下列四位诗人中，哪一位曾经在成都的浣花溪畔修建草堂，并在那里写下了许多反映民生疾苦的诗篇？"
OPTIONS = {"A": "李白与他的好友们", "B": "杜甫", "C": "白居易", "D": "王维"}


def naive(item: str, text: str, overlap: int, hits: int) -> bool:
    """The definition, slowly: on comparison keys."""
    item, text = comparison_key(item), comparison_key(text)
    if len(item) < overlap:
        return False
    grams = {item[at : at + overlap] for at in range(len(item) - overlap + 1)}
    free = run = longest = most = 0
    counted: dict[str, int] = {}
    for at in range(len(text) - overlap + 1):
        if text[at : at + overlap] in grams:
            run += 1
            longest = max(longest, run + overlap - 1)
            counted = {
                gram: begin for gram, begin in counted.items() if at < free or at - begin <= 2 * len(item)
            }
            if at >= free and text[at : at + overlap] not in counted:
                counted[text[at : at + overlap]] = at
                most = max(most, len(counted))
                free = at + overlap
        else:
            run = 0
    return most >= hits or longest >= PASSAGE or longest >= len(item)


@settings(max_examples=300, deadline=None)
@given(
    st.text("甲乙丙，A", min_size=4, max_size=40),
    st.text("甲乙丙，A", max_size=80),
    st.integers(2, 6),
    st.integers(1, 3),
)
def test_equals_the_definition(item: str, text: str, overlap: int, hits: int) -> None:
    found = Benchmarks([("b", 1, item)], overlap).find([text], hits)
    assert (0 in found) == naive(item, text, overlap, hits)
    if found:
        assert found[0].passage in comparison_key(text) and len(found[0].passage) >= overlap


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("甲乙丙，A", max_size=30), min_size=1, max_size=6),
    st.lists(st.text("甲乙丙，A", max_size=80), min_size=1, max_size=4),
    st.integers(2, 6),
    st.integers(1, 3),
)
def test_every_item_of_a_text_is_found_where_that_is_asked(
    items: list[str], texts: list[str], overlap: int, hits: int
) -> None:
    benchmarks = Benchmarks([("b", at, item) for at, item in enumerate(items)], overlap)
    keys = comparison_keys(texts)
    found = benchmarks.find_every(keys, hits)
    assert {(text, item) for text, item, _, _ in found} == {
        (at, number)
        for at, text in enumerate(texts)
        for number, item in enumerate(items)
        if naive(item, text, overlap, hits)
    }
    assert len(found) == len(set(found))
    for text, item, begin, end in found:
        passage = keys[text][begin:end].decode()
        runs = [passage[at : at + overlap] for at in range(len(passage) - overlap + 1)]
        assert runs and all(run in comparison_key(items[item]) for run in runs)


def test_a_run_that_many_items_have_is_passed_over_only_where_the_first_item_is_wanted() -> None:
    same = "下列关于这一段话的理解，哪一项是正确的？"
    benchmarks = Benchmarks([("b", at, same) for at in range(100)], 13)
    assert len(benchmarks.find_every(comparison_keys([same]), 2)) == 100


def test_a_question_is_found_in_any_dress_and_a_saying_is_not_one() -> None:
    benchmarks = Benchmarks(
        [("诗词", 7, QUESTION + "\n" + "\n".join(OPTIONS.values())), ("其他", 1, "短题")], 13
    )
    assert benchmarks.short == 1
    filler = "春天来了，花园里开满了花，孩子们都到外面去玩。" * 20
    texts = [
        filler + QUESTION + filler,
        filler
        + " ".join(QUESTION.replace("，", "").replace("？", ""))
        + filler,  # spaced out, without punctuation
        filler + QUESTION[:16] + filler,  # one run: it may be chance
        filler + QUESTION[:16] + filler[:30] + QUESTION[-20:] + filler,  # two
        filler,
        filler + QUESTION[:16] + filler + QUESTION[-20:] + filler,  # two, but far from one another
    ]
    found = benchmarks.find(texts, 2)
    assert set(found) == {0, 1, 3} and found[0].benchmark == "诗词" and found[0].item == 7
    assert found[0].passage in comparison_key(QUESTION)


def test_a_build_drops_what_holds_a_benchmark_and_says_which(tmp_path: Path, prose) -> None:
    benchmark = tmp_path / "poets.jsonl"
    benchmark.write_bytes(orjson.dumps({"Question": QUESTION, **OPTIONS, "Answer": "B"}) + b"\n")
    documents = [{"text": prose(index, 120)} for index in range(60)]
    for index in (7, 31):
        documents[index]["text"] += "。" + QUESTION + "。" + prose(index, 30)
    config = CorpusConfig(preset="zh-short", decontaminate=(str(benchmark),), heldout_fraction=0.0)
    path = build_corpus(documents, tmp_path / "c", config)
    assert len(list(read_corpus(path))) == 58
    assert read_manifest(path).metrics["contaminated"] == {"poets": 2} and read_manifest(path).metrics[
        "dropped"
    ] == {"contaminated": 2}
    samples = orjson.loads((path / "report.json").read_bytes())["rules"]["contaminated"]["samples"]
    assert all(
        sample["benchmark"] == "poets"
        and sample["item"] == 1
        and sample["passage"] in comparison_key(QUESTION)
        for sample in samples
    )
    before = config.identity()
    benchmark.write_bytes(orjson.dumps({"Question": QUESTION[::-1]}) + b"\n")
    assert config.identity() != before  # other benchmarks, another build
    with pytest.raises(HanlinError):
        build_corpus(
            documents,
            tmp_path / "d",
            CorpusConfig(preset="zh-short", decontaminate=(str(tmp_path / "none.jsonl"),)),
        )


def test_an_evaluation_set_is_named_once_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HanlinError, match="hanlin data fetch c-eval"):
        Benchmarks.read(["c-eval"])
    (tmp_path / "data/c-eval").mkdir(parents=True)
    (tmp_path / "data/c-eval/val.jsonl").write_bytes(orjson.dumps({"question": QUESTION, **OPTIONS}) + b"\n")
    assert Benchmarks.read(["c-eval"]).items == [("val", 1)]
    (tmp_path / "c-eval").write_bytes(orjson.dumps({"question": QUESTION}) + b"\n")
    assert Benchmarks.read(["c-eval"]).items == [("c-eval", 1)]  # a file of that name comes first
    with pytest.raises(HanlinError, match="firefly"):
        Benchmarks.read(["firefly-1.1m"])  # not an evaluation set, and no such file


def test_real_benchmarks_are_found_where_they_were_put_and_hardly_elsewhere(shared) -> None:
    """Every tenth document gets a question of CMMLU or C3; of the others at most one in two hundred is taken
    for contaminated."""
    from hanlin.corpus.readers.read import read_documents

    files = [shared("eval_mc_zh/cmmlu_test.jsonl.zst"), shared("eval_mc_zh/c3_dev.jsonl.zst")]
    benchmarks = Benchmarks.read(files)
    questions = [text for _, _, text in benchmarks._texts if len(comparison_key(text)) >= 30]
    assert len(benchmarks.items) > 10_000
    texts = [
        item["text"]
        for _, item in zip(
            range(1000), read_documents(shared("pretrain_zh/web_translated.jsonl.zst")), strict=False
        )
    ]
    numbers = random.Random(1)
    put = set(range(0, len(texts), 10))
    for index in put:
        texts[index] = texts[index][:200] + numbers.choice(questions) + texts[index][200:]
    found = benchmarks.find(texts, 2)
    assert put <= set(found)
    assert len(set(found) - put) <= len(texts) / 200
