"""Data that a model writes: streams that stay, what is made of samples, what k tries are worth, going on."""

from __future__ import annotations

import itertools
import json
import math

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.progress import Progress
from hanlin.corpus.readers.read import read_conversations, read_preferences
from hanlin.evaluation.pass_at_k import best_of_k, pass_at_k
from hanlin.inference import Engine
from hanlin.pipeline import sample_data as module
from hanlin.pipeline.sample_data import RECORDS, SampleConfig, sample_data
from hanlin.pipeline.sample_select import Sampled, Selection
from hanlin.pipeline.stage_command import run_stage
from tests.adapters.bench import TALKS, make_base, write_stage


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    make_base(folder)
    return folder


def draw(made, out, prompts=None, progress=None, **settings):
    """Records that are made, and the metrics."""
    settings = {"n": 3, "max_new_tokens": 6, "make": "raw"} | settings
    files = [str(prompts or made / "talks.jsonl")]
    metrics = sample_data(made / "base", files, out, SampleConfig(**settings), progress or Progress())
    return [json.loads(line) for line in (out / RECORDS).open(encoding="utf-8")], metrics


def by_prompt(records):
    found: dict[str, list[str]] = {}
    for record in records:
        said = record["messages"][-1]
        found.setdefault(record["messages"][0]["content"], []).append(said["content"])
    return found


# ------------------------------------------------------------------ what k tries are worth


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n):
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        answers = [True] * right + [False] * (n - right)
        subsets = list(itertools.combinations(answers, k))
        assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_best_of_k_is_the_mean_over_subsets():
    scores = [0.3, -1.0, 2.5, 2.5, 0.0, 7.0]
    for k in range(1, 7):
        subsets = list(itertools.combinations(scores, k))
        assert best_of_k(scores, k) == pytest.approx(sum(map(max, subsets)) / len(subsets))
    with pytest.raises(ValueError):
        best_of_k(scores, 7)
    with pytest.raises(ValueError):
        pass_at_k(3, 4, 2)


# ------------------------------------------------------------------ streams


def test_more_samples_other_prompts_and_another_order_change_none(made, tmp_path):
    few = by_prompt(draw(made, tmp_path / "few", n=2)[0])
    many = by_prompt(draw(made, tmp_path / "many", n=5)[0])
    assert len(few) == 24 and all(many[prompt][:2] == samples for prompt, samples in few.items())
    assert len({text for samples in many.values() for text in samples}) > 40
    backwards = tmp_path / "backwards.jsonl"
    chosen = list(reversed(TALKS))[:7]
    backwards.write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in chosen), encoding="utf-8")
    some = by_prompt(draw(made, tmp_path / "some", backwards, n=2)[0])
    assert len(some) == 7 and all(few[prompt] == samples for prompt, samples in some.items())
    other = by_prompt(draw(made, tmp_path / "other", n=2, seed=2)[0])
    assert other != few


def test_a_killed_run_goes_on_with_the_same_result(made, tmp_path, monkeypatch):
    whole, _ = draw(made, tmp_path / "whole")
    monkeypatch.setattr(module, "_AT_ONCE", 5)
    monkeypatch.setattr("hanlin.common.savepoint.SECONDS", 0.0)
    generate, calls = Engine.generate, []

    def killed(engine, *arguments, **options):
        calls.append(len(arguments[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(engine, *arguments, **options)

    monkeypatch.setattr(Engine, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        draw(made, tmp_path / "out")
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.state").is_dir()
    again, _ = draw(made, tmp_path / "out")
    assert again == whole and sum(calls[3:]) == (24 - 10) * 3
    assert not (tmp_path / ".out.state").exists()


# ------------------------------------------------------------------ what is made


def sampled(content: str, score: float | None = None, tokens: int = 5, ended: bool = True) -> Sampled:
    return Sampled(content, "", score, ended, tokens)


RECORD = {
    "messages": [{"role": "user", "content": "几？"}, {"role": "assistant", "content": "是 7。"}],
    "answer": 7,
}
PROMPT = RECORD["messages"][:1]


def test_right_answers_are_kept_once_and_the_others_counted():
    select = Selection("sft", keep=2)
    answers = [
        sampled("七", 1.0),
        sampled(" 七", 1.0),
        sampled("６", 0.0),
        sampled("柒", 1.0),
        sampled("7", 1.0),
        sampled("七七", 1.0, ended=False),
        sampled(" ", 1.0),
    ]
    made = [record["messages"][-1]["content"] for record in select(RECORD, PROMPT, answers)]
    assert made == ["七", "柒"]
    assert dict(select.counts) == {
        "records": 2,
        "repeated": 1,
        "not_right": 1,
        "more_than_kept": 1,
        "cut_off": 1,
        "empty": 1,
    }


def test_a_pair_is_the_widest_of_like_length():
    select = Selection("pairs", ratio=1.5)
    answers = [sampled("长", 1.0, 30), sampled("好", 0.8, 6), sampled("坏", 0.1, 5), sampled("中", 0.5, 5)]
    (pair,) = select(RECORD, PROMPT, answers)
    assert (pair["chosen"]["content"], pair["rejected"]["content"]) == ("好", "坏")
    assert list(select(RECORD, PROMPT, [sampled("甲", 1.0), sampled("乙", 1.0)])) == []
    assert list(select(RECORD, PROMPT, [sampled("甲", 1.0, 50), sampled("乙", 0.0, 5)])) == []
    assert select.counts["no_difference"] == select.counts["unlike_lengths"] == 1


def test_self_play_sets_the_given_answer_against_the_models_own():
    select = Selection("spin")
    (pair,) = select(RECORD, PROMPT, [sampled("是7。"), sampled("是 8。")])
    assert (pair["chosen"]["content"], pair["rejected"]["content"]) == ("是 7。", "是 8。")
    assert list(select(RECORD, PROMPT, [sampled("是 7 。")])) == []
    assert list(select({"messages": PROMPT}, PROMPT, [sampled("是 8。")])) == []
    assert select.counts["no_given_answer"] == 1


def test_what_is_made_trains_a_stage(made, tmp_path):
    judge = tmp_path / "judge.py"
    judge.write_text("def score(record, text):\n    return (len(text) % 7) / 7\n", encoding="utf-8")
    pairs, metrics = draw(made, tmp_path / "pairs", n=6, make="pairs", verify=f"python:{judge}", ratio=9.0)
    assert metrics["records"] == len(pairs) == len(list(read_preferences([tmp_path / "pairs" / RECORDS])))
    assert 0 <= metrics["pass@1"] <= metrics["pass@4"] <= 1
    files = {"data": {"files": [str(tmp_path / "pairs" / RECORDS)]}}
    run_stage(
        "preference", write_stage(made, "preference", None, refuse_harm=False, **files), tmp_path / "dpo"
    )
    talks, _ = draw(made, tmp_path / "talks", make="sft", n=2)
    assert len(list(read_conversations([tmp_path / "talks" / RECORDS]))) == len(talks)
    files = {"data": {"files": [str(tmp_path / "talks" / RECORDS)]}}
    run_stage("sft", write_stage(made, "sft", None, **files), tmp_path / "sft")
    manifest = read_manifest(tmp_path / "pairs")
    assert manifest.config["temperature"] == 1.0 and {"model", "verifier"} <= manifest.parents.keys()


def test_a_reward_model_judges(made, tmp_path):
    run_stage("reward_model", write_stage(made, "reward_model", None), tmp_path / "rm")
    records, metrics = draw(made, tmp_path / "out", n=4, verify=f"reward:{tmp_path / 'rm'}")
    scores = [record["score"] for record in records]
    assert len(set(scores)) > 20 and all(math.isfinite(score) for score in scores)
    assert metrics["best_of_1"] == pytest.approx(sum(scores) / len(scores))
    assert metrics["best_of_1"] <= metrics["best_of_2"] <= metrics["best_of_4"]


def test_what_cannot_be_done_is_said(made, tmp_path):
    for settings, said in (
        ({"verify": "magic"}, "--verify is"),
        ({"verify": f"python:{tmp_path / 'none.py'}"}, "There is no file"),
        ({"verify": "numeric", "prompts": made / "plain.jsonl"}, "No prompt is left"),
        ({"verify": "numeric", "make": "sft"}, "nothing could be made"),
    ):
        plain = {"messages": TALKS[0]["messages"]}
        (made / "plain.jsonl").write_text(json.dumps(plain, ensure_ascii=False) + "\n", encoding="utf-8")
        with pytest.raises(HanlinError, match=said):
            draw(made, tmp_path / "out", **settings)
        assert not (tmp_path / "out").exists()
