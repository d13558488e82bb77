"""What the processes of one training tell one another, on the host and, for single tensors, on the device.

A `ProcessGroup` only talks. What is done with the model when there are several processes is a `Strategy`'s
business.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text

T = TypeVar("T")
_TIMEOUT = 600.0  # seconds until a process that does not answer is given up; HANLIN_DIST_TIMEOUT changes it


class ProcessGroup:
    """The processes that train together. This class is one process: every collective returns what it was
    given.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        handle: torch's group for collectives of host objects; None for one process.
    """

    rank: int = 0
    world_size: int = 1
    handle: Any = None

    @property
    def is_rank0(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def all_gather_object(self, value: T) -> list[T]:
        """The picklable value of every process, by rank. For small objects on the host."""
        return [value]

    def gather_object(self, value: T) -> list[T]:
        """The picklable value of every process, by rank, in rank 0; nothing elsewhere."""
        return [value]

    def run_on_rank0(self, action: Callable[[], T]) -> T:
        """Call `action` in rank 0 alone and return its result in every process.

        Raises:
            HanlinError: in every process, when `action` failed in rank 0.
        """
        return action()

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor on the device over all processes, in place."""
        return tensor

    def new_group(self, timeout: datetime.timedelta | None = None) -> ProcessGroup:
        """A separate group of the same processes, so that collectives of a background thread cannot
        interleave with the main thread's. Call it in every process.

        Args:
            timeout: how long a collective of host objects waits; `collective_timeout` when absent.
        """
        return self


SINGLE_PROCESS = ProcessGroup()


class TorchProcessGroup(ProcessGroup):
    """The processes of `torch.distributed`, which has to be initialised.

    Host objects travel through a gloo group of their own, so they neither wait for the device nor make it
    wait.
    """

    def __init__(self, timeout: datetime.timedelta | None = None):
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.handle = dist.new_group(backend="gloo", timeout=timeout or collective_timeout())

    def all_gather_object(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.handle)
        return values

    def gather_object(self, value: T) -> list[T]:
        values: list[Any] | None = [None] * self.world_size if self.is_rank0 else None
        dist.gather_object(value, values, dst=0, group=self.handle)
        return values or []

    def run_on_rank0(self, action: Callable[[], T]) -> T:
        outcome: list[Any] = [None, None]  # the result and the error
        if self.is_rank0:
            try:
                outcome[0] = action()
            except HanlinError as error:
                outcome[1] = error.text
            except BaseException as error:
                outcome[1] = Text("the first process failed: {error!r}", error=error)
                dist.broadcast_object_list([None, outcome[1]], src=0, group=self.handle)
                raise
        dist.broadcast_object_list(outcome, src=0, group=self.handle)
        if outcome[1] is not None:
            error = HanlinError(outcome[1])
            error.already_reported = not self.is_rank0
            raise error
        return outcome[0]

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(tensor)
        return tensor

    def new_group(self, timeout: datetime.timedelta | None = None) -> ProcessGroup:
        return TorchProcessGroup(timeout)


def collective_timeout() -> datetime.timedelta:
    """How long a collective waits for the other processes."""
    return datetime.timedelta(seconds=float(os.environ.get("HANLIN_DIST_TIMEOUT", _TIMEOUT)))
