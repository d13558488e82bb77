"""The one training loop. It knows devices, precision, schedules, guards and checkpoints; of tasks, nothing.

    Trainer.run                         for each step:
      -> dispatch_step                    give the device the whole step
           source.micro_batches             what to read (contract.py)
           gradients.accumulate             forward, backward, over all processes (gradients.py)
           update                           clip, judge (guards.py), optimisers (optim/) (update.py)
      -> collect_metrics                  read what the step before said (metrics.py), roll back if it must be
      -> hooks                            log, progress, record of bad steps, checkpoints (hooks.py)

Where the processes of a distributed run differ is a `Strategy` (distributed/strategy.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hanlin.common.devices import allocator_keep_freed, is_discrete
from hanlin.common.failpoints import failpoint
from hanlin.common.locks import directory_lock
from hanlin.common.progress import Progress
from hanlin.model import CausalLM, RewardModel, choose_kernels
from hanlin.training.checkpoint.format import discard_after, sweep
from hanlin.training.checkpoint.restore import data_mismatch_error, load_latest
from hanlin.training.checkpoint.source_state import gather_source_state, restore_source_state
from hanlin.training.checkpoint.writer import CheckpointWriter
from hanlin.training.compilation import agree_to_compile
from hanlin.training.config import TrainConfig
from hanlin.training.contract import BatchSource, Objective, config_hash
from hanlin.training.distributed.strategy import SingleProcess, Strategy
from hanlin.training.gradients import GradientAccumulator
from hanlin.training.guards import BadSteps, SpikeGuard, no_checkpoint_error
from hanlin.training.hooks import CheckpointHook, Hook, SpikeHook, StepReport
from hanlin.training.memory import remembered_halvings
from hanlin.training.metrics import StepMetrics, average_metrics, cost_metrics, reduce_metrics
from hanlin.training.precision import scaler_for
from hanlin.training.run_state import RunState, TrainResult
from hanlin.training.spikes import SpikeLog
from hanlin.training.stopping import Interrupted, stop_requests
from hanlin.training.update import WeightUpdate

# of a step in which no process had anything to compute
_EMPTY_STEP = {
    "idle": 1.0,
    "loss": 0.0,
    "grad_norm": 0.0,
    "bad": 0.0,
    "loss_sigmas": 0.0,
    "norm_sigmas": 0.0,
}


@dataclasses.dataclass(frozen=True)
class PendingStep:
    """A step that the device was given at `started`, by `time.monotonic`; its metrics stay on the device
    until they are read.

    Attributes:
        data_step: its place in the order of samples.
        batches: the micro-batches that this process goes through, padding included.
        row_length: tokens in a row, 0 where there are no rows.
    """

    step: int
    data_step: int
    started: float
    batches: list[Any]
    row_length: int
    metrics: StepMetrics


class Trainer:
    """One training in progress.

    Attributes:
        state: where it is.
        pending: the step that was dispatched and not read, if there is one.
        last_metrics: of the newest step that was read.
    """

    def __init__(
        self,
        model: CausalLM | RewardModel,
        source: BatchSource,
        objective: Objective,
        config: TrainConfig,
        checkpoint_dir: Path,
        progress: Progress,
        *,
        max_seconds: float | None = None,
        strategy: Strategy | None = None,
        origin: Mapping[str, str] | None = None,
    ):
        allocator_keep_freed()
        self.model = model
        self.source = source
        self.config = config
        self.checkpoint_dir = checkpoint_dir
        self.progress = progress
        self.max_seconds = config.max_seconds if max_seconds is None else max_seconds
        self.identity = {**(origin or {}), **source.identity()}
        self.strategy = strategy or SingleProcess()
        self.group = self.strategy.group
        self.device = next(model.parameters()).device

        self.strategy.wrap(model, objective)
        offload = config.offload_optimizer and is_discrete(self.device)
        self.optimizers = self.strategy.build_optimizers(model, config, offload)
        self.scaler = scaler_for(self.device)
        self.guard = SpikeGuard(config.spike_sigma, config.max_grad_norm, self.device)
        self.gradients = GradientAccumulator(
            objective, self.strategy, self.optimizers, self.scaler, self.device, checkpoint_dir, progress
        )
        self.update = WeightUpdate(
            model, config, self.strategy, self.optimizers, self.scaler, self.guard, self.device
        )
        self.writer = CheckpointWriter(
            checkpoint_dir,
            self.device,
            self.strategy,
            progress,
            async_save=config.async_save,
            permanent_interval=config.permanent_checkpoint_interval,
            on_save_error=config.on_save_error,
        )

        self.state = RunState()
        self.last_metrics: dict[str, float] = {}
        self.pending: PendingStep | None = None
        self.is_compiled: bool | None = None  # not decided yet
        self.stop_signal = 0
        self.time_is_over = False
        self._read_at = time.monotonic()  # when metrics were last read

        self.hooks: list[Hook] = []
        self.add_hook(SpikeHook(SpikeLog(checkpoint_dir), self.guard, self.strategy, self.device, progress))
        self.add_hook(
            CheckpointHook(
                self.writer,
                seconds=config.checkpoint_seconds,
                interval=config.permanent_checkpoint_interval,
                last_step=config.steps,
            )
        )

    def add_hook(self, hook: Hook) -> None:
        """Call the hook's methods from now on, after those of the hooks that are there."""
        self.hooks.append(hook)

    # ---------------------------------------------------------------- the loop

    def run(self) -> TrainResult:
        """Train until the steps or the time are over; see `run.train`."""
        with contextlib.ExitStack() as stack, stop_requests() as stop_requested:
            self.group.run_on_rank0(lambda: stack.enter_context(directory_lock(self.checkpoint_dir)))
            stack.callback(self.writer.close)
            choose_kernels(self.model, self.device, self.progress.warn, self.config.attention)
            self.resume()
            self.model.train()
            for step in self.remaining_steps(stop_requested):
                pending = self.dispatch_step(step)
                # The metrics of a step are read only here, after the next step was dispatched: the host never
                # waits for the device.
                if not self.collect_metrics():
                    continue  # they sent the run back, and the step just dispatched never was
                self.pending = pending
                self.state.step = step + 1
                failpoint("train.after_step")
                self.call_hooks_with_state()
            self.collect_metrics()
            for hook in self.hooks:
                hook.at_end()
            self.strategy.assert_replicas_equal(self.model)
        self.model.eval()
        return TrainResult(self.state.skipped, self.state.elapsed(), self.last_metrics, self.state.idle)

    def remaining_steps(self, stop_requested: Any) -> Iterator[int]:
        """Numbers of the steps to do, until none is left or the time is over; after a rollback from where it
        led.

        Raises:
            Interrupted: the run was asked to stop; the state is saved.
        """
        while True:
            self.sync_control_flags(stop_requested())
            if self.stop_signal:
                self.collect_metrics()
                self.save(wait=True)
                raise Interrupted(self.stop_signal)
            if self.state.step >= self.config.steps or self.time_is_over:
                return
            yield self.state.step

    def sync_control_flags(self, stop_signal: int) -> None:
        """Decide for all processes alike what clocks, signals and disks say: whether to stop, to end, and
        what hooks ask for."""
        is_over = self.max_seconds is not None and self.state.elapsed() >= self.max_seconds
        own = (stop_signal, is_over, [hook.local_flags() for hook in self.hooks])
        flags = self.group.all_gather_object(own)
        self.stop_signal = max(signal for signal, _, _ in flags)
        self.time_is_over = flags[0][1]
        for index, hook in enumerate(self.hooks):
            hook.sync_flags([of_hooks[index] for _, _, of_hooks in flags])

    def dispatch_step(self, step: int) -> PendingStep:
        """Give the device a whole step: forward, backward, verdict, update. Nothing here waits for it."""
        started = time.monotonic()
        data_step = self.state.data_step
        model = self.strategy.unsharded(self.model) if self.source.generates else self.model
        batches = self.source.micro_batches(data_step, model, self.strategy.data_shard)
        data_seconds = time.monotonic() - started
        if self.is_compiled is None:
            self.is_compiled = agree_to_compile(
                self.config,
                self.source.uniform,
                self.model,
                batches,
                self.strategy,
                self.device,
                self.progress,
            )
        gradients = self.gradients.accumulate(step, batches)
        metrics = StepMetrics()
        metrics.add(gradients.metrics)
        metrics.add(_EMPTY_STEP if gradients.is_empty else self.update(step, gradients.loss))
        metrics.add(
            {
                "lr": self.update.learning_rate(step),
                "data_seconds": data_seconds,
                "tokens": sum(batch.ids.numel() for batch in gradients.batches),
            }
        )
        metrics.add(self.source.metrics())
        metrics.seal()
        batches = gradients.batches + gradients.padding
        row_length = batches[0].ids.shape[-1] if batches else 0
        return PendingStep(step, data_step, started, batches, row_length, metrics)

    def collect_metrics(self) -> bool:
        """Read the metrics of the pending step, if there is one, and act on them; false when they sent the
        run back."""
        pending, self.pending = self.pending, None
        if pending is None:
            return True
        metrics = reduce_metrics(pending.metrics.read(), self.group)
        now = time.monotonic()
        seconds = now - max(pending.started, self._read_at)
        self._read_at = now
        sigmas = (metrics.pop("loss_sigmas"), metrics.pop("norm_sigmas"))
        is_bad = bool(metrics.pop("bad"))
        if is_bad:
            self.state.skipped += 1
            report = StepReport(pending.step, pending.data_step, pending.batches, metrics, *sigmas)
            for hook in self.hooks:
                hook.after_bad_step(report)
            if self.state.bad_steps.add(pending.step):
                self.roll_back(pending.step)
                return False
        self.state.idle += int(metrics.get("idle", 0.0))
        metrics |= {
            "tokens_per_second": metrics["tokens"] / seconds,
            "seconds": self.state.elapsed(),
            "skipped": float(self.state.skipped),
        }
        own_tokens = int(metrics["tokens"]) // self.group.world_size
        metrics |= cost_metrics(self.model, self.device, own_tokens, seconds, pending.row_length)
        self.last_metrics = average_metrics(metrics)
        report = StepReport(pending.step, pending.data_step, pending.batches, self.last_metrics, *sigmas)
        for hook in self.hooks:
            hook.after_step(report)
        return True

    def call_hooks_with_state(self) -> None:
        """Let hooks see the state after the newest step where they ask for it: then its metrics are read at
        once, as on a CPU always."""
        callers = [hook for hook in self.hooks if hook.wants_state(self.state.step)]
        is_last = self.state.step == self.config.steps
        if (callers or is_last or not _reads_later(self.device)) and self.collect_metrics():
            for hook in callers:
                hook.with_state(self.state.step, self.save)

    # ---------------------------------------------------------------- checkpoints

    def resume(self) -> None:
        """Go on from the newest good checkpoint; a new run writes its first, to have somewhere to go back
        to."""
        self.group.run_on_rank0(lambda: sweep(self.checkpoint_dir))
        state = self._load_checkpoint()
        halvings = self.group.run_on_rank0(lambda: remembered_halvings(self.checkpoint_dir))
        if state is None:
            self.gradients.microbatch_halvings = halvings
            self.save(wait=True)
            return
        if config_hash(state["identity"]) != config_hash(self.identity):
            raise data_mismatch_error(self.checkpoint_dir, state, self.identity)
        self.load_state_dict(state)
        self.gradients.microbatch_halvings = max(self.gradients.microbatch_halvings, halvings)
        self.state.earlier_seconds = state["seconds"]
        for hook in self.hooks:
            hook.after_rewind(self.state.step)
        if self.state.step:
            self.progress.note("resuming at step {step}", step=self.state.step)

    def roll_back(self, last_bad: int) -> None:
        """Return to the newest permanent checkpoint before the bad steps, and read on behind them.

        Raises:
            HanlinError: there is none, or the run has been there before.
        """
        self.writer.wait()
        next_data_step = last_bad + 1 + self.state.data_offset
        earlier_offset = self.state.data_offset
        bad_steps, skipped = self.state.bad_steps, self.state.skipped
        halvings = self.gradients.microbatch_halvings
        state = self._load_checkpoint(
            at_most=bad_steps.steps[0], multiple_of=self.config.permanent_checkpoint_interval
        )
        if state is None or state["step"] in bad_steps.rollbacks:
            raise no_checkpoint_error(last_bad, self.checkpoint_dir)
        self.load_state_dict(state)
        self.state.data_offset = next_data_step - self.state.step
        self.gradients.microbatch_halvings = halvings
        self.state.skipped = skipped
        self.state.bad_steps = BadSteps([], [*bad_steps.rollbacks, self.state.step])
        self.group.run_on_rank0(lambda: discard_after(self.checkpoint_dir, self.state.step))
        for hook in self.hooks:
            hook.after_rewind(self.state.step)
        self.save()
        self.progress.warn(
            "three bad steps among the last hundred: back to step {step}, leaving out the data of the "
            "{offset} steps after it",
            step=self.state.step,
            offset=self.state.data_offset - earlier_offset,
        )

    def save(self, wait: bool = False) -> None:
        """Write a checkpoint of the state between two steps; in the background the write only begins here,
        unless `wait`."""
        self.writer.wait()
        for hook in self.hooks:
            hook.before_save()
        self.strategy.assert_replicas_equal(self.model)
        self.writer.save(self.state.step, self.model, self.optimizers, self.state_dict())
        for hook in self.hooks:
            hook.after_save()
        if wait:
            self.writer.wait()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides weights, optimisers and random generators. Call it in every
        process."""
        return self.state.state_dict() | {
            "identity": self.identity,
            "microbatch_halvings": self.gradients.microbatch_halvings,
            "guard": self.guard.state(),
            "scaler": self.scaler.state(),
            "source": gather_source_state(self.source, self.group),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.state.load_state_dict(state)
        self.gradients.microbatch_halvings = state["microbatch_halvings"]
        self.guard.load(state["guard"])
        self.scaler.load(state.get("scaler"))
        restore_source_state(self.source, state.get("source"), self.strategy.data_shard)

    def _load_checkpoint(self, **which: Any) -> dict[str, Any] | None:
        return load_latest(
            self.checkpoint_dir,
            self.model,
            self.optimizers,
            self.progress.warn,
            strategy=self.strategy,
            **which,
        )


def _reads_later(device: torch.device) -> bool:
    """Whether metrics are worth leaving on the device until the next step is dispatched: a CPU has them
    already."""
    return device.type != "cpu"
