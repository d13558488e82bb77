"""Tasks: every record is judged on its own answer; length alone is a real opponent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hanlin.evaluation import (
    can_pair,
    difference,
    evaluate_generation,
    evaluate_turns,
    length_control,
    pair_accuracy,
)
from hanlin.evaluation.config import EvaluationConfig
from hanlin.evaluation.exam import Exam
from hanlin.evaluation.item_scores import item_ids
from hanlin.evaluation.tasks.base import Task, TaskScope
from hanlin.inference import generate_text
from tests.support import tiny_model, tiny_tokenizer

torch.set_num_threads(1)  # at these sizes a second thread costs more than it brings
CHATS = [
    {"messages": [{"role": "user", "content": f"第{i}题"}, {"role": "assistant", "content": "答案"}]}
    for i in range(7)
]
PLAIN = [{"prompt_text": f"问：第{i}题\n答：", "messages": CHATS[i]["messages"]} for i in range(3)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("t") / "tokenizer")
    return tiny_model("qwen3", tokenizer), tokenizer


@pytest.mark.parametrize("thinking", [None, True, False])
def test_each_record_is_judged_on_its_own_answer(world, thinking):
    model, tokenizer = world
    judged = []

    def check(record, text):
        judged.append((record, text))
        return len(judged) % 3 == 0

    metric, samples = evaluate_generation(
        model, tokenizer, CHATS, check, thinking=thinking, max_new_tokens=8, seed=3
    )
    expected = generate_text(
        model,
        tokenizer,
        [r["messages"][:-1] for r in CHATS],
        thinking=thinking,
        max_new_tokens=8,
        temperature=0.0,
        seed=3,
    )
    assert judged == list(zip(CHATS, expected, strict=True))
    assert (metric.value, metric.n) == (2 / 7, 7)
    assert [(s["prompt"], s["output"], s["correct"]) for s in samples] == [
        (r["messages"][0]["content"], text, i % 3 == 2)
        for i, (r, text) in enumerate(zip(CHATS, expected, strict=True))
    ]


def test_plain_text_answers_end_with_their_line_and_mix_with_chats(world):
    model, tokenizer = world
    _, mixed = evaluate_generation(model, tokenizer, [*PLAIN, *CHATS], lambda r, t: True, max_new_tokens=12)
    _, chats = evaluate_generation(model, tokenizer, CHATS, lambda r, t: True, max_new_tokens=12)
    assert mixed[3:] == chats
    for record, sample in zip(PLAIN, mixed[:3], strict=True):
        text = generate_text(model, tokenizer, [record["prompt_text"]], max_new_tokens=12, temperature=0.0)[0]
        assert (
            sample["output"] == (text.lstrip().splitlines() or [""])[0]
            and sample["prompt"] == record["prompt_text"]
        )


def test_a_record_is_the_same_item_however_it_is_asked(world):
    plain, _ = evaluate_generation(*world, PLAIN, lambda r, t: True, max_new_tokens=2)
    chat, samples = evaluate_generation(*world, CHATS[:3], lambda r, t: False, max_new_tokens=2)
    assert can_pair(plain, chat) and difference(chat, plain).value == -1.0
    others, _ = evaluate_generation(*world, CHATS[1:4], lambda r, t: True, max_new_tokens=2)
    assert not can_pair(others, chat)
    assert chat.items is not None and [sample["id"] for sample in samples] == list(chat.items.ids)


def test_turns_of_a_conversation_are_a_cluster(world):
    turns = [{**chat, "kind": "x"} for chat in CHATS]
    conversations = [turns[:3], turns[3:5], turns[4:7]]
    metric, samples = evaluate_turns(*world, conversations, {"x": lambda r, t: True}, max_new_tokens=2)
    items = metric.items
    assert items is not None and metric.n == len(items) == 5 and len(samples) == 8
    clusters = item_ids(conversations)
    assert sorted(items.clusters or ()) == sorted(clusters[at] for at in (0, 0, 1, 2, 2))
    assert items.ids == tuple(
        f"{clusters[at]}/{turn}" for at, turn in ((0, 1), (1, 1), (2, 1), (0, 2), (2, 2))
    )
    assert metric.control is not None and metric.control.difference is not None


def test_an_exam_says_which_answers_its_overall_scores_are_of(world, monkeypatch):
    model, tokenizer = world
    tasks = {
        "plain": Task("plain", CHATS, lambda r, t: True, declines=lambda text: False),
        "thought": Task("thought", CHATS[:4], lambda r, t: True, thinking=True),
    }
    exam = Exam(TaskScope(1, EvaluationConfig(max_new_tokens=3)), tokenizer)
    monkeypatch.setattr(exam, "task", tasks.__getitem__)
    found = exam(model, list(tasks))
    again = exam(model, list(tasks))
    ids = item_ids(CHATS)
    names = (*(f"plain/{name}" for name in ids), *(f"thought/{name}" for name in ids[:4]))
    for name, n in (("ends_by_itself", 11), ("thinking_closes", 4), ("inside_answered", 7)):
        metric = found[name]
        assert metric.items is not None and metric.n == n and can_pair(metric, again[name])
        assert metric.items.ids == (names[:7] if name == "inside_answered" else names)
    assert found["inside_answered"].value == 1.0
    assert not can_pair(found["ends_by_itself"], exam(model, ["plain"])["ends_by_itself"])


def test_no_records_no_metric(world):
    with pytest.raises(ValueError):
        evaluate_generation(*world, [], lambda r, t: True)


scores = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=60)


@given(scores)
def test_pair_accuracy_mirrors_and_ties_are_worth_half(pairs):
    chosen, rejected = np.array(pairs).T
    forth, back = pair_accuracy(chosen, rejected), pair_accuracy(rejected, chosen)
    assert forth.value + back.value == pytest.approx(1)
    assert forth.value == pytest.approx(np.mean([(c > r) + (c == r) / 2 for c, r in pairs]))
    assert forth.chance == 0.5


@given(scores)
def test_length_learns_the_direction_that_was_right_in_training(pairs):
    lengths = np.array(pairs) + 3
    own = length_control(lengths, lengths)
    assert own.value >= 0.5
    assert length_control(lengths[:, ::-1], lengths[:, ::-1]).value == pytest.approx(own.value)
    shorter = np.tile([[1, 9]], (5, 1))
    assert length_control(shorter, lengths).value == pytest.approx(
        pair_accuracy(-lengths[:, 0], -lengths[:, 1]).value
    )


def test_unsigned_lengths_do_not_wrap_around():
    assert (
        length_control(np.array([[2, 9]], dtype=np.uint16), np.array([[3, 4], [5, 1]], dtype=np.uint16)).value
        == 0.5
    )
