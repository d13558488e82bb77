"""What the demo promises, held against a whole run of it: the run that `HANLIN_DEMO` names, or one made here
(a quarter of an hour)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hanlin.common.progress import Progress
from hanlin.pipeline import load_recipe, run_recipe

# Shares of right answers of the published model, with the likeliest token throughout. As the chat samples by
# default, they may not be told from these: in the run that README shows, 98.9 % [97.8, 99.4] of sampled
# thoughts are closed, a hair below.
PROMISED = {
    "tinyworld/greetings": 0.95,
    "tinyworld/math_word_problems_free": 0.90,
    "tinyworld/story_requests": 0.95,
    "tinyworld/outside_declined": 0.90,
    "thinking_closes": 0.99,
    "ends_by_itself": 0.99,
    "inside_answered": 0.99,
    "tinyworld/story_qa": 0.79,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A run of the demo, and its report."""
    given = os.environ.get("HANLIN_DEMO")
    out = Path(given) if given else tmp_path_factory.mktemp("demo") / "run"
    report = (
        json.loads((out / "report.json").read_text())
        if given
        else run_recipe(load_recipe("demo"), out, Progress())
    )
    return out, report, {stage["id"]: stage for stage in report["stages"]}


@pytest.mark.nightly
@pytest.mark.parametrize("name", PROMISED)
def test_the_published_model_keeps_what_is_promised(demo, name):
    scores = demo[2]["evaluation"]["metrics"]
    greedy, sampled = scores[name], scores[f"{name}/sampled"]
    assert greedy["n"] >= 100 and greedy["value"] >= PROMISED[name], greedy
    assert (
        sampled["n"] >= 100
        and sampled["high"] >= PROMISED[name]
        and sampled["value"] >= PROMISED[name] - 0.02
    ), sampled


@pytest.mark.nightly
def test_later_turns_are_nearly_as_good_as_single_ones(demo):
    scores = demo[2]["evaluation"]["metrics"]
    for found in (scores["tinyworld/later_turns"], scores["tinyworld/later_turns/sampled"]):
        assert found["n"] >= 100 and found["value"] >= 0.9 * found["control"]["value"], found


@pytest.mark.nightly
def test_every_stage_is_kept_and_beats_its_control(demo):
    stages = demo[2]
    assert all(stage["kept"] for stage in stages.values())
    aims = {
        "pretrain": "bits_per_byte",
        "reasoning": "tinyworld/math_word_problems",
        "dpo": "tinyworld/politeness",
        "reward": "pair_accuracy",
        "grpo": "reward_mean/grpo",
    }
    for name, aim in aims.items():
        metric = stages[name]["metrics"][aim]
        worse, better = (
            (metric["control"]["high"], metric["low"])
            if metric["higher_is_better"]
            else (metric["high"], metric["control"]["low"])
        )
        assert better > worse, (name, metric)
    # Seven to ten points paired (docs/*/lab-log.md); intervals that are not paired overlap in one training
    # of two.
    stories = stages["sft"]["metrics"]["tinyworld/story_qa"]
    assert stories["value"] > stories["control"]["value"] + 0.03, stories


@pytest.mark.nightly
def test_it_keeps_its_language_and_its_size(demo):
    out, report, stages = demo
    pretrained, published = (
        stages[name]["metrics"]["bits_per_byte"]["value"] for name in ("pretrain", "evaluation")
    )
    assert (
        published <= 1.3 * pretrained
        and published < stages["evaluation"]["metrics"]["bits_per_byte"]["control"]["low"]
    )
    assert report["about"]["parameters"] < 1.5e6
    cards = json.loads((out / "model" / "suggestions.json").read_text())
    assert len(cards) >= 3 and all(card["text"] and card["answer"] for card in cards)
