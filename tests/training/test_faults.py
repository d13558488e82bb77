"""The fault matrix: whatever happens to a run, it ends with the bits it would have had, or says why it does
not."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from hanlin.common.manifest import read_manifest
from hanlin.training.checkpoint.format import list_checkpoints
from tests.training.zygote import STAGES, Zygote, alone

FAILPOINTS = [
    "checkpoint.before:3",
    "checkpoint.after_model:3",
    "checkpoint.after_optimizer:3",
    "checkpoint.after_state:3",
    "checkpoint.before_manifest:3",
    "directory.before_fsync:3",
    "directory.before_rename:3",
    "checkpoint.after_rename:3",
    "checkpoint.before_prune:5",
    "checkpoint.after_prune:5",
    "checkpoint.after_model:1",
    "train.after_step:5",
]


@pytest.fixture(scope="module")
def place():
    """A directory in memory where there is one: a kill does not touch what was written, so nothing waits for
    a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def work(place):
    folder = place / "work"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def zygote(place):
    found = Zygote(place / "world")
    yield found
    found.close()


@pytest.fixture(scope="module")
def clean(zygote, place):
    """The answer of an undisturbed run of a stage, computed once."""
    answers = {}

    def run(stage):
        if stage not in answers:
            work = place / "clean" / stage
            answers[stage] = zygote.run(stage, work)
            assert answers[stage]["code"] == 0, (work / "log.txt").read_text()
        return answers[stage]

    return run


def whole_checkpoints(work: Path) -> int:
    """How many checkpoints of a killed run verify."""
    return sum(1 for path in list_checkpoints(work) if read_manifest(path, "checkpoint"))


@pytest.mark.parametrize("fail_at", FAILPOINTS)
def test_killed_at_a_failpoint(zygote, clean, work, fail_at):
    assert zygote.run("pretrain", work, fail_at=fail_at)["code"] == 137
    if not fail_at.endswith(":1"):
        assert whole_checkpoints(work) >= 1
    again = zygote.run("pretrain", work)
    assert again["code"] == 0, (work / "log.txt").read_text()
    assert again["digest"] == clean("pretrain")["digest"]
    assert not list(work.glob(".step-*")), "what was half-written is gone"


@pytest.mark.parametrize(
    "fail_at",
    [
        "train.after_step:4",
        "directory.between_renames:1",
        "checkpoint.after_model:6",
        "checkpoint.before:6",
        "train.after_step:7",
    ],
)
def test_killed_around_a_rollback(zygote, clean, work, fail_at):
    """Three bad steps send the run back; a kill before, in and after that changes nothing."""
    first = zygote.run("poisoned", work, fail_at=fail_at)
    assert first["code"] == 137, (work / "log.txt").read_text()
    again = zygote.run("poisoned", work)
    assert again["code"] == 0, (work / "log.txt").read_text()
    assert again["digest"] == clean("poisoned")["digest"] != clean("pretrain")["digest"]
    lines = [json.loads(line) for line in (work / "spikes.jsonl").read_text().splitlines()]
    assert [(line["step"], line["data"]) for line in lines] == [(2, 2), (3, 3), (4, 4)], (
        "each bad step once, kill or not"
    )


@pytest.mark.parametrize(
    "fail_at",
    [
        "checkpoint.before:2",
        "checkpoint.after_model:3",
        "directory.before_rename:3",
        "checkpoint.after_rename:3",
        "checkpoint.before_prune:4",
        "train.after_step:5",
    ],
)
def test_killed_while_it_saves_in_the_background(zygote, clean, work, fail_at):
    assert zygote.run("pretrain", work, fail_at=fail_at, async_save=True)["code"] == 137
    assert whole_checkpoints(work) >= 1
    assert zygote.run("pretrain", work, async_save=True).get("digest") == clean("pretrain")["digest"], (
        work / "log.txt"
    ).read_text()
    assert not list(work.glob(".step-*"))


@pytest.mark.parametrize(
    "fail_at", ["train.after_step:4", "directory.between_renames:1", "checkpoint.before:4"]
)
def test_killed_around_a_rollback_that_saves_in_the_background(zygote, clean, work, fail_at):
    assert zygote.run("poisoned", work, fail_at=fail_at, async_save=True)["code"] == 137, (
        work / "log.txt"
    ).read_text()
    assert zygote.run("poisoned", work, async_save=True).get("digest") == clean("poisoned")["digest"], (
        work / "log.txt"
    ).read_text()


@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize(
    "fail_at",
    ["checkpoint.after_optimizer:3", "train.after_step:3", "train.after_step:6", "checkpoint.before:5"],
)
def test_a_source_that_remembers_goes_on_with_its_memory(zygote, clean, work, fail_at, async_save):
    """Rows of earlier steps come again by lot, and a rollback lies between: killed before and after it, the
    bits are the same."""
    assert zygote.run("replay", work, fail_at=fail_at, async_save=async_save)["code"] == 137, (
        work / "log.txt"
    ).read_text()
    again = zygote.run("replay", work, async_save=async_save)
    assert again["code"] == 0, (work / "log.txt").read_text()
    assert again["digest"] == clean("replay")["digest"] != clean("pretrain")["digest"]
    newest = list_checkpoints(work)[0]
    assert (newest / "source.safetensors").is_file()


def kill_at_random(zygote, clean, work: Path, stage: str, seed: int, **options) -> int:
    """SIGKILL after a random while, again and again until the run ends; the number of kills."""
    generator, kills = random.Random(seed), 0
    while True:
        answer = zygote.run(
            stage, work, kill_after=generator.uniform(0.0, 1.2 * clean(stage)["seconds"]), **options
        )
        if answer["code"] == 0:
            break
        assert answer["code"] == -9, (work / "log.txt").read_text()
        kills += 1
        assert not list(work.glob("step-*.damaged")), "a kill never damages a checkpoint"
        assert kills < 100
    assert answer["digest"] == clean(stage)["digest"], f"seed {seed}"
    return kills


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_instants(zygote, clean, work, seed):
    kill_at_random(zygote, clean, work, "pretrain", seed, async_save=seed % 2 == 1)


@pytest.mark.nightly
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_killed_a_dozen_times(zygote, clean, work, stage):
    kills = runs = 0
    while kills < 12:
        shutil.rmtree(work, ignore_errors=True)
        kills += kill_at_random(zygote, clean, work, stage, seed=runs, async_save=runs % 2 == 1)
        runs += 1
    print(f"{stage}: {kills} kills in {runs} runs")


@pytest.mark.nightly
@pytest.mark.parametrize("stage", STAGES[1:])
def test_every_stage_killed_at_every_failpoint(zygote, clean, work, stage):
    for fail_at in FAILPOINTS:
        shutil.rmtree(work, ignore_errors=True)
        assert zygote.run(stage, work, fail_at=fail_at)["code"] == 137, fail_at
        assert zygote.run(stage, work).get("digest") == clean(stage)["digest"], fail_at


# ---------------------------------------------------------------- clocks and disks that lie


def tool(name: str) -> str:
    """A program that the machine may lack; the test is then skipped by its name."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.mark.nightly
@pytest.mark.parametrize("clock", ["+10y", "-1d", "+0 x0.1", "+0 x10"])
def test_the_clock_changes_nothing(zygote, clean, work, clock):
    code, digest, said = alone([tool("faketime"), "-f", clock], zygote.world, "pretrain", work)
    assert code == 0, said
    assert digest == clean("pretrain")["digest"]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name, number", [("posix/io/rw/write", 28), ("posix/io/sync/fsync", 5), ("posix/io/dir/rename", 28)]
)
def test_calls_that_fail_now_and_then(zygote, clean, work, name, number):
    """Whatever call fails, what was saved is whole; started again and again, the run ends with the same
    bits."""
    fail = f"enable_random name={name},probability=0.05,failinfo={number}"
    attempts, code, digest = 0, 1, ""
    while code and attempts < 60:
        attempts += 1
        code, digest, said = alone([tool("fiu-run"), "-x", "-c", fail], zygote.world, "pretrain", work)
        assert code in (0, 1), said
        assert not list_checkpoints(work) or whole_checkpoints(work)
    assert code == 0 and digest == clean("pretrain")["digest"]
    print(f"{name}: ended in attempt {attempts}")


@pytest.mark.nightly
def test_a_disk_that_fills(zygote, clean, place):
    """A file system with room for one checkpoint and a half: the message names both sizes; with more room it
    goes on."""
    disk = place / "disk"
    disk.mkdir(exist_ok=True)
    if subprocess.run(
        [tool("mount"), "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        code, _, said = alone([], zygote.world, "pretrain", disk / "work")
        assert code == 1 and "bytes are needed" in said, said
        assert whole_checkpoints(disk / "work") >= 1
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        code, digest, said = alone([], zygote.world, "pretrain", disk / "work")
        assert code == 0 and digest == clean("pretrain")["digest"], said
    finally:
        subprocess.run(["umount", str(disk)], check=False)
