"""Overlap with references: the libraries' figures, and ours where they have none."""

from __future__ import annotations

import random

import pytest

from hanlin.common.errors import HanlinError
from hanlin.evaluation.references import (
    bleu,
    chrf,
    distinct,
    longest_common_subsequence,
    repetition,
    rouge_l,
)

OUTPUTS = ["今天天气很好。", "他去了北京大学。", "我喜欢吃苹果"] * 10
REFERENCES = [["今天天气真好。"], ["他去北京大学了。"], ["我喜欢苹果"]] * 10


def table(first: str, second: str) -> int:
    """The longest common subsequence by the textbook's table."""
    rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


def test_the_longest_common_subsequence_is_the_table_s():
    rng = random.Random(0)
    for _ in range(300):
        first, second = ("".join(rng.choices("天地人一二三", k=rng.randint(0, 90))) for _ in range(2))
        assert longest_common_subsequence(first, second) == table(first, second)


def test_rouge_l_is_rouge_chinese_s():
    rouge = pytest.importorskip("rouge_chinese").Rouge(metrics=["rouge-l"])
    rng = random.Random(1)
    for _ in range(1000):
        first, second = (
            "".join(rng.choices("一二三四五六七八九十天地人", k=rng.randint(1, 60))) for _ in "ab"
        )
        theirs = rouge.get_scores(" ".join(first), " ".join(second))[0]["rouge-l"]["f"]
        assert rouge_l(first, second) == pytest.approx(theirs, abs=1e-9)


def test_rouge_l_by_hand():
    assert rouge_l("今天 天气好", "今天天气很好") == pytest.approx(
        2 * (5 / 5) * (5 / 6) / (5 / 5 + 5 / 6), abs=1e-7
    )
    assert rouge_l("", "好") == rouge_l("好", "") == rouge_l("好", "坏") == 0.0


def test_bleu_and_chrf_are_sacrebleu_s_for_chinese():
    sacrebleu = pytest.importorskip("sacrebleu")
    streams = [[given[0] for given in REFERENCES]]
    found = bleu(OUTPUTS, REFERENCES)
    assert found.metric.value == pytest.approx(sacrebleu.corpus_bleu(OUTPUTS, streams, tokenize="zh").score)
    assert "tok:zh" in found.signature and found.metric.low < found.metric.value < found.metric.high
    other = chrf(OUTPUTS, REFERENCES)
    assert other.metric.value == pytest.approx(sacrebleu.corpus_chrf(OUTPUTS, streams).score)
    assert "nw:0" in other.signature
    with pytest.raises(HanlinError, match="Text 2 has 2 references, and the first has 1"):
        bleu(OUTPUTS[:2], [["一"], ["二", "三"]])


def test_variety_and_repetition_by_hand():
    assert distinct(["天地天地"], 2) == 2 / 3  # 天地, 地天, 天地
    assert distinct(["天"], 2) == 1.0
    assert repetition("一二三四一二三四") == pytest.approx(1 - 4 / 5)
    assert repetition("一二三") == 0.0 and repetition("一二三四五六") == 0.0
