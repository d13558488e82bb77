"""Doctors after the stages of a run: a planted fault is red in the record, in report.json and on the page;
nothing is measured twice; without names nobody is asked."""

from __future__ import annotations

import json

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.corpus import tinyworld
from hanlin.pipeline import load_recipe, run_recipe, stage_run
from hanlin.pipeline.stage_doctors import _finding
from hanlin.report.report import validate_report
from tests.pipeline.test_own_files import write

RECIPE = """
name: ends
corpus: {files: [DIR/text.jsonl], preset: none, heldout_fraction: 0.1}
tokenizer: {vocab_size: 600, max_token_chars: 2}
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1,\
 max_position_embeddings: 128}
stages:
  - {kind: pretrain, seq_len: 128, batch_tokens: 512, micro_tokens: 512, train: {steps: 4}}
  - {kind: sft, data: {files: [DIR/chats.jsonl]}, seq_len: 128, batch_tokens: 512, micro_tokens: 512,\
 train: {steps: 2}}
evaluation: {count: 8, max_new_tokens: 8, doctors: [loops, eos]}
export: []
"""


class Heard(Progress):
    """Keeps what is warned of."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, message, /, **fields):
        self.warnings.append(str(message).format(**fields))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose replies never end: two steps of fine-tuning teach nobody to stop."""
    folder = tmp_path_factory.mktemp("ends")
    write(folder, "text.jsonl", ({"text": d["text"]} for d in tinyworld.documents(1, 300)))
    chats = tinyworld.chat_conversations(1, 220, "train")
    write(folder, "chats.jsonl", ({"messages": c["messages"]} for c in chats))
    recipe = folder / "ends.yaml"
    recipe.write_text(RECIPE.replace("DIR", str(folder)), encoding="utf-8")
    heard = Heard()
    return recipe, folder / "run", run_recipe(load_recipe(recipe), folder / "run", heard), heard


def entry(report, name):
    return next(stage for stage in report["stages"] if stage["id"] == name)


def test_a_fault_is_red_in_the_report_and_on_the_page_and_refuses_nothing(finished):
    _, out, report, heard = finished
    found = entry(report, "sft")["doctors"]
    assert list(found) == ["eos", "loops"] and found["eos"]["level"] == "red"
    assert found["eos"]["metrics"]["stopped"]["high"] < 0.8 and found["eos"]["labels"]["stopped"]["zh"]
    assert entry(report, "sft")["kept"]
    assert json.loads((out / "report.json").read_text())["stages"] == report["stages"]
    page = (out / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="sft"') :]
    assert found["eos"]["meaning"]["zh"] in section and found["eos"]["advice"]["en"] in section
    assert any("doctors" in warning and "(eos) red" in warning for warning in heard.warnings)


def test_a_pretrained_model_is_examined_as_one_that_continues_texts(finished):
    found = entry(finished[2], "pretrain")["doctors"]
    assert "text_end_contrast" in found["eos"]["metrics"] and "stopped" not in found["eos"]["metrics"]


def test_a_finished_run_is_not_measured_again_and_another_list_trains_nothing(finished, monkeypatch):
    recipe, out, report, _ = finished

    def refuse(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(stage_run, "examine_stage", refuse)
    assert run_recipe(load_recipe(recipe), out, Progress()) == report
    monkeypatch.undo()
    weights = (out / "models" / "sft" / "model.safetensors").stat().st_mtime_ns
    without = run_recipe(load_recipe(recipe, ["evaluation.doctors=[]"]), out, Progress())
    assert not any("doctors" in stage for stage in without["stages"])
    assert (out / "models" / "sft" / "model.safetensors").stat().st_mtime_ns == weights
    assert entry(without, "evaluation") == entry(report, "evaluation")


def test_an_unknown_doctor_is_refused_before_anything_runs(finished, tmp_path):
    with pytest.raises(HanlinError, match=r"evaluation\.doctors.*eoss.*eos"):
        run_recipe(load_recipe(finished[0], ["evaluation.doctors=[eoss]"]), tmp_path / "run", Progress())
    assert not (tmp_path / "run" / "corpus").exists()


def test_a_doctor_that_fails_ends_no_run():
    class Failing:
        needs = ()

        def examine(self, context):
            raise ZeroDivisionError("nothing to divide by")

    finding = _finding(Failing(), None)  # type: ignore[arg-type]
    assert finding.level == "unknown" and "ZeroDivisionError" in finding.meaning.en


def test_findings_without_their_parts_break_the_schema(finished):
    report = json.loads(json.dumps(finished[2]))
    validate_report(report)
    del entry(report, "sft")["doctors"]["eos"]["labels"]
    with pytest.raises(HanlinError, match=r"doctors\.eos\): labels is missing"):
        validate_report(report)
