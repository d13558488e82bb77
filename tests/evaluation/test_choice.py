"""Log likelihoods of continuations are those of the chain rule, shared beginnings or not; scores and controls
are what the items say."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.evaluation import NGramModel, batches
from hanlin.evaluation.benchmarks.choice import Scored, controls, judge_items, ngram_scores, score_items
from hanlin.evaluation.benchmarks.items import Item, Prompt, Request
from hanlin.evaluation.loglikelihood import LogLikelihood, Sequencer, score_groups
from tests.support import FAMILIES, TEXTS, tiny_model, tiny_tokenizer

torch.set_num_threads(1)
PASSAGE = "小明今天去了图书馆，借了一本关于恐龙的书。小红把书给了小明。"
CLOZE = Prompt("{passage}\n问题：{question}\n答案：")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("t") / "tokenizer")


def item(name: str, choices=("图书馆", "学校里的河边", "家"), gold: int = 0, **fields) -> Item:
    return Item(name, "小明去了哪里？", tuple(choices), gold, passage=PASSAGE, **fields)


@torch.no_grad()
def chain_rule(model, ids: list[int], start: int) -> float:
    """log p of ids[start:], a forward pass for each token."""
    total = 0.0
    for at in range(start, len(ids)):
        logits = model(torch.tensor([ids[:at]]))[0, -1].double()
        total += float(logits.log_softmax(-1)[ids[at]])
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_chain_rule(tokenizer, family):
    model = tiny_model(family, tokenizer)
    items = [item("a"), item("b", ("家", "小明的学校")), item("c", ("图", "书", "馆里"))]
    for bos_id in (None, tokenizer.eos_id):
        model.config = dataclasses.replace(model.config, bos_token_id=bos_id)
        scored = score_items(model, tokenizer, items, CLOZE)
        for score in scored:
            for request, choice in zip(CLOZE.requests(score.item), score.choices, strict=True):
                before = [] if bos_id is None else [bos_id]
                ids = [*before, *tokenizer.encode(request.context + request.continuation)]
                assert choice.total == pytest.approx(
                    chain_rule(model, ids, len(ids) - choice.tokens), abs=1e-4
                )
                said = tokenizer.decode(ids[len(ids) - choice.tokens :])
                assert said.endswith(request.continuation)
                assert choice.straddles == (said != request.continuation)


def test_batches_change_nothing(tokenizer, monkeypatch):
    model = tiny_model("qwen3", tokenizer)
    items = [item(str(at), gold=at % 3, choices=("家" * (at % 4 + 1), "河边", "学校")) for at in range(9)]
    together = score_items(model, tokenizer, items, CLOZE)
    monkeypatch.setattr(batches, "CPU_TOKENS", 10)
    alone = score_items(model, tokenizer, items, CLOZE)
    for one, other in zip(together, alone, strict=True):
        assert [c.total for c in one.choices] == pytest.approx([c.total for c in other.choices], abs=1e-4)


def test_a_row_of_choices_may_be_longer_than_the_model(tokenizer):
    """Each branch counts its positions from the trunk's, so that only the longest must fit."""
    model = tiny_model("qwen3", tokenizer, max_position_embeddings=96)
    long = Item("long", "书" * 80, ("小明", "小红"), 0)
    wide = Item("wide", "书", ("小明" * 70, "小红" * 60), 0)
    prompt = Prompt("{question}", bare=None)
    both = score_items(model, tokenizer, [long, wide], prompt)
    for one in both:
        alone = score_items(model, tokenizer, [one.item], prompt)[0]
        assert [c.total for c in one.choices] == pytest.approx([c.total for c in alone.choices], abs=1e-4)


def test_what_does_not_fit_loses_its_beginning_and_is_counted(tokenizer):
    model = tiny_model("qwen3", tokenizer, max_position_embeddings=32)
    result = judge_items(score_items(model, tokenizer, [item("a")], CLOZE), CLOZE, "cloze")
    assert result.cut == 1.0
    with pytest.raises(HanlinError, match="can't be scored"):
        score_items(model, tokenizer, [item("a", ("家" * 90, "河"))], CLOZE)


def test_log_probabilities_that_are_not_finite_are_refused(tokenizer):
    model = tiny_model("qwen3", tokenizer)
    with torch.no_grad():
        model.head.weight[5] = float("nan")
    with pytest.raises(HanlinError, match="item a are not finite"):
        score_items(model, tokenizer, [item("a")], CLOZE)


def test_the_tokens_of_a_continuation_are_those_that_hold_its_bytes(tokenizer):
    sequencer = Sequencer(tokenizer, "bytes", None, 1000)
    whole = tokenizer.encode("小明")
    assert len(whole) == 1  # joined, so that it straddles
    straddling = sequencer([Request("今天小", "明去了", "明去了")])[0]
    assert straddling.straddles
    assert tokenizer.decode(straddling.ids[straddling.start :].tolist()).startswith("小明")
    apart = sequencer([Request("今天", "小明去了", "小明去了")])[0]
    assert not apart.straddles
    assert tokenizer.decode(apart.ids[apart.start :].tolist()) == "小明去了"


# ---------------------------------------------------------------- judging


def scored(gold: int, totals, bare=None, chars=(1, 2, 3), name="x", subject="") -> Scored:
    likely = tuple(LogLikelihood(total, 1, False, False, 0) for total in totals)
    alone = None if bare is None else tuple(LogLikelihood(total, 1, False, False, 0) for total in bare)
    choices = tuple("家" * size for size in chars)
    return Scored(
        Item(name, "?", choices, gold, subject=subject),
        likely,
        alone,
        tuple(chars),
        tuple(3 * n for n in chars),
    )


def test_each_rule_picks_by_its_own_measure():
    score = scored(0, (-3.0, -4.0, -4.5), bare=(-1.0, -4.0, -5.5))
    assert score.picked("sum") == 0
    assert score.picked("char") == score.picked("byte") == 2
    assert score.picked("pmi") == 2  # -2, 0, 1
    assert scored(0, (-1.0, -1.0, -9.0)).picked("sum") == 0  # the first of equals
    assert scored(0, (-1.0, -2.0, -3.0)).values("pmi") is None


def test_equals_share_the_credit_unless_the_harness_s_rule_is_asked_for():
    equal = scored(0, (-2.0, -2.0, -9.0))
    assert equal.credit("sum") == 0.5 and equal.credit("sum", first_of_equals=True) == 1.0
    assert scored(2, (-2.0, -2.0, -9.0)).credit("sum") == 0.0
    pairs = [scored(0, (-1.0, -1.0), chars=(2, 2), name=str(at)) for at in range(4)]
    result = judge_items(pairs, Prompt("", main="sum", bare=None), "pairs")
    assert result.accuracy.value == 0.5 and "majority" not in result.controls


def test_controls_by_hand():
    items = [
        scored(2, (-1.0, -5.0, -9.0), bare=(-9.0, -8.0, -1.0)),  # longest right, answer alone right
        scored(2, (-1.0, -5.0, -9.0), bare=(-1.0, -8.0, -9.0), chars=(3, 3, 3)),  # a third of the longest
        scored(0, (-1.0, -5.0, -9.0), bare=(-1.0, -8.0, -9.0)),
    ]
    found = controls(items, Prompt("", main="sum"), "cloze")
    assert found["chance"].tolist() == [1 / 3] * 3
    assert found["majority"].tolist() == [1.0, 1.0, 0.0]
    assert found["longest"].tolist() == [1.0, 1 / 3, 0.0]
    assert found["answer only"].tolist() == [1.0, 0.0, 1.0]
    result = judge_items(items, Prompt("", main="sum"), "cloze")
    assert result.accuracy.value == pytest.approx(1 / 3)
    assert result.accuracy.control is not None and result.accuracy.control.value == pytest.approx(2 / 3)
    assert result.accuracy.chance == pytest.approx(1 / 3)


def test_bits_of_the_right_answer_and_the_margin_by_hand():
    items = [scored(0, (-3.0, -4.0, -4.5)), scored(2, (-3.0, -4.0, -4.5))]
    result = judge_items(items, Prompt("", main="sum"), "cloze")
    assert result.gold_bits is not None and result.margin is not None
    bits = np.array([3.0, 4.5]) / math.log(2)
    assert result.gold_bits.value == pytest.approx(bits.sum() / (3 + 9))
    per_byte = np.array([3.0 / 3, 4.0 / 6, 4.5 / 9]) / math.log(2)
    margins = [min(per_byte[1:]) - per_byte[0], min(per_byte[:2]) - per_byte[2]]
    assert result.margin.value == pytest.approx(np.mean(margins))


def test_the_ngram_control_scores_a_continuation_after_its_context(tokenizer):
    texts = [np.array([*tokenizer.encode(text), tokenizer.eos_id]) for text in TEXTS[:5] * 4]
    control = NGramModel(tokenizer.vocab_size).fit(texts)
    model = tiny_model("qwen3", tokenizer)
    asked = score_items(model, tokenizer, [item("a")], CLOZE)
    found = ngram_scores(control, tokenizer, asked, CLOZE)[0]
    for request, choice in zip(CLOZE.requests(item("a")), found.choices, strict=True):
        ids = tokenizer.encode(request.context + request.continuation)
        start = len(ids) - choice.tokens
        expected = sum(math.log(control.distribution(ids[:at])[ids[at]]) for at in range(start, len(ids)))
        assert choice.total == pytest.approx(expected, rel=1e-6)


def test_groups_keep_their_order(tokenizer):
    model = tiny_model("qwen3", tokenizer)
    sequencer = Sequencer(tokenizer, "bytes", tokenizer.eos_id, 257)
    groups = [sequencer(CLOZE.requests(item(str(at), ("家" * at, "河边")))) for at in (5, 1, 3)]
    counts = [[value.tokens for value in group] for group in score_groups(model, groups)]
    assert counts == [[len(row.ids) - row.start for row in group] for group in groups]
