"""The one training loop. It knows devices, precision, accumulation, schedules, guards, checkpoints and logging; of tasks, nothing.

A stage gives it a *batch source* (what to read at step n: a pure function, so one integer resumes it) and an *objective*
(a loss summed over a micro-batch, and how many items that sum is over).
"""

from __future__ import annotations

import collections
import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..common.devices import has_own_memory, keep_freed_memory, traits
from ..common.errors import HanlinError
from ..common.failpoints import failpoint
from ..common.locks import directory_lock
from ..common.progress import Progress
from ..common.tracking import MetricsLog
from ..model import CausalLM, RewardModel
from .checkpoint import discard_after, load_latest, other_data, save_checkpoint, sweep
from .compiling import compiling_pays
from .contract import BatchSource, Objective, means
from .figures import step_figures
from .guards import BadSteps, SpikeGuard, no_way_back
from .memory import cut, does_not_fit, halve, is_out_of_memory, release_memory
from .optim import Optimizers
from .schedule import Schedule, learning_rate_factor
from .spikes import SpikeLog, brief, document_losses
from .stopping import Interrupted, stop_requests


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
        anchor_steps: there is a checkpoint at every multiple of it besides: only to these is a run rolled back, since
            where the others lie depends on the clock, and a run may not.
        on_save_error: whether a checkpoint that cannot be written stops the run or is only warned of.
        offload_optimizer: keep the optimiser's state in host memory, where the device has memory of its own; see `Optimizers`.
        compile: `torch.compile` the model: true, false, or `auto`, where the run is long enough to earn back what compiling costs.
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
    anchor_steps: int = 250
    on_save_error: Literal["stop", "warn"] = "stop"
    offload_optimizer: bool = False
    compile: Literal[True, False, "auto"] = "auto"

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.anchor_steps < 1:
            raise ValueError(f"anchor_steps must be at least 1, not {self.anchor_steps}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if not 0 <= self.warmup + self.decay <= 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are shares of the steps and may not exceed 1 together")


@dataclasses.dataclass
class TrainResult:
    """What a finished loop says: steps skipped by the guards, wall seconds (resumed parts included), last figures."""

    skipped: int
    seconds: float
    last: dict[str, float]


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
    A bad step (not finite, or a spike) touches neither weights nor optimiser state. Three among the last hundred send
    the run back to the newest anchor before them, to go on with the data behind them; a second time at the same
    place ends it. When memory runs out, the step is done again with smaller micro-batches.

    Args:
        work: directory of this run's checkpoints, its own.
        max_seconds: stop after this much time instead of `config.steps` (controls of equal time); the schedule still
            counts in steps.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        HanlinError: another run has `work`, the data differ from the checkpoint's, bad steps do not end, or memory or
            disk do not suffice.
    """
    keep_freed_memory()
    with directory_lock(work):
        run = _Run(model, source, objective, config, work, progress, log or MetricsLog(None), max_seconds)
        run.resume()
        model.train()
        with stop_requests() as stop_requested:
            while run.step < config.steps and not run.out_of_time():
                run.take_step()
                if stop_requested():
                    run.read_back()
                    run.save()
                    raise Interrupted(stop_requested())
        run.read_back()
        run.log.flush()
    model.eval()
    return TrainResult(run.skipped, run.elapsed(), run.last)


@dataclasses.dataclass
class _Launched:
    """A step the device was given at `tick`. Its figures stay there, one small tensor (names,), until the next step is launched too."""

    step: int
    tick: float
    batches: list[Any]
    figures: dict[str, float]
    names: list[str]
    values: torch.Tensor


class _Run:
    """One training in progress.

    Attributes:
        step: optimiser steps done; `step + offset` is the place in the order of samples.
        halvings: how often memory has asked for micro-batches half as large.
    """

    def __init__(
        self, model: CausalLM | RewardModel, source: BatchSource, objective: Objective, config: TrainConfig,
        work: Path, progress: Progress, log: MetricsLog, max_seconds: float | None,
    ):  # fmt: skip
        self.model, self.source, self.objective, self.config = model, source, objective, config
        self.work, self.progress, self.log, self.max_seconds = work, progress, log, max_seconds
        self.device = next(model.parameters()).device
        self.optimizers = Optimizers(
            model, learning_rate=config.learning_rate, muon=config.muon, embedding_scale=config.embedding_scale,
            weight_decay=config.weight_decay, betas=(0.9, config.beta2), offload=config.offload_optimizer and has_own_memory(self.device),
        )  # fmt: skip
        self.guard = SpikeGuard(config.spike_sigma, config.clip, self.device)
        self.bad, self.spikes = BadSteps(), SpikeLog(work)
        self.compiles: bool | None = None  # not decided yet
        self.step = self.offset = self.halvings = self.skipped = 0
        self.last: dict[str, float] = {}
        self.pending: _Launched | None = None
        self.earlier_seconds = 0.0
        self.began = self.saved = self.read = time.monotonic()

    # ---------------------------------------------------------------- one step

    def take_step(self) -> None:
        """Launch a step, then read what the one before it said; its own at once on a CPU, when a checkpoint is due, or when it is the last."""
        launched = self._launch()
        if not self.read_back():
            return  # rolled back: what was just launched never was
        self.pending, self.step = launched, self.step + 1
        failpoint("train.after_step")
        ended, anchor = self.step == self.config.steps, self.step % self.config.anchor_steps == 0
        due = not ended and (anchor or time.monotonic() - self.saved > self.config.checkpoint_seconds)
        if (ended or due or not _reads_later(self.device)) and self.read_back() and due:
            self.save()

    def _launch(self) -> _Launched:
        """Give the device a whole step: forward, backward, verdict, update. Nothing here waits for it."""
        tick = time.monotonic()
        batches = cut(self.source.micro_batches(self.step + self.offset, self.model), self.halvings)
        if self.compiles is None:
            self._decide_to_compile(batches)
        batches, loss, figures = self._gradients(batches)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        verdict = self.guard.judge(loss, norm)
        config = self.config
        factor = learning_rate_factor(self.step, config.steps, schedule=config.schedule, warmup=config.warmup, decay=config.decay, floor=config.floor)
        self.optimizers.step(factor, verdict.bad)
        tensors = {name: value for name, value in figures.items() if isinstance(value, torch.Tensor)}
        tensors |= {"loss": loss, "grad_norm": norm, "bad": verdict.bad, "loss_sigmas": verdict.loss_sigmas, "norm_sigmas": verdict.norm_sigmas}
        plain = {name: float(value) for name, value in figures.items() if name not in tensors}
        plain |= {"lr": config.learning_rate * factor, "tokens": float(sum(batch.ids.numel() for batch in batches))}
        plain |= getattr(self.source, "figures", dict)()
        return _Launched(self.step, tick, batches, plain, list(tensors), torch.stack([value.detach().float() for value in tensors.values()]))

    def _decide_to_compile(self, batches: list[Any]) -> None:
        """Once, from the size of a step and the number of them alone, so that a resumed run computes as the first one did."""
        self.compiles = self.config.compile if isinstance(self.config.compile, bool) else compiling_pays(self.model, batches, self.config.steps, self.device)
        if self.compiles:
            self.model.compile_trunk()
            self.progress.note("编译模型，第一步会慢一些（train.compile=false 可关闭）", "compiling the model, so the first step takes longer (train.compile=false for none)")

    def _gradients(self, batches: list[Any]) -> tuple[list[Any], torch.Tensor, dict[str, float | torch.Tensor]]:
        """Accumulate a step's gradient, with smaller micro-batches of the same samples where memory asks for it."""
        while True:
            try:
                return batches, *self._accumulate(batches)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                message = str(error).splitlines()[0]
            self.optimizers.zero_grad()
            release_memory(self.device)
            smaller = halve(batches)
            if len(smaller) == len(batches):
                raise does_not_fit(message)
            batches, self.halvings = smaller, self.halvings + 1
            rows = max(batch.ids.shape[0] for batch in batches)
            self.progress.warn(
                f"第 {self.step} 步内存不足；从此每个微批次最多 {rows} 行，样本与梯度不变",
                f"out of memory at step {self.step}; from here on a micro-batch has {rows} rows at most, with the same samples and gradients",
            )

    def _accumulate(self, batches: list[Any]) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        total = sum(self.objective.weight(batch) for batch in batches) or 1.0
        loss_sum = torch.zeros((), device=self.device)
        figures: dict[str, float | torch.Tensor] = collections.defaultdict(float)
        dtype = traits(self.device).train_dtype
        for batch in batches:
            batch = batch.to(self.device)
            with torch.autocast(self.device.type, getattr(torch, dtype), enabled=dtype != "float32"):
                loss, summed = self.objective(self.model, batch)
            (loss / total).backward()
            loss_sum += loss.detach()
            for name, value in summed.items():
                figures[name] += value
        return loss_sum / total, figures

    def read_back(self) -> bool:
        """Read the figures of the step still pending, if any, and act on them; false when the run was rolled back."""
        launched, self.pending = self.pending, None
        if launched is None:
            return True
        figures = launched.figures | dict(zip(launched.names, launched.values.tolist(), strict=True))
        sigmas = {"loss": figures.pop("loss_sigmas"), "norm": figures.pop("norm_sigmas")}
        elapsed, self.read = time.monotonic() - max(launched.tick, self.read), time.monotonic()
        if figures.pop("bad"):
            self.skipped += 1
            self._report(launched, figures, sigmas)
            if self.bad.add(launched.step):
                self._roll_back(launched.step)
                return False
        figures |= {"tokens_per_second": figures["tokens"] / elapsed, "seconds": self.elapsed(), "skipped": float(self.skipped)}
        figures |= step_figures(self.model, self.device, int(figures["tokens"]), elapsed, launched.batches[0].ids.shape[-1])
        self.last = means(figures)
        self.log.log(self.last, launched.step + 1)
        self.progress.update(launched.step + 1, self._bound(launched.step + 1), self.last)
        return True

    # ---------------------------------------------------------------- bad steps

    def _report(self, launched: _Launched, figures: dict[str, float], sigmas: dict[str, float]) -> None:
        """Name the documents of a bad step, to the user and in `spikes.jsonl`."""
        loss, norm = figures["loss"], figures["grad_norm"]
        documents = document_losses(self.objective, self.model, launched.batches, self.device)
        entry = {"step": launched.step, "data": launched.step + self.offset, "loss": loss, "grad_norm": norm, "sigmas": sigmas}
        self.spikes.write(entry | {"reason": self.guard.reason(loss, norm, sigmas["loss"])}, documents)
        self.progress.warn(
            f"跳过第 {launched.step} 步：loss {loss:.3f}，梯度范数 {norm:.3f}；其中的文档（损失）：{brief(documents)}",
            f"skipped step {launched.step}: loss {loss:.3f}, gradient norm {norm:.3f}; its documents (and their losses): {brief(documents)}",
        )

    def _roll_back(self, last_bad: int) -> None:
        """Return to the newest anchor before the bad steps, and read on behind them."""
        following, offset = last_bad + 1 + self.offset, self.offset
        bad, halvings, skipped = self.bad, self.halvings, self.skipped
        state = load_latest(self.work, self.model, self.optimizers, self.progress.warn, at_most=bad.steps[0], multiple_of=self.config.anchor_steps)
        if state is None or state["step"] in bad.rollbacks:
            raise no_way_back(last_bad, self.work)
        self._restore(state)
        self.offset, self.halvings, self.skipped = following - self.step, halvings, skipped
        self.bad = BadSteps([], [*bad.rollbacks, self.step])
        discard_after(self.work, self.step)
        self.log.rewind(self.step)
        self.save()
        self.progress.warn(
            f"最近一百步里有三步异常：退回第 {self.step} 步，跳过其后 {self.offset - offset} 步的数据",
            f"three bad steps among the last hundred: back to step {self.step}, leaving out the data of the {self.offset - offset} steps after it",
        )

    # ---------------------------------------------------------------- checkpoints

    def resume(self) -> None:
        """Go on from the newest good checkpoint; a new run writes its first, to have somewhere to go back to."""
        sweep(self.work)
        state = load_latest(self.work, self.model, self.optimizers, self.progress.warn)
        if state is None:
            self.save()
            return
        if state["fingerprint"] != self.source.fingerprint:
            raise other_data(self.work, state, self._identity())
        self._restore(state)
        self.earlier_seconds = state["seconds"]
        self.log.rewind(self.step)
        if self.step:
            self.progress.note(f"从第 {self.step} 步继续", f"resuming at step {self.step}")

    def save(self) -> None:
        """Write a checkpoint of the state between two steps."""
        self.log.flush()
        state = {
            "fingerprint": self.source.fingerprint, "identity": self._identity(), "offset": self.offset, "halvings": self.halvings,
            "skipped": self.skipped, "seconds": self.elapsed(), "guard": self.guard.state(), "bad": dataclasses.asdict(self.bad),
        }  # fmt: skip
        try:
            save_checkpoint(self.work, self.step, self.model, self.optimizers, state, anchor_steps=self.config.anchor_steps)
        except HanlinError as error:
            if self.config.on_save_error == "stop":
                raise
            self.progress.warn(f"检查点没有写成，训练继续：{error.zh}", f"the checkpoint was not written, training goes on: {error.en}")
        self.saved = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.offset, self.halvings, self.skipped = state["step"], state["offset"], state["halvings"], state["skipped"]
        self.guard.load(state["guard"])
        self.bad = BadSteps(**state["bad"])

    def _identity(self) -> dict[str, Any]:
        return getattr(self.source, "identity", None) or {"fingerprint": self.source.fingerprint}

    def elapsed(self) -> float:
        """Seconds of training, those of interrupted parts included."""
        return self.earlier_seconds + time.monotonic() - self.began

    def out_of_time(self) -> bool:
        """Whether the time given is over."""
        return self.max_seconds is not None and self.elapsed() >= self.max_seconds

    def _bound(self, step: int) -> int:
        """The step at which the run will probably end."""
        return self.config.steps if self.max_seconds is None else min(self.config.steps, max(step, round(step * self.max_seconds / self.elapsed())))


def _reads_later(device: torch.device) -> bool:
    """Whether a step's figures are worth leaving on the device until the next is launched: a CPU has them already."""
    return device.type != "cpu"
