"""The protocol `lm-eval` gives lm-evaluation-harness's figures, item by item; stored ones by day, its own by
night where it is installed."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
import torch

from hanlin.evaluation.benchmarks.choice import judge_items, score_items
from tests.evaluation.lm_eval_fixtures import (
    COUNT,
    EXPECTED,
    POSITIONS,
    fixtures,
    harness,
    model_and_tokenizer,
)

torch.set_num_threads(1)
STORED = json.loads(EXPECTED.read_text(encoding="utf-8"))
RULES = {"acc": "sum", "acc_norm": "char", "acc_bytes": "byte", "acc_mutual_info": "pmi"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return model_and_tokenizer(tmp_path_factory.mktemp("lm-eval"))


@pytest.mark.parametrize("name", fixtures())
def test_log_likelihoods_and_accuracies_are_the_harness_s(asked, name):
    model, tokenizer = asked
    fixture, expected = fixtures()[name], STORED["tasks"][name]
    scored = score_items(model, tokenizer, fixture.items, fixture.prompt, boundary="tokens")
    ours = np.array([[choice.total for choice in score.choices] for score in scored])
    theirs = np.array(expected["log_likelihoods"])[:, : ours.shape[1]]
    assert ours.shape == (COUNT, 4)
    assert np.abs(ours - theirs).max() <= 1e-4
    assert [[choice.greedy for choice in score.choices] for score in scored] == [
        row[: ours.shape[1]] for row in expected["greedy"]
    ]
    result = judge_items(scored, fixture.prompt, "cloze")
    for metric, rule in RULES.items():
        if metric not in expected["metrics"]:
            continue
        hits = np.array([score.picked(rule) == score.item.gold for score in scored], dtype=float)
        assert hits.mean() == pytest.approx(expected["metrics"][metric], abs=1e-12)
        assert result.by_normalisation[rule].value == pytest.approx(expected["metrics"][metric], abs=1e-12)
        error = hits.std(ddof=1) / math.sqrt(COUNT)
        assert error == pytest.approx(expected["metrics"][f"{metric}_stderr"], abs=1e-9)


def test_the_fixtures_meet_the_hard_cases(asked):
    """Cut contexts, joined boundaries, an empty context: else the equality above would show little."""
    model, tokenizer = asked
    by = {
        name: score_items(model, tokenizer, fixture.items, fixture.prompt, boundary="tokens")
        for name, fixture in fixtures().items()
    }
    assert all(choice.cut for score in by["too_long"] for choice in score.choices)
    assert any(choice.straddles for score in by["joined"] for choice in score.choices)
    assert model.config.max_position_embeddings == POSITIONS
    accuracies = {
        value
        for task in STORED["tasks"].values()
        for key, value in task["metrics"].items()
        if "stderr" not in key
    }
    assert len(accuracies) > 5


@pytest.mark.nightly
def test_the_stored_figures_are_what_the_harness_says_today(tmp_path):
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed: pip install 'hanlin[eval]'")
    found = harness(tmp_path)
    for name, task in found["tasks"].items():
        stored = STORED["tasks"][name]
        difference = np.array(task["log_likelihoods"]) - np.array(stored["log_likelihoods"])
        assert np.abs(difference).max() <= 1e-4
        assert task["metrics"] == pytest.approx(stored["metrics"], abs=1e-9)
