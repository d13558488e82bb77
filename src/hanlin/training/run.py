"""The front door of training: a model, a batch source, an objective, and how to train."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from hanlin.common.progress import Progress
from hanlin.common.tracking import MetricsLog
from hanlin.model import CausalLM, RewardModel
from hanlin.training.config import TrainConfig
from hanlin.training.contract import BatchSource, Objective
from hanlin.training.distributed.strategy import Strategy
from hanlin.training.hooks import LogHook, ProgressHook
from hanlin.training.run_state import TrainResult
from hanlin.training.trainer import Trainer


def train(
    model: CausalLM | RewardModel,
    source: BatchSource,
    objective: Objective,
    config: TrainConfig,
    checkpoint_dir: Path,
    progress: Progress,
    *,
    log: MetricsLog | None = None,
    max_seconds: float | None = None,
    strategy: Strategy | None = None,
    origin: Mapping[str, str] | None = None,
) -> TrainResult:
    """Train in place, resuming from the newest good checkpoint under `checkpoint_dir`.

    The gradient of a step is Σ loss / Σ num_items over all its micro-batches, so it does not depend on how
    they are cut. A bad step (not finite, or a spike) touches neither weights nor optimiser state. Three among
    the last hundred send the run back to the newest permanent checkpoint before them, to go on with the data
    behind them; a second time at the same place ends it. When memory runs out, the step is done again with
    smaller micro-batches.

    Args:
        checkpoint_dir: directory of this run's checkpoints, its own.
        strategy: of the processes that train together, see `init_distributed`; each calls this with the same
            arguments.
        max_seconds: in place of `config.max_seconds` (controls of equal time).
        origin: what the model came from, content hashes by role. The checkpoints hold all weights, so a
            resume from
            another origin would publish a model that has nothing of it: it is refused, as other data are.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        HanlinError: another run has `checkpoint_dir`, the data or the origin differ from the checkpoint's,
            bad steps do not end, or memory or disk do not suffice.
    """
    trainer = Trainer(
        model,
        source,
        objective,
        config,
        checkpoint_dir,
        progress,
        max_seconds=max_seconds,
        strategy=strategy,
        origin=origin,
    )
    trainer.add_hook(LogHook(log or MetricsLog(None)))
    expected_steps = functools.partial(
        trainer.state.expected_steps, steps=config.steps, max_seconds=trainer.max_seconds
    )
    trainer.add_hook(ProgressHook(progress, expected_steps))
    return trainer.run()
