"""A run on the screen: what a stage came to stays there, parts have names, and what is left of the whole
follows from the work."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hanlin.common import progress
from hanlin.common.messages import Text
from hanlin.common.progress import LiveProgress, PlainProgress
from hanlin.evaluation import Metric
from hanlin.recipe.recipe import load_recipe
from hanlin.report.summary import outcome


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on when it is told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_finished_stage_leaves_a_line_and_parts_are_named(clock, capsys, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "zh")
    shown = PlainProgress(interval=0.0)
    shown.expect({"pretrain": 100.0, "grpo": 50.0})
    shown.stage(1, 2, "pretrain")
    for step in (1, 2):
        clock[0] += 10
        shown.update(step, 4, {})
    shown.done(40.0, Text.rendered(zh="每字节比特数 0.322", en="bits per byte 0.322"))
    shown.stage(2, 2, "grpo")
    shown.part(Text.rendered(zh="种子 2/3", en="seed 2/3"), 2, 3)
    clock[0] += 5
    shown.update(1, 4, {})
    lines = capsys.readouterr().err.splitlines()
    assert "全程约 0:40" in lines[2]  # 20 s for half of 100; 50 and 50 are left
    assert lines[3] == "[1/2 pretrain] 完成，用时 0:40   每字节比特数 0.322   全程约剩 0:20"
    # 45 s for 100 and 1.25 thirds of 50; 1.75 thirds of 50 are left.
    assert lines[-1].startswith("[2/2 grpo · 种子 2/3] 1/4") and lines[-1].endswith("全程约 0:10")


def test_what_was_taken_over_is_not_waited_for(clock, capsys, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    shown = PlainProgress(interval=0.0)
    shown.expect({"pretrain": 100.0, "sft": 10.0, "dpo": 10.0})
    shown.stage(1, 3, "pretrain")  # done already, kept
    shown.stage(2, 3, "sft")
    clock[0] += 5
    shown.update(5, 10, {})
    assert "run about 0:15" in capsys.readouterr().err.splitlines()[-1]


def test_nothing_is_said_of_a_run_whose_work_is_not_known(clock, capsys, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    shown = PlainProgress(interval=0.0)
    shown.stage(1, 1, "sft")
    shown.update(1, 2, {})
    shown.done(3.0)
    assert "run" not in capsys.readouterr().err


def test_the_live_panel_keeps_a_line_of_each_finished_stage(monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    written = io.StringIO()
    shown = LiveProgress(Console(file=written, width=100))
    shown.stage(1, 2, "pretrain")
    shown.part(Text.rendered(zh="种子 1/2", en="seed 1/2"))
    shown.done(75.0, "bits per byte 0.322")
    shown.close()
    assert "✓ 1/2 pretrain   done in 1:15   bits per byte 0.322" in written.getvalue()


def test_every_stage_says_how_much_work_it_is():
    stages = {stage.id: stage for stage in load_recipe("demo").stages}
    work = {name: stage.stage.work(stage) for name, stage in stages.items()}
    assert list(work) == ["pretrain", "sft", "reasoning", "direct", "dpo", "reward", "grpo", "equal-time-sft"]
    assert all(value > 0 for value in work.values())
    half = load_recipe("demo", ["pretrain.train.steps=100"]).pretrain
    assert half.stage.work(half) / 100 == pytest.approx(work["pretrain"] / stages["pretrain"].train.steps)
    left = [stage.id for stage in load_recipe("demo", ["grpo=null", "dpo=null"]).stages]
    assert left == ["pretrain", "sft", "reasoning", "direct", "reward"]  # a control goes with its stage


def test_what_a_stage_came_to_is_its_aim_beside_its_control():
    metric = Metric.proportion(90, 100).with_control("base", Metric.proportion(10, 100))
    text = outcome(
        "tinyworld/story_qa",
        {
            "tinyworld/greetings": Metric.proportion(1, 100).to_dict(),
            "tinyworld/story_qa": metric.to_dict(),
        },
    )
    assert (
        text.zh == "故事问答正确率 90.0%（预训练模型 10.0%，胜过对照）"
        and text.en == "Story questions answered 90.0% (base model 10.0%, beats it)"
    )
    assert not outcome("", {})
