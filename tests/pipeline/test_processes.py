"""`hanlin run` on several processes: they train together, and rank 0 does the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.test_pipeline import TINY

SHORT = [*TINY, "reward=null", "reasoning=null", "grpo.seeds=1", "equal-time-sft=null", "export=[]"]


def run(out: Path, processes: int, *more: str) -> subprocess.CompletedProcess:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "hanlin"]
        if processes > 1
        else ["-m", "hanlin"]
    )
    command = [sys.executable, *launcher, "run", "demo", *SHORT, *more, "--out", str(out), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HANLIN_LANG": "en"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def losses(curve: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in curve.read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    done = run(out, 1)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_two_processes_make_the_run_that_one_makes(alone, tmp_path):
    out = tmp_path / "run"
    done = run(out, 2, "sft.train.parallel=fsdp")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((folder / "report.json").read_text()) for folder in (alone, out))
    assert two["processes"] == 2 and [s["id"] for s in two["stages"]] == [s["id"] for s in one["stages"]]
    for name in ("pretrain", "sft", "dpo"):  # the same samples and steps; sums are rounded in another order
        ours, theirs = (losses(folder / "curves" / f"{name}.jsonl") for folder in (out, alone))
        assert ours == pytest.approx(theirs, rel=5e-3) and len(ours) >= 2, name
    again = run(out, 2, "sft.train.parallel=fsdp")
    assert again.returncode == 0 and "pretrain is done already" in again.stderr


def test_an_error_of_rank_0_is_said_once_and_ends_all(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.docx").write_text("precious")
    done = run(tmp_path / "run", 2)
    assert done.returncode != 0 and done.stderr.count("holds other files") == 1
