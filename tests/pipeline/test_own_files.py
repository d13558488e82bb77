"""A recipe on a user's own files: every stage, what is held out, what the gate compares, and the same bits
after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.progress import Progress
from hanlin.corpus import tinyworld
from hanlin.pipeline import load_recipe, run_recipe
from hanlin.pipeline.run_context import RunContext
from hanlin.stages.data.base import prompt_key

RECIPE = """
name: own
corpus: {files: [DIR/text.jsonl], preset: none, heldout_fraction: 0.1}
tokenizer: {vocab_size: 600, max_token_chars: 2}
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1,\
 max_position_embeddings: 256}
stages:
  - {kind: pretrain, seq_len: 128, batch_tokens: 1024, micro_tokens: 1024,\
 train: {steps: 6, learning_rate: 5e-3}}
  - {kind: sft, data: {files: [DIR/chats.jsonl]}, seq_len: 256, batch_tokens: 1024, micro_tokens: 1024,\
 train: {steps: 4}}
  - {id: reasoning, kind: sft, data: {files: [DIR/thoughts.jsonl], reasoning: required}, mix: {sft: 0.3},
     seq_len: 256, batch_tokens: 1024, micro_tokens: 1024, train: {steps: 4}}
  - {id: direct, kind: sft, role: control, of: reasoning,\
 data: {files: [DIR/thoughts.jsonl], reasoning: drop},
     seq_len: 256, batch_tokens: 1024, micro_tokens: 1024, train: {steps: 4},
     evaluate: {target: answer_bits_per_byte/reasoning}}
  - {id: dpo, kind: preference, data: {files: [DIR/pairs.jsonl]}, seq_len: 256, pairs: 4,
     train: {steps: 2, learning_rate: 1e-4, muon: false}}
  - {id: judge, kind: reward_model, data: {files: [DIR/pairs.jsonl]}, seq_len: 256, pairs: 4,\
 train: {steps: 2, muon: false}}
  - {id: grpo, kind: rl, data: {files: [DIR/problems.jsonl]}, seq_len: 256, prompts: 2,\
 group_size: 2, max_new_tokens: 4,
     rewards: [{kind: numeric}, {kind: model, from: judge, weight: 0.1}], train: {steps: 1, muon: false}}
  - {id: again, kind: sft, data: {files: [DIR/thoughts.jsonl], limit: 100}, min_tokens: 90, max_tokens: 160,
     seq_len: 256, batch_tokens: 1024, micro_tokens: 1024, train: {steps: 2}}
evaluation: {count: 8, max_new_tokens: 8, prompts: [你好, 今天天气怎么样？]}
export: [{kind: gguf}, {kind: gguf, dtype: f16}]
"""
MODELS = ("pretrain", "sft", "reasoning", "dpo", "judge", "grpo", "again")


def write(folder: Path, name: str, records) -> None:
    (folder / name).write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
    )


def own_files(folder: Path) -> Path:
    """Files as a user has them: text, chats, the same problems with and without reasoning, pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, "text.jsonl", ({"text": d["text"]} for d in tinyworld.documents(1, 400)))
    chats = list(tinyworld.chat_conversations(1, 240, "train"))
    write(folder, "chats.jsonl", ({"messages": c["messages"]} for c in chats))
    problems = list(tinyworld.problems(1, 240, "train"))
    write(folder, "thoughts.jsonl", ({"messages": p["messages"]} for p in problems))
    bare = tinyworld.problems(1, 240, "train", reasoning=False)
    write(folder, "problems.jsonl", ({"messages": p["messages"], "answer": str(p["answer"])} for p in bare))
    write(
        folder,
        "pairs.jsonl",
        ({k: p[k] for k in ("prompt", "chosen", "rejected")} for p in tinyworld.preferences(1, 220, "train")),
    )
    recipe = folder / "own.yaml"
    recipe.write_text(RECIPE.replace("DIR", str(folder)), encoding="utf-8")
    return recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    recipe = own_files(folder / "files")
    out = folder / "run"
    return recipe, out, run_recipe(load_recipe(recipe), out, Progress())


def entry(report: dict, name: str) -> dict:
    return next(stage for stage in report["stages"] if stage["id"] == name)


def context(recipe: Path, out: Path, overrides: Sequence[str] = ()) -> RunContext:
    return RunContext(load_recipe(recipe, overrides), out, Progress())


def records(made: RunContext, name: str, heldout: bool = False) -> list:
    stage = made.stage_of(name)
    source, scope = stage.config.data, stage.inputs.scope
    return list(source.heldout(scope) if heldout else source.train(scope))


def test_metrics_are_named_by_their_data_and_compared_on_the_same_items(finished):
    _, out, report = finished
    sft, reasoning, dpo = (entry(report, name)["metrics"] for name in ("sft", "reasoning", "dpo"))
    assert sft["answer_bits_per_byte/sft"]["control"]["name"] == "base"
    target = reasoning["answer_bits_per_byte/reasoning"]
    assert target["control"]["name"] == "direct"
    direct = entry(report, "direct")["metrics"]["answer_bits_per_byte/reasoning"]
    assert target["control"]["value"] == direct["value"]
    before = json.loads((out / "steps" / "reasoning.json").read_text())["notes"]["before"]
    assert before["answer_bits_per_byte/reasoning"]["n"] == target["n"]
    if entry(report, "sft")["kept"]:  # what was taught before is watched, on its own items
        counts = {m["answer_bits_per_byte/sft"]["n"] for m in (sft, reasoning, before)}
        assert len(counts) == 1
    assert dpo["pairs_preferred/dpo"]["control"]["name"] == "before" and dpo["pairs_preferred/dpo"]["n"] >= 20
    for name in ("sft", "reasoning", "dpo", "grpo", "again"):
        assert entry(report, name)["metrics"]["bits_per_byte"]["control"]["name"] == "5-gram"


def test_the_second_stage_of_a_kind_and_one_after_reinforcement_are_stages_like_any(finished):
    _, out, report = finished
    kinds = [(stage["id"], stage["kind"]) for stage in report["stages"]]
    assert kinds[3:] == [
        ("pretrain", "pretrain"),
        ("sft", "sft"),
        ("reasoning", "sft"),
        ("direct", "sft"),
        ("dpo", "preference"),
        ("judge", "reward_model"),
        ("grpo", "rl"),
        ("again", "sft"),
        ("evaluation", "evaluation"),
        ("gguf", "export"),
        ("gguf-2", "export"),
    ]
    facts = {
        n: json.loads((out / "steps" / f"{n}.json").read_text())["notes"] for n in ("reasoning", "again")
    }
    assert facts["reasoning"]["mixed_in"] > 0 and facts["again"]["too_short"] > 0
    assert (out / "model.gguf").stat().st_size > (out / "model-f16.gguf").stat().st_size


def test_what_is_held_out_anywhere_is_trained_on_nowhere(finished, tmp_path):
    made = context(finished[0], tmp_path)
    names = ("sft", "reasoning", "dpo", "grpo", "again")
    held = {prompt_key(record) for name in names for record in records(made, name, heldout=True)}
    trained = {prompt_key(record) for name in names for record in records(made, name)}
    assert held and trained and not held & trained
    thoughts, problems = (
        {prompt_key(r) for r in records(made, n, heldout=True)} for n in ("reasoning", "grpo")
    )
    assert thoughts == problems  # the same questions, with and without reasoning, fall on the same side


def test_a_question_is_the_same_however_it_is_written():
    asked = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "3"}]}
        for text in ("１加2等于几？", "1加2等于几", "1加2 等于几?")
    ]
    assert len({prompt_key(record) for record in asked}) == 1
    assert prompt_key({"prompt": "1加2等于几？"}) == prompt_key(asked[0])
    assert prompt_key({"prompt": "1加3等于几？"}) != prompt_key(asked[0])


ONLY_SFT = ["reasoning=null", "dpo=null", "judge=null", "grpo=null", "again=null"]


@pytest.mark.parametrize("count", [2, 5, 40, 100])
def test_something_is_held_out_of_a_small_file(tmp_path, count):
    recipe = own_files(tmp_path)
    answer = {"role": "assistant", "content": "好"}
    questions = ({"messages": [{"role": "user", "content": f"第{i}个问题"}, answer]} for i in range(count))
    write(tmp_path, "chats.jsonl", questions)
    stage = context(recipe, tmp_path / "run", ONLY_SFT).stage_of("sft")
    train, held = stage.config.data.counts(stage.inputs.scope)
    assert train + held == count and held >= 1 and train >= count * 0.5
    assert len(list(stage.config.data.heldout(stage.inputs.scope))) == held


def test_a_file_of_one_question_is_refused(tmp_path):
    recipe = own_files(tmp_path)
    question = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]
    write(tmp_path, "chats.jsonl", [{"messages": question}] * 3)
    stage = context(recipe, tmp_path / "run", ONLY_SFT).stage_of("sft")
    with pytest.raises(HanlinError, match="sft"):
        stage.config.data.counts(stage.inputs.scope)


@pytest.mark.parametrize(
    "fail_at",
    [
        pytest.param("train.after_step:3", marks=pytest.mark.nightly),  # in pretraining
        pytest.param("train.after_step:8", marks=pytest.mark.nightly),  # in SFT
        "train.after_step:13",  # in the second SFT
        pytest.param("train.after_step:16", marks=pytest.mark.nightly),  # in its control
        pytest.param("train.after_step:19", marks=pytest.mark.nightly),  # in DPO
        pytest.param("train.after_step:21", marks=pytest.mark.nightly),  # in the reward model
        pytest.param("train.after_step:23", marks=pytest.mark.nightly),  # in GRPO
        "train.after_step:24",  # in the SFT after it
    ],
)
def test_killed_in_a_stage_and_started_again_ends_with_the_same_models(finished, tmp_path, fail_at):
    recipe, whole, _ = finished
    out = tmp_path / "killed"
    code = (
        "from pathlib import Path; from hanlin.pipeline import *; "
        "from hanlin.common.progress import Progress; "
        f"run_recipe(load_recipe({str(recipe)!r}), Path({str(out)!r}), Progress())"
    )
    # the bits are promised for the same number of threads
    alike = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", code]
    first = subprocess.run(
        command, env=alike | {"HANLIN_FAIL_AT": fail_at}, capture_output=True, text=True, timeout=300
    )
    assert first.returncode == 137, first.stderr
    again = subprocess.run(command, env=alike, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    for name in MODELS:
        ours, theirs = (
            read_manifest(folder / "models" / name).files["model.safetensors"] for folder in (out, whole)
        )
        assert ours == theirs, name
    for file in ("model.gguf", "model-f16.gguf"):
        assert (out / file).read_bytes() == (whole / file).read_bytes()
    assert {f"{name}.jsonl" for name in (*MODELS, "direct")} == {f.name for f in (out / "curves").iterdir()}


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("sft.data.files=[nowhere.jsonl]", "nowhere.jsonl"),
        ("sft.data.files=[DIR/pairs.jsonl]", "pairs.jsonl"),
        ("grpo.data.files=[DIR/text.jsonl]", "text.jsonl"),
        ("device=gpu0", "gpu0"),
        ("track=[wandbb]", "wandbb"),
        ("sft.evaluate={target: answer_bits_per_byte/stf}", "answer_bits_per_byte/stf"),
        ("evaluation.tasks=[tinyworld/storyqa]", "tinyworld/storyqa"),
    ],
)
def test_what_a_later_stage_lacks_is_said_before_the_first_one(finished, tmp_path, override, named):
    recipe, _, _ = finished
    with pytest.raises(HanlinError, match=named):
        run_recipe(
            load_recipe(recipe, [override.replace("DIR", str(recipe.parent))]), tmp_path / "run", Progress()
        )
    assert not (tmp_path / "run" / "steps").exists()
