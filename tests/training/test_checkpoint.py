"""A save that fails costs nothing that was saved; what was damaged is not believed; what changed is named."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hanlin.common import atomic
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import read_manifest
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.common.tracking import MetricsLog
from hanlin.training.checkpoint import format
from hanlin.training.checkpoint.format import (
    list_checkpoints,
    prune,
    save_checkpoint,
    step_of,
    sweep,
)
from hanlin.training.checkpoint.restore import load_latest
from hanlin.training.optim.optimizers import Optimizers
from tests.support import tiny_model
from tests.training.zygote import ROOT, build_world, train_stage

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def trained():
    """A small model with optimiser state."""
    model = tiny_model("qwen3", hidden_size=32)
    optimizers = Optimizers(model, learning_rate=1e-2)
    model(torch.arange(8)[None]).square().mean().backward()
    optimizers.step(1.0)
    return model, optimizers


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    build_world(folder)
    return folder


def never(message, /, **fields):
    raise AssertionError(Text.of(message, **fields).en)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# ---------------------------------------------------------------- the disk


def test_too_little_room_is_known_beforehand(trained, tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, *trained, {})
    before = contents(tmp_path)
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(format.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(HanlinError, match=r"[\d,]{6,} .*1,000 "):
        save_checkpoint(tmp_path, 2, *trained, {})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_fails_leaves_the_earlier_checkpoint(trained, tmp_path, monkeypatch, number, call):
    """At every single call of fsync and rename that a save makes."""
    save_checkpoint(tmp_path, 1, *trained, {})
    before = contents(tmp_path)
    original, calls = getattr(os, call), [0]

    def failing(*arguments):
        calls[0] += 1
        if calls[0] == nth:
            raise OSError(number, os.strerror(number))
        return original(*arguments)

    monkeypatch.setattr(atomic.os, call, failing)
    for nth in range(1, 20):
        calls[0] = 0
        try:
            save_checkpoint(tmp_path, 2, *trained, {})
        except HanlinError:
            calls[0] = nth  # what is checked below calls these too
            assert not list(tmp_path.glob(".step-*")), "the temporary is gone"
            if (
                tmp_path / "step-00000002"
            ).exists():  # it failed after the rename: whole, but not known to be on the disk
                read_manifest(tmp_path / "step-00000002", "checkpoint")
                format.shutil.rmtree(tmp_path / "step-00000002")
            assert contents(tmp_path) == before
        else:
            break
    assert nth > (5 if call == "fsync" else 1), "some calls did fail"


def test_a_write_beyond_the_file_size_limit(trained, tmp_path):
    """The system itself refuses, in the middle of a file, as a full disk would."""
    save_checkpoint(tmp_path, 1, *trained, {})
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(HanlinError, match="MB"):
            save_checkpoint(tmp_path, 2, *trained, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before


def test_what_can_be_read_must_be_what_was_written(trained, tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, *trained, {})
    before = contents(tmp_path)

    def flip(name):
        if name == "checkpoint.after_rename":
            file = tmp_path / "step-00000002" / "model.safetensors"
            content = bytearray(file.read_bytes())
            content[-5] ^= 4
            file.write_bytes(content)

    monkeypatch.setattr(format, "failpoint", flip)
    with pytest.raises(HanlinError, match="SHA-256"):
        save_checkpoint(tmp_path, 2, *trained, {})
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [1]
    assert {name: data for name, data in contents(tmp_path).items() if ".damaged" not in name} == before


@pytest.fixture
def pretrained(world):
    """pretrained(work, …) → weights and warnings of six steps with these settings."""
    from hanlin.dataset import TextRows, TokenDataset
    from hanlin.stages.supervised import NextTokenLoss, RowSource, SupervisedConfig
    from hanlin.tokenizer import load_tokenizer
    from hanlin.tokenizer.token_bytes import token_bytes
    from hanlin.training import TrainConfig, train

    tokenizer = load_tokenizer(world / "tokenizer")

    def run(work, log=None, warnings=None, **options):
        config = SupervisedConfig(
            TrainConfig(**{"steps": 6, "checkpoint_seconds": 0.0, **options}), seq_len=64, batch_tokens=256
        )
        progress, warnings = Progress(), [] if warnings is None else warnings
        progress.warn = lambda message, /, **fields: warnings.append(Text.of(message, **fields).en)  # type: ignore[method-assign]
        model = tiny_model("qwen3", tokenizer, hidden_size=32)
        train(
            model,
            RowSource(TextRows(TokenDataset(world / "text"), 64, 5), config),
            NextTokenLoss(token_bytes(tokenizer)),
            config.train,
            work,
            progress,
            log=log,
        )
        return model.state_dict(), warnings

    return run


@pytest.mark.parametrize("async_save", [False, True])
def test_a_run_may_go_on_without_a_checkpoint(pretrained, tmp_path, monkeypatch, async_save):
    """`on_save_error: warn`: the same model as with a good disk; with `stop`, an error and the earlier ones
    left."""
    good, _ = pretrained(tmp_path / "good")
    original = format.artifact

    def failing(path, *arguments, **options):
        if step_of(path) >= 3:
            raise HanlinError("the disk is broken")
        return original(path, *arguments, **options)

    monkeypatch.setattr(format, "artifact", failing)
    # every step, also where the one before is still being written
    options = {
        "async_save": async_save,
        "permanent_checkpoint_interval": 1,
    }
    warned, warnings = pretrained(tmp_path / "warn", on_save_error="warn", **options)
    assert all(torch.equal(good[name], warned[name]) for name in good) and len(warnings) == 3
    with pytest.raises(HanlinError, match="broken"):
        pretrained(tmp_path / "stop", **options)
    assert [step_of(path) for path in list_checkpoints(tmp_path / "stop")] == [2, 1]


def test_steps_do_not_wait_for_a_slow_disk_and_what_is_written_is_the_state_of_its_step(
    pretrained, tmp_path, monkeypatch
):
    """The write of step 2 does not begin before step 4 is over."""
    kept, passed = (
        {"permanent_checkpoint_interval": 2, "checkpoint_seconds": 1000.0, "steps": 6},
        threading.Event(),
    )
    pretrained(tmp_path / "plain", **kept)
    original = format.artifact

    def slow(path, *arguments, **options):
        assert step_of(path) != 2 or passed.wait(60), "a step waited for the disk"
        return original(path, *arguments, **options)

    class Watch(MetricsLog):
        def log(self, values, step):
            if step == 4:  # the anchor of step 4 waits for the one before it
                passed.set()
            super().log(values, step)

    monkeypatch.setattr(format, "artifact", slow)
    pretrained(tmp_path / "slow", log=Watch(None), async_save=True, **kept)
    assert passed.is_set()
    for path in list_checkpoints(tmp_path / "plain"):
        other = tmp_path / "slow" / path.name
        read_manifest(other, "checkpoint")
        names = ("model.safetensors", "optimizer.safetensors")
        assert [name for name in names if (path / name).read_bytes() != (other / name).read_bytes()] == []


def test_the_thread_that_saves_never_outlives_the_run(pretrained, tmp_path, monkeypatch):
    """A step that fails: the save under way ends first, and its own error is not kept quiet."""
    original, warnings = format.artifact, []

    def broken(path, *arguments, **options):
        if step_of(path) == 2:
            time.sleep(0.5)
            raise HanlinError("the disk is broken")
        return original(path, *arguments, **options)

    class Fails(MetricsLog):
        def log(self, values, step):
            if step == 3:
                raise KeyError("a bug")

    monkeypatch.setattr(format, "artifact", broken)
    with pytest.raises(KeyError):
        pretrained(
            tmp_path,
            log=Fails(None),
            warnings=warnings,
            async_save=True,
            permanent_checkpoint_interval=2,
            checkpoint_seconds=1000.0,
        )
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [0] and any(
        "broken" in warning for warning in warnings
    )


# ---------------------------------------------------------------- what is kept, what is believed


def test_retention_counts_only_what_looks_whole(trained, tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, *trained, {})
    for step in (3, 4, 5):  # half of a copy, an empty directory, a file cut short
        (tmp_path / f"step-{step:08d}").mkdir()
    (tmp_path / "step-00000005" / "manifest.json").write_bytes(
        (tmp_path / "step-00000002" / "manifest.json").read_bytes()
    )
    prune(tmp_path)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [2, 1]


def test_anchors_are_kept_besides_the_newest(trained, tmp_path):
    for step in range(12):
        save_checkpoint(tmp_path, step, *trained, {}, permanent_interval=4)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [11, 10, 8, 4]


def test_leftovers_are_swept_and_a_replaced_checkpoint_is_put_back(trained, tmp_path):
    path = save_checkpoint(tmp_path, 4, *trained, {})
    (tmp_path / ".step-00000005.tmp.77").mkdir()
    os.rename(path, tmp_path / ".step-00000004.old.77")
    sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000004"]
    assert load_latest(tmp_path, *trained, never)["step"] == 4


def test_going_back_forgets_what_was_added_up_since(tmp_path):
    model = tiny_model("qwen3", hidden_size=32)
    optimizers = Optimizers(model, learning_rate=1e-2)
    save_checkpoint(tmp_path, 0, model, optimizers, {})
    model(torch.arange(8)[None]).square().mean().backward()
    optimizers.step(1.0)
    assert all(bool(value.any()) for value in optimizers.state_tensors().values())
    load_latest(tmp_path, model, optimizers, never)
    assert not any(bool(value.any()) for value in optimizers.state_tensors().values())


def test_what_a_source_remembers_comes_back_as_it_was(trained, tmp_path):
    states = [
        {
            "seen": 3,
            "names": ["甲", "乙"],
            "buffer": [{"ids": torch.arange(6).view(2, 3)}, {"ids": torch.ones(0)}],
        },
        {"seen": 4, "names": [], "buffer": []},
    ]
    save_checkpoint(tmp_path, 1, *trained, {"source": states})
    loaded = load_latest(tmp_path, *trained, never)["source"]
    assert torch.equal(loaded[0]["buffer"][0].pop("ids"), states[0]["buffer"][0].pop("ids"))
    assert loaded[0]["buffer"][1].pop("ids").shape == states[0]["buffer"][1].pop("ids").shape
    assert loaded == states


def test_a_run_that_the_format_before_wrote_goes_on(pretrained, tmp_path, monkeypatch):
    """Its counters had other names; the bits are those of a run that was left alone."""
    clean, _ = pretrained(tmp_path / "clean")
    names = {"data_offset": "offset", "microbatch_halvings": "halvings", "bad_steps": "bad"}
    write_json = format.write_json

    def write_as_before(path, state):
        before = {names.get(name, name): value for name, value in state.items() if name != "source"}
        write_json(path, before | {"format": 2, "fingerprint": "of then"})

    class Stop(MetricsLog):
        def log(self, values, step):
            if step == 4:
                raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(format, "write_json", write_as_before)
        pretrained(tmp_path / "work", log=Stop(None))
    resumed, warnings = pretrained(tmp_path / "work")
    assert warnings == [] and all(torch.equal(clean[name], resumed[name]) for name in clean)


def test_random_generators_go_on_where_they_were(trained, tmp_path):
    def draw():
        return [
            torch.rand(3).tolist(),
            np.random.rand(3).tolist(),
            np.random.randn(),
            random.random(),
            random.gauss(0, 1),
        ]

    draw()
    save_checkpoint(tmp_path, 1, *trained, {})
    expected = draw()
    draw()
    load_latest(tmp_path, *trained, never)
    assert draw() == expected


@pytest.mark.parametrize(
    "change, name",
    [
        ({"seq_len": 128}, "seq_len"),
        ({"seed": 4}, "seed"),
        ({"batch_tokens": 128}, "rows"),
        ({"data": "talks"}, "dataset"),
    ],
)
def test_a_resume_with_other_data_says_what_differs(world, tmp_path, change, name):
    from hanlin.dataset import TextRows, TokenDataset
    from hanlin.stages.supervised import NextTokenLoss, RowSource, SupervisedConfig
    from hanlin.tokenizer import load_tokenizer
    from hanlin.tokenizer.token_bytes import token_bytes
    from hanlin.training import TrainConfig, train

    tokenizer = load_tokenizer(world / "tokenizer")

    def run(seq_len=64, seed=3, batch_tokens=256, data="text"):
        config = SupervisedConfig(TrainConfig(steps=2), seq_len=seq_len, batch_tokens=batch_tokens)
        source = RowSource(TextRows(TokenDataset(world / data), seq_len, seed), config)
        model = tiny_model("qwen3", tokenizer, hidden_size=32)
        train(model, source, NextTokenLoss(token_bytes(tokenizer)), config.train, tmp_path, Progress())
        return {key: str(value)[:12] for key, value in source.identity().items()}

    before = run()
    with pytest.raises(HanlinError) as caught:
        run(**change)
    assert f"{name}: {before[name]}" in str(caught.value) and str(tmp_path) in str(caught.value)
    unchanged = {"dataset", "seq_len", "seed"} - {name}
    assert not any(f"{other}:" in str(caught.value) for other in unchanged)


def test_two_runs_in_one_work_directory(world, tmp_path):
    with directory_lock(tmp_path), pytest.raises(HanlinError, match=f"pid {os.getpid()}"):
        train_stage("sft", world, tmp_path)


# ---------------------------------------------------------------- being asked to stop


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_prints_the_command_to_go_on(world, tmp_path, number, code):
    """The command line itself, stopped in a long stage; the very command it prints goes on."""
    tmp_path = tmp_path / "with space"
    tmp_path.mkdir()
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    }
    section = {
        "seq_len": 64,
        "batch_tokens": 256,
        "train": {"steps": 100_000, "checkpoint_seconds": 1000, "async_save": number == signal.SIGTERM},
    }
    (tmp_path / "p.yaml").write_text(
        yaml.safe_dump(
            {
                "dataset": str(world / "text"),
                "tokenizer": str(world / "tokenizer"),
                "model": shape,
                **section,
            }
        )
    )
    command = [
        sys.executable,
        "-m",
        "hanlin.cli.main",
        "pretrain",
        "--config",
        str(tmp_path / "p.yaml"),
        "--out",
        str(tmp_path / "model"),
    ]
    environment = {**os.environ, "HANLIN_LANG": "en", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    def metrics():
        return next(iter(tmp_path.glob(".model.work/*/metrics.jsonl")), None)

    deadline = time.monotonic() + 120
    while (
        not list(tmp_path.glob(".model.work/*/step-00000000"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    found = metrics()
    assert found is not None
    (work,) = {found.parent}
    newest = list_checkpoints(work)[0]
    assert step_of(newest) >= 1 and step_of(newest) == len(found.read_text().splitlines()), (
        "saved where it stopped, no step lost"
    )
    printed = said.strip().splitlines()[-1].strip()
    assert (
        printed.endswith(f"--config '{tmp_path}/p.yaml' --out '{tmp_path}/model'") and "pretrain" in printed
    )
    assert json.loads((newest / "state.json").read_text())["step"] == step_of(newest)
