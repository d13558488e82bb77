"""A few steps of the real loop on random tokens, in a process of their own: `python -m
hanlin.planning.measure_step '{…}'` prints what they took."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hanlin.common.config import to_dict
from hanlin.common.devices import resolve_device
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.common.process_memory import peak_rss_mb, resident_mb
from hanlin.common.progress import Progress
from hanlin.dataset import Batch
from hanlin.model import CausalLM, ModelConfig, ModelShape, init_weights
from hanlin.stages.supervised import NextTokenLoss
from hanlin.training import BatchSource, TrainConfig, train
from hanlin.training.compilation import compiling_pays
from hanlin.training.distributed.shard import FULL, DataShard
from hanlin.training.step_estimate import StepSpec

STEPS = 20
_DROPPED = 3  # steps before allocators and caches are warm
_DOCUMENT = 400  # tokens, on average


@dataclasses.dataclass(frozen=True)
class StepMeasurement:
    """What the steps took.

    Attributes:
        seconds: of a step with all its micro-batches, the median.
        spread: half the range between the quartiles, as a share of the median.
        peak_mb: of the process, or of the device's memory where it has its own.
        baseline_mb: of the process before the model was made, after a training too small to count.
        steps: that were measured.
    """

    seconds: float
    spread: float
    peak_mb: float
    baseline_mb: float
    steps: int


def measure_step(
    config: ModelConfig,
    settings: TrainConfig,
    spec: StepSpec,
    device: str = "auto",
    steps: int = STEPS,
    max_seconds: float = 90.0,
) -> StepMeasurement:
    """Measure on this machine.

    A step of many micro-batches is not run whole: steps of one and of two take turns, and the rest is
    proportion.

    Args:
        max_seconds: no step begins later than this.

    Raises:
        HanlinError: the process died, most likely for want of memory, or not one step was in time.
    """
    compiled = compiles(config, settings, spec, device)
    settings = dataclasses.replace(settings, compile=compiled)
    max_seconds += 150.0 if compiled else 0.0  # compiling comes first
    asked = {
        "config": to_dict(config),
        "train": to_dict(settings),
        "spec": to_dict(spec),
        "device": device,
        "steps": steps + _DROPPED,
        "max_seconds": max_seconds,
    }
    environment = {"GOMP_SPINCOUNT": "1000"} | os.environ  # as the command line sets it for training
    done = subprocess.run(
        [*python_running("hanlin.planning.measure_step"), json.dumps(asked)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [""])[-1]
        raise HanlinError(
            "The measurement did not finish (exit code {code}){why}. Most likely there is not enough memory: "
            "lower micro_tokens, or take a smaller model.",
            code=done.returncode,
            why=why and Text(": {why}", why=why),
        )
    found = json.loads(done.stdout.splitlines()[-1])
    times = found["seconds"][_DROPPED:] or found["seconds"]
    whole = times
    if spec.micros > 1:
        single, double = times[_DROPPED % 2 :: 2], times[1 - _DROPPED % 2 :: 2]
        if not single or not double:
            raise HanlinError(
                "Not two steps were done in {max_seconds:.0f} s, so there is no time to tell. Take a "
                "smaller model or micro_tokens.",
                max_seconds=max_seconds,
            )
        one, two = statistics.median(single), statistics.median(double)
        micro = max(two - one, 0.5 * two - 0.25 * one)  # noise may not make a micro-batch free
        whole = [one + (spec.micros - 1) * micro]
    seconds = statistics.median(whole)
    quartiles = (
        statistics.quantiles(
            times if spec.micros == 1 else [t / statistics.median(single) for t in single], n=4
        )
        if len(times) > 3 and (spec.micros == 1 or len(single) > 1)
        else None
    )
    spread = (quartiles[2] - quartiles[0]) / 2 / (seconds if spec.micros == 1 else 1.0) if quartiles else 0.0
    return StepMeasurement(seconds, spread, found["peak_mb"], found["baseline_mb"], len(times))


def python_running(module: str) -> list[str]:
    """The command of a Python process that runs a module of this package and nothing from the directory one
    happens to stand in.

    `python -m` puts that directory first on the path: an `orjson.py` in a folder that was downloaded would
    run. (PYTHONSAFEPATH is Python 3.11's way to say the same.)
    """
    start = (
        "import sys; sys.path[:] = [*filter(None, sys.path), sys.argv.pop(1)]; import runpy; "
        "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", start, str(Path(__file__).parents[2]), module]


def compiles(config: ModelConfig, settings: TrainConfig, spec: StepSpec, device: str) -> bool:
    """What the loop will decide for the whole run, of which the measurement is a small part."""
    if isinstance(settings.compile, bool):
        return settings.compile
    model: Any = types.SimpleNamespace(config=config)
    batches = [types.SimpleNamespace(ids=torch.empty(spec.rows, spec.seq_len, device="meta"))] * spec.micros
    return compiling_pays(model, batches, settings.steps, resolve_device(device))


class _RandomRows(BatchSource):
    """Random documents of random lengths, packed."""

    uniform = True

    def __init__(self, vocab_size: int, spec: StepSpec):
        self.vocab_size, self.spec = vocab_size, spec

    def identity(self) -> dict[str, Any]:
        return {"dataset": "random"}

    def micro_batches(self, step: int, model: nn.Module, shard: DataShard = FULL) -> list[Batch]:
        return [self._batch(step * 2 + n) for n in range(1 if self.spec.micros == 1 else 1 + step % 2)]

    def _batch(self, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        size = (self.spec.rows, self.spec.seq_len)
        ids = torch.randint(0, self.vocab_size, size, generator=generator)
        begins = torch.rand(size, generator=generator) < 1 / _DOCUMENT
        begins[:, 0] = True
        positions = torch.arange(self.spec.seq_len).expand(size)
        first = torch.where(begins, positions, 0).cummax(1).values
        return Batch(ids, ids.roll(-1, 1), positions - first, begins.cumsum(1), [])


class _Times:
    """Takes the loop's log and keeps the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        self.seconds.append(values["tokens"] / values["tokens_per_second"])

    def flush(self) -> None: ...

    def rewind(self, step: int) -> None: ...


def _train(
    config: ModelConfig, settings: TrainConfig, spec: StepSpec, device: str, max_seconds: float
) -> list[float]:
    model: Any = CausalLM(config)
    init_weights(model, 1)
    model.to(resolve_device(device))
    if spec.checkpoint_activations:
        model.checkpoint_activations = True
    times: Any = _Times()
    objective = NextTokenLoss(torch.full((config.vocab_size,), 3), 1e-4, spec.document_mask)
    with tempfile.TemporaryDirectory() as work:
        train(
            model,
            _RandomRows(config.vocab_size, spec),
            objective,
            settings,
            Path(work),
            Progress(),
            log=times,
            max_seconds=max_seconds,
        )
    return times.seconds


def _main(asked: dict[str, Any]) -> dict[str, Any]:
    spec, device = StepSpec(**asked["spec"]), asked["device"]
    settings = TrainConfig(**asked["train"] | {"steps": asked["steps"], "checkpoint_seconds": 1e9})
    little = ModelShape(hidden_size=64, num_hidden_layers=1, num_attention_heads=2).config(300, 0)
    _train(
        little,
        dataclasses.replace(settings, steps=2, compile=False),
        dataclasses.replace(spec, seq_len=32, rows=1, micros=1),
        device,
        60.0,
    )
    kind = resolve_device(device)
    baseline = resident_mb()
    peak_rss_mb(reset=True)
    seconds = _train(ModelConfig(**asked["config"]), settings, spec, device, asked["max_seconds"])
    on_device = kind.type != "cpu" and hasattr(torch.accelerator, "max_memory_reserved")
    peak = torch.accelerator.max_memory_reserved() / 2**20 if on_device else peak_rss_mb()
    return {"seconds": seconds, "peak_mb": peak, "baseline_mb": 0.0 if on_device else baseline}


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
