"""A recipe on a user's own files: every stage, what is held out, what the gate compares, and the same bits after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.progress import Progress
from hanlin.corpus import tinyworld
from hanlin.pipeline import load_recipe, run_recipe
from hanlin.pipeline.sources import FileSource, prompt_key

RECIPE = """
name: own
corpus: {files: [DIR/text.jsonl], preset: none, heldout_fraction: 0.1}
tokenizer: {vocab_size: 600, max_token_chars: 2}
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 256}
pretrain: {seq_len: 128, batch_tokens: 1024, micro_tokens: 1024, train: {steps: 6, learning_rate: 5e-3}}
sft: {files: [DIR/chats.jsonl], seq_len: 256, batch_tokens: 1024, micro_tokens: 1024, train: {steps: 4}}
distill: {files: [DIR/thoughts.jsonl], seq_len: 256, batch_tokens: 1024, micro_tokens: 1024, train: {steps: 4}}
dpo: {files: [DIR/pairs.jsonl], seq_len: 256, pairs: 4, train: {steps: 2, learning_rate: 1e-4, muon: false}}
reward: {files: [DIR/pairs.jsonl], seq_len: 256, pairs: 4, train: {steps: 2, muon: false}}
grpo: {files: [DIR/problems.jsonl], seq_len: 256, prompts: 2, group_size: 2, max_new_tokens: 4, seeds: 1, train: {steps: 1, muon: false}}
evaluation: {count: 8, max_new_tokens: 8, prompts: [你好, 今天天气怎么样？]}
"""


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


def stage(report: dict, name: str) -> dict:
    return next(entry for entry in report["stages"] if entry["name"] == name)


def test_metrics_are_named_by_their_data_and_compared_on_the_same_items(finished):
    _, out, report = finished
    sft, distill, dpo = (stage(report, name)["metrics"] for name in ("sft", "distill", "dpo"))
    assert "answer_bits_per_byte/sft" in sft and sft["answer_bits_per_byte/sft"]["control"]["name"] == "base"
    aim = distill["answer_bits_per_byte/distill"]
    assert aim["control"]["name"] == "direct"
    before = json.loads((out / "steps" / "distill.json").read_text())["notes"]["before"]
    assert before["answer_bits_per_byte/distill"]["n"] == aim["n"]
    if stage(report, "sft")["kept"]:  # what was taught before is watched, on its own items
        assert (
            distill["answer_bits_per_byte/sft"]["n"]
            == before["answer_bits_per_byte/sft"]["n"]
            == sft["answer_bits_per_byte/sft"]["n"]
        )
    assert dpo["pairs_preferred"]["control"]["name"] == "before" and dpo["pairs_preferred"]["n"] >= 20
    for name in ("sft", "distill", "dpo", "grpo"):
        assert stage(report, name)["metrics"]["bits_per_byte"]["control"]["name"] == "5-gram"


def test_what_is_held_out_anywhere_is_trained_on_nowhere(finished):
    recipe, _, _ = finished
    source = FileSource(load_recipe(recipe))
    held = {prompt_key(r) for name in ("sft", "distill") for r in source.conversations(name, heldout=True)}
    held |= {prompt_key(r) for r in source.preferences("dpo", heldout=True)} | {
        prompt_key(r) for r in source.problems(heldout=True)
    }
    trained = {prompt_key(r) for name in ("sft", "distill") for r in source.conversations(name)}
    trained |= {prompt_key(r) for r in source.preferences("dpo")} | {prompt_key(r) for r in source.problems()}
    assert held and trained and not held & trained
    thoughts = {prompt_key(r) for r in source.conversations("distill", heldout=True)}
    problems = {prompt_key(r) for r in source.problems(heldout=True)}
    assert thoughts == problems  # the same questions, with and without reasoning, fall on the same side


def test_a_question_is_the_same_however_it_is_written():
    asked = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "3"}]}
        for text in ("１加2等于几？", "1加2等于几", "1加2 等于几?")
    ]
    assert len({prompt_key(record) for record in asked}) == 1
    assert prompt_key({"prompt": "1加2等于几？"}) == prompt_key(asked[0])
    assert prompt_key({"prompt": "1加3等于几？"}) != prompt_key(asked[0])


@pytest.mark.parametrize("count", [2, 5, 40, 100])
def test_something_is_held_out_of_a_small_file(tmp_path, count):
    recipe = own_files(tmp_path)
    write(
        tmp_path,
        "chats.jsonl",
        (
            {
                "messages": [
                    {"role": "user", "content": f"第{i}个问题"},
                    {"role": "assistant", "content": "好"},
                ]
            }
            for i in range(count)
        ),
    )
    source = FileSource(load_recipe(recipe, ["distill=null", "dpo=null", "reward=null", "grpo=null"]))
    train, held = source.counts("sft")
    assert train + held == count and held >= 1 and train >= count * 0.5
    assert len(list(source.conversations("sft", heldout=True))) == held


def test_a_file_of_one_question_is_refused(tmp_path):
    recipe = own_files(tmp_path)
    write(
        tmp_path,
        "chats.jsonl",
        [{"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]}] * 3,
    )
    source = FileSource(load_recipe(recipe, ["distill=null", "dpo=null", "reward=null", "grpo=null"]))
    with pytest.raises(HanlinError, match="sft.files"):
        source.counts("sft")


@pytest.mark.parametrize(
    "fail_at",
    [
        pytest.param("train.after_step:8", marks=pytest.mark.nightly),  # in SFT
        "train.after_step:13",  # in distillation
        pytest.param("train.after_step:16", marks=pytest.mark.nightly),  # in DPO
    ],
)
def test_killed_in_a_stage_and_started_again_ends_with_the_same_models(finished, tmp_path, fail_at):
    recipe, whole, _ = finished
    out = tmp_path / "killed"
    code = (
        "from pathlib import Path; from hanlin.pipeline import *; from hanlin.common.progress import Progress; "
        f"run_recipe(load_recipe({str(recipe)!r}, ['reward=null']), Path({str(out)!r}), Progress())"
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
    for name in ("sft", "distill", "dpo", "grpo"):
        mine, theirs = (
            read_manifest(folder / "models" / name).files["model.safetensors"] for folder in (out, whole)
        )
        assert mine == theirs, name
    assert (out / "curves" / "sft.jsonl").is_file() and (out / "curves" / "distill.jsonl").is_file()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("sft.data.files=[nowhere.jsonl]", "nowhere.jsonl"),
        ("sft.data.files=[DIR/pairs.jsonl]", "pairs.jsonl"),
        ("grpo.data.files=[DIR/text.jsonl]", "text.jsonl"),
        ("device=gpu0", "gpu0"),
        ("track=[wandbb]", "wandbb"),
    ],
)
def test_what_a_later_stage_lacks_is_said_before_the_first_one(finished, tmp_path, override, named):
    recipe, _, _ = finished
    with pytest.raises(HanlinError, match=named):
        run_recipe(
            load_recipe(recipe, [override.replace("DIR", str(recipe.parent))]), tmp_path / "run", Progress()
        )
    assert not (tmp_path / "run" / "steps").exists()


def test_reading_a_small_corpus_many_times_is_said(finished, tmp_path, monkeypatch):
    from hanlin.pipeline.life import Life

    recipe, out, _ = finished
    said: list[str] = []
    life = Life(load_recipe(recipe), out, Progress())
    monkeypatch.setattr(life.progress, "warn", lambda zh, en: said.append(en))
    tokens = read_manifest(out / "dataset").metrics["tokens"]
    life._warn_of_repetition(tokens * 4)
    assert not said
    life._warn_of_repetition(tokens * 48)
    assert "48 times" in said[0]
