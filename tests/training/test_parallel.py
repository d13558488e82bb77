"""Several processes do what one does: the same samples and losses, one set of weights, and checkpoints for
any number of them."""

from __future__ import annotations

import errno
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.training.checkpoint.format import list_checkpoints
from hanlin.training.distributed.shard import DataShard
from tests.training.ranks import STEPS, losses, same_training, started


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """start(work, processes, stage, …) → exit code and what each rank answered."""
    with started(tmp_path_factory.mktemp("parallel")) as run:
        yield run


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """alone(stage) → the directory of that stage, trained by one process."""

    @functools.cache
    def reference(stage: str) -> Path:
        work = tmp_path_factory.mktemp(stage)
        assert start(work, 1, stage)[0] == 0
        return work

    return reference


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "kto", "reward", "grpo"])
def test_two_processes_train_every_stage_as_one_does(start, alone, tmp_path, stage):
    """Losses within 1e-6, and the same weights on both ranks to the last bit."""
    code, answers = start(tmp_path, 2, stage)
    assert code == 0 and len(answers) == 2
    assert len({answer["digest"] for answer in answers}) == 1
    same_training(alone(stage), tmp_path)


@pytest.mark.parametrize("stage", ["pretrain", "kto", "reward", "grpo"])
def test_three_sharded_processes_train_as_one_does(start, alone, tmp_path, stage):
    code, answers = start(tmp_path, 3, stage, parallel="fsdp")
    assert code == 0 and len({answer["digest"] for answer in answers}) == 1
    same_training(alone(stage), tmp_path)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_process_without_anything_to_learn_goes_along_and_a_step_without_it_everywhere_is_skipped(
    start, tmp_path, parallel
):
    """One problem in three can be rewarded, so some steps have nothing for one process, and some for
    nobody."""
    for processes in (1, 2):
        code, answers = start(tmp_path / str(processes), processes, "grpo", parallel=parallel, rewarded=3)
        assert code == 0 and len({answer["digest"] for answer in answers}) == 1
    same_training(tmp_path / "1", tmp_path / "2")
    steps = [
        [json.loads(line) for line in (tmp_path / name / "run" / "metrics.jsonl").read_text().splitlines()]
        for name in ("1", "2")
    ]
    idle = [[step.get("idle", 0.0) for step in run] for run in steps]
    assert idle[0] == idle[1] and 0 < sum(idle[0]) < STEPS
    for one, two in zip(*steps, strict=True):
        assert one["reward"] == pytest.approx(two["reward"], abs=1e-5) and one["tokens"] == two["tokens"]
        assert (one["tokens"] == 0) == bool(one.get("idle"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_what_each_process_source_remembers_is_kept(start, tmp_path, parallel):
    options = {"parallel": parallel, "replay": True, "async_save": False}
    code, answers = start(tmp_path / "clean", 2, "pretrain", **options)
    assert code == 0
    assert start(tmp_path / "work", 2, "pretrain", stop_after=4, **options)[0] == 9
    code, others = start(tmp_path / "other", 1, "pretrain", stop_after=4, **options)
    assert code == 9
    code, again = start(tmp_path / "work", 2, "pretrain", **options)
    assert code == 0 and again[0]["digest"] == again[1]["digest"] == answers[0]["digest"]
    state = json.loads((list_checkpoints(tmp_path / "work" / "run")[0] / "state.json").read_text())
    assert len(state["source"]) == 2 and state["source"][0] != state["source"][1]
    code, refused = start(tmp_path / "other", 2, "pretrain", **options)
    assert code != 0 and all("state of the data source" in answer["error"] for answer in refused)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_goes_on_in_any_number_of_processes(start, alone, tmp_path, parallel):
    """3, then 2, then 1, then 3, each killed after two steps: the losses are those of a run that was left
    alone."""
    for processes, stop_after in ((3, 2), (2, 4), (1, 6)):
        assert (
            start(
                tmp_path, processes, "pretrain", parallel=parallel, stop_after=stop_after, async_save=False
            )[0]
            == 9
        )
        newest = sorted((tmp_path / "run").glob("step-*"))[-1]
        assert newest.name.endswith(str(stop_after)) and (
            parallel == "ddp" or processes == 1 or len(list(newest.glob("shard-*.safetensors"))) == processes
        )
    assert start(tmp_path, 3, "pretrain", parallel=parallel)[0] == 0
    same_training(alone("pretrain"), tmp_path)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_processes_agree_on_overflows_of_float16(start, tmp_path, parallel):
    """From a scale far too large, killed and gone on with by another number of processes: no step counts as
    bad, the weights are one."""
    options = {"dtype": "float16", "loss_scale": 2.0**19, "parallel": parallel, "async_save": False}
    assert start(tmp_path, 2, "pretrain", stop_after=3, **options)[0] == 9
    code, answers = start(tmp_path, 3, "pretrain", **options)
    assert code == 0 and len({answer["digest"] for answer in answers}) == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    overflows = lines[-1]["overflows"]
    assert (
        1 <= overflows < STEPS
        and lines[-1]["loss_scale"] == 2.0 ** (19 - overflows)
        and lines[-1]["skipped"] == 0
    )
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


def test_two_processes_in_float16_train_as_one_does(start, tmp_path):
    for processes in (1, 2):
        assert start(tmp_path / str(processes), processes, "pretrain", dtype="float16")[0] == 0
    # a product rounds to 1e-3
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=2e-3)


@pytest.mark.parametrize("processes, parallel", [(2, "fsdp"), (3, "fsdp"), (4, "hsdp")])
def test_muon_on_shards_is_muon_on_whole_matrices(start, tmp_path, processes, parallel):
    code, answers = start(
        tmp_path, processes, "muon", parallel=parallel, local=processes if parallel == "fsdp" else 2
    )
    assert code == 0 and len(answers) == processes
    assert all(answer["difference"] < 1e-6 < 1e-2 < answer["moved"] for answer in answers)


def test_two_machines_of_two_sharded_processes_train_as_one_does(start, alone, tmp_path):
    code, answers = start(tmp_path, 4, "pretrain", parallel="hsdp", local=2)
    assert code == 0 and len({answer["digest"] for answer in answers}) == 1
    # sums of sums in another order: 1.4e-6 seen, three roundings of a loss of 5.5
    same_training(alone("pretrain"), tmp_path, within=3e-6)


@pytest.mark.nightly  # a minute and a half on two cores
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_compiled_processes_train_as_one_that_is_not(start, alone, tmp_path, parallel):
    """Sharded, each block is a graph of its own, the same for all: one for each of the two shapes of
    micro-batches there are."""
    code, answers = start(tmp_path, 2, "pretrain", parallel=parallel, compile=True)
    assert code == 0 and len({answer["digest"] for answer in answers}) == 1
    assert [answer["graphs"] for answer in answers] == [2, 1]
    same_training(alone("pretrain"), tmp_path, within=1e-5)


def test_memory_that_is_short_on_one_rank_is_short_on_all(start, alone, tmp_path):
    code, answers = start(tmp_path, 2, "pretrain", room=1, short_rank=1)
    assert code == 0 and len({answer["digest"] for answer in answers}) == 1
    assert (
        json.loads((sorted((tmp_path / "run").glob("step-*"))[-1] / "state.json").read_text())[
            "microbatch_halvings"
        ]
        == 1
    )
    same_training(alone("pretrain"), tmp_path)


def test_a_sharded_run_short_of_memory_goes_on_with_smaller_micro_batches_when_started_again(
    start, alone, tmp_path
):
    code, answers = start(tmp_path, 2, "pretrain", parallel="fsdp", room=1)
    assert code != 0 and any("half as large" in answer.get("error", "") for answer in answers)
    assert start(tmp_path, 2, "pretrain", parallel="fsdp", room=1)[0] == 0
    same_training(alone("pretrain"), tmp_path)


def whole_checkpoints(work: Path) -> int:
    return sum(1 for path in list_checkpoints(work / "run") if read_manifest(path, "checkpoint"))


_KILLS = [("checkpoint.after_shards:2", 1), ("checkpoint.after_rename:3", 0)]
_MORE_KILLS = [
    ("checkpoint.before:2", 0),
    ("checkpoint.after_shards:3", 0),
    ("checkpoint.after_model:3", 0),
    ("checkpoint.before_prune:4", 0),
    ("train.after_step:5", 1),
]


@pytest.mark.parametrize(
    "fail_at, rank", [*_KILLS, *(pytest.param(*kill, marks=pytest.mark.nightly) for kill in _MORE_KILLS)]
)
def test_a_rank_killed_while_shards_are_saved_in_the_background(start, alone, tmp_path, fail_at, rank):
    code, _ = start(
        tmp_path, 2, "pretrain", parallel="fsdp", async_save=True, fail_at=fail_at, fail_rank=rank
    )
    assert code == 137 and whole_checkpoints(tmp_path) >= 1
    assert start(tmp_path, 2, "pretrain", parallel="fsdp", async_save=True)[0] == 0
    assert not list((tmp_path / "run").glob(".s*"))
    same_training(alone("pretrain"), tmp_path)


@pytest.mark.parametrize("number, in_background", [(errno.ENOSPC, False), (errno.EIO, True)])
def test_a_disk_that_fails_one_rank_stops_all_and_costs_nothing_saved(
    start, alone, tmp_path, number, in_background
):
    code, answers = start(
        tmp_path, 2, "pretrain", parallel="fsdp", async_save=in_background, disk=[1, number, 3]
    )
    assert (
        code == 1 and len(answers) == 2 and all(os.strerror(number) in answer["error"] for answer in answers)
    )
    assert len({answer["error"] for answer in answers}) == 1 and whole_checkpoints(tmp_path) == 2
    assert not list((tmp_path / "run").glob(".s*")) and not list((tmp_path / "run").glob("*.damaged"))
    assert start(tmp_path, 2, "pretrain", parallel="fsdp")[0] == 0
    same_training(alone("pretrain"), tmp_path)


def test_a_sharded_run_may_go_on_without_checkpoints(start, alone, tmp_path):
    code, answers = start(
        tmp_path,
        2,
        "pretrain",
        parallel="fsdp",
        async_save=True,
        disk=[1, errno.EIO, 3],
        on_save_error="warn",
    )
    assert (
        code == 0 and len({answer["digest"] for answer in answers}) == 1 and whole_checkpoints(tmp_path) == 2
    )
    same_training(alone("pretrain"), tmp_path)


def test_torchrun_starts_the_command_line_and_one_process_speaks(start, tmp_path):
    config = tmp_path / "pretrain.yaml"
    shape = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64}"
    train = "{steps: 3, learning_rate: 1e-3}"
    config.write_text(
        f"dataset: {start.world}/text\ntokenizer: {start.world}/tokenizer\nmodel: {shape}\nseq_len: 64\n"
        f"batch_tokens: 256\ntrain: {train}\n"
    )
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "hanlin",
        "pretrain",
        "--config",
        str(config),
        "--out",
        str(tmp_path / "model"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HANLIN_LANG": "en"}
    found = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240
    )
    assert found.returncode == 0, found.stderr[-6000:]
    assert json.loads(found.stdout)["parameters"] > 0 and found.stderr.count("3/3") == 1
    few = subprocess.run(
        [sys.executable, *command, "batch_tokens=64"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (
        few.returncode != 0
        and "error: A step has 1 samples" in few.stderr
        and "hanlin/cli/main.py" not in few.stderr
    )


def test_shards_are_even_whole_and_in_order():
    for count in range(1, 20):
        for size in range(1, count + 1):
            parts = [list(DataShard(rank, size).slice(count)) for rank in range(size)]
            assert sum(parts, []) == list(range(count)) and max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(HanlinError, match="3"):
        DataShard(0, 3).slice(2)


def test_processes_that_torchrun_did_not_start_are_told_so_once(tmp_path):
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "HANLIN_LANG": "en"}
    found = subprocess.run(
        [sys.executable, "-m", "hanlin", "run", "demo", "--out", str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 1 and "torchrun" in found.stderr and not (tmp_path / "run").exists()
    silent = subprocess.run(
        [sys.executable, "-m", "hanlin", "run", "demo", "--out", str(tmp_path / "run")],
        env=environment | {"RANK": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert silent.returncode == 1 and not silent.stderr.strip()
