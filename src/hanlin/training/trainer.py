"""The one training loop. It knows devices, precision, accumulation, schedules, guards, checkpoints and logging; of tasks, nothing.

A stage gives it a *batch source* (what to read at step n: a pure function, so one integer resumes it) and an *objective*
(a loss summed over a micro-batch, and how many items that sum is over).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hanlin.common.devices import has_own_memory, keep_freed_memory, traits
from hanlin.common.failpoints import failpoint
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import hash_json
from hanlin.common.progress import SOURCE, Progress
from hanlin.common.tracking import MetricsLog
from hanlin.model import CausalLM, RewardModel, choose_attention_for
from hanlin.training.checkpoint.format import data_mismatch_error, discard_after, load_latest, sweep
from hanlin.training.checkpoint.writer import CheckpointWriter
from hanlin.training.compilation import compiling_pays
from hanlin.training.config import TrainConfig
from hanlin.training.contract import BatchSource, Objective, means
from hanlin.training.distributed.strategy import SingleProcess, Strategy
from hanlin.training.guards import BadSteps, SpikeGuard, Verdict, no_checkpoint_error
from hanlin.training.memory import (
    cut,
    desync_error,
    halve,
    is_out_of_memory,
    out_of_memory_error,
    release_memory,
    remember_halvings,
    remembered_halvings,
)
from hanlin.training.metrics import step_figures
from hanlin.training.precision import scaler_for, skips_on_device
from hanlin.training.schedule import learning_rate_factor
from hanlin.training.spikes import SpikeLog, brief, document_losses, worst_first
from hanlin.training.stopping import Interrupted, stop_requests

# every process' alike, or the first's; others are summed
_COMMON = {
    "loss",
    "grad_norm",
    "bad",
    "idle",
    "loss_sigmas",
    "norm_sigmas",
    "lr",
    "data_seconds",
    "loss_scale",
    "overflows",
}


@dataclasses.dataclass
class TrainResult:
    """What a finished loop says: steps skipped by the guards, wall seconds (resumed parts included), last figures; `idle`: steps in
    which there was nothing to learn."""

    skipped: int
    seconds: float
    last: dict[str, float]
    idle: int = 0


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
    strategy: Strategy | None = None,
    origin: Mapping[str, str] | None = None,
) -> TrainResult:
    """Train in place, resuming from the newest good checkpoint under `work`.

    The gradient of a step is Σ loss / Σ weight over all its micro-batches, so it does not depend on how they are cut.
    A bad step (not finite, or a spike) touches neither weights nor optimiser state. Three among the last hundred send
    the run back to the newest anchor before them, to go on with the data behind them; a second time at the same
    place ends it. When memory runs out, the step is done again with smaller micro-batches.

    Args:
        work: directory of this run's checkpoints, its own.
        strategy: of the processes that train together, see `init_distributed`; each calls this with the same arguments.
        max_seconds: in place of `config.max_seconds` (controls of equal time).
        origin: what the model came from, content hashes by role. The checkpoints under `work` hold all weights, so a resume from
            another origin would publish a model that has nothing of it: it is refused, as other data are.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        HanlinError: another run has `work`, the data or the origin differ from the checkpoint's, bad steps do not end, or memory or
            disk do not suffice.
    """
    keep_freed_memory()
    strategy = strategy or SingleProcess()
    with contextlib.ExitStack() as held, stop_requests() as stop_requested:
        strategy.group.run_on_rank0(lambda: held.enter_context(directory_lock(work)))
        run = _Run(
            model,
            source,
            objective,
            config,
            work,
            progress,
            log or MetricsLog(None),
            max_seconds,
            strategy,
            origin,
        )
        held.callback(run.writer.close)
        choose_attention_for(model, run.device, progress.warn, config.attention)
        run.resume()
        model.train()
        run.agree(0)
        while run.step < config.steps and not run.time_is_over:
            run.take_step()
            run.agree(stop_requested())
            if run.stop:
                run.read_back()
                run.save(wait=True)
                raise Interrupted(run.stop)
        run.read_back()
        run.writer.wait()
        run.log.flush()
        strategy.assert_replicas_equal(model)
    model.eval()
    return TrainResult(run.skipped, run.elapsed(), run.last, run.idle)


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
        idle: of these, steps in which no micro-batch of any process had anything to learn.
        halvings: how often memory has asked for micro-batches half as large.
    """

    def __init__(
        self,
        model: CausalLM | RewardModel,
        source: BatchSource,
        objective: Objective,
        config: TrainConfig,
        work: Path,
        progress: Progress,
        log: MetricsLog,
        max_seconds: float | None,
        strategy: Strategy | None = None,
        origin: Mapping[str, str] | None = None,
    ):
        self.model, self.source, self.objective, self.config = model, source, objective, config
        self.work, self.progress, self.log = work, progress, log
        self.max_seconds = config.max_seconds if max_seconds is None else max_seconds
        self.origin = dict(origin or {})
        self.strategy, self.device = strategy or SingleProcess(), next(model.parameters()).device
        self.group = self.strategy.group
        self.strategy.wrap(model, objective)
        self.optimizers = self.strategy.build_optimizers(
            model, config, offload=config.offload_optimizer and has_own_memory(self.device)
        )
        self.guard = SpikeGuard(config.spike_sigma, config.max_grad_norm, self.device)
        self.scaler = scaler_for(self.device)
        self.bad, self.spikes = BadSteps(), SpikeLog(work)
        self.writer = CheckpointWriter(
            work,
            self.device,
            self.strategy,
            progress,
            async_save=config.async_save,
            permanent_interval=config.permanent_checkpoint_interval,
            on_save_error=config.on_save_error,
        )
        self.compiles: bool | None = None  # not decided yet
        self.step = self.offset = self.halvings = self.skipped = self.idle = 0
        self.last: dict[str, float] = {}
        self.pending: _Launched | None = None
        self.earlier_seconds = 0.0
        self.began = self.saved = self.read = time.monotonic()
        self.stop, self.time_is_over, self.save_is_due = 0, False, False
        self.fitting = 0  # elements of the largest micro-batch that memory has been seen to hold

    # ---------------------------------------------------------------- one step

    def agree(self, stop: int) -> None:
        """Settle for all processes what clocks, signals and disks say: whether to stop, to save after the next step, to end, what failed."""
        now = time.monotonic()
        over = self.max_seconds is not None and self.elapsed() >= self.max_seconds
        due = (
            not self.writer.busy and now - max(self.saved, self.writer.ended) > self.config.checkpoint_seconds
        )
        said = self.group.all_gather_object((stop, due, over, self.writer.failure()))
        self.stop, (_, self.save_is_due, self.time_is_over, _) = max(entry[0] for entry in said), said[0]
        self.writer.raise_if_failed([entry[3] for entry in said])

    def take_step(self) -> None:
        """Launch a step, then read what the one before it said; its own at once on a CPU, when a checkpoint is due, or when it is the last."""
        launched = self._launch()
        if not self.read_back():
            return  # rolled back: what was just launched never was
        self.pending, self.step = launched, self.step + 1
        failpoint("train.after_step")
        ended, anchor = (
            self.step == self.config.steps,
            self.step % self.config.permanent_checkpoint_interval == 0,
        )
        due = not ended and (anchor or self.save_is_due)
        if (ended or due or not _reads_later(self.device)) and self.read_back() and due:
            self.save()

    def _launch(self) -> _Launched:
        """Give the device a whole step: forward, backward, verdict, update. Nothing here waits for it."""
        tick = time.monotonic()
        writer = (
            self.strategy.unsharded(self.model) if getattr(self.source, "generates", False) else self.model
        )
        batches = cut(
            self.source.micro_batches(self.step + self.offset, writer, self.strategy.data_shard),
            self.halvings,
        )
        data_seconds = time.monotonic() - tick
        if self.compiles is None:
            self._decide_to_compile(batches)
        batches, loss, figures, idle = self._gradients(batches)
        self.scaler.unscale_(self.model.parameters())
        norm = self.strategy.clip_grad_norm(self.model, self.config.max_grad_norm)
        # What an idle step has is no loss of the ordinary kind, and no gradient: momentum and weight decay are not to act on its account.
        verdict = Verdict.of_idle(self.device) if idle else self.guard.judge(loss, norm)
        overflow = self.scaler.judge(loss, norm)
        config = self.config
        factor = learning_rate_factor(
            self.step,
            config.steps,
            schedule=config.schedule,
            warmup_ratio=config.warmup_ratio,
            decay_ratio=config.decay_ratio,
            min_lr_ratio=config.min_lr_ratio,
        )
        left = verdict.bad | idle
        self.optimizers.step(factor, left if skips_on_device(self.device) else left.cpu())
        tensors = {name: value for name, value in figures.items() if isinstance(value, torch.Tensor)}
        tensors |= {
            "loss": loss,
            "grad_norm": norm,
            "bad": verdict.bad & ~overflow,
            "loss_sigmas": verdict.loss_sigmas,
            "norm_sigmas": verdict.norm_sigmas,
        }
        tensors |= self.scaler.figures()
        plain = {name: float(value) for name, value in figures.items() if name not in tensors}
        plain |= {"idle": 1.0} if idle else {}
        plain |= {
            "lr": config.learning_rate * factor,
            "data_seconds": data_seconds,
            "tokens": float(sum(batch.ids.numel() for batch in batches)),
        }
        plain |= getattr(self.source, "figures", dict)()
        return _Launched(
            self.step,
            tick,
            batches,
            plain,
            list(tensors),
            torch.stack([value.detach().float() for value in tensors.values()]),
        )

    def _decide_to_compile(self, batches: list[Any]) -> None:
        """Once, from the size of a step and the number of them alone, so that a resumed run computes as the first one did."""
        wanted = self.config.compile
        if wanted == "auto":  # where shapes change from step to step, each would be compiled
            wanted = getattr(self.source, "uniform", False) and compiling_pays(
                self.model, batches, self.config.steps, self.device
            )
        if wanted and not self.strategy.can_compile:
            if self.config.compile is True:
                self.progress.warn("deepspeed does not compile yet: compile is ignored")
            wanted = False
        self.compiles = all(self.group.all_gather_object(wanted))
        if self.compiles:
            self.model.compile_trunk(by_block=self.strategy.sharded)
            self.progress.note(
                "compiling the model, so the first step takes longer (train.compile=false for none)"
            )

    def _gradients(
        self, batches: list[Any]
    ) -> tuple[list[Any], torch.Tensor, dict[str, float | torch.Tensor], bool]:
        """Accumulate a step's gradient over all processes, with smaller micro-batches of the same samples where memory asks for it.

        A process that runs out of memory while the others exchange gradients would keep them waiting. So as long as micro-batches of
        this size have not been seen to fit everywhere, gradients are exchanged only after all have said that theirs are there.

        Returns:
            the micro-batches as they were cut, the loss, figures, and whether there was nothing to learn in any process.
        """
        nothing = all(getattr(batch, "idle", False) for batch in batches)
        while True:
            size = max(batch.ids.numel() for batch in batches)
            said = self.group.all_gather_object(
                (
                    sum(self.objective.num_items(batch) for batch in batches),
                    len(batches),
                    size <= self.fitting,
                    nothing,
                )
            )
            total, passes = sum(entry[0] for entry in said) or 1.0, max(entry[1] for entry in said)
            at_once = self.strategy.sharded or (self.group.world_size > 1 and all(entry[2] for entry in said))
            message, result = "", None
            try:
                result = self._accumulate(batches, total, passes, at_once)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                message = str(error).splitlines()[0]
            if at_once and message:
                remember_halvings(self.work, self.halvings + 1)
                raise desync_error(message)
            message = max(self.group.all_gather_object(message)) if not at_once else ""
            if not message:
                assert result is not None
                if not at_once:
                    self.strategy.reduce_gradients()
                self.fitting = max(self.fitting, size)
                return (
                    batches,
                    self.group.all_reduce_sum(result[0]),
                    result[1],
                    all(entry[3] for entry in said),
                )
            self.optimizers.zero_grad()
            release_memory(self.device)
            smaller = halve(batches)
            if not any(self.group.all_gather_object(len(smaller) > len(batches))):
                raise out_of_memory_error(message)
            batches, self.halvings = smaller, self.halvings + 1
            rows = max(batch.ids.shape[0] for batch in batches)
            self.progress.warn(
                "out of memory at step {step}; from here on a micro-batch has {rows} rows at most, with "
                "the same samples and gradients",
                step=self.step,
                rows=rows,
            )

    def _accumulate(
        self, batches: list[Any], total: float, passes: int, at_once: bool
    ) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        """Forward and backward of this process' micro-batches; every process makes the same number of passes, empty ones at the end."""
        loss_sum = torch.zeros((), device=self.device)
        figures: dict[str, float | torch.Tensor] = collections.defaultdict(float)
        dtype = traits(self.device).train_dtype
        for place in range(passes):
            batch = batches[min(place, len(batches) - 1)].to(self.device)
            with self.strategy.gradient_sync(enabled=at_once and place == passes - 1):
                with torch.autocast(self.device.type, getattr(torch, dtype), enabled=dtype != "float32"):
                    loss, summed = self.strategy.loss(batch)
                if place >= len(batches):
                    (loss * 0.0).backward()
                    continue
                self.scaler.scaled(
                    loss / (total / self.group.world_size)
                ).backward()  # the engines average over the processes
            loss_sum += loss.detach()
            for name, value in summed.items():
                figures[name] += value
        return loss_sum / total, figures

    def read_back(self) -> bool:
        """Read the figures of the step still pending, if any, and act on them; false when the run was rolled back."""
        launched, self.pending = self.pending, None
        if launched is None:
            return True
        figures = self._of_all(
            launched.figures | dict(zip(launched.names, launched.values.tolist(), strict=True))
        )
        sigmas = {"loss": figures.pop("loss_sigmas"), "norm": figures.pop("norm_sigmas")}
        elapsed, self.read = time.monotonic() - max(launched.tick, self.read), time.monotonic()
        if figures.pop("bad"):
            self.skipped += 1
            self._report(launched, figures, sigmas)
            if self.bad.add(launched.step):
                self._roll_back(launched.step)
                return False
        self.idle += int(figures.get("idle", 0.0))
        figures |= {
            "tokens_per_second": figures["tokens"] / elapsed,
            "seconds": self.elapsed(),
            "skipped": float(self.skipped),
        }
        figures |= step_figures(
            self.model,
            self.device,
            int(figures["tokens"]) // self.group.world_size,
            elapsed,
            launched.batches[0].ids.shape[-1],
        )
        self.last = means(figures)
        self.log.log(self.last, launched.step + 1)
        self.progress.update(launched.step + 1, self._bound(launched.step + 1), self.last)
        return True

    def _of_all(self, figures: dict[str, float]) -> dict[str, float]:
        """Sums over all processes, and what they have in common as it is."""
        summed: dict[str, float] = collections.defaultdict(float)
        for part in self.group.all_gather_object(
            {name: value for name, value in figures.items() if name not in _COMMON}
        ):
            for name, value in part.items():
                summed[name] += value / self.group.world_size if name.startswith(SOURCE) else value
        return {name: summed.get(name, value) for name, value in figures.items()} | summed

    # ---------------------------------------------------------------- bad steps

    def _report(self, launched: _Launched, figures: dict[str, float], sigmas: dict[str, float]) -> None:
        """Name the documents of a bad step, to the user and in `spikes.jsonl`."""
        loss, norm = figures["loss"], figures["grad_norm"]
        passes = max(self.group.all_gather_object(len(launched.batches)))  # as many in every process
        batches = launched.batches + launched.batches[-1:] * (passes - len(launched.batches))
        judge = self.strategy.per_sequence_loss if hasattr(self.objective, "per_sequence_loss") else None
        documents = worst_first(
            item
            for part in self.group.all_gather_object(document_losses(judge, batches, self.device))
            for item in part
        )
        entry = {
            "step": launched.step,
            "data": launched.step + self.offset,
            "loss": loss,
            "grad_norm": norm,
            "sigmas": sigmas,
        }
        if self.group.is_rank0:
            self.spikes.write(entry | {"reason": self.guard.reason(loss, norm, sigmas["loss"])}, documents)
        self.progress.warn(
            "skipped step {step}: loss {loss:.3f}, gradient norm {norm:.3f}; its documents (and their "
            "losses): {documents}",
            step=launched.step,
            loss=loss,
            norm=norm,
            documents=brief(documents),
        )

    def _roll_back(self, last_bad: int) -> None:
        """Return to the newest anchor before the bad steps, and read on behind them."""
        self.writer.wait()
        following, offset = last_bad + 1 + self.offset, self.offset
        bad, halvings, skipped = self.bad, self.halvings, self.skipped
        state = load_latest(
            self.work,
            self.model,
            self.optimizers,
            self.progress.warn,
            at_most=bad.steps[0],
            multiple_of=self.config.permanent_checkpoint_interval,
            strategy=self.strategy,
        )
        if state is None or state["step"] in bad.rollbacks:
            raise no_checkpoint_error(last_bad, self.work)
        self._restore(state)
        self.offset, self.halvings, self.skipped = following - self.step, halvings, skipped
        self.bad = BadSteps([], [*bad.rollbacks, self.step])
        self.group.run_on_rank0(lambda: discard_after(self.work, self.step))
        self.log.rewind(self.step)
        self.save()
        self.progress.warn(
            "three bad steps among the last hundred: back to step {step}, leaving out the data of the "
            "{offset} steps after it",
            step=self.step,
            offset=self.offset - offset,
        )

    # ---------------------------------------------------------------- checkpoints

    def resume(self) -> None:
        """Go on from the newest good checkpoint; a new run writes its first, to have somewhere to go back to."""
        self.group.run_on_rank0(lambda: sweep(self.work))
        state = load_latest(
            self.work, self.model, self.optimizers, self.progress.warn, strategy=self.strategy
        )
        asked = self.group.run_on_rank0(lambda: remembered_halvings(self.work))
        if state is None:
            self.halvings = asked
            self.save(wait=True)
            return
        if state["fingerprint"] != self._fingerprint():
            raise data_mismatch_error(self.work, state, self._identity())
        self._restore(state)
        self.halvings = max(self.halvings, asked)
        self.earlier_seconds = state["seconds"]
        self.log.rewind(self.step)
        if self.step:
            self.progress.note("resuming at step {step}", step=self.step)

    def save(self, wait: bool = False) -> None:
        """Write a checkpoint of the state between two steps; in the background the write only begins here, unless `wait`."""
        self.writer.wait()
        self.log.flush()  # never behind the checkpoint: a resume forgets the lines beyond it and cannot write those before it again
        self.strategy.assert_replicas_equal(self.model)
        state = {
            "fingerprint": self._fingerprint(),
            "identity": self._identity(),
            "offset": self.offset,
            "halvings": self.halvings,
            "skipped": self.skipped,
            "idle": self.idle,
            "seconds": self.elapsed(),
            "guard": self.guard.state(),
            "scaler": self.scaler.state(),
            "bad": dataclasses.asdict(self.bad),
        }
        self.writer.save(self.step, self.model, self.optimizers, state)
        self.saved = time.monotonic()
        if wait:
            self.writer.wait()

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.offset, self.halvings, self.skipped = (
            state["step"],
            state["offset"],
            state["halvings"],
            state["skipped"],
        )
        self.idle = state.get("idle", 0)
        self.guard.load(state["guard"])
        self.scaler.load(state.get("scaler"))
        self.bad = BadSteps(**state["bad"])

    def _identity(self) -> dict[str, Any]:
        return self.origin | (
            getattr(self.source, "identity", None) or {"fingerprint": self.source.fingerprint}
        )

    def _fingerprint(self) -> str:
        """Of the samples and of the weights that training began with."""
        return (
            f"{self.source.fingerprint}/{hash_json(self.origin)}" if self.origin else self.source.fingerprint
        )

    def elapsed(self) -> float:
        """Seconds of training, those of interrupted parts included."""
        return self.earlier_seconds + time.monotonic() - self.began

    def _bound(self, step: int) -> int:
        """The step at which the run will probably end."""
        return (
            self.config.steps
            if self.max_seconds is None
            else min(self.config.steps, max(step, round(step * self.max_seconds / self.elapsed())))
        )


def _reads_later(device: torch.device) -> bool:
    """Whether a step's figures are worth leaving on the device until the next is launched: a CPU has them already."""
    return device.type != "cpu"
