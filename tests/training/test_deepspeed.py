"""DeepSpeed does what one process does: the same losses, skips and rollbacks, and checkpoints for any number
of processes."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.common.locks import fcntl
from hanlin.training import TrainConfig
from hanlin.training.distributed.deepspeed_config import read_ds_config, resolve_ds_config
from hanlin.training.distributed.launch import init_distributed
from hanlin.training.distributed.strategy import SingleProcess
from tests.training.ranks import losses, same_training, started
from tests.training.zygote import ROOT

installed = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(
    not installed, reason="deepspeed is not installed: pip install 'hanlin[deepspeed]'"
)
CPU = {"device": "cpu"}
STAGES = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero2-offload": {"stage": 2, "offload_optimizer": CPU},
    "zero3": {"stage": 3},  # every weight of a small model is kept whole
    "zero3-cut": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero3-offload": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "offload_optimizer": CPU,
        "offload_param": CPU,
    },
}
ADAM = TrainConfig(muon=False, learning_rate=1e-3, max_grad_norm=0.5)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """start(work, processes, stage, zero=name of STAGES or None, …) → exit code and what each rank answered;
    AdamW throughout."""
    folder = tmp_path_factory.mktemp("deepspeed")
    stale = folder / "extensions" / "deepspeed_shm_comm" / "lock"
    stale.parent.mkdir(parents=True)
    stale.touch()  # of a build that was killed: whoever builds here waits for ever
    with started(
        folder,
        preload="deepspeed, torch._dynamo",
        DS_ACCELERATOR="cpu",
        TORCH_EXTENSIONS_DIR=str(folder / "extensions"),
    ) as run:

        def with_zero(work: Path, processes: int, stage: str, zero: str | None = None, **options):
            if zero is not None:
                file = folder / f"{zero}.json"
                file.write_text(
                    json.dumps(
                        {
                            "train_batch_size": "auto",
                            "gradient_clipping": "auto",
                            "zero_optimization": STAGES[zero],
                        }
                    )
                )
                options |= {"parallel": "deepspeed", "ds_config": str(file)}
            return run(work, processes, stage, muon=False, **options)

        with_zero.world = folder
        yield with_zero


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """alone(stage, …) → the directory of that stage, trained by one process without DeepSpeed."""

    @functools.cache
    def reference(stage: str, **options) -> Path:
        work = tmp_path_factory.mktemp(stage)
        assert start(work, 1, stage, seconds=60, **options)[0] == 0
        return work

    return reference


@needs_deepspeed
@pytest.mark.parametrize(
    "zero",
    [
        "zero2",
        "zero3-offload",
        *(
            pytest.param(name, marks=pytest.mark.nightly)
            for name in ("zero1", "zero2-offload", "zero3", "zero3-cut")
        ),
    ],
)
def test_two_processes_train_as_one_does_without(start, alone, tmp_path, zero):
    """Uneven rows on the two ranks; losses within 1e-6, exported weights as everywhere."""
    code, answers = start(tmp_path, 2, "pretrain", zero, seconds=60)
    assert code == 0 and len({answer["digest"] for answer in answers}) == 1
    assert all(
        len(answer["cut"]) == (24 if zero in ("zero3-cut", "zero3-offload") else 0) for answer in answers
    )
    same_training(alone("pretrain"), tmp_path)


@needs_deepspeed
@pytest.mark.nightly
@pytest.mark.parametrize("zero", ["zero1", "zero3"])
@pytest.mark.parametrize("stage", ["sft", "dpo", "reward"])
def test_every_stage_trains_as_without(start, alone, tmp_path, stage, zero):
    assert start(tmp_path, 2, stage, zero)[0] == 0
    same_training(alone(stage), tmp_path)


@needs_deepspeed
def test_answers_are_written_with_the_whole_model(start, alone, tmp_path):
    assert start(tmp_path, 2, "grpo", "zero3-cut", seconds=60)[0] == 0
    same_training(alone("grpo"), tmp_path)


@needs_deepspeed
@pytest.mark.parametrize(
    "zero, nan, spikes", [("zero3-offload", (2,), (4,)), ("zero2-offload", (2, 4), (3,))]
)
def test_bad_steps_touch_nothing_and_are_rolled_back(start, alone, tmp_path, zero, nan, spikes):
    """A NaN on one rank and a finite spike are left out by both; a third bad step sends the run back to an
    anchor and past the data."""
    code, _ = start(tmp_path, 2, "pretrain", zero, nan=nan, spikes=spikes)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert code == 0 and last["skipped"] == len(nan + spikes)
    same_training(alone("pretrain", nan=nan, spikes=spikes), tmp_path)


@needs_deepspeed
def test_a_run_goes_on_in_any_number_of_processes_and_without_deepspeed(start, alone, tmp_path):
    """3 of stage 3 (weights that do not divide by 3), 2 of stage 2, 3 again, then one process that knows no
    DeepSpeed."""
    for processes, zero, stop_after in ((3, "zero3-cut", 2), (2, "zero2", 4), (3, "zero3-cut", 6)):
        assert start(tmp_path, processes, "pretrain", zero, stop_after=stop_after)[0] == 9
    assert start(tmp_path, 1, "pretrain")[0] == 0
    same_training(alone("pretrain"), tmp_path)


@needs_deepspeed
@pytest.mark.nightly
def test_bfloat16_is_the_recipes_autocast(start, tmp_path):
    for name, processes, zero in (("one", 1, None), ("two", 2, "zero2")):
        assert start(tmp_path / name, processes, "pretrain", zero, dtype="bfloat16", seconds=60)[0] == 0
    # a product rounds to 4e-3
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-2)


@needs_deepspeed
def test_one_process_is_enough_and_its_output_stays_readable(start, tmp_path):
    """The command line, for the sake of host memory: on stdout there is the result and nothing of
    DeepSpeed's."""
    world, config, ds_config = start.world, tmp_path / "pretrain.yaml", tmp_path / "ds.json"
    ds_config.write_text(json.dumps({"zero_optimization": STAGES["zero3-offload"]}))
    shape = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64}"
    train = (
        f"{{steps: 3, learning_rate: 1e-3, muon: false, parallel: deepspeed, deepspeed_config: {ds_config}}}"
    )
    config.write_text(
        f"dataset: {world}/text\ntokenizer: {world}/tokenizer\nmodel: {shape}\n"
        f"seq_len: 64\nbatch_tokens: 256\ntrain: {train}\n"
    )
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HANLIN_LANG": "en",
        "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),
    }
    command = [
        sys.executable,
        "-m",
        "hanlin",
        "pretrain",
        "--config",
        str(config),
        "--out",
        str(tmp_path / "model"),
        "device=cpu",
    ]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr[-2000:]
    assert json.loads(found.stdout)["parameters"] > 0
    assert not list((tmp_path / "extensions").rglob("build.ninja"))  # nothing to compile, so no lock to leave
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 4 * json.loads(found.stdout)[
        "parameters"
    ]


@needs_deepspeed
@pytest.mark.skipif(fcntl is None, reason="this system has no kernel locks")
def test_the_lock_of_a_killed_build_is_removed_and_that_of_a_living_one_is_not(tmp_path, monkeypatch):
    from hanlin.training.distributed.deepspeed import builds

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    said: list[str] = []
    with builds(lambda message: said.append(message.en)) as folder:
        lock = folder / "cpu_adam" / "lock"
        lock.parent.mkdir()
        lock.touch()
        assert os.environ["TORCH_EXTENSIONS_DIR"] == str(folder) and folder.parent == tmp_path
        with builds(lambda message: said.append(message.en)):
            assert lock.exists() and not said  # the first is still at work
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(tmp_path)
    with builds(lambda message: said.append(message.en)):
        assert not lock.exists() and len(said) == 1 and str(lock) in said[0]


@pytest.mark.parametrize(
    "given, words",
    [
        ({"train_batch_size": 32}, ["train_batch_size=32", "batch_tokens"]),
        ({"gradient_accumulation_steps": 4}, ["gradient_accumulation_steps=4"]),
        ({"gradient_clipping": 1.0}, ["gradient_clipping=1.0", "train.max_grad_norm=0.5"]),
        ({"bf16": {"enabled": True}}, ["bf16.enabled=True", "float32"]),
        ({"fp16": {"enabled": True}}, ["fp16.enabled=True", "float32"]),
        ({"optimizer": {"type": "Adam"}}, ["optimizer.type=Adam", "AdamW"]),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": 3e-4}}},
            ["lr=0.0003", "train.learning_rate=0.001"],
        ),
        ({"optimizer": {"type": "AdamW", "params": {"betas": [0.9, 0.999]}}}, ["betas=[0.9, 0.999]", "0.95"]),
        ({"scheduler": {"type": "WarmupLR"}}, ["scheduler=WarmupLR", "train.schedule=wsd"]),
        ({"zero_force_ds_cpu_optimizer": True}, ["zero_force_ds_cpu_optimizer=True"]),
        ({"curriculum_learning": {"enabled": True}}, ["curriculum_learning"]),
        ({"zero_optimization": {"stage": 0}}, ["stage", "ddp"]),
        ({"zero_optimization": {"stage": 2, "offload_param": CPU}}, ["offload_param", "stage=3"]),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, ["nvme"]),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, ["zero_quantized_weights"]),
    ],
)
def test_what_contradicts_the_recipe_is_refused_by_both_values(given, words):
    with pytest.raises(HanlinError) as refused:
        resolve_ds_config({"zero_optimization": {"stage": 2}} | given, ADAM, "float32", 1000)
    assert all(word in refused.value.en for word in words), refused.value.en
    assert refused.value.zh != refused.value.en


@pytest.mark.parametrize(
    "config, dtype, word",
    [
        (TrainConfig(), "float32", "muon: false"),
        (TrainConfig(muon=False, offload_optimizer=True), "float32", "offload_optimizer"),
        (ADAM, "float16", "float16"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(config, dtype, word):
    with pytest.raises(HanlinError, match=word):
        resolve_ds_config({"zero_optimization": {"stage": 2}}, config, dtype, 1000)


def test_auto_and_equal_values_are_the_recipes():
    params = {"lr": "auto", "betas": [0.9, 0.95], "eps": "auto", "weight_decay": 0.1}
    given = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": 0.5,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
        "optimizer": {"type": "AdamW", "params": params},
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": "auto",
            "offload_param": {"device": "none"},
            "overlap_comm": False,
        },
    }
    found = resolve_ds_config(given, ADAM, "bfloat16", 1234)
    assert found["zero_optimization"] == {"stage": 3, "overlap_comm": False, "reduce_bucket_size": 1234}
    assert found["gradient_clipping"] == 0.5 and found["torch_autocast"] == {
        "enabled": True,
        "dtype": "bfloat16",
    }
    assert not {"optimizer", "bf16", "fp16", "train_batch_size"} & found.keys()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_example_of_the_docs_is_accepted(language):
    page = (ROOT / "docs" / language / "distributed.md").read_text(encoding="utf-8")
    example = json.loads(page.partition("```json")[2].partition("```")[0])
    assert resolve_ds_config(example, ADAM, "float32", 1000)["zero_optimization"]["offload_param"] == CPU


def test_without_the_package_or_its_file_one_is_told_what_to_write(tmp_path, monkeypatch):
    (tmp_path / "list.json").write_text("[2]")
    for path in (None, tmp_path / "missing.json", tmp_path / "list.json"):
        with pytest.raises(HanlinError, match="deepspeed_config"):
            read_ds_config(path)
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(HanlinError) as refused, init_distributed("deepspeed", "cpu", tmp_path / "ds.json"):
        raise AssertionError("started without the package")
    assert "hanlin[deepspeed]" in refused.value.zh and "hanlin[deepspeed]" in refused.value.en
    assert not torch.distributed.is_initialized()


def test_a_whole_run_does_not_pass_over_the_wish():
    with pytest.raises(HanlinError, match="ddp"):
        TrainConfig(deepspeed_config=Path("ds.json"))
    with pytest.raises(HanlinError, match="hanlin run"):
        SingleProcess().build_optimizers(
            torch.nn.Linear(2, 2), TrainConfig(parallel="deepspeed"), offload=False
        )
