"""A run's figures on a terminal: finished, under way, and of a recipe that was changed since."""

from __future__ import annotations

import json

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import hash_json
from hanlin.evaluation import Metric
from hanlin.report.report import write_report
from hanlin.report.summary import figures_table, run_state, state_text
from tests.report.fake_run import fake_run

KINDS = {
    "pretrain": "pretrain",
    "sft": "sft",
    "distill": "sft",
    "dpo": "preference",
    "reward": "reward_model",
    "grpo": "rl",
}
RECIPE = {
    "name": "demo",
    "corpus": {},
    "stages": [{"id": n, "kind": k} for n, k in KINDS.items()],
    "export": [{"kind": "gguf"}],
}


@pytest.fixture
def run(tmp_path):
    """A run with the records of all its stages and its report."""
    report, _ = fake_run(tmp_path)
    report["recipe_hash"] = hash_json(RECIPE)
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tmp_path / "steps").mkdir()
    for stage in report["stages"]:
        record = {key: value for key, value in stage.items() if key != "id"} | {"key": "k", "notes": {}}
        (tmp_path / "steps" / f"{stage['id']}.json").write_text(json.dumps(record))
    write_report(tmp_path, report)
    return tmp_path


def test_a_finished_run_names_its_figures_and_says_what_did_not_beat_its_control(run, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "zh")
    state = run_state(run)
    assert not state.changed and not state.unfinished
    text = state_text(state, run)
    assert "注意" not in text and "聊天：hanlin chat" in text
    line = next(line for line in text.splitlines() if "强化学习" in line and "任务得分" in line)
    assert "用同样时间继续 SFT" in line and ("分不出高下" in line or "不如对照" in line)
    assert any(
        "预训练" in line and "五元语法模型" in line and "胜过对照" in line for line in text.splitlines()
    )
    assert "bits_per_byte" not in text and "sampled" not in text


def test_a_stage_with_faults_has_a_line(run, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    file = run / "report.json"
    report = json.loads(file.read_text())
    stage = next(stage for stage in report["stages"] if stage["id"] == "sft")
    stage["doctors"] = {
        "loops": finding("yellow", "Goes in circles"),
        "positions": finding("ok", "Positions"),
        "eos": finding("red", "Ends of replies"),
    }
    file.write_text(json.dumps(report))
    record = run / "steps" / "sft.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"notes": {"doctors": stage["doctors"]}}))
    for unfinished in (False, True):
        if unfinished:
            file.unlink()
        state = run_state(run)
        lines = [line for line in state_text(state, run).splitlines() if "doctors" in line]
        assert len(lines) == 1 and "red: eos; yellow: loops" in lines[0] and "positions" not in lines[0]


def finding(level: str, title: str) -> dict:
    metric = Metric.proportion(3, 40).to_dict()
    both = {key: {"en": f"{title} {key}", "zh": key} for key in ("meaning", "advice")}
    label = {"en": "share of replies", "zh": "比例"}
    title_of = {"en": title, "zh": title}
    return {
        "level": level,
        "title": title_of,
        "metrics": {"share": metric},
        "labels": {"share": label},
    } | both


def test_figures_of_few_items_are_flagged(monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    few = Metric.mean([0.598] * 6, higher_is_better=False).with_control(
        "5-gram", Metric.mean([0.192] * 6, higher_is_better=False)
    )
    lines = figures_table(
        [
            {
                "id": "evaluation",
                "kind": "evaluation",
                "metrics": {
                    "bits_per_byte": few.to_dict(),
                    "tinyworld/greetings": Metric.proportion(3, 6).to_dict(),
                },
            }
        ]
    )
    assert "too few items to tell" in lines[0] and "fewer than 20" in lines[1]


def test_a_run_under_way_says_where_it_is_and_shows_what_is_done(run, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "zh")
    for name in (
        "report.json",
        "steps/dpo.json",
        "steps/reward.json",
        "steps/grpo.json",
        "steps/evaluation.json",
        "steps/gguf.json",
    ):
        (run / name).unlink()
    state = run_state(run)
    assert state.unfinished == ["dpo", "reward", "grpo", "evaluation", "gguf"]
    text = state_text(state, run)
    assert (
        "6/11" in text and "现在是“偏好优化”" in text and "hanlin resume" in text and "应用题解对率" in text
    )


def test_an_unreadable_record_is_not_counted_as_done(run):
    (run / "report.json").unlink()
    (run / "steps" / "gguf.json").write_text('{"key": 3')
    (run / "steps" / "sft.json").write_text(
        (run / "steps" / "sft.json").read_text().replace('"high"', '"hugh"')
    )
    assert run_state(run).unfinished == ["sft", "gguf"]


@pytest.mark.parametrize("how", ["recipe", "stage", "missing"])
def test_figures_of_an_earlier_recipe_are_said_to_be(run, monkeypatch, how):
    monkeypatch.setenv("HANLIN_LANG", "en")
    if how == "recipe":
        (run / "recipe.json").write_text(json.dumps(RECIPE | {"seed": 2}))
    elif how == "stage":
        record = json.loads((run / "steps" / "sft.json").read_text()) | {"seconds": 1.5}
        (run / "steps" / "sft.json").write_text(json.dumps(record))
    else:
        (run / "steps" / "sft.json").unlink()
    state = run_state(run)
    assert state.changed and "The figures are the earlier ones" in state_text(state, run)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(HanlinError, match="hanlin run"):
        run_state(tmp_path)
