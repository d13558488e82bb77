"""The extension test: a family, a stage, a task, a reward, an export and an adapter from outside the package,
each in one file, through `hanlin run`. Nothing in the package knows of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hanlin

HERE = Path(__file__).parent
LANGUAGE = {"HANLIN_LANG": "en"}


def run(recipe: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hanlin", "run", str(recipe), "--out", str(out), *more]
    return subprocess.run(command, env=os.environ | LANGUAGE, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extension")
    for file in (*HERE.glob("my_*.py"), HERE / "recipe.yaml"):
        shutil.copy(file, folder)
    out = folder / "run"
    done = run(folder / "recipe.yaml", out)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, out, json.loads((out / "report.json").read_text(encoding="utf-8"))


def entry(report: dict, name: str) -> dict:
    return next(stage for stage in report["stages"] if stage["id"] == name)


def test_nothing_in_the_package_knows_of_the_extensions():
    words = ("mirror", "low_rank", "brevity", "mine/echo", "WideForCausalLM", "ShapesExport")
    for path in Path(hanlin.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [word for word in words if f'"{word}"' in text], path


def test_a_family_from_outside_makes_the_model(finished):
    _, out, _ = finished
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["architectures"] == ["WideForCausalLM"] and config["intermediate_size"] == 160


def test_a_stage_from_outside_trains_is_judged_and_is_in_the_report(finished):
    _, out, report = finished
    mirror = entry(report, "mirror")
    assert mirror["kind"] == "mirror" and mirror["title"] == {"en": "Mirror", "zh": "镜像"}
    assert mirror["target"] == "tinyworld/story_qa" and "tinyworld/greetings" in mirror["metrics"]
    assert (out / "curves" / "mirror.jsonl").is_file()
    assert "镜像" in (out / "report.html").read_text(encoding="utf-8")
    before, after = (load_file(out / "models" / name / "model.safetensors") for name in ("sft", "mirror"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_task_from_outside_judges_a_stage_and_the_result(finished):
    _, _, report = finished
    assert entry(report, "sft")["target"] == "mine/echo"
    for name in ("sft", "evaluation"):
        assert entry(report, name)["metrics"]["mine/echo"]["n"] == 20


def test_a_reward_from_outside_is_part_of_what_is_learnt_and_measured(finished):
    folder, _, report = finished
    assert entry(report, "rl")["metrics"]["reward_mean/rl"]["n"] == 20
    alone = run(folder / "recipe.yaml", folder / "one", "rl.rewards=[{kind: brevty}]")
    assert alone.returncode == 1 and "Did you mean brevity?" in alone.stderr


def test_an_adapter_from_outside_trains_its_own_weights_only(finished):
    """The published model is a plain one of the same shape: the low-rank additions are in its linear maps,
    all else is unchanged."""
    _, out, _ = finished
    before, after = (load_file(out / "models" / name / "model.safetensors") for name in ("sft", "adapted"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("_proj." in name for name in changed)
    for name in changed:
        difference = (after[name] - before[name]).double()
        values = torch.linalg.svdvals(difference)
        assert values[2:].max() < 1e-5 * max(1.0, float(values[0])), name  # of rank two


def test_an_export_from_outside_is_written_and_written_again_when_it_is_lost(finished):
    folder, out, report = finished
    text = (out / "shapes.txt").read_text()
    assert "model.embed_tokens.weight [" in text and entry(report, "shapes")["kind"] == "export"
    (out / "shapes.txt").unlink()
    again = run(folder / "recipe.yaml", out)
    assert again.returncode == 0 and (out / "shapes.txt").read_text() == text


def test_an_extension_that_fails_is_said_to_have(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    recipe = (HERE / "recipe.yaml").read_text(encoding="utf-8").replace("my_family.py", "broken.py")
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    failed = run(tmp_path / "recipe.yaml", tmp_path / "run")
    assert failed.returncode == 1 and "broken.py" in failed.stderr and "ZeroDivisionError" in failed.stderr
    assert "Traceback" not in failed.stderr
