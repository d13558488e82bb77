"""Every stage that trains takes an adapter: what is published, what checkpoints hold, what goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import content_hash, read_manifest
from hanlin.common.progress import Progress
from hanlin.model import load_adapted, load_model, load_reward_model
from hanlin.model.lora import LoRA
from hanlin.model.peft_files import read_adapter
from hanlin.pipeline.stage_command import run_stage
from hanlin.stages.base import Job
from hanlin.training.stopping import Interrupted
from hanlin.training.trainer import Trainer
from tests.adapters.bench import IDS, STAGES, make_base, write_stage


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make_base(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path / "model.safetensors")


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)


@pytest.mark.parametrize("kind", list(STAGES))
@pytest.mark.parametrize("base", ["", "nf4"])
def test_a_stage_publishes_the_merged_model_and_the_adapter(folder, kind, base):
    adapter = {"kind": "lora", "r": 4, "base": base}
    run_stage(kind, write_stage(folder, kind, adapter), folder / "out")
    directory = read_adapter(folder / "out.adapter")
    manifest = read_manifest(folder / "out.adapter", "adapter")
    assert directory.base_hash == content_hash(folder / "base") == manifest.parents["base"]
    model = read_manifest(folder / "out")
    assert manifest.metrics["merged"] == model.files["model.safetensors"]["sha256"]
    assert sorted(path.name for path in folder.glob("*.work")) == []
    before, after = tensors(folder / "base"), tensors(folder / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if ".layers." in name and name.endswith("proj.weight")}
    if kind == "reward_model":
        assert load_reward_model(folder / "out").score.weight.shape == (1, 32)
        with pytest.raises(HanlinError, match="can only be used merged"):
            load_adapted(folder / "out.adapter")
        return
    merged, unmerged = load_model(folder / "out"), load_adapted(folder / "out.adapter")
    assert torch.allclose(logits(merged), logits(unmerged), atol=1e-5)
    # to open the directory is to merge
    assert torch.equal(logits(load_model(folder / "out.adapter")), logits(merged))


@pytest.mark.parametrize("kind", ["sft", "rl"])
@pytest.mark.parametrize("muon", [False, True])
def test_a_killed_run_goes_on_to_the_same_bits(folder, kind, muon, monkeypatch):
    """And its checkpoints and its optimiser hold nothing of what is frozen."""
    adapter = {"kind": "lora", "r": 4, "base": "int8"}
    train = {"steps": 3, "learning_rate": 1e-2, "muon": muon, "checkpoint_seconds": 0}
    path = write_stage(folder, kind, adapter, train=train)
    run_stage(kind, path, folder / "whole")
    dispatch_step = Trainer.dispatch_step

    def until(self, step):
        if step == 2:
            self.save(wait=True)
            raise Interrupted(2)
        return dispatch_step(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "dispatch_step", until)
        with pytest.raises(Interrupted):
            run_stage(kind, path, folder / "killed")
    newest = max(folder.glob(".killed.work/*/step-*"))
    held = safetensors.torch.load_file(newest / "model.safetensors").keys()
    assert len(held) == 2 * 2 * 7 and all(".lora_" in name for name in held)
    state = safetensors.torch.load_file(newest / "optimizer.safetensors").keys()
    assert state and all(".lora_" in name for name in state)
    run_stage(kind, path, folder / "killed")
    assert torch.equal(logits(load_model(folder / "killed")), logits(load_model(folder / "whole")))
    assert content_hash(folder / "killed.adapter") == content_hash(folder / "whole.adapter")


def test_another_rank_never_resumes_these_checkpoints(folder, monkeypatch):
    path = write_stage(folder, "sft", {"kind": "lora", "r": 4})
    run_stage("sft", path, folder / "one")
    run_stage("sft", path, folder / "other", ["adapter.r=2"])
    assert read_adapter(folder / "other.adapter").config["r"] == 2
    assert content_hash(folder / "other.adapter") != content_hash(folder / "one.adapter")


@pytest.mark.parametrize("continues", [False, True])
def test_the_reference_of_a_preference_stage_is_the_parent_artefact(folder, continues):
    """Base and the parent's matrices, not the base alone; a new adapter begins on both, `continue` goes on
    with the parent's."""
    run_stage("sft", write_stage(folder, "sft", {"kind": "lora", "r": 4}), folder / "sft")
    parent = folder / "sft.adapter"
    adapter = LoRA(r=2 if not continues else 4, continues=continues)
    job = Job(folder / "out", folder / "work", Progress(), adapter=adapter)
    model, _ = job.load(parent, 64)
    assert torch.allclose(logits(model), logits(load_model(folder / "sft")), atol=1e-5)
    assert not torch.allclose(logits(model), logits(load_model(folder / "base")), atol=1e-2)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    zero = all(not bool(p.any()) for name, p in trained.items() if name.endswith("lora_B"))
    assert zero == (not continues)
    section = {"kind": "lora", "r": 4, "continue": continues}
    path = write_stage(folder, "preference", section, **{"from": str(parent)})
    run_stage("preference", path, folder / "dpo")
    expected = folder / "base" if continues else parent
    assert read_adapter(folder / "dpo.adapter").base_hash == content_hash(expected)
    assert torch.allclose(
        logits(load_adapted(folder / "dpo.adapter")), logits(load_model(folder / "dpo")), atol=1e-5
    )


def test_continue_refuses_what_it_cannot_keep(folder):
    with pytest.raises(HanlinError, match="is a whole model"):
        LoRA(continues=True).open(folder / "base")
    run_stage("sft", write_stage(folder, "sft", {"kind": "lora", "r": 4, "rslora": True}), folder / "sft")
    with pytest.raises(HanlinError, match=r"adapter\.r is 8, and the adapter .* has 4"):
        LoRA(r=8, continues=True).open(folder / "sft.adapter")
    with pytest.raises(HanlinError, match=r"adapter\.base is nf4"):
        LoRA(base="nf4", continues=True).open(folder / "sft.adapter")


def test_an_adapter_of_another_base_is_refused_and_one_cut_short(folder):
    run_stage("sft", write_stage(folder, "sft", {"kind": "lora", "r": 4}), folder / "sft")
    other = folder / "another"
    other.mkdir()
    make_base(other, "llama")
    with pytest.raises(HanlinError, match="trained on another model"):
        load_adapted(folder / "sft.adapter", other / "base")
    file = folder / "sft.adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(HanlinError, match="Damaged artefact"):
        load_adapted(folder / "sft.adapter")
    (folder / "sft.adapter" / "manifest.json").unlink()
    with pytest.raises(HanlinError, match="damaged or cut short"):
        load_adapted(folder / "sft.adapter")


def test_a_model_from_nothing_takes_no_adapter(folder):
    path = folder / "pretrain.yaml"
    path.write_text(
        f"dataset: {folder}/d\ntokenizer: {folder}/tokenizer\nadapter: {{kind: lora}}\n", encoding="utf-8"
    )
    with pytest.raises(HanlinError, match="makes a model from nothing"):
        run_stage("pretrain", path, folder / "out")


def test_norms_and_biases_alone(folder):
    """The control: no matrix moves, and there is no adapter directory."""
    run_stage("sft", write_stage(folder, "sft", {"kind": "bias_norm"}), folder / "out")
    before, after = tensors(folder / "base"), tensors(folder / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, tensor in before.items() if tensor.ndim == 1}
    assert not (folder / "out.adapter").exists()
