"""The launch files with the real torchrun and the real training, two processes on this machine; only Slurm
and the clouds are stand-ins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.launch import elastic

pytestmark = pytest.mark.nightly
LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("real")
    config = elastic.build_world(place)
    return config, elastic.undisturbed(config, place / "alone")


@pytest.fixture
def place(stand_ins, monkeypatch):
    """The stand-ins, but for torchrun."""
    (stand_ins / "bin" / "torchrun").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    )
    for name, value in (elastic.environment(stand_ins) | {"GLOO_SOCKET_IFNAME": "lo"}).items():
        monkeypatch.setenv(name, value)
    return stand_ins


def same_losses(place: Path, losses: dict[int, float]) -> None:
    found = {line["step"]: line["loss"] for line in elastic.tracked(place)}
    assert sorted(found) == sorted(losses)
    assert all(found[step] == pytest.approx(loss, abs=1e-6) for step, loss in losses.items())
    assert (place / "model" / "manifest.json").exists()


def test_slurm_signals_saves_and_goes_on(world, place, monkeypatch):
    """Every start is signalled after some 25 steps; each goes on from where the one before it stopped."""
    config, losses = world
    monkeypatch.setenv("FAKE_SLURM_LIMIT", "300")
    monkeypatch.setenv("FAKE_SLURM_WATCH", str(place / "track.jsonl"))
    monkeypatch.setenv("FAKE_SLURM_LINES", "25")
    monkeypatch.setenv("FAKE_SLURM_GRACE", "120")
    script = [str(LAUNCH / "slurm.sh"), "pretrain", "--config", str(config), "--out", "model"]
    said = subprocess.run(
        ["sbatch", "--nodes=2", "--gpus-per-node=1", "--cpus-per-task=1", *script],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    number, late = said.split()[-1], time.monotonic() + 900
    while not (place / f"{number}.job" / "ended").exists():
        assert time.monotonic() < late, (place / f"hanlin-{number}.log").read_text()[-3000:]
        time.sleep(0.2)
    log = (place / f"hanlin-{number}.log").read_text()
    runs = (place / f"{number}.job" / "runs.jsonl").read_text().splitlines()
    assert "forcing job termination" not in log and "error:" not in log, log
    resumed = [int(step) for step in re.findall(r"resuming at step (\d+)", log)]
    print(f"{len(runs)} starts, resumed at {resumed}")
    assert len(runs) >= 2 and len(resumed) == len(runs) - 1
    steps = [line["step"] for line in elastic.tracked(place)]
    assert steps == list(range(1, elastic.STEPS + 1)), "nothing was done twice: the signal left time to save"
    same_losses(place, losses)


@pytest.mark.parametrize("cloud", ["skypilot", "kubernetes"])
def test_clouds_train(world, place, cloud):
    """Both nodes' commands at once, as the cloud would start them."""
    config, losses = world
    if cloud == "skypilot":
        script = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())["run"].replace(
            "/bucket/models/$NAME", "model"
        )
        shared = {
            "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NUM_GPUS_PER_NODE": "1",
            "STAGE": "pretrain",
            "CONFIG": str(config),
        }
        rank = "SKYPILOT_NODE_RANK"
    else:
        _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
        script = (
            job["spec"]["trainer"]["args"][0]
            .replace("/mnt/hanlin/pretrain.yaml", str(config))
            .replace("/mnt/hanlin/models/zh", "model")
        )
        shared = {
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": "29517",
        }
        rank = "PET_NODE_RANK"
    nodes = [
        subprocess.Popen(
            ["bash", "-c", script],
            env=os.environ | shared | {rank: str(node)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    for node in nodes:
        _, said = node.communicate(timeout=900)
        assert node.returncode == 0, said[-3000:]
    same_losses(place, losses)
