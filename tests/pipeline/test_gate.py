"""What the gate decides, from what, and what becomes of a model that it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from hanlin.common.manifest import read_manifest
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.corpus import tinyworld
from hanlin.evaluation import Metric
from hanlin.pipeline import load_recipe, workshop
from hanlin.pipeline.gate import FEWEST, TOLERANCES, Verdict, judge, tolerance
from hanlin.pipeline.life import Life
from hanlin.pipeline.runner import StepRecord
from tests.pipeline.test_pipeline import TINY


def metric(successes: float, n: int = 100, better: bool = True) -> Metric:
    return Metric.proportion(successes, n, higher_is_better=better)


def test_the_gate_keeps_the_better_model():
    assert judge("dpo", ("x", metric(60), metric(50)), {}).kept
    assert not judge("dpo", ("x", metric(40), metric(50)), {}).kept
    assert not judge("dpo", ("x", metric(60), metric(50)), {"y": (metric(80), metric(90), 0.02)}).kept
    assert judge("dpo", ("x", metric(60), metric(50)), {"y": (metric(89), metric(90), 0.02)}).kept
    assert not judge("sft", ("loss", metric(60, better=False), metric(50, better=False)), {}).kept


def test_few_items_decide_nothing():
    few = FEWEST - 1
    verdict = judge("sft", ("x", metric(0, few), metric(few, few)), {})
    assert verdict.kept and str(few) in verdict.why.zh and str(few) in verdict.why.en
    assert judge("dpo", ("x", metric(60), metric(50)), {"y": (metric(0, few), metric(few, few), 0.02)}).kept
    assert not judge("sft", ("x", metric(0, FEWEST), metric(FEWEST, FEWEST)), {}).kept


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_documents_name_the_tolerances_of_the_gate(language):
    page = (Path(__file__).parents[2] / "docs" / language / "recipes.md").read_text(encoding="utf-8")
    page = page[page.index({"zh": "## 门", "en": "## The gate"}[language]) :]
    written = {
        name: float(value)
        for name, value in re.findall(r"^\| `([a-z_]+)` \| ([0-9.]+) \|", page, re.MULTILINE)
    }
    assert written == TOLERANCES
    assert (
        tolerance("answer_bits_per_byte/sft") == TOLERANCES["answer_bits_per_byte"]
        and tolerance("task_reward") is None
    )


@pytest.fixture
def life(tmp_path):
    """A life with two stand-in models, the first of which is published."""
    made = Life(load_recipe("demo", TINY), tmp_path, Progress())
    for name in ("pretrain", "sft"):
        from hanlin.common.manifest import artifact

        with artifact(tmp_path / "models" / name, "model") as written:
            (written.path / "weights").write_text(name)
    workshop.publish(tmp_path / "models" / "pretrain", tmp_path / "model")
    return made


def record(kept: bool) -> StepRecord:
    return StepRecord("key", 1.0, 1.0, metrics={"story_answers": metric(50).to_dict()}, kept=kept)


@pytest.mark.parametrize("kept", [True, False])
def test_a_refused_model_is_not_published(life, kept):
    life._adopt(record(kept), life.out / "models" / "sft", "sft")
    assert (life.out / "model" / "weights").read_text() == ("sft" if kept else "pretrain")
    assert life.current.name == ("sft" if kept else "pretrain") and ("story_answers" in life.scores) == kept


def test_going_over_a_finished_run_does_not_publish_earlier_models(life):
    workshop.publish(life.out / "models" / "sft", life.out / "model")
    life.runner.reused = ["pretrain"]
    life._adopt(record(True), life.out / "models" / "pretrain", "pretrain")
    assert (life.out / "model" / "weights").read_text() == "sft"


def stand_in(life, monkeypatch, new: dict[str, Metric], old: dict[str, Metric]):
    """Measure by table in place of models; returns what the gate was asked."""
    asked = {}

    def fake_judge(stage, aim, guards):
        asked.update(aim=aim, guards=guards)
        return Verdict(True, Text(""))

    monkeypatch.setattr(workshop, "judge", fake_judge)
    monkeypatch.setattr(life, "_model", lambda path: path.name)
    monkeypatch.setattr(
        life,
        "measure",
        lambda model, names, with_problems=False: {
            name: (new if model == "sft" else old)[name] for name in names
        },
    )
    return asked


def test_the_gate_hears_of_all_that_was_taught(life, monkeypatch):
    names = life.measures("sft")
    new = {name: metric(70) for name in names} | {
        "bits_per_byte": Metric(0.5, 0.4, 0.6, 100, higher_is_better=False)
    }
    old = {name: metric(60) for name in names} | {
        "bits_per_byte": Metric(0.9, 0.8, 1.0, 100, higher_is_better=False)
    }
    asked = stand_in(life, monkeypatch, new, old)
    life.pretrained = Metric(0.4, 0.3, 0.5, 100, higher_is_better=False)
    made = record(True)
    life.judge("sft", made, life.out / "models" / "sft", "story_answers")
    assert asked["aim"] == ("story_answers", new["story_answers"], old["story_answers"])
    assert {
        "greetings",
        "story_requests",
        "outside_declined",
        "later_turns",
        "preferred_manner",
        "bits_per_byte",
    } <= set(asked["guards"])
    after, before, allowed = asked["guards"]["bits_per_byte"]
    # always beside the pretrained model, not the last one
    assert after is new["bits_per_byte"] and before is life.pretrained
    assert allowed == pytest.approx(0.3 * 0.4)
    assert made.metrics["greetings"]["value"] == 0.7 and made.notes["before"]["greetings"]["value"] == 0.6


def test_scores_of_the_current_model_are_not_measured_again_and_aims_of_a_stage_are_its_own(
    life, monkeypatch
):
    names = life.measures("sft")
    asked = stand_in(
        life, monkeypatch, {name: metric(70) for name in names}, {name: metric(60) for name in names}
    )
    life.scores = {"greetings": metric(55)}
    life.judge("sft", record(True), life.out / "models" / "sft", "story_answers", (metric(71), metric(61)))
    assert asked["guards"]["greetings"][1].value == 0.55 and asked["aim"] == (
        "story_answers",
        metric(71),
        metric(61),
    )


def test_the_control_of_equal_time_learns_from_its_first_step():
    control = Life(load_recipe("demo", TINY), Path("nowhere"), Progress()).control_config()
    from hanlin.training.schedule import learning_rate_factor

    train = control.train
    factors = [
        learning_rate_factor(
            step,
            train.steps,
            schedule=train.schedule,
            warmup_ratio=train.warmup_ratio,
            decay_ratio=train.decay_ratio,
            min_lr_ratio=train.min_lr_ratio,
        )
        for step in (0, 1, 50, 90)
    ]
    assert factors == [1.0] * 4 and train.learning_rate == load_recipe("demo").grpo.control_learning_rate


def test_grpo_is_judged_by_the_run_that_is_published(life, monkeypatch):
    """Seeds of 5, 90 and 90 percent after 13: the mean is better, the published one is not."""
    monkeypatch.setattr(life, "current", life.out / "models" / "pretrain")
    scores = {"grpo": 5, "grpo-1": 90, "grpo-2": 90, "pretrain": 13, "sft-0": 14, "sft-1": 15, "sft-2": 16}
    monkeypatch.setattr(life, "_inputs", lambda *args: "inputs")
    monkeypatch.setattr(life, "_once", lambda *args, **kwargs: 1.0)
    monkeypatch.setattr(life, "_conversations", lambda *args, **kwargs: Path("data"))
    monkeypatch.setattr(life, "_reward", lambda path, seed: metric(scores[path.name]))
    monkeypatch.setattr(life, "_model", lambda path: path.name)
    monkeypatch.setattr(
        life, "measure", lambda model, names, with_problems=False: {name: metric(70) for name in names}
    )
    monkeypatch.setattr(life, "_samples", lambda *args: [])
    life.recipe = load_recipe("demo", [*TINY, "grpo.seeds=3"])
    shutil.copytree(life.out / "models" / "sft", life.out / "models" / "grpo")
    life.grpo()
    made = json.loads((life.out / "steps" / "grpo.json").read_text())
    assert made["kept"] is False and made["metrics"]["task_reward/published"]["value"] == 0.05
    assert made["metrics"]["task_reward"]["value"] == pytest.approx(0.6167, abs=1e-3)
    assert (life.out / "model" / "weights").read_text() == "pretrain"


def test_distillation_s_control_is_shown_no_thought():
    source = Life(load_recipe("demo", TINY), Path("nowhere"), Progress()).source
    shown, direct = (list(source.conversations("distill", direct=direct)) for direct in (False, True))
    assert any("reasoning_content" in message for record in shown for message in record["messages"])
    assert not any("reasoning_content" in message for record in direct for message in record["messages"])
    bare = [
        [{k: v for k, v in m.items() if k != "reasoning_content"} for m in record["messages"]]
        for record in shown
    ]
    assert bare == [record["messages"] for record in direct]


def test_pretraining_is_judged_at_the_length_it_was_trained_at(life, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        workshop,
        "bits_per_byte",
        lambda model, tokenizer, documents, context: seen.update(context=context) or {"all": metric(50)},
    )
    monkeypatch.setattr(workshop, "read_corpus", lambda folder, part: [{"text": "一"}])
    monkeypatch.setattr(life, "_tokenizer", lambda: None)
    monkeypatch.setattr(workshop, "Exam", lambda *args: lambda *args, **kwargs: {})
    life.measure("model", ["bits_per_byte"])
    assert seen["context"] == life.recipe.pretrain.seq_len


def test_published_manifests_are_those_of_the_model(life):
    assert (
        read_manifest(life.out / "model").content_hash
        == read_manifest(life.out / "models" / "pretrain").content_hash
    )


def test_cards_of_the_exam_have_right_answers():
    """The references of every task pass their own judge, so that 100 % can be reached."""
    source = Life(load_recipe("demo", ["evaluation.count=60"]), Path("nowhere"), Progress()).source
    for name in ("story_answers", "greetings", "story_requests", "outside_declined", "word_problems"):
        task = source.task(name)
        assert all(task.check(record, record["messages"][-1]["content"]) for record in task.records), name
    assert tinyworld.declines(source.task("outside_declined").records[0]["messages"][-1]["content"])
