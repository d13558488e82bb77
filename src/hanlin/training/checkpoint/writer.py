"""Saving while training goes on: the state is copied between two steps, and a thread of its own writes the copy.

What reaches the disk, and in which order, is `checkpoint.write_checkpoint`'s protocol either way. One save at a time; whoever needs the
directory for something else waits for it first. A thread cannot stop a training: its error is told to the loop, which asks at every step.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hanlin.common.devices import has_own_memory, synchronize, traits
from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.training.checkpoint.format import Snapshot, save_checkpoint, take_snapshot, write_checkpoint
from hanlin.training.config import AsyncSave, OnSaveError
from hanlin.training.distributed.strategy import ALONE, Team
from hanlin.training.optim.optimizers import Optimizers


def saves_in_background(async_save: AsyncSave, own_memory: bool, processes: int) -> bool:
    """`train.async_save`; by `auto`, where the host waits for a device, or for other processes. A single process on a CPU would only
    share its cores with the writer."""
    return own_memory or processes > 1 if async_save == "auto" else async_save


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a save in the background failed; `unforeseen` when it is no matter of the disk."""

    zh: str
    en: str
    unforeseen: bool


class HostCopies:
    """Copies in host memory, pinned where that speeds up the transfer; the memory is taken once and filled again at each save."""

    def __init__(self, device: torch.device):
        self.device = device
        self._held: dict[str, torch.Tensor] = {}

    def of(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors as they are now, by the same names; until the next call."""
        pinned = traits(self.device).pin_memory
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


class Saver:
    """Writes the checkpoints of one training.

    Args:
        async_save: see `saves_in_background`.
        on_save_error: whether a checkpoint that cannot be written ends the training or is only warned of.
        team: make it in every process, and call `save` in every process.

    Attributes:
        ended: when the last save in the background ended, by `time.monotonic`.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        team: Team,
        progress: Progress,
        *,
        async_save: AsyncSave = "auto",
        anchor_steps: int = 0,
        on_save_error: OnSaveError = "stop",
    ):
        self.folder, self.team, self.progress = folder, team, progress
        self.anchor_steps, self.on_save_error = anchor_steps, on_save_error
        self.background = saves_in_background(async_save, has_own_memory(device), team.size)
        self.ended = 0.0
        self._among = team.apart() if self.background and team.writes_shards else ALONE
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
                    anchor_steps=self.anchor_steps,
                    team=self.team,
                )
            except HanlinError as error:
                self._not_saved(error)
            return
        assert not self.busy and self._error is None
        if not (self.team.first or self.team.sharded):
            return
        now = take_snapshot(step, model, optimizers, state, self.team)
        if not (self.team.first or self.team.writes_shards):
            return
        copied = dataclasses.replace(
            now, weights=self._weights.of(now.weights), moments=self._moments.of(now.moments)
        )
        self._thread = threading.Thread(target=self._write, args=(copied,), name="checkpoint", daemon=True)
        self._thread.start()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            write_checkpoint(self.folder, snapshot, anchor_steps=self.anchor_steps, team=self._among)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the loop asks for it
            self._error = error
        self.ended = time.monotonic()

    def failure(self) -> Failure | None:
        """Why the last save failed, if it is over and has."""
        error = None if self.busy else self._error
        if error is None:
            return None
        if isinstance(error, HanlinError):
            return Failure(error.zh, error.en, False)
        return Failure(
            f"后台写检查点出错：{error!r}", f"writing a checkpoint in the background failed: {error!r}", True
        )

    def settle(self) -> None:
        """Wait until no checkpoint is being written, and act on what became of it. Call it in every process."""
        if self.background:
            self._wait()
            self.heed(self.team.gather(self.failure()))

    def heed(self, said: list[Failure | None]) -> None:
        """Act on what all processes' `failure` said, in every process as soon as in any.

        Raises:
            HanlinError: a save failed, and that is not only to be warned of.
        """
        failure = next((one for one in said if one is not None), None)
        if failure is None:
            return
        self._wait()
        mine, self._error = self._error, None
        if mine is not None and not isinstance(mine, HanlinError):
            raise mine
        error = HanlinError(failure.zh, failure.en)
        error.already_reported = not self.team.first
        if failure.unforeseen:
            raise error
        self._not_saved(error)

    def leave(self) -> None:
        """Whatever ends the training: wait for the save under way, and do not keep quiet about its failure."""
        self._wait()
        failure = self.failure()
        if failure is not None:
            self.progress.warn(
                f"检查点没有写成：{failure.zh}", f"the checkpoint was not written: {failure.en}"
            )

    def _not_saved(self, error: HanlinError) -> None:
        if self.on_save_error == "stop":
            raise error
        self.progress.warn(
            f"检查点没有写成，训练继续：{error.zh}",
            f"the checkpoint was not written, training goes on: {error.en}",
        )

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
