"""Saving while training goes on: the state is copied between two steps, and a thread of its own writes the
copy.

What reaches the disk, and in which order, is `checkpoint.write_checkpoint`'s protocol either way. One save at
a time; whoever needs the directory for something else waits for it first. A thread cannot stop a training:
its error is told to the loop, which asks at every step.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hanlin.common.devices import device_capabilities, is_discrete, synchronize
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.training.checkpoint.format import Snapshot, save_checkpoint, take_snapshot, write_checkpoint
from hanlin.training.config import AsyncSave, OnSaveError
from hanlin.training.distributed.process_group import SINGLE_PROCESS
from hanlin.training.distributed.strategy import Strategy
from hanlin.training.optim.optimizers import Optimizers


def saves_in_background(async_save: AsyncSave, discrete: bool, processes: int) -> bool:
    """`train.async_save`; by `auto`, where the host waits for a device, or for other processes. A single
    process on a CPU would only share its cores with the writer."""
    return discrete or processes > 1 if async_save == "auto" else async_save


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a save in the background failed; `unforeseen` when it is no matter of the disk."""

    text: Text
    unforeseen: bool


class HostCopies:
    """Copies in host memory, pinned where that speeds up the transfer; the memory is taken once and filled
    again at each save."""

    def __init__(self, device: torch.device):
        self.device = device
        self._held: dict[str, torch.Tensor] = {}

    def copy(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors as they are now, by the same names; until the next call."""
        pinned = device_capabilities(self.device).pin_memory
        copied = {}
        with torch.no_grad():
            for name, tensor in tensors.items():
                held = self._held.get(name)
                if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
                    held = torch.empty_like(tensor.detach(), device="cpu", pin_memory=pinned)
                copied[name] = held.copy_(tensor.detach(), non_blocking=True)
        synchronize(self.device)
        self._held = copied
        return copied


class CheckpointWriter:
    """Writes the checkpoints of one training.

    Args:
        async_save: see `saves_in_background`.
        on_save_error: whether a checkpoint that cannot be written ends the training or is only warned of.
        strategy: of the training; make the writer in every process, and call `save` in every process.

    Attributes:
        ended: when the last save in the background ended, by `time.monotonic`.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        strategy: Strategy,
        progress: Progress,
        *,
        async_save: AsyncSave = "auto",
        permanent_interval: int = 0,
        on_save_error: OnSaveError = "stop",
    ):
        self.folder, self.strategy, self.progress = folder, strategy, progress
        self.group = strategy.group
        self.permanent_interval, self.on_save_error = permanent_interval, on_save_error
        self.background = saves_in_background(async_save, is_discrete(device), self.group.world_size)
        self.ended = 0.0
        # where rank 0 writes for all, its thread asks nobody
        own = self.background and strategy.writes_shards
        self._thread_group = self.group.new_group() if own else SINGLE_PROCESS
        self._weights, self._moments = HostCopies(device), HostCopies(device)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is under way in this process."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, step: int, model: nn.Module, optimizers: Optimizers, state: dict[str, Any]) -> None:
        """Write a checkpoint of now, or begin to; the one before must be over.

        Raises:
            HanlinError: as `write_checkpoint`, unless in the background or only to be warned of.
        """
        if not self.background:
            try:
                save_checkpoint(
                    self.folder,
                    step,
                    model,
                    optimizers,
                    state,
                    permanent_interval=self.permanent_interval,
                    strategy=self.strategy,
                )
            except HanlinError as error:
                self._not_saved(error)
            return
        assert not self.busy and self._error is None
        if not (self.group.is_rank0 or self.strategy.sharded):
            return
        snapshot = take_snapshot(step, model, optimizers, state, self.strategy)
        if not (self.group.is_rank0 or self.strategy.writes_shards):
            return
        copied = dataclasses.replace(
            snapshot,
            weights=self._weights.copy(snapshot.weights),
            moments=self._moments.copy(snapshot.moments),
        )
        self._thread = threading.Thread(target=self._write, args=(copied,), name="checkpoint", daemon=True)
        self._thread.start()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            write_checkpoint(
                self.folder,
                snapshot,
                permanent_interval=self.permanent_interval,
                group=self._thread_group,
                in_shards=self.strategy.writes_shards,
            )
        except BaseException as error:  # noqa: BLE001 - whatever it is, the loop asks for it
            self._error = error
        self.ended = time.monotonic()

    def failure(self) -> Failure | None:
        """Why the last save failed, if it is over and has."""
        error = None if self.busy else self._error
        if error is None:
            return None
        if isinstance(error, HanlinError):
            return Failure(error.text, False)
        return Failure(Text("writing a checkpoint in the background failed: {error!r}", error=error), True)

    def wait(self) -> None:
        """Wait until no checkpoint is being written, and act on what became of it. Call it in every
        process."""
        if self.background:
            self._join()
            self.raise_if_failed(self.group.all_gather_object(self.failure()))

    def raise_if_failed(self, failures: list[Failure | None]) -> None:
        """Act on what every process' `failure` returned, in every process as soon as in any.

        Raises:
            HanlinError: a save failed, and that is not only to be warned of.
        """
        failure = next((one for one in failures if one is not None), None)
        if failure is None:
            return
        self._join()
        own_error, self._error = self._error, None
        if own_error is not None and not isinstance(own_error, HanlinError):
            raise own_error
        error = HanlinError(failure.text)
        error.already_reported = not self.group.is_rank0
        if failure.unforeseen:
            raise error
        self._not_saved(error)

    def close(self) -> None:
        """Whatever ends the training: wait for the save under way, and do not keep quiet about its
        failure."""
        self._join()
        failure = self.failure()
        if failure is not None:
            self.progress.warn("the checkpoint was not written: {failure}", failure=failure)

    def _not_saved(self, error: HanlinError) -> None:
        if self.on_save_error == "stop":
            raise error
        self.progress.warn("the checkpoint was not written, training goes on: {error}", error=error)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
