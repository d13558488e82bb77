"""Predicted against measured: peak memory and time of three recipes on random tokens. Exits 1 beyond 10 % of
memory or 20 % of time.

    python benchmarks/plan.py [--only demo] [--steps 40]

For each recipe the plan is made first, as `hanlin plan` makes it (a measurement of 20 steps), and by the
trace alone (no step is run); then the run itself, in a process of its own. The machine should be quiet: the
time of a step is that of the machine's other work too.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys

import torch

from hanlin.common.devices import device_capabilities, resolve_device
from hanlin.common.errors import HanlinError
from hanlin.common.terminal import table
from hanlin.model import ModelShape
from hanlin.planning.measure_step import STEPS, measure_step
from hanlin.training import TrainConfig
from hanlin.training.step_estimate import CPU_ALLOCATOR, StepSpec, trace_step

RECIPES = {
    "demo": (
        ModelShape(
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
        ),
        1536,
        StepSpec(256, 16),
    ),
    "zh-mini": (
        ModelShape(
            hidden_size=192,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=1024,
        ),
        6400,
        StepSpec(512, 16),
    ),
    "12m": (
        ModelShape(
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=3,
            intermediate_size=992,
            max_position_embeddings=1024,
        ),
        6400,
        StepSpec(512, 8),
    ),
}
MEMORY, TIME = 0.10, 0.20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=RECIPES, nargs="*", default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    rows, bad = (
        [
            [
                "recipe",
                "parameters",
                "predicted MB",
                "measured MB",
                "ratio",
                "by trace MB",
                "ratio",
                "predicted s",
                "measured s",
                "ratio",
            ]
        ],
        [],
    )
    for name in arguments.only:
        shape, vocab, step = RECIPES[name]
        config, settings = shape.config(vocab, 0), TrainConfig(learning_rate=2e-3)
        cost = trace_step(
            config,
            settings,
            dataclasses.replace(step, dtype=device_capabilities(resolve_device("cpu")).train_dtype),
        )
        planned = measure_step(config, settings, step, "cpu", STEPS, max_seconds=300)
        run = measure_step(config, settings, step, "cpu", arguments.steps, max_seconds=600)
        traced = planned.baseline_mb + CPU_ALLOCATOR * cost.peak / 2**20
        memory, by_trace, time = (
            planned.peak_mb / run.peak_mb,
            traced / run.peak_mb,
            planned.seconds / run.seconds,
        )
        rows.append(
            [
                name,
                f"{config.parameters():,}",
                f"{planned.peak_mb:.0f}",
                f"{run.peak_mb:.0f}",
                f"{memory:.3f}",
                f"{traced:.0f}",
                f"{by_trace:.3f}",
                f"{planned.seconds * run.steps:.1f}",
                f"{run.seconds * run.steps:.1f}",
                f"{time:.3f}",
            ]
        )
        bad += [f"{name}: memory {memory:.3f}"] * (abs(memory - 1) > MEMORY) + [
            f"{name}: memory by trace {by_trace:.3f}"
        ] * (abs(by_trace - 1) > MEMORY)
        bad += [f"{name}: time {time:.3f}"] * (abs(time - 1) > TIME)
        print(
            f"{name}: memory {memory:.3f}, by trace {by_trace:.3f}, time {time:.3f}; "
            f"measurement of {planned.steps} steps ±{planned.spread:.0%}, "
            f"run of {run.steps} steps ±{run.spread:.0%}, load {os.getloadavg()[0]:.1f}",
            file=sys.stderr,
            flush=True,
        )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("\n".join(table(rows, right=range(1, 10))))
    if bad:
        print("beyond the bounds: " + "; ".join(bad), file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    try:
        main()
    except HanlinError as error:
        raise SystemExit(str(error)) from None
