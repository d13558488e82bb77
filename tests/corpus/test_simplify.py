"""Traditional text becomes simplified, simplified text is left alone, and a missing package is named."""

from __future__ import annotations

import json
import sys

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.corpus.builder.build import CorpusConfig, build_corpus, read_corpus
from hanlin.corpus.filters.clean import Cleaner
from hanlin.corpus.filters.rules import PRESETS, preset
from hanlin.corpus.readers.read import read_documents
from hanlin.corpus.text.characters import HAN, TRADITIONAL, code_points, flags
from hanlin.corpus.text.script_conversion import Simplifier, version

PAIRS = [
    ("他說這個頭髮很長，後來發展得很好。", "他说这个头发很长，后来发展得很好。"),
    ("皇后在後宮，乾隆皇帝吃餅乾。", "皇后在后宫，乾隆皇帝吃饼干。"),  # by phrase: one 后 and one 乾 stay
    (
        "「軟體」與『網路』，ABC 123……",
        "「软体」与『网路』，ABC 123……",
    ),  # characters only: words and quotation marks stay
    ("野家與\x00後", "野家与\x00后"),
    ("\ud83d 半個 \ude00", "\ud83d 半个 \ude00"),  # halves of surrogate pairs have no UTF-8
]
ALREADY = ["他说这个头发很长。", "著作权、乾隆、瞭望", "", "plain ASCII\n\n", "ひらがな", "\ud83d 半个"]
WANTED = "opencc is not installed: pip install 'hanlin[data]'"


def test_pairs():
    pytest.importorskip("opencc", reason=WANTED)
    simplify = Simplifier()
    assert [simplify(text) for text, _ in PAIRS] == [simple for _, simple in PAIRS]
    assert [simplify(text) for text in ALREADY] == ALREADY
    assert [simplify(simple) for _, simple in PAIRS] == [simple for _, simple in PAIRS]


def test_real_traditional_text_becomes_simplified(shared):
    pytest.importorskip("opencc", reason=WANTED)
    simplify, before, after, han = Simplifier(), 0, 0, 0
    for item, _ in zip(read_documents(shared("stories_zht.jsonl.zst")), range(200), strict=False):
        kinds = [flags(code_points(text)) for text in (item["text"], simplify(item["text"]))]
        before, after = (
            count + int(((kind & TRADITIONAL) != 0).sum())
            for count, kind in zip((before, after), kinds, strict=True)
        )
        han += int(((kinds[0] & HAN) != 0).sum())
    print(before, after, han)
    assert before > 0.2 * han and after < 0.002 * han


def test_rules_see_simplified_text_and_reports_show_the_change(tmp_path, prose):
    pytest.importorskip("opencc", reason=WANTED)
    texts = [
        prose(1, 90),
        "他說這個頭髮很長，後來發展得很好，大家都認為應該學習。" * 3,
        "點擊關注微信公眾號，優惠領取：wx8823abc，聯繫客服！\n" + prose(2, 90),
    ]
    plain, simple = (
        Cleaner(preset("zh-short", {"simplify": on, "max_traditional_share": 0.1})) for on in (False, True)
    )
    documents = [{"text": text} for text in texts]
    assert [item is not None for item in plain(documents)] == [True, False, True]
    kept = [item["text"] for item in simple(documents) if item]
    # 關注公眾號 is what the line rules know as 关注公众号
    assert kept == [
        texts[0],
        "他说这个头发很长，后来发展得很好，大家都认为应该学习。" * 3,
        prose(2, 90),
    ]
    path = build_corpus(
        documents,
        tmp_path / "c",
        CorpusConfig(preset="zh-short", rules={"simplify": True}, heldout_fraction=0.0),
    )
    assert sorted(item["text"] for item in read_corpus(path)) == sorted(kept)
    changed = json.loads((path / "report.json").read_bytes())["changed"]
    assert changed["count"] == 2 and any(
        "這個" in item["before"] and "这个" in item["text"] for item in changed["samples"]
    )
    assert read_manifest(path).config["made_with"] == {"opencc": version()}


def test_it_is_off_unless_asked_for_and_a_missing_package_is_named(tmp_path, prose, monkeypatch):
    assert not any(config.simplify for config in PRESETS.values())
    monkeypatch.setitem(sys.modules, "opencc", None)
    documents = [{"text": prose(1)}]
    build_corpus(documents, tmp_path / "a", CorpusConfig(preset="none"))
    for make in (Simplifier, lambda: Cleaner(preset("none", {"simplify": True}))):
        with pytest.raises(HanlinError, match=r"hanlin\[data\]"):
            make()
    with pytest.raises(HanlinError, match=r"hanlin\[data\]"):
        build_corpus(documents, tmp_path / "b", CorpusConfig(preset="none", rules={"simplify": True}))
    assert not (tmp_path / "b").exists()
