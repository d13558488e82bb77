"""The one training loop. It knows devices, precision, accumulation, schedules, guards, checkpoints and logging; of tasks, nothing.

A stage gives it a *batch source* (what to read at step n: a pure function, so one integer resumes it) and an *objective*
(a loss summed over a micro-batch, and how many items that sum is over).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..common.devices import keep_freed_memory, traits
from ..common.errors import HanlinError
from ..common.failpoints import failpoint
from ..common.progress import Progress
from ..common.tracking import MetricsLog
from ..model import CausalLM, RewardModel
from .checkpoint import load_latest, save_checkpoint
from .optim import Optimizers
from .schedule import Schedule, learning_rate_factor


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever the task.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak rate of the block matrices (one scale for Muon and AdamW).
        embedding_scale: factor on it for embeddings and head.
        beta2: decay of AdamW's second moment.
        schedule, warmup, decay, floor: see `learning_rate_factor`; warmup and decay are shares of the steps.
        clip: largest gradient norm.
        spike_sigma: a step whose loss or gradient norm lies this many standard deviations above the last 128 is skipped.
        checkpoint_seconds: time between checkpoints of a run in progress.
        compile: `torch.compile` the model (costs a minute on a CPU; pays in long runs).
    """

    steps: int = 100
    learning_rate: float = 3e-3
    embedding_scale: float = 1.0
    muon: bool = True
    weight_decay: float = 0.1
    beta2: float = 0.95
    schedule: Schedule = "wsd"
    warmup: float = 0.02
    decay: float = 0.5
    floor: float = 0.0
    clip: float = 1.0
    spike_sigma: float = 6.0
    checkpoint_seconds: float = 60.0
    compile: bool = False

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if not 0 <= self.warmup + self.decay <= 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are shares of the steps and may not exceed 1 together")


class BatchSource(Protocol):
    """What to read at each step."""

    @property
    def fingerprint(self) -> str:
        """Changes when the samples of a resumed run would."""
        ...

    def micro_batches(self, step: int, model: nn.Module) -> list[Any]:
        """The micro-batches of a step, a pure function of the step (and, for reinforcement learning, of the weights)."""
        ...


class Objective(Protocol):
    """A loss over one micro-batch."""

    def weight(self, batch: Any) -> float:
        """Number of items (tokens, pairs) the loss of this micro-batch is summed over."""
        ...

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """Summed loss to differentiate, and summed figures to log; `weight` of a figure is the objective's weight."""
        ...


@dataclasses.dataclass
class TrainResult:
    """What a finished loop says: steps skipped by the guards, wall seconds (resumed parts included), last figures."""

    skipped: int
    seconds: float
    last: dict[str, float]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the checkpoint was written."""


@contextlib.contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag the loop reads between steps; a second SIGINT stops at once."""
    asked: list[int] = []

    def handler(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody can press Ctrl-C here
        previous = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


class SpikeGuard:
    """Remembers recent losses and gradient norms; says whether a step lies beyond `sigma` deviations (OLMo's skip rule).

    A gradient norm that clipping leaves alone is never a spike: small batches have heavy tails there and do no harm.
    """

    def __init__(self, sigma: float, clip: float, window: int = 128, least: int = 64):
        self.sigma, self.clip, self.least = sigma, clip, least
        self.losses: collections.deque[float] = collections.deque(maxlen=window)
        self.norms: collections.deque[float] = collections.deque(maxlen=window)

    def is_spike(self, loss: float, norm: float) -> bool:
        """Judge a step; ordinary ones join the memory."""
        spike = self._beyond(loss, self.losses) or (norm > self.clip and self._beyond(norm, self.norms))
        if not spike:
            self.losses.append(loss)
            self.norms.append(norm)
        return spike

    def _beyond(self, value: float, seen: collections.deque[float]) -> bool:
        if len(seen) < self.least:
            return False
        mean = sum(seen) / len(seen)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in seen) / len(seen))
        return value > mean + self.sigma * max(deviation, 1e-6 + 0.02 * abs(mean))


def train(
    model: CausalLM | RewardModel,
    source: BatchSource,
    objective: Objective,
    config: TrainConfig,
    work: Path,
    progress: Progress,
    *,
    log: MetricsLog | None = None,
    max_seconds: float | None = None,
) -> TrainResult:
    """Train in place, resuming from the newest good checkpoint under `work`.

    The gradient of a step is Σ loss / Σ weight over all its micro-batches, so it does not depend on how they are cut.
    A step with a non-finite loss or gradient norm touches neither weights nor optimiser state; three in a row end the run.

    Args:
        work: directory of this run's checkpoints, its own.
        max_seconds: stop after this much time instead of `config.steps` (controls of equal time); the schedule still
            counts in steps.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        HanlinError: the data differ from the checkpoint's, or the loss stays non-finite.
    """
    keep_freed_memory()
    device = next(model.parameters()).device
    optimizers = Optimizers(
        model, learning_rate=config.learning_rate, muon=config.muon, embedding_scale=config.embedding_scale, weight_decay=config.weight_decay,
        betas=(0.9, config.beta2),
    )  # fmt: skip
    guard = SpikeGuard(config.spike_sigma, config.clip)
    log = log or MetricsLog(None)
    step, skipped, seconds, bad_in_a_row = 0, 0, 0.0, 0
    state = load_latest(work, model, optimizers, progress.warn)
    if state is not None:
        if state["fingerprint"] != source.fingerprint:
            raise HanlinError(
                f"{work} 里的检查点来自另一份数据（{state['fingerprint'][:24]}… 不是 {source.fingerprint[:24]}…）。请恢复原来的数据，或删除 {work} 从头训练。",
                f"The checkpoints in {work} come from other data ({state['fingerprint'][:24]}…, not {source.fingerprint[:24]}…). Restore the data, or remove {work} to start over.",
            )
        step, skipped, seconds = state["step"], state["skipped"], state["seconds"]
        guard.losses.extend(state["losses"])
        guard.norms.extend(state["norms"])
        log.rewind(step)
        progress.note(f"从第 {step} 步继续", f"resuming at step {step}")
    if config.compile:
        model.compile_trunk()
    autocast = traits(device).train_dtype
    last: dict[str, float] = {}
    began = saved = time.monotonic()

    def save() -> None:
        state = {
            "fingerprint": source.fingerprint, "skipped": skipped, "seconds": seconds + time.monotonic() - began,
            "losses": list(guard.losses), "norms": list(guard.norms),
        }  # fmt: skip
        log.flush()
        save_checkpoint(work, step, model, optimizers, state)

    model.train()
    with _stop_requests() as stop_requested:
        while step < config.steps:
            if max_seconds is not None and seconds + time.monotonic() - began >= max_seconds:
                break
            tick = time.monotonic()
            batches = source.micro_batches(step, model)
            total = sum(objective.weight(batch) for batch in batches) or 1.0
            figures: dict[str, float] = collections.defaultdict(float)
            loss_sum = 0.0
            for batch in batches:
                batch = batch.to(device)
                with torch.autocast(device.type, getattr(torch, autocast), enabled=autocast != "float32"):
                    loss, summed = objective(model, batch)
                (loss / total).backward()
                loss_sum += float(loss.detach())
                for name, value in summed.items():
                    figures[name] += value
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
            loss_mean = loss_sum / total
            factor = learning_rate_factor(step, config.steps, schedule=config.schedule, warmup=config.warmup, decay=config.decay, floor=config.floor)
            if not (math.isfinite(norm) and math.isfinite(loss_mean)):
                optimizers.zero_grad()
                skipped, bad_in_a_row = skipped + 1, bad_in_a_row + 1
                _report_skip(progress, step, loss_mean, norm, batches)
                if bad_in_a_row == 3:
                    raise HanlinError(
                        f"第 {step} 步起连续三步的损失或梯度不是有限数。模型保持在最后一个好的检查点。请减小 learning_rate，或检查上面列出的文档。",
                        f"Loss or gradient was not finite three steps in a row, up to step {step}. The last good checkpoint stands. Lower learning_rate, or look at the documents named above.",
                    )
            elif guard.is_spike(loss_mean, norm):
                optimizers.zero_grad()
                skipped, bad_in_a_row = skipped + 1, 0
                _report_skip(progress, step, loss_mean, norm, batches)
            else:
                optimizers.step(factor)
                bad_in_a_row = 0
            step += 1
            failpoint("train.after_step")
            elapsed = time.monotonic() - tick
            tokens = sum(batch.ids.numel() for batch in batches)
            last = {
                "loss": loss_mean, "lr": config.learning_rate * factor, "grad_norm": norm, "tokens": tokens,
                "tokens_per_second": tokens / elapsed, "seconds": seconds + time.monotonic() - began,
            } | _means(figures)  # fmt: skip
            log.log(last, step)
            bound = config.steps if max_seconds is None else min(config.steps, max(step, round(step * max_seconds / last["seconds"])))
            progress.update(step, bound, last)
            if stop_requested():
                save()
                raise Interrupted
            if time.monotonic() - saved > config.checkpoint_seconds and step < config.steps:
                save()
                saved = time.monotonic()
    seconds += time.monotonic() - began
    model.eval()
    log.flush()
    return TrainResult(skipped, seconds, last)


def _means(figures: dict[str, float]) -> dict[str, float]:
    """Turn summed figures into means: `name` over `name_count` where that exists; bits per byte from nats and bytes."""
    result = {}
    for name, value in figures.items():
        if name.endswith("_count") or name in ("nll", "bytes"):
            continue
        count = figures.get(f"{name}_count")
        result[name] = value if count is None else value / max(count, 1e-9)
    if figures.get("bytes"):
        result["bits_per_byte"] = figures["nll"] / math.log(2) / figures["bytes"]
    return result


def _report_skip(progress: Progress, step: int, loss: float, norm: float, batches: list[Any]) -> None:
    documents = [document for batch in batches for document in getattr(batch, "documents", [])]
    shown = ", ".join(map(str, documents[:12])) + (" …" if len(documents) > 12 else "")
    progress.warn(
        f"跳过第 {step} 步：loss {loss:.3f}，梯度范数 {norm:.3f}；涉及的文档编号：{shown}",
        f"skipped step {step}: loss {loss:.3f}, gradient norm {norm:.3f}; documents: {shown}",
    )
