"""Work cut into tasks that leave their results on disk: one process, many or a cluster come to the same
files, and a kill costs a task.

A task's result is a directory that appears whole (fsync, rename) or not at all; its being there is the marker
of completion. What tasks there are hangs on the input alone, never on the number of workers. On a cluster a
task may be begun twice, as when a node is given up for lost and works on: each works apart, and the first
result stays.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.common.atomic import disk_full, fsync_path, fsync_tree
from hanlin.common.errors import HanlinError
from hanlin.common.failpoints import failpoint

_WHOLE = ".whole"  # in a folder that is being filled
_PAUSE = 2.0  # seconds between two signs of life
_LOOK = 0.5  # seconds between two looks at whether the parent lives
# told the phase, how many of its tasks are done, and how many there are; and now and then again
Progress = Callable[["Phase", int, int], None]


@dataclass(frozen=True, repr=False)
class Phase:
    """Tasks that are independent of one another; a phase begins when the one before it is complete.

    Attributes:
        name: of the phase, and of its folder.
        folder: where the job works; for workers on several machines, on a file system they share.
        count: tells how many tasks there are; asked when the phase before is complete.
        work: `work(task, folder)` fills an empty folder; the same task must always fill it with the same
            bytes. For other processes it has to be picklable.
        after: what may be done once a task's result is there, such as removing what nobody needs any more.
    """

    name: str
    folder: Path
    count: Callable[[], int]
    work: Callable[[int, Path], None]
    after: Callable[[int], None] | None = None

    def __repr__(self) -> str:  # schedulers write it to their logs
        return f"hanlin corpus: {self.name}"

    def path(self, task: int) -> Path:
        """The result of a task."""
        return self.folder / self.name / f"{task:05d}"

    def paths(self) -> list[Path]:
        """The results of all tasks, in their order."""
        return [self.path(task) for task in range(self.count())]

    def missing(self) -> list[int]:
        """Tasks without a result."""
        return [task for task in range(self.count()) if not self.path(task).is_dir()]

    def run(self, task: int) -> float:
        """Do one task, unless its result is there; the seconds it took."""
        path = self.path(task)
        if path.is_dir():
            return 0.0
        began = time.monotonic()
        try:
            with _result(path) as folder:
                self.work(task, folder)
                failpoint("task.before_end")
        except FileNotFoundError:
            if not path.is_dir():
                raise
            # another process has done the task meanwhile, and cleared away what this one was reading or
            # writing
            return 0.0
        failpoint("task.after_end")
        if self.after:
            self.after(task)
        return time.monotonic() - began

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do the tasks of one rank: `rank`, `rank + world_size`, … This is how datatrove's executors (local,
        Slurm, Ray) call a step.

        With `tasks=N` such an executor runs ranks 0 to N − 1, whatever the number of our tasks.
        """
        for task in range(rank, self.count(), world_size):
            self.run(task)

    def sweep(self) -> None:
        """Once all results are there: remove what killed workers left half done."""
        for leftover in (self.folder / self.name).glob(".*.tmp.*"):
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _result(path: Path) -> Iterator[Path]:
    """Yield an empty directory of this process alone that becomes `path` when the block ends well, unless
    another one did before.

    Raises:
        HanlinError: the disk is full or the place cannot be written.
    """
    temporary = path.parent / f".{path.name}.tmp.{socket.gethostname()}.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_dead(path)
        temporary.mkdir()
        (temporary / _WHOLE).touch()
        yield temporary
        (temporary / _WHOLE).unlink()  # not there if the folder was taken away and has come up again
        failpoint("directory.before_fsync")
        fsync_tree(temporary)
        failpoint("directory.before_rename")
        with contextlib.suppress(FileExistsError):
            _rename(temporary, path)
        fsync_path(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO):
            raise disk_full(path, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise FileExistsError(errno.EEXIST, "there before", str(path)) from error


def _sweep_dead(path: Path) -> None:
    """Remove what processes of this machine that live no more left of this task; others may still be at
    work."""
    for leftover in path.parent.glob(f".{path.name}.tmp.{socket.gethostname()}.*"):
        if not _alive(int(leftover.name.rpartition(".")[2])):
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(process: int) -> bool:
    if (
        process == os.getpid() or sys.platform == "win32"
    ):  # there signal 0 is none; a build's lock keeps others out
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def run_phases(phases: Sequence[Phase], workers: int, progress: Progress | None = None) -> dict[str, float]:
    """Run the phases one after another, each by `workers` processes of this machine.

    Returns:
        Seconds of work per phase, summed over its tasks; those done by an earlier run count nothing.

    Raises:
        HanlinError: as the work raises it; a process was killed from outside.
    """
    seconds = {}
    with Pool(workers) as pool:
        for phase in phases:
            seconds[phase.name] = 0.0
            count = phase.count()
            done = count - len(phase.missing())
            if progress:
                progress(phase, done, count)
            for spent in pool.run(phase):
                if spent is not None:
                    seconds[phase.name] += spent
                    done += 1
                if progress:
                    progress(phase, done, count)
            phase.sweep()
    return seconds


class Pool:
    """Processes that do tasks; none but this one when `workers` is 1. They start when they are needed and
    end with this process, however it ends."""

    def __init__(self, workers: int) -> None:
        self._workers, self._executor = workers, None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            for process in list(
                (self._executor._processes or {}).values()
            ):  # a task is not worth waiting for when the others failed
                process.terminate()
            self._executor.shutdown(cancel_futures=True)

    def run(self, phase: Phase) -> Iterator[float | None]:
        """Do the phase's missing tasks; yields each one's seconds as it ends, in whatever order, and None
        now and then while none does."""
        missing = phase.missing()
        if self._workers <= 1 or len(missing) <= 1:
            for task in missing:
                yield phase.run(task)
            return
        if self._executor is None:
            # fork and threads, torch's or the core's, do not go together
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._workers, context, end_with, (os.getpid(),))
        waiting: set[Future[float]] = set()
        try:
            for task in missing:
                waiting.add(self._executor.submit(phase.run, task))
                while len(waiting) >= 2 * self._workers:
                    done, waiting = wait(waiting, _PAUSE, FIRST_COMPLETED)
                    yield from [future.result() for future in done] or [None]
            while waiting:
                done, waiting = wait(waiting, _PAUSE, FIRST_COMPLETED)
                yield from [future.result() for future in done] or [None]
        except BrokenProcessPool:
            raise HanlinError(
                "A process of the phase {phase} was killed, most likely for want of memory. Lower "
                "--workers or --memory and run the same command: it goes on from where it was.",
                phase=phase.name,
            ) from None


def end_with(parent: int) -> None:
    """In a worker: end when the process that started it has ended, however it ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
