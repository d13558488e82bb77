"""A run goes on where it was, keeps what is done, recomputes what a change touches, and never publishes a
worse model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import read_manifest
from hanlin.common.progress import Progress
from hanlin.evaluation import Metric
from hanlin.evaluation.kept_items import with_items
from hanlin.inference import load_chat_model
from hanlin.pipeline import load_recipe, run_recipe
from hanlin.report.report import validate_report

TINY = [
    "corpus.documents=500",
    "model.hidden_size=32",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "model.num_key_value_heads=1",
    "tokenizer.vocab_size=700",
    "pretrain.train.steps=3",
    "sft.data.examples=60",
    "sft.train.steps=2",
    "reasoning.data.examples=40",
    "reasoning.train.steps=2",
    "direct.data.examples=40",
    "direct.train.steps=2",
    "dpo.data.examples=12",
    "dpo.pairs=4",
    "dpo.train.steps=2",
    "reward.data.examples=12",
    "reward.pairs=4",
    "reward.train.steps=2",
    "grpo.seeds=2",
    "grpo.data.examples=8",
    "grpo.prompts=2",
    "grpo.group_size=2",
    "grpo.max_new_tokens=4",
    "grpo.train.steps=1",
    "equal-time-sft.seeds=2",
    "equal-time-sft.data.examples=40",
    "evaluation.count=8",
    "evaluation.max_new_tokens=8",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished tiny run and its report."""
    out = tmp_path_factory.mktemp("run") / "demo"
    return out, run_recipe(load_recipe("demo", TINY), out, Progress())


def seconds(out: Path) -> dict[str, float]:
    return {file.stem: json.loads(file.read_text())["seconds"] for file in (out / "steps").glob("*.json")}


def test_every_stage_reports_by_the_schema(finished):
    out, report = finished
    validate_report(report)
    assert [stage["id"] for stage in report["stages"]] == load_recipe("demo").steps()
    named = {name for stage in report["stages"] for name in stage["metrics"]}
    promised = {
        "cleaning/recall",
        "cleaning/false_positive_rate",
        "bits_per_byte",
        "tinyworld/story_qa",
        "tinyworld/math_word_problems",
        "tinyworld/politeness",
        "pair_accuracy",
        "reward_mean/grpo",
    }
    assert promised <= named
    controls = {
        name: m["control"]["name"]
        for s in report["stages"]
        for name, m in s["metrics"].items()
        if "control" in m
    }
    assert controls["bits_per_byte"] == "5-gram"
    assert controls["tinyworld/math_word_problems"] == "direct"
    assert controls["pair_accuracy"] == "length"
    assert controls["reward_mean/grpo"] == "equal-time-sft"
    names = ("greetings", "story_requests", "outside_declined", "math_word_problems_free", "later_turns")
    taught = {f"tinyworld/{name}" for name in names} | {"ends_by_itself", "inside_answered"}
    last = next(stage for stage in report["stages"] if stage["id"] == "evaluation")["metrics"]
    assert taught <= set(last) and {f"{name}/sampled" for name in taught} <= set(last)
    assert last["bits_per_byte"]["control"]["name"] == "5-gram"
    assert (out / "report.html").is_file() and (out / "model.gguf").is_file()


def test_the_report_names_the_items_of_every_metric(finished):
    out, report = finished
    stages = {stage["id"]: stage for stage in report["stages"]}
    for stage in stages.values():
        metrics = {name: Metric.from_dict(raw) for name, raw in stage["metrics"].items()}
        kept = with_items(metrics, out, stage.get("scores") or {})
        # means over several seeds are made of none; nor are counts of the corpus
        without = {name for name in metrics if kept[name].items is None}
        assert without <= {"cleaning/recall", "cleaning/false_positive_rate", "reward_mean/grpo"}, without
    assert "reward_mean/grpo/published" in stages["grpo"]["scores"]
    names = [path.name for path in (out / "scores" / "sft").iterdir()]
    assert len(names) == len(stages["sft"]["metrics"]) and "tinyworld.story_qa.jsonl" in names
    assert {"sft", "reasoning", "dpo", "grpo"} == {name for name, stage in stages.items() if "gate" in stage}
    assert all(stages[name]["gate"]["verdict"] == "undecided" for name in ("sft", "dpo"))  # 8 items
    assert stages["sft"]["metrics"]["tinyworld/story_qa"]["control"]["difference"][0] <= 0


def test_the_published_model_is_whole(finished):
    out, _ = finished
    read_manifest(out / "model", "model")
    assert isinstance(json.loads((out / "model" / "suggestions.json").read_text()), list)
    model, tokenizer = load_chat_model(out)
    assert model.config.vocab_size == tokenizer.vocab_size


def test_a_finished_run_recomputes_nothing(finished):
    out, report = finished
    before = {
        file: file.stat().st_mtime_ns
        for file in out.rglob("*")
        if file.is_file() and file.name not in (".lock", "recipe.json")
    }
    assert run_recipe(load_recipe("demo", TINY), out, Progress()) == report
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_a_change_recomputes_what_depends_on_it_and_nothing_else(finished, tmp_path):
    out = tmp_path / "changed"
    shutil.copytree(finished[0], out)
    before = {name: (out / "steps" / f"{name}.json").stat().st_mtime_ns for name in seconds(out)}
    run_recipe(load_recipe("demo", [*TINY, "reward.train.steps=3"]), out, Progress())
    after = {name: (out / "steps" / f"{name}.json").stat().st_mtime_ns for name in seconds(out)}
    assert {name for name in after if after[name] != before[name]} == {"reward"}


def test_a_damaged_artefact_is_made_again(finished, tmp_path):
    out = tmp_path / "damaged"
    shutil.copytree(finished[0], out)
    reference = read_manifest(out / "dataset").content_hash
    (out / "dataset" / "tokens.bin").write_bytes(b"\0" * 10)
    run_recipe(load_recipe("demo", TINY), out, Progress())
    assert read_manifest(out / "dataset").content_hash == reference


@pytest.mark.parametrize(
    "fail_at",
    ["directory.before_rename:2", "directory.between_renames:1", "train.after_step:2", "train.after_step:6"],
)
def test_killed_and_started_again_ends_with_the_same_models(finished, tmp_path, fail_at):
    """Every model that does not depend on wall-clock time (controls of equal time do) has the same bytes."""
    out = tmp_path / "killed"
    code = (
        "from pathlib import Path; from hanlin.pipeline import *; "
        "from hanlin.common.progress import Progress; "
        "run_recipe(load_recipe('demo', %r), Path(%r), Progress())"
    )
    command = [sys.executable, "-c", code % ([*TINY, "reward=null", "grpo=null"], str(out))]
    # the bits are promised for the same number of threads
    alike = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    first = subprocess.run(
        command, env=alike | {"HANLIN_FAIL_AT": fail_at}, capture_output=True, text=True, timeout=300
    )
    assert first.returncode == 137, first.stderr
    again = subprocess.run(command, env=alike, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    for name in ("pretrain", "sft", "reasoning", "dpo"):
        assert (
            read_manifest(out / "models" / name).files["model.safetensors"]
            == read_manifest(finished[0] / "models" / name).files["model.safetensors"]
        ), name


def test_two_runs_in_one_directory(tmp_path):
    with directory_lock(tmp_path / "run"):
        code = (
            "from hanlin.common.locks import directory_lock\n"
            f"with directory_lock({str(tmp_path / 'run')!r}): pass"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert other.returncode == 1 and f"pid {os.getpid()}" in other.stderr


def test_a_foreign_directory_is_refused(tmp_path):
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(HanlinError, match=str(tmp_path)):
        run_recipe(load_recipe("demo", TINY), tmp_path, Progress())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize("damage", ["figure", "cut"])
def test_a_report_that_says_otherwise_than_its_steps_is_written_anew(finished, tmp_path, damage):
    out = tmp_path / "altered"
    shutil.copytree(finished[0], out)
    whole = (out / "report.json").read_text(encoding="utf-8")
    said = json.loads(whole)
    said["stages"][0]["metrics"]["cleaning/recall"]["n"] += 900
    (out / "report.json").write_text(
        json.dumps(said) if damage == "figure" else whole[:100], encoding="utf-8"
    )
    assert run_recipe(load_recipe("demo", TINY), out, Progress())["stages"] == finished[1]["stages"]
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["stages"] == finished[1]["stages"]
