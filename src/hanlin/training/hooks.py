"""What happens beside the steps: the log, the progress line, the record of bad steps, checkpoints.

The trainer adds hooks with `add_hook` and knows nothing of what they do. All of a hook's methods are called
in every process, those of several hooks in the order in which they were added. A hook does not hold the
trainer: in a circle of references, weights and optimiser state would outlive the training.

    sync_flags      before each step       what clocks and disks said, of every process: decide alike
    after_bad_step  metrics were read      the guard has left this step out
    after_step      metrics were read      (of a step that sent the run back, never)
    wants_state     a step was dispatched  asks for the next
    with_state      metrics were read      weights, optimisers and counters are those after so many steps
    before_save, after_save                around every checkpoint
    after_rewind    resume, rollback       the run goes on from an earlier step
    at_end          all steps were read
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

from hanlin.common.progress import Progress
from hanlin.common.tracking import MetricsLog
from hanlin.training.checkpoint.writer import CheckpointWriter, Failure
from hanlin.training.distributed.strategy import Strategy
from hanlin.training.guards import SpikeGuard
from hanlin.training.spikes import SpikeLog, brief, document_losses, worst_first


@dataclasses.dataclass(frozen=True)
class StepReport:
    """A step whose metrics were read.

    Attributes:
        step: its number, from 0; it is the `step + 1`-th.
        data_step: its place in the order of samples, which differs from `step` after a rollback.
        batches: the micro-batches that this process went through, padding included; as many as in every other
            process.
        metrics: means over all processes; of a bad step as they are, sums among them.
        loss_sigmas, norm_sigmas: how many deviations above the ordinary loss and gradient norm lie.
    """

    step: int
    data_step: int
    batches: list[Any]
    metrics: dict[str, float]
    loss_sigmas: float
    norm_sigmas: float


class Hook:
    """Something that happens beside the steps; see the head of this file for when each method is called."""

    def local_flags(self) -> Any:
        """What this process' clock or disk says, small and picklable; it is sent to all processes before each
        step."""
        return None

    def sync_flags(self, flags: list[Any]) -> None:
        """What `local_flags` returned in every process, by rank."""

    def after_step(self, report: StepReport) -> None:
        """The metrics of a step were read."""

    def after_bad_step(self, report: StepReport) -> None:
        """The metrics of a step that the guard left out were read."""

    def wants_state(self, step: int) -> bool:
        """Whether `with_state` is to be called once `step` steps are done, for which the host waits for the
        device. The same in every process."""
        return False

    def with_state(self, step: int, save: Callable[[], None]) -> None:
        """Weights, optimisers and counters are those after `step` steps; `save` writes a checkpoint of
        them."""

    def before_save(self) -> None:
        """A checkpoint is about to be written."""

    def after_save(self) -> None:
        """A checkpoint was written, or is being written in the background."""

    def after_rewind(self, step: int) -> None:
        """The run goes on from `step` steps done."""

    def at_end(self) -> None:
        """All steps are done."""


class LogHook(Hook):
    """Writes every step to `metrics.jsonl` and the trackers."""

    def __init__(self, log: MetricsLog):
        self.log = log

    def after_step(self, report: StepReport) -> None:
        self.log.log(report.metrics, report.step + 1)

    def before_save(self) -> None:
        # never behind the checkpoint: a resume forgets the lines beyond it and cannot write those before it
        # again
        self.log.flush()

    def after_rewind(self, step: int) -> None:
        self.log.rewind(step)

    def at_end(self) -> None:
        self.log.flush()


class ProgressHook(Hook):
    """Shows every step to the person who waits.

    Args:
        expected_steps: the number of steps after which the run will probably end, asked with those that are
            done.
    """

    def __init__(self, progress: Progress, expected_steps: Callable[[int], int]):
        self.progress = progress
        self.expected_steps = expected_steps

    def after_step(self, report: StepReport) -> None:
        done = report.step + 1
        self.progress.update(done, self.expected_steps(done), report.metrics)


class SpikeHook(Hook):
    """Names the documents of a bad step, worst first, to the user and in `spikes.jsonl`."""

    def __init__(
        self,
        log: SpikeLog,
        guard: SpikeGuard,
        strategy: Strategy,
        device: torch.device,
        progress: Progress,
    ):
        self.log = log
        self.guard = guard
        self.strategy = strategy
        self.device = device
        self.progress = progress

    def after_bad_step(self, report: StepReport) -> None:
        losses = document_losses(self.strategy.per_sequence_loss, report.batches, self.device)
        parts = self.strategy.group.all_gather_object(losses)
        documents = worst_first(entry for part in parts for entry in part)
        loss, norm = report.metrics["loss"], report.metrics["grad_norm"]
        if self.strategy.group.is_rank0:
            entry = {
                "step": report.step,
                "data": report.data_step,
                "loss": loss,
                "grad_norm": norm,
                "sigmas": {"loss": report.loss_sigmas, "norm": report.norm_sigmas},
                "reason": self.guard.reason(loss, norm, report.loss_sigmas),
            }
            self.log.write(entry, documents)
        self.progress.warn(
            "skipped step {step}: loss {loss:.3f}, gradient norm {norm:.3f}; its documents (and their "
            "losses): {documents}",
            step=report.step,
            loss=loss,
            norm=norm,
            documents=brief(documents),
        )


class CheckpointHook(Hook):
    """Saves at every multiple of `interval` and whenever `seconds` have passed since the last checkpoint, by
    rank 0's clock.

    Args:
        last_step: after which there is nothing to save any more: the model itself is published.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        *,
        seconds: float,
        interval: int,
        last_step: int,
    ):
        self.writer = writer
        self.seconds = seconds
        self.interval = interval
        self.last_step = last_step
        self._saved_at = time.monotonic()
        self._is_due = False

    def local_flags(self) -> tuple[bool, Failure | None]:
        since = time.monotonic() - max(self._saved_at, self.writer.ended)
        return not self.writer.busy and since > self.seconds, self.writer.failure()

    def sync_flags(self, flags: list[tuple[bool, Failure | None]]) -> None:
        self._is_due = flags[0][0]
        self.writer.raise_if_failed([failure for _, failure in flags])

    def wants_state(self, step: int) -> bool:
        return step != self.last_step and (step % self.interval == 0 or self._is_due)

    def with_state(self, step: int, save: Callable[[], None]) -> None:
        save()

    def after_save(self) -> None:
        self._saved_at = time.monotonic()

    def at_end(self) -> None:
        self.writer.wait()
