"""`make bench-gpu` on a machine without an accelerator: what it computes with, that it refuses to measure,
and (nightly) every path in small."""

import importlib
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("gpu")
    finally:
        sys.path.remove(str(BENCHMARKS))


def run(*words: str, seconds: float = 500) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *words], capture_output=True, text=True, timeout=seconds
    )


def test_a_rising_series_grows_and_a_noisy_flat_one_does_not(gpu):
    noise = random.Random(1)
    flat = [1000 + noise.uniform(-5, 5) for _ in range(200)]
    settling = [500 + 5 * min(place, 90) for place in range(200)]
    leak = [1000 + 0.5 * place for place in range(200)]
    assert abs(gpu.gpu_parts.growth(flat)) < 0.01
    assert gpu.gpu_parts.growth(settling) == pytest.approx(0.0, abs=1e-9)
    assert gpu.gpu_parts.growth(leak) == pytest.approx(0.5 * 99 / 1074.75, rel=1e-3)


@pytest.mark.parametrize("label, total", [("12x768", 0.798e9), ("14x640", 0.664e9)])
def test_flops_of_the_shapes_are_those_reckoned_on_paper(gpu, label, total):
    shape = gpu.SHAPES[label] | {"length": 1024}
    ours, theirs = gpu.flops_per_token("hanlin+whole", shape), gpu.flops_per_token("gpt2+compiled", shape)
    assert ours == pytest.approx(total, rel=0.02) and theirs == pytest.approx(ours, rel=0.02)


def test_a_missed_target_and_an_unmeasured_one_fail_and_are_written_down(gpu, tmp_path):
    for dry in (False, True):
        log = gpu.Log(tmp_path, "part", dry)
        log.judge("fast enough", 0.5, 1.0)
        assert log.good is dry
        log = gpu.Log(tmp_path, "part", dry)
        log.missing("no peer")
        assert log.good is dry
        log.judge("small enough", 0.5, 1.0, below=True)
        log.close()
        record = json.loads((tmp_path / "part.json").read_text())
        assert record["left_out"] == ["no peer"] and record["judged"][0]["met"]
        assert "no peer" in (tmp_path / "part.log").read_text()


def test_without_an_accelerator_nothing_is_measured(tmp_path):
    import torch

    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator here")
    done = run("--out", str(tmp_path / "out"))
    assert (
        done.returncode == 2
        and "--dry-run" in done.stderr
        and "加速器" in done.stderr
        and not (tmp_path / "out").exists()
    )


def test_the_memory_part_walks_its_path(tmp_path):
    done = run("--dry-run", "--parts", "memory", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "memory.json").read_text())
    assert len(record["samples"]) == 30 and all(math.isfinite(loss) for loss in record["losses"])
    assert record["losses"][-1] < record["losses"][0]
    assert {"torch", "commit", "driver", "cores"} - {"driver"} <= record["environment"].keys()


@pytest.mark.nightly
@pytest.mark.parametrize("part", ["speed", "attention", "headline", "zh26m"])
def test_every_part_walks_its_path(part, tmp_path):
    done = run("--dry-run", "--parts", part, "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    record = json.loads((tmp_path / f"{part}.json").read_text())
    found = {"speed": "cells", "attention": "ways", "headline": "hanlin", "zh26m": "report"}[part]
    assert record[found] and record["dry_run"]
