"""What the gate decides, from what, and what becomes of a model that it refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact, read_manifest
from hanlin.common.progress import Progress
from hanlin.corpus import tinyworld
from hanlin.evaluation import Metric
from hanlin.evaluation.config import EvaluationConfig
from hanlin.evaluation.kept_items import keep_items
from hanlin.evaluation.tasks.base import TaskScope, make_task, task_entries
from hanlin.pipeline import load_recipe, stage_run
from hanlin.pipeline.gate import FEWEST, TOLERANCES, decide_gate, tolerance, veto
from hanlin.pipeline.lineage import Lineage
from hanlin.pipeline.run import expected_work
from hanlin.pipeline.run_context import RunContext
from hanlin.pipeline.runner import StepRecord
from hanlin.pipeline.stage_run import StageRun, publish
from hanlin.pipeline.suite import Measured
from hanlin.stages.preference.stage import PreferenceStage
from hanlin.stages.stage import Stage
from tests.pipeline.test_pipeline import TINY

BITS = "bits_per_byte"
QA = "tinyworld/story_qa"


def metric(successes: float, n: int = 100, better: bool = True) -> Metric:
    return Metric.proportion(successes, n, higher_is_better=better)


def both(after, before, better: bool = True) -> tuple[Metric, Metric]:
    """Metrics of two models on the same items, with their scores."""
    ids = tuple(map(str, range(len(after))))
    return tuple(Metric.share(hits, ids=ids, higher_is_better=better) for hits in (after, before))


def pair(old: float, new: float, n: int = 400, swing: float = 0.1, better: bool = True):
    """Two models on the same n items, right at `old` and `new` of them; a share `swing` of the items changes
    each way besides."""
    rng = np.random.default_rng(0)
    order = rng.permutation(n)
    before = (order < round(old * n)).astype(float)
    after = before.copy()
    right, wrong = np.flatnonzero(before == 1), np.flatnonzero(before == 0)
    changed = min(round(swing * n), len(right) // 2, len(wrong) // 2)
    after[right[:changed]], after[wrong[:changed]] = 0, 1
    gain = round((new - old) * n)
    rest = wrong[changed:] if gain > 0 else right[changed:]
    after[rest[: abs(gain)]] = float(gain > 0)
    return both(after, before, better)


def outcome(target, **guards):
    return decide_gate("dpo", ("x", *target), {name: (*values, 0.05) for name, values in guards.items()})


def test_the_gate_keeps_what_is_shown_better_and_refuses_what_is_shown_worse():
    assert outcome(pair(0.5, 0.6)).outcome == "accepted"
    assert outcome(pair(0.5, 0.4)).outcome == "refused"
    assert outcome(pair(0.5, 0.6), y=pair(0.9, 0.75)).outcome == "refused"
    assert outcome(pair(0.5, 0.6), y=pair(0.9, 0.9, n=4000)).outcome == "accepted"
    assert outcome(pair(0.5, 0.6, better=False)).outcome == "refused"  # of what should be low
    assert outcome(pair(0.5, 0.4, better=False)).outcome == "accepted"


def test_what_cannot_be_told_keeps_the_model_and_says_so():
    same = outcome(pair(0.5, 0.5))
    assert same.outcome == "undecided" and same.accepted
    assert "that x got better is not shown" in same.text.en and "four times in five" in same.text.en
    few = outcome(pair(0.5, 0.6), y=pair(0.9, 0.88, n=100))
    assert few.outcome == "undecided" and few.accepted
    assert re.search(r"of y \(allowed: 0.05; about \d+ more items would decide\)", few.text.en)
    assert "y" in few.text.zh and re.search("[\u4e00-\u9fff]", few.text.zh)


def test_a_point_value_below_decides_nothing():
    """Two items of 400 fewer were refused before."""
    verdict = outcome(pair(0.5, 0.495))
    assert verdict.accepted and verdict.judged[0].finding == "unclear"


def test_a_verdict_names_what_each_metric_showed():
    verdict = outcome(
        pair(0.5, 0.6), held=pair(0.9, 0.9, n=4000), open=pair(0.9, 0.88, n=100), few=(metric(5, 10),) * 2
    )
    found = {judgement["metric"]: judgement for judgement in verdict.to_dict()["judged"]}
    assert [(name, judgement["finding"]) for name, judgement in found.items()] == [
        ("x", "better"),
        ("held", "held"),
        ("open", "undecided"),
    ]
    assert found["x"]["allowed"] is None and found["x"]["difference"] == pytest.approx(0.1)
    assert found["held"]["low"] > -0.05 > found["open"]["low"] and found["open"]["high"] > -0.05
    assert found["open"]["further"] > 0 and found["held"]["further"] is None
    assert all(judgement["paired"] for judgement in found.values())
    assert verdict.to_dict()["verdict"] == "undecided"
    lost = outcome(pair(0.5, 0.6), y=pair(0.9, 0.75), z=pair(0.9, 0.7))
    assert [judgement.finding for judgement in lost.judged] == ["better", "lost", "lost"]
    assert "y: 0.900 → 0.750 (allowed: 0.05); z: 0.900 → 0.700 (allowed: 0.05)" in lost.text.en


def test_pairs_tell_what_separate_intervals_hide():
    new, old = pair(0.5, 0.55, swing=0.02)
    assert new.low < old.high  # the intervals overlap
    assert outcome((new, old)).outcome == "accepted"
    apart = Metric.proportion(220, 400), Metric.proportion(200, 400)
    assert outcome(apart).outcome == "undecided" and not outcome(apart).judged[0].difference.paired


def test_other_items_are_judged_by_the_two_intervals():
    new, old = pair(0.5, 0.55, swing=0.02)
    ids = tuple(f"other {at}" for at in range(400))
    assert old.items is not None
    verdict = outcome((new, Metric.share(old.items.values, ids=ids)))
    assert verdict.outcome == "undecided" and "not item by item" in verdict.text.en


def refused_and_once(rounds: int, n: int, guards: int, allowed: float, seed: int) -> tuple[float, float]:
    """Share of stages without effect that are refused now, and that the point values refused: two draws of
    answers, where each item is as hard for both."""
    rng = np.random.default_rng(seed)
    refused = once = 0
    for _ in range(rounds):
        chance = rng.beta(2, 1, size=(guards + 1, n))
        drawn = [both(rng.random(n) < row, rng.random(n) < row) for row in chance]
        regressions = {str(at): (*values, allowed) for at, values in enumerate(drawn[1:])}
        refused += not decide_gate("x", ("target", *drawn[0]), regressions).accepted
        worse = drawn[0][0].value < drawn[0][1].value
        once += worse or any(new.value - old.value < -allowed for new, old in drawn[1:])
    return refused / rounds, once / rounds


@pytest.mark.parametrize(("n", "allowed"), [(150, 0.05), (500, 0.02), (30, 0.02)])
def test_a_stage_that_changes_nothing_is_seldom_refused(n, allowed):
    refused, once = refused_and_once(300, n, 6, allowed, n)
    assert refused < 0.05 and once > 0.4


@pytest.mark.nightly
@pytest.mark.parametrize(("n", "allowed"), [(150, 0.05), (500, 0.02), (30, 0.02), (1000, 0.0)])
def test_of_2000_stages_that_change_nothing_less_than_5_percent_are_refused(n, allowed):
    """With no loss tolerated at all, the guards alone may refuse 5 %, beside 2.5 % by the target."""
    refused, once = refused_and_once(2000, n, 6, allowed, n + 1)
    assert refused < (0.05 if allowed else 0.09) and once > 0.4


def test_a_stage_that_does_harm_is_refused():
    """Losses that `detectable_difference` says are found four times in five."""
    rng, refused = np.random.default_rng(7), 0
    for _ in range(200):
        each = rng.choice([1, -1, 0], size=500, p=[0.072, 0.128, 0.8])
        refused += not decide_gate("x", ("target", *both(each > 0, each < 0)), {}).accepted
    assert 0.72 < refused / 200 < 0.88


def test_few_items_decide_nothing():
    few = FEWEST - 1
    verdict = decide_gate("sft", ("x", metric(0, few), metric(few, few)), {})
    assert verdict.accepted and str(few) in verdict.text.zh and str(few) in verdict.text.en
    assert outcome(pair(0.5, 0.6), y=(metric(0, few), metric(few, few))).accepted
    # what was taught before is guarded all the same
    lost = decide_gate("sft", ("x", metric(few, few), metric(0, few)), {"y": (*pair(0.9, 0.7), 0.05)})
    assert lost.outcome == "refused" and "of y:" in lost.text.en
    assert not decide_gate("sft", ("x", metric(0, FEWEST), metric(FEWEST, FEWEST)), {}).accepted


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_documents_name_the_tolerances_of_the_gate(language):
    page = (Path(__file__).parents[2] / "docs" / language / "recipes.md").read_text(encoding="utf-8")
    page = page[page.index({"zh": "## 门", "en": "## The gate"}[language]) :]
    rows = re.findall(r"^\| `([a-z_/]+)` \| ([0-9.]+) \|", page, re.MULTILINE)
    tasks = {
        name: task.tolerance
        for name, task in task_entries().items()
        if name.startswith("tinyworld/") and task.tolerance is not None
    }
    assert {name: float(value) for name, value in rows} == TOLERANCES | tasks
    assert tolerance("tinyworld/story_qa") == 0.02 and tolerance("tinyworld/greetings") == 0.05
    assert tolerance("answer_bits_per_byte/sft") == TOLERANCES["answer_bits_per_byte"]
    assert tolerance("reward_mean/grpo") is None


@pytest.fixture
def run(tmp_path):
    """A run of which pretraining is done and its stand-in model published; a stand-in of SFT's lies there."""
    made = RunContext(load_recipe("demo", TINY), tmp_path, Progress())
    for name in ("pretrain", "sft", "grpo"):
        with artifact(tmp_path / "models" / name, "model", config={"name": name}) as written:
            (written.path / "weights").write_text(name)
    publish(tmp_path / "models" / "pretrain", tmp_path / "model")
    first = Metric(0.4, 0.3, 0.5, 100, higher_is_better=False)
    made.current = Lineage((made.recipe.stage("pretrain"),), tmp_path / "models" / "pretrain", None, first)
    made.lineages["pretrain"] = made.current
    return made


def record(kept: bool) -> StepRecord:
    notes = {"seconds_by_seed": [1.0], "asked": [[QA], False]}
    return StepRecord("key", 1.0, 1.0, metrics={QA: metric(50).to_dict()}, kept=kept, notes=notes)


@pytest.mark.parametrize("kept", [True, False])
def test_a_refused_model_is_not_published(run, kept):
    StageRun(run, run.recipe.stage("sft"))._adopt(record(kept))
    assert (run.out / "model" / "weights").read_text() == ("sft" if kept else "pretrain")
    assert run.current.path.name == ("sft" if kept else "pretrain")
    assert run.lineages["sft"].scores.metrics[QA].value == 0.5  # a later stage may begin from it by name


def test_going_over_a_finished_run_does_not_publish_earlier_models(run):
    publish(run.out / "models" / "sft", run.out / "model")
    run.runner.reused = ["pretrain"]
    StageRun(run, run.recipe.stage("pretrain"))._adopt(record(True))
    assert (run.out / "model" / "weights").read_text() == "sft"


@pytest.mark.parametrize("there", [True, False])
def test_a_stage_of_an_earlier_start_brings_its_items_with_it(run, there):
    """So that the next stage is compared with it item by item; without the files, by its interval."""
    new, old = pair(0.5, 0.55, swing=0.02)
    made = record(True)
    made.metrics = {QA: old.to_dict()}
    made.notes["scores"] = keep_items(run.out, "sft", {QA: old})
    if not there:
        shutil.rmtree(run.out / "scores")
    StageRun(run, run.recipe.stage("sft"))._adopt(made)
    before = run.lineages["sft"].scores.metrics[QA]
    assert before == old
    verdict = decide_gate("dpo", (QA, new, before), {})
    assert verdict.judged[0].difference.paired == there
    assert verdict.outcome == ("accepted" if there else "undecided")


def test_of_several_seeds_the_next_stage_is_compared_with_the_published_one(run):
    made = record(True)
    made.target = QA
    made.metrics = {QA: metric(50).to_dict(), f"{QA}/published": metric(70).to_dict()}
    StageRun(run, run.recipe.stage("sft"))._adopt(made)
    assert run.lineages["sft"].scores.metrics[QA] == metric(70)


def stand_in(run, monkeypatch, scores):
    """Measure by table in place of models: `scores(model, name, seed)`; returns what the gate was asked."""
    asked = {}

    def gate(stage, target, regressions):
        asked.update(target=target, regressions=regressions)
        return decide_gate(stage, target, regressions)

    def measure(path, names, *, chat=True, with_reasoning=False, seed=0):
        asked.setdefault("measured", []).append((path.name, tuple(names), chat, with_reasoning))
        metrics = {name: scores(path.name, name, seed) for name in names}
        return Measured(
            metrics, frozenset(name for name in names if name.startswith("tinyworld")), with_reasoning
        )

    monkeypatch.setattr(stage_run, "decide_gate", gate)
    monkeypatch.setattr(stage_run, "speak_samples", lambda *args, **kwargs: [])
    monkeypatch.setattr(stage_run, "examine_stage", lambda *args: {})
    monkeypatch.setattr(PreferenceStage, "harm", lambda *args: {})
    monkeypatch.setattr(run.suite, "measure", measure)
    return asked


def judged(run, name: str) -> StepRecord:
    made = StepRecord("key", 1.0, 1.0)
    stage = StageRun(run, run.recipe.stage(name))
    stage.stage.data_facts = dict
    stage._judge(made)
    return made


def more_bits() -> tuple[Metric, Metric]:
    """Bits per token that went from 1 to 1.35 on the same items."""
    ids = tuple(map(str, range(100)))
    after, before = 1.3 + np.arange(100) % 2 / 10, np.ones(100)
    return tuple(Metric.mean(values, ids=ids, higher_is_better=False) for values in (after, before))


def test_harm_refuses_what_its_target_would_keep():
    kept = outcome(pair(0.5, 0.6))
    bits = more_bits()
    refused = veto("dpo", kept, {"chosen_bits_per_token": (*bits, 0.1)})
    assert refused.outcome == "refused" and refused.judged[-1].name == "chosen_bits_per_token"
    assert "1.000 → 1.350 (allowed: 0.10)" in refused.text.en and "harm" in refused.text.en
    for harmless in ({}, {"x": (*bits, 0.5)}, {"x": (bits[1], bits[0], 0.1)}):
        assert veto("dpo", kept, harmless) is kept
    worse = outcome(pair(0.5, 0.4))
    assert veto("dpo", worse, {"x": (*bits, 0.1)}) is worse


def test_a_stage_is_asked_for_the_harm_it_does(run, monkeypatch):
    stand_in(run, monkeypatch, lambda model, name, seed: metric(60 if model == "pretrain" else 75))
    assert judged(run, "sft").kept
    bits = more_bits()
    asked = []

    def harm(self, before, after):
        asked.append((before.name, after.name))
        return {"x": (*bits, 0.1)}

    monkeypatch.setattr(Stage, "harm", harm)
    assert not judged(run, "sft").kept and asked == [("pretrain", "sft")]


def test_small_losses_do_not_add_up_from_stage_to_stage(run, monkeypatch):
    """Greetings 97, 91, 85 percent of 150: neither step alone shows more than five points, both do."""
    greetings = "tinyworld/greetings"
    right = {"pretrain": 0, "sft": 146, "reasoning": 137, "dpo": 127}
    ids = [str(at) for at in range(150)]

    def scores(model, name, seed):
        if name == BITS:
            return Metric(0.4, 0.3, 0.5, 100, higher_is_better=False)
        if name == greetings:
            return Metric.share(np.arange(150) < right[model], ids=ids)
        return Metric.share(np.arange(150) < (90 if model == "pretrain" else 120), ids=ids)

    asked = stand_in(run, monkeypatch, scores)
    for name in ("reasoning", "dpo"):
        with artifact(run.out / "models" / name, "model", config={"name": name}) as written:
            (written.path / "weights").write_text(name)
    kept = []
    for name in ("sft", "reasoning", "dpo"):
        made = judged(run, name)
        made.notes["seconds_by_seed"] = [1.0]
        StageRun(run, run.recipe.stage(name))._adopt(made)
        kept.append(made.kept)
    assert kept == [True, True, False]
    assert asked["regressions"][greetings][1].value == right["sft"] / 150
    assert run.lineages["reasoning"].references[greetings].items is not None
    alone = {greetings: (scores("dpo", greetings, 0), scores("reasoning", greetings, 0), 0.05)}
    assert decide_gate("dpo", ("x", *pair(0.5, 0.6)), alone).accepted


def test_the_gate_hears_of_all_that_was_taught(run, monkeypatch):
    def scores(model, name, seed):
        if name == BITS:
            return Metric(0.5 if model == "sft" else 0.9, 0.1, 1.0, 100, higher_is_better=False)
        return metric(70 if model == "sft" else 60)

    asked = stand_in(run, monkeypatch, scores)
    made = judged(run, "sft")
    assert asked["target"] == (QA, metric(70), metric(60))
    taught = {f"tinyworld/{n}" for n in ("greetings", "story_requests", "outside_declined", "later_turns")}
    assert {*taught, BITS} <= set(asked["regressions"])
    after, before, allowed = asked["regressions"][BITS]
    # always beside the pretrained model, not the last one
    assert after.value == 0.5 and before is run.current.first_bits
    assert allowed == pytest.approx(0.3 * 0.4)
    assert made.metrics["tinyworld/greetings"]["value"] == 0.7
    assert made.notes["before"]["tinyworld/greetings"]["value"] == 0.6
    assert made.metrics[QA]["control"]["name"] == "base"
    # a model that has not learnt to answer is asked in the layout that it knows
    assert [(model, chat) for model, _, chat, _ in asked["measured"]] == [("sft", True), ("pretrain", False)]


def test_a_stage_may_be_held_to_some_regressions_only(run, monkeypatch):
    run.recipe = load_recipe("demo", [*TINY, "sft.evaluate.regressions=[tinyworld/greetings]"])
    run.suite.recipe = run.recipe
    asked = stand_in(run, monkeypatch, lambda model, name, seed: metric(60))
    judged(run, "sft")
    assert set(asked["regressions"]) == {"tinyworld/greetings", BITS}


def test_scores_of_the_current_model_are_not_measured_again(run, monkeypatch):
    asked = stand_in(run, monkeypatch, lambda model, name, seed: metric(60))
    names = run.suite.names([run.recipe.stage("pretrain"), run.recipe.stage("sft")])
    known = Measured({"tinyworld/greetings": metric(55)}, frozenset(n for n in names if n != BITS), False)
    run.current = Lineage(run.current.stages, run.current.path, known, run.current.first_bits)
    judged(run, "sft")
    assert asked["regressions"]["tinyworld/greetings"][1].value == 0.55
    assert "tinyworld/greetings" not in asked["measured"][1][1]


def test_a_metric_that_guards_nothing_is_refused_among_the_regressions(tmp_path):
    recipe = load_recipe("demo", [*TINY, "dpo.evaluate.regressions=[tinyworld/math_word_problems_direct]"])
    with pytest.raises(HanlinError, match=r"dpo\.evaluate\.regressions names .*_direct.*guard nothing"):
        RunContext(recipe, tmp_path, Progress()).suite.check()


def test_a_control_of_equal_time_is_expected_to_take_what_its_subject_takes():
    recipe = load_recipe("demo", [*TINY, "equal-time-sft.train.steps=100000"])
    work, grpo = expected_work(recipe), recipe.stage("grpo")
    assert work["equal-time-sft"] == work["grpo"] == grpo.seeds * grpo.stage.work(grpo)
    assert grpo.seeds > 1


def test_scores_over_all_answers_are_compared_after_the_same_exam_only(run, monkeypatch):
    stand_in(run, monkeypatch, lambda model, name, seed: metric(60))
    for asked, there in ((frozenset({QA}), False), (None, True)):
        names = run.suite.names([run.recipe.stage("pretrain"), run.recipe.stage("sft")])
        known = Measured(
            {"ends_by_itself": metric(50)}, asked or frozenset(n for n in names if n != BITS), False
        )
        run.current = Lineage(run.current.stages, run.current.path, known, run.current.first_bits)
        stage = StageRun(run, run.recipe.stage("sft"))
        now = run.suite.measure(stage.model(0), names)
        kept = stage_run.comparable(known, now)
        assert ("ends_by_itself" in kept) == there


def test_the_control_of_equal_time_learns_from_its_first_step():
    from hanlin.training.schedule import learning_rate_factor

    train = load_recipe("demo").stage("equal-time-sft").train
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
    assert factors == [1.0] * 4


def test_a_control_of_equal_time_is_stopped_after_its_stage_s_seconds(run, monkeypatch):
    run.seconds["grpo"] = [7.0, 8.0]
    run.parents["grpo"] = run.current
    limits = []
    stage = StageRun(run, run.recipe.stage("equal-time-sft"))
    stage.stage.prepare = lambda: None
    stage.stage.train = lambda job: limits.append((job.seed, job.max_seconds))
    monkeypatch.setattr(stage, "_keep_curve", lambda *args: 1.0)
    monkeypatch.setattr(stage, "_training_inputs", lambda: "inputs")
    for index in range(2):
        stage._train(index)
    assert limits == [(1, 7.0), (2, 8.0)]


def test_reinforcement_is_judged_by_the_run_that_is_published(run, monkeypatch):
    """Seeds of 5, 90 and 90 percent after 33: the mean is better, the published one is not."""
    run.recipe = load_recipe("demo", [*TINY, "grpo.seeds=3", "equal-time-sft=null"])
    run.suite.recipe = run.recipe
    table = {"grpo": 5, "grpo-1": 90, "grpo-2": 90, "pretrain": 33}
    stand_in(run, monkeypatch, lambda model, name, seed: metric(table[model] if "reward" in name else 70))
    made = judged(run, "grpo")
    assert made.kept is False and made.metrics["reward_mean/grpo/published"]["value"] == 0.05
    assert made.metrics["reward_mean/grpo"]["value"] == pytest.approx(0.6167, abs=1e-3)


def test_the_control_of_reasoning_is_shown_no_thought():
    made = RunContext(load_recipe("demo", TINY), Path("nowhere"), Progress())
    shown, direct = (
        list(stage.config.data.train(stage.inputs.scope))
        for stage in (made.stage_of("reasoning"), made.stage_of("direct"))
    )
    assert any("reasoning_content" in message for item in shown for message in item["messages"])
    assert not any("reasoning_content" in message for item in direct for message in item["messages"])
    bare = [
        [{k: v for k, v in m.items() if k != "reasoning_content"} for m in item["messages"]] for item in shown
    ]
    assert bare == [item["messages"] for item in direct]


def test_text_is_judged_at_the_length_that_pretraining_had():
    made = RunContext(load_recipe("demo", [*TINY, "pretrain.seq_len=128"]), Path("nowhere"), Progress())
    assert made.suite.context == 128


def test_published_manifests_are_those_of_the_model(run):
    published, trained = (read_manifest(run.out / path) for path in ("model", "models/pretrain"))
    assert published.content_hash == trained.content_hash


def test_references_of_every_task_pass_their_own_judge():
    """So that 100 % can be reached."""
    scope = TaskScope(1, EvaluationConfig(count=60))
    for name in ("story_qa", "greetings", "story_requests", "outside_declined", "math_word_problems_free"):
        task = make_task(f"tinyworld/{name}", scope)
        assert all(task.check(item, item["messages"][-1]["content"]) for item in task.records), name
    outside = make_task("tinyworld/outside_declined", scope)
    assert tinyworld.declines(outside.records[0]["messages"][-1]["content"])
