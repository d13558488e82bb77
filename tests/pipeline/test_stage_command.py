"""Single stages: what a result belongs to, what is done again, and what is left behind."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import safetensors.torch
import torch
import yaml

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.progress import Progress
from hanlin.dataset import build_conversation_dataset, build_text_dataset
from hanlin.pipeline.stage_command import run_stage
from hanlin.stages.base import Job, content_hash, write_model
from hanlin.stages.sft import SFTStage
from hanlin.stages.supervised import SupervisedConfig, finetune
from hanlin.training import TrainConfig
from hanlin.training.run_state import RunState
from hanlin.training.stopping import Interrupted
from hanlin.training.trainer import Trainer
from tests.support import tiny_model, tiny_tokenizer

TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"{n}加1等于几？"},
            {"role": "assistant", "content": f"{n + 1}"},
        ],
        "answer": n + 1,
    }
    for n in range(24)
]
PAIRS = [
    {
        "prompt": f"小明{n}在学校吗？",
        "chosen": "小明在学校。" * (1 + n % 3),
        "rejected": "12345" * (1 + n % 2),
    }
    for n in range(12)
]
CONFIGS = {
    "sft": "{seq_len: 64, batch_tokens: 256, micro_tokens: 256, train: TRAIN}",
    "preference": "{seq_len: 64, pairs: 4, train: TRAIN}",
    "reward_model": "{seq_len: 64, pairs: 4, train: TRAIN}",
    "rl": "{seq_len: 64, prompts: 2, group_size: 3, max_new_tokens: 6, kl_coef: 0.1, train: TRAIN}",
}


def entries(section: str) -> str:
    """A section of a recipe as the entries of a file."""
    return "".join(
        f"{key}: {json.dumps(value)}\n"
        for key, value in yaml.safe_load(section.replace("TRAIN", TRAIN)).items()
    )


TRAIN = "{steps: 3, learning_rate: 1e-2, muon: false, checkpoint_seconds: 0}"


@pytest.fixture(scope="module")
def parents(tmp_path_factory, one_thread):
    """Two models of one shape, `a` and `b`, with one tokenizer."""
    folder = tmp_path_factory.mktemp("parents")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    for seed, name in enumerate("ab"):
        model = tiny_model("qwen3", tokenizer, seed=seed, hidden_size=32, num_hidden_layers=1)
        write_model(folder / name, model, tokenizer, parents={}, config=model.config, seed=seed, metrics={})
    return folder


@pytest.fixture(scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bench(tmp_path, parents):
    """A directory with `base`, data and a YAML of each stage; `replace(name)` trains the base again, so to
    say."""
    for name, records in (("talks", TALKS), ("pairs", PAIRS)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        )
    for name, config in CONFIGS.items():
        files = tmp_path / ("pairs.jsonl" if name in ("preference", "reward_model") else "talks.jsonl")
        (tmp_path / f"{name}.yaml").write_text(
            f"from: {tmp_path / 'base'}\ndata: {{files: ['{files}']}}\n" + entries(config)
        )

    def replace(name: str) -> None:
        shutil.rmtree(tmp_path / "base", ignore_errors=True)
        shutil.copytree(parents / name, tmp_path / "base")

    replace("a")
    return tmp_path, replace


def weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt_after(monkeypatch, steps: int) -> None:
    """Stop the training behind a checkpoint, as Ctrl-C does."""
    dispatch_step = Trainer.dispatch_step

    def until(self, step):
        if step == steps:
            self.save(wait=True)
            raise Interrupted(2)
        return dispatch_step(self, step)

    monkeypatch.setattr(Trainer, "dispatch_step", until)


@pytest.mark.parametrize("stage", list(CONFIGS))
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_parent_trained_again_is_what_the_result_comes_from(bench, monkeypatch, stage, interrupted):
    folder, replace = bench
    if interrupted:
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            interrupt_after(patch, 2)
            run_stage(stage, folder / f"{stage}.yaml", folder / "out")
        assert list((folder / ".out.work").glob("*/step-*"))
    else:
        run_stage(stage, folder / f"{stage}.yaml", folder / "out")
    replace("b")
    run_stage(stage, folder / f"{stage}.yaml", folder / "out")
    run_stage(stage, folder / f"{stage}.yaml", folder / "fresh")
    assert same(weights(folder / "out"), weights(folder / "fresh"))
    assert read_manifest(folder / "out").parents["model"] == content_hash(folder / "base")


def test_an_interrupted_stage_goes_on_to_the_same_bits(bench, monkeypatch):
    folder, _ = bench
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(patch, 2)
        run_stage("preference", folder / "preference.yaml", folder / "out")
    taken, dispatch_step = [], Trainer.dispatch_step
    monkeypatch.setattr(
        Trainer, "dispatch_step", lambda self, step: (taken.append(step), dispatch_step(self, step))[1]
    )
    run_stage("preference", folder / "preference.yaml", folder / "out")
    assert taken == [2]
    run_stage("preference", folder / "preference.yaml", folder / "fresh")
    assert same(weights(folder / "out"), weights(folder / "fresh"))


def test_a_finished_stage_leaves_its_curve_and_no_work_directory(bench):
    folder, _ = bench
    run_stage("sft", folder / "sft.yaml", folder / "out")
    assert not (folder / ".out.work").exists()
    assert [
        json.loads(line)["step"] for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()
    ] == [1, 2, 3]


def test_a_finished_stage_with_nothing_changed_is_not_trained_again(bench, monkeypatch):
    folder, replace = bench
    first = run_stage("sft", folder / "sft.yaml", folder / "out")
    created = read_manifest(folder / "out").created
    replace("a")  # the same content, written anew
    os.utime(folder / "talks.jsonl", (1, 1))
    monkeypatch.setattr(SFTStage, "train", lambda *arguments: pytest.fail("trained again"))
    assert run_stage("sft", folder / "sft.yaml", folder / "out") == first
    assert read_manifest(folder / "out").created == created and not (folder / ".out.work").exists()


def test_a_damaged_result_is_made_again(bench):
    folder, _ = bench
    run_stage("sft", folder / "sft.yaml", folder / "out")
    good = weights(folder / "out")
    file = folder / "out" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    run_stage("sft", folder / "sft.yaml", folder / "out")
    assert same(weights(folder / "out"), good)


@pytest.mark.parametrize("interrupted", [False, True])
def test_other_data_under_the_same_name_is_what_is_learnt(bench, monkeypatch, interrupted):
    folder, _ = bench
    file = folder / "talks.jsonl"
    with monkeypatch.context() as patch:
        if interrupted:
            interrupt_after(patch, 2)
            with pytest.raises(Interrupted):
                run_stage("sft", folder / "sft.yaml", folder / "out")
        else:
            run_stage("sft", folder / "sft.yaml", folder / "out")
    stat = file.stat()
    file.write_text(file.read_text().replace("等于", "于等"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    run_stage("sft", folder / "sft.yaml", folder / "out")
    run_stage("sft", folder / "sft.yaml", folder / "fresh")
    assert same(weights(folder / "out"), weights(folder / "fresh"))


def test_corrected_answers_are_other_data(bench):
    folder, _ = bench
    run_stage("rl", folder / "rl.yaml", folder / "out")
    before = read_manifest(folder / "out").parents["prompts"]
    file = folder / "talks.jsonl"
    file.write_text(file.read_text().replace('"answer": 1}', '"answer": 7}'))
    run_stage("rl", folder / "rl.yaml", folder / "out")
    assert read_manifest(folder / "out").parents["prompts"] != before


def test_pretraining_of_another_shape_or_dataset_starts_over(bench, parents):
    folder, _ = bench
    from hanlin.model import ModelConfig
    from hanlin.tokenizer import load_tokenizer

    words = load_tokenizer(parents / "tokenizer")
    build_text_dataset([{"text": f"小明看见了{n}只小鸟。"} for n in range(30)], words, folder / "text")
    (folder / "pretrain.yaml").write_text(
        f"dataset: {folder / 'text'}\ntokenizer: {parents / 'tokenizer'}\n"
        f"model: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}}\n"
        f"seq_len: 64\nbatch_tokens: 128\nmicro_tokens: 128\ntrain: {TRAIN}\n"
    )
    run_stage("pretrain", folder / "pretrain.yaml", folder / "out")
    first = weights(folder / "out")
    shutil.rmtree(folder / "text")
    build_text_dataset([{"text": f"小红看见了{n}只小猫。"} for n in range(30)], words, folder / "text")
    run_stage("pretrain", folder / "pretrain.yaml", folder / "out")
    assert not same(weights(folder / "out"), first)
    run_stage("pretrain", folder / "pretrain.yaml", folder / "fresh")
    assert same(weights(folder / "out"), weights(folder / "fresh"))
    # documents begin with <|endoftext|>, unless the first token is not to be learnt
    run_stage("pretrain", folder / "pretrain.yaml", folder / "old", ["first_token=false"])
    assert ModelConfig.from_hf(folder / "fresh").bos_token_id == words.eos_id
    assert ModelConfig.from_hf(folder / "old").bos_token_id is None
    assert not same(weights(folder / "old"), weights(folder / "fresh"))


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_no_more_records_are_read_than_asked_for(bench, stage):
    folder, _ = bench
    run_stage(stage, folder / f"{stage}.yaml", folder / "out", ["data.limit=5"])
    encoded = read_manifest(folder / "out").metrics.get("problems")
    assert encoded == (5 if stage == "rl" else None)
    (folder / "few.jsonl").write_text(
        "".join(line + "\n" for line in (folder / "talks.jsonl").read_text().splitlines()[:5])
    )
    run_stage(stage, folder / f"{stage}.yaml", folder / "fresh", [f"data.files=['{folder / 'few.jsonl'}']"])
    assert same(weights(folder / "out"), weights(folder / "fresh"))


@pytest.mark.parametrize("stage,file", [("sft", "talks"), ("preference", "pairs")])
def test_what_is_too_long_is_said_on_stderr(bench, capsys, monkeypatch, stage, file):
    folder, _ = bench
    monkeypatch.setenv("HANLIN_LANG", "en")
    long = {
        "messages": [{"role": "user", "content": "很长很长" * 40}, {"role": "assistant", "content": "好"}]
    }
    if stage == "preference":
        long = {"prompt": "很长很长" * 40, "chosen": "好", "rejected": "坏"}
    with open(folder / f"{file}.jsonl", "a") as data:
        data.write(json.dumps(long, ensure_ascii=False) + "\n")
    run_stage(stage, folder / f"{stage}.yaml", folder / "out")
    said = capsys.readouterr().err
    assert "1 were longer than seq_len=64" in said and "很长很长" in said


def test_documents_given_to_sft_are_told_where_they_belong(bench):
    folder, _ = bench
    (folder / "talks.jsonl").write_text('{"text": "小明在学校。"}\n' * 3)
    with pytest.raises(HanlinError) as caught:
        run_stage("sft", folder / "sft.yaml", folder / "out")
    assert "hanlin corpus build" in caught.value.en and "hanlin corpus build" in caught.value.zh
    assert "pass it as --corpus" not in caught.value.en


def test_a_reward_model_of_gpt2_is_refused_before_anything_is_read(bench, parents):
    folder, _ = bench
    from hanlin.tokenizer import load_tokenizer

    words = load_tokenizer(parents / "tokenizer")
    model = tiny_model("gpt2", words, hidden_size=32, num_hidden_layers=1)
    shutil.rmtree(folder / "base")
    write_model(folder / "base", model, words, parents={}, config=model.config, seed=0, metrics={})
    (folder / "pairs.jsonl").write_text("not even looked at")
    with pytest.raises(HanlinError, match="gpt2") as caught:
        run_stage("reward_model", folder / "reward_model.yaml", folder / "out")
    assert "qwen3" in caught.value.zh and "qwen3" in caught.value.en


def test_time_ends_a_training_with_the_model_it_has(bench, monkeypatch):
    """By a clock of the test's own: ten seconds a step, and those before an interruption count."""
    folder, _ = bench
    options = ["train.steps=50", "train.max_seconds=35"]
    clock = [0.1]
    dispatch_step = Trainer.dispatch_step
    stop_at: list[int] = []

    def ticking(self, step):
        if step in stop_at:
            stop_at.clear()
            self.save(wait=True)
            raise Interrupted(2)
        dispatched = dispatch_step(self, step)
        clock[0] += 10.0
        return dispatched

    monkeypatch.setattr(Trainer, "dispatch_step", ticking)
    monkeypatch.setattr(RunState, "elapsed", lambda self: self.earlier_seconds + clock[0])
    run_stage("sft", folder / "sft.yaml", folder / "whole", options)
    clock[0], stop_at = 0.1, [2]
    with pytest.raises(Interrupted):
        run_stage("sft", folder / "sft.yaml", folder / "out", options)
    clock[0] = 0.1
    run_stage("sft", folder / "sft.yaml", folder / "out", options)
    for name in ("whole", "out"):
        assert len((folder / name / "metrics.jsonl").read_text().splitlines()) == 4
    assert same(weights(folder / "out"), weights(folder / "whole"))


def test_checkpoints_of_another_parent_are_refused(tmp_path, parents, monkeypatch):
    """In Python, where the caller names the work directory."""
    from hanlin.tokenizer import load_tokenizer

    data = build_conversation_dataset(
        TALKS, load_tokenizer(parents / "a"), tmp_path / "data", max_length=64
    ).path
    config = SupervisedConfig(TrainConfig(steps=2), seq_len=64, batch_tokens=128, micro_tokens=128)
    job = Job(tmp_path / "out", tmp_path / "work", Progress())
    finetune(parents / "a", data, config, job)
    with pytest.raises(HanlinError, match="model: "):
        finetune(parents / "b", data, config, job)
    assert read_manifest(tmp_path / "out").parents["model"] == content_hash(parents / "a")


def test_a_model_without_a_manifest_is_known_by_its_weights(tmp_path, parents):
    hashes = set()
    for name in "ab":
        shutil.copytree(parents / name, tmp_path / name)
        (tmp_path / name / "manifest.json").unlink()
        hashes.add(content_hash(tmp_path / name))
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert len(hashes) == 2 and content_hash(tmp_path / "copy") in hashes
    changed = json.loads((tmp_path / "a" / "config.json").read_text()) | {"rms_norm_eps": 1e-2}
    (tmp_path / "copy" / "config.json").write_text(json.dumps(changed))
    assert content_hash(tmp_path / "copy") not in hashes
