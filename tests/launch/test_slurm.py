"""`launch/slurm.sh` under a stand-in for Slurm: two nodes of two processes, the signal before the limit, the
queue, and on from there."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sh"
SMALL = ["--nodes=2", "--gpus-per-node=2", "--cpus-per-task=7"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def submit(place: Path, *options: str, steps: int) -> tuple[str, list[dict]]:
    """Submit a job of so many steps and wait for its end; its number and its starts."""
    (place / "config").write_text(str(steps))
    said = subprocess.run(
        ["sbatch", *SMALL, *options, str(SCRIPT), "pretrain", "--config", "config", "--out", "out"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    number = said.split()[-1]
    folder, late = place / f"{number}.job", time.monotonic() + 60
    while not (folder / "ended").exists():
        assert time.monotonic() < late, (folder / "controller.log").read_text() + (
            place / f"hanlin-{number}.log"
        ).read_text()
        time.sleep(0.05)
    return number, lines(folder / "runs.jsonl")


def test_the_script_is_bash():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_the_signal_saves_and_requeues_until_the_training_ends(stand_ins, monkeypatch):
    monkeypatch.setenv("FAKE_SLURM_LIMIT", "2")
    number, runs = submit(stand_ins, steps=60)
    assert len(runs) >= 2 and all(run["signalled"] and run["requeued"] for run in runs[:-1])
    assert runs[-1]["code"] == 0 and not runs[-1]["requeued"]
    assert (stand_ins / "out" / "steps").read_text().split() == [str(step) for step in range(60)], (
        "no step lost, none done twice"
    )
    starts = lines(stand_ins / "out" / "log.jsonl")
    assert sorted(start["rank"] for start in starts[:4]) == [0, 1, 2, 3] and {
        start["world"] for start in starts
    } == {4}
    assert {start["threads"] for start in starts} == {"4"}, "seven cores for two processes, rounded up"
    assert all(start["from"] > 0 for start in starts[4:])
    log = (stand_ins / f"hanlin-{number}.log").read_text()
    assert "rank 0 from step 0" in log and log.count("rank 3 from step") == len(runs), (
        "the log of every start is kept"
    )
    assert "forcing job termination" not in log


def test_a_training_that_ends_in_time_is_not_requeued(stand_ins):
    _, runs = submit(stand_ins, steps=3)
    assert runs == [{"code": 0, "signalled": False, "requeued": False}]


def test_a_training_that_fails_is_not_requeued_and_says_so(stand_ins):
    _, (run,) = submit(stand_ins, steps=-1)
    assert run["code"] != 0 and not run["requeued"]


def test_one_node_is_enough(stand_ins):
    submit(stand_ins, "--nodes=1", steps=3)
    assert {start["world"] for start in lines(stand_ins / "out" / "log.jsonl")} == {2}


@pytest.mark.parametrize("restarts", [0, 1])
def test_torchrun_takes_what_it_is_given(stand_ins, monkeypatch, restarts):
    """By its own parser: options, module, and the stage's arguments behind it; every start has a rendezvous
    of its own."""
    from torch.distributed.run import get_args_parser

    if restarts:
        monkeypatch.setenv("FAKE_SLURM_LIMIT", "1")
    number, runs = submit(stand_ins, steps=30 if restarts else 3)
    calls = [get_args_parser().parse_args(call) for call in lines(stand_ins / "torchrun.jsonl")]
    assert len(calls) == 2 * len(runs) > 2 * restarts
    for call in calls:
        assert (call.nnodes, call.nproc_per_node, call.max_restarts, call.rdzv_backend) == (
            "2",
            "2",
            3,
            "c10d",
        )
        host, port = call.rdzv_endpoint.split(":")
        assert host == "localhost" and 20000 <= int(port) < 30000
        assert (
            call.module
            and call.training_script == "hanlin"
            and call.training_script_args == ["pretrain", "--config", "config", "--out", "out"]
        )
    assert {call.rdzv_id for call in calls} == {f"{number}-{start}" for start in range(len(runs))}
