"""A build's phases on datatrove's executors: processes of this machine, Slurm, or Ray (the extra `data`).

datatrove starts ranks and marks those that ended; a rank does the tasks `rank`, `rank + ranks`, … of a phase
that have no result yet. What counts are the results: a rank with a task to do is run whatever datatrove's
marker says, and a phase ends when all results are there, whatever an executor reports. Everything a rank
reads and writes lies on a file system that all machines see under the same paths.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hanlin.common.atomic import read_json, write_json
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing, verbatim
from hanlin.corpus.builder import slurm
from hanlin.corpus.builder.tasks import Phase, Progress, end_with

Kind = Literal["local", "slurm", "ray"]
_CLASSES: dict[Kind, str] = {
    "local": "LocalPipelineExecutor",
    "slurm": "SlurmPipelineExecutor",
    "ray": "RayPipelineExecutor",
}
_OURS = (
    "pipeline",
    "tasks",
    "workers",
    "logging_dir",
    "depends",
    "depends_job_id",
    "skip_completed",
    "job_id_retriever",
    "local_tasks",
    "local_rank_offset",
)
_LOOK = 2.0  # seconds between two looks at how far a phase is
_LAUNCHES = 3  # of a phase on Ray
_LATE = 60.0  # seconds a result may need to be seen by this machine, on a network file system


@dataclass(frozen=True)
class Datatrove:
    """Runs phases with one of datatrove's executors; `build_corpus` takes it as `engine`.

    Attributes:
        kind: `local`, `slurm` or `ray`.
        tasks: ranks of a phase; as many as it has tasks when 0, and never more.
        workers: ranks that run at once; for `local` as many as there are cores when 0, for the others as
            many as there is room for.
        options: further arguments of the executor, such as `partition` and `time` for Slurm; for Ray also
            `address`; `logs`, where logs go.

    Raises:
        HanlinError: datatrove, Ray or Slurm is not there, an option is not known, or one is missing.
    """

    kind: Kind
    tasks: int = 0
    workers: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind_of(self.kind)
        if min(self.tasks, self.workers) < 0:
            raise HanlinError("--tasks and --workers cannot be negative.")
        allowed = _parameters(self.kind)
        for name in self.options:
            if name not in allowed:
                raise HanlinError(
                    "The executor {kind} has no option {name}. There are: {allowed}.",
                    kind=self.kind,
                    name=name,
                    allowed=listing(sorted(allowed)),
                )
        if self.kind == "slurm":
            slurm.check(self.options)

    def __call__(self, phases: Sequence[Phase], progress: Progress | None = None) -> dict[str, float]:
        """Run the phases one after another.

        Returns:
            Seconds of work per phase, summed over its tasks; those done by an earlier run count nothing.

        Raises:
            HanlinError: as a task raised it; ranks were killed, or the executor could not start them.
        """
        seconds = {}
        with _quiet(), self._connected():
            for phase in phases:
                seconds[phase.name] = self._run(phase, progress or _silent)
        return seconds

    def _run(self, phase: Phase, progress: Progress) -> float:
        count, missing = phase.count(), phase.missing()
        progress(phase, count - len(missing), count)
        if not missing:
            return 0.0
        ranks = min(self.tasks or count, count)
        logs = Path(self.options.get("logs") or phase.folder / "logs").absolute() / phase.name
        waiting = {task % ranks for task in missing}
        _forget(logs, waiting)
        cause = None
        with _followed(phase, count, progress):
            for more in reversed(
                range(_LAUNCHES if self.kind == "ray" else 1)
            ):  # ranks of a node that is lost are there to be done again
                try:
                    self._launch(phase, ranks, logs)
                except HanlinError as error:
                    cause = error
                except (
                    Exception
                ) as error:  # whatever an executor stumbles over; without a missing result it does not matter
                    cause = _failure(phase, logs, verbatim(f"{type(error).__name__}: {error}"))
                missing = _still_missing(
                    phase, logs, waiting, 0.0 if cause or self.kind == "local" else 2.0 if more else _LATE
                )
                if not missing or cause or _reported(logs, waiting):
                    break
                _forget(logs, {task % ranks for task in missing})
        if missing:
            raise (
                _reported(logs, {task % ranks for task in missing})
                or cause
                or _failure(phase, logs, self._killed(phase, missing))
            )
        phase.sweep()
        progress(phase, count, count)
        return sum(_outcome(logs, rank).get("seconds", 0.0) for rank in waiting)

    def _launch(self, phase: Phase, ranks: int, logs: Path) -> None:
        """Have the ranks run, and come back when none of them does any more."""
        options = {name: value for name, value in self.options.items() if name not in ("logs", "address")}
        workers = self.workers or -1
        if self.kind == "local":
            workers = min(self.workers or os.cpu_count() or 1, ranks)
        given = {
            "pipeline": [Step(phase, logs, self.kind == "local")],
            "tasks": ranks,
            "workers": workers,
            "logging_dir": str(logs),
        }
        if self.kind == "slurm":
            slurm.launch(_executor("slurm"), given, options, phase.name)
        else:
            with _unstuck() if self.kind == "ray" else contextlib.nullcontext():
                _executor(self.kind)(**given, **options).run()

    def _killed(self, phase: Phase, missing: Sequence[int]) -> Text:
        killed = Text(
            "{count} tasks have no result; their processes or machines were most likely killed, for want of "
            "memory for instance.",
            count=len(missing),
        )
        if self.kind == "slurm" and (states := slurm.states(phase.name)):
            return Text("{killed} Slurm says: {states}.", killed=killed, states=states)
        return killed

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """For Ray: connected to its cluster, or to one of this machine alone that it starts where there is
        none."""
        if self.kind != "ray":
            yield
            return
        import ray

        if ray.is_initialized():
            yield
            return
        address = self.options.get("address")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise HanlinError(
                "Cannot connect to the Ray cluster {address}: {error}. Run ray start on the machines "
                "first, or check the address.",
                address=address or "",
                error=error,
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


class Step:
    """A phase as a step of a datatrove pipeline. Each rank leaves what became of it in `outcomes` beside
    datatrove's logs.

    Relative paths are meant from where the build was started, wherever the rank runs.
    """

    def __init__(self, phase: Phase, logs: Path, quiet: bool = False) -> None:
        from datatrove.utils.stats import Stats

        self.name, self.type = phase.name, "hanlin corpus"
        self.phase, self.logs, self.directory, self.builder = phase, logs, os.getcwd(), os.getpid()
        self.quiet, self.stats = quiet, Stats(repr(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if (
            self.quiet and os.getpid() != self.builder
        ):  # what datatrove says of ranks is in their logs; it belongs on no one's terminal
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115

    def __repr__(self) -> str:
        return repr(self.phase)

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        with self.stats.time_stats:
            if os.getpid() == self.builder or not hasattr(os, "fork"):
                self._work(rank, world_size)
            elif died := _apart(lambda: self._work(rank, world_size)):
                name = signal.Signals(died).name
                error = HanlinError(
                    "A process of the phase {phase} was ended by {signal}, most likely for want of memory. "
                    "Lower --workers or --memory, or give each process more memory, and run the same "
                    "command.",
                    phase=self.name,
                    signal=name,
                )
                self._tell(rank, error=error.text.to_dict())
        if told := _outcome(self.logs, rank).get("error"):
            raise HanlinError(Text.from_dict(told))

    def _work(self, rank: int, world_size: int) -> None:
        began, here = time.monotonic(), os.getcwd()
        try:
            os.chdir(self.directory)
            self.phase(None, rank, world_size)
            self._tell(rank, seconds=time.monotonic() - began)
        except HanlinError as error:
            self._tell(rank, error=error.text.to_dict())
        except Exception as error:
            text = Text(
                "The phase {phase} failed: {error}", phase=self.name, error=f"{type(error).__name__}: {error}"
            )
            self._tell(rank, error=text.to_dict(), trace=traceback.format_exc())
        finally:
            os.chdir(here)

    def _tell(self, rank: int, **outcome: Any) -> None:
        write_json(
            self.logs / "outcomes" / f"{rank:05d}.json",
            {"where": os.environ.get("DATATROVE_NODE_IPS", ""), **outcome},
        )


def _apart(work: Callable[[], None]) -> int:
    """Do it in a child process, for whose violent end the pools of datatrove's executors would wait for
    ever; the signal that ended it, or 0."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        try:
            end_with(parent)
            work()
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def kind_of(name: str) -> Kind:
    """An executor by its name.

    Raises:
        HanlinError: there is none.
    """
    for kind in _CLASSES:
        if kind == name:
            return kind
    raise HanlinError("No executor {name}: there are {classes}.", name=name, classes=listing(_CLASSES))


def parse_options(kind: Kind, given: Sequence[str]) -> dict[str, Any]:
    """`name=value` as the executor of this kind takes it; `sbatch_args.account=lab` sets an entry of a table.

    Raises:
        HanlinError: not of that form, not known, or not of the type the executor asks for.
    """
    parameters, options = _parameters(kind), {}
    for item in given:
        name, equals, text = item.partition("=")
        name, dot, entry = name.partition(".")
        if not equals or not name:
            raise HanlinError("{item!r} should be name=value, such as partition=cpu.", item=item)
        annotation = parameters.get(name, "str")
        if dot:
            options.setdefault(name, {})[entry] = text
            continue
        try:
            options[name] = _value(annotation, text)
        except ValueError:
            raise HanlinError(
                "{name}={text}: should be {annotation}.", name=name, text=text, annotation=annotation
            ) from None
    return options


def _value(annotation: str, text: str) -> Any:
    if "bool" in annotation:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "1")
    if "dict" in annotation or "Callable" in annotation or "tuple" in annotation:
        raise ValueError(text)
    return float(text) if "float" in annotation else int(text) if "int" in annotation else text


def _parameters(kind: Kind) -> dict[str, str]:
    """Options of an executor, and their types as it writes them."""
    found = inspect.signature(_executor(kind)).parameters
    types = {
        name: getattr(about.annotation, "__name__", None) or str(about.annotation)
        for name, about in found.items()
        if name not in _OURS
    }
    return types | {"logs": "str"} | ({"address": "str"} if kind == "ray" else {})


def _executor(kind: Kind) -> Any:
    """datatrove's class."""
    try:
        import datatrove.executor as executors

        if kind == "ray":
            import ray  # noqa: F401
    except ImportError as error:
        raise HanlinError(
            "--executor {kind} needs {error}. Run pip install 'hanlin[data]' (for Ray 'hanlin[data,ray]'), "
            "or leave --executor out to use processes of this machine.",
            kind=kind,
            error=error.name,
        ) from None
    return getattr(executors, _CLASSES[kind])


def _forget(logs: Path, ranks: set[int]) -> None:
    """Remove what datatrove and we remember of ranks that have something to do."""
    for rank in ranks:
        (logs / "completions" / f"{rank:05d}").unlink(missing_ok=True)
        (logs / "outcomes" / f"{rank:05d}.json").unlink(missing_ok=True)


def _outcome(logs: Path, rank: int) -> dict[str, Any]:
    path = logs / "outcomes" / f"{rank:05d}.json"
    return read_json(path) if path.is_file() else {}


def _reported(logs: Path, ranks: set[int]) -> HanlinError | None:
    """The first mistake that a rank told of."""
    errors = (_outcome(logs, rank).get("error") for rank in sorted(ranks))
    return next((HanlinError(Text.from_dict(error)) for error in errors if error), None)


def _still_missing(phase: Phase, logs: Path, ranks: set[int], patience: float) -> list[int]:
    """Tasks without a result; on a network file system a rank's last ones may be seen late."""
    deadline = time.monotonic() + patience
    while missing := phase.missing():
        if time.monotonic() >= deadline or _reported(logs, ranks):
            break
        time.sleep(1)
    return missing


def _failure(phase: Phase, logs: Path, cause: Text) -> HanlinError:
    return HanlinError(
        "The phase {phase} is not complete: {cause} The logs are in {logs}. Run the same command: it goes "
        "on from where it was.",
        phase=phase.name,
        cause=cause,
        logs=logs / "logs",
    )


@contextlib.contextmanager
def _followed(phase: Phase, count: int, progress: Progress) -> Iterator[None]:
    """Tell every few seconds how many results there are, while the block waits for them."""
    ended, folder = threading.Event(), phase.folder / phase.name

    def look() -> None:
        while not ended.wait(_LOOK):
            if folder.is_dir():
                progress(phase, sum(not name.startswith(".") for name in os.listdir(folder)), count)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _unstuck() -> Iterator[None]:
    """Ray ranks that could not be started, as on a node that is lost just then, are given up.

    datatrove 0.10 would wait for them for ever, and keep the room reserved for them, which Ray moves to a
    node that lives, from the others.
    """
    import ray
    from datatrove.executor import ray as module

    manager: Any = module.RayTaskManager

    class Manager(manager):
        def submit_task(self, *arguments: Any) -> Future[Any]:
            future = super().submit_task(*arguments)

            def ended(starting: Future[Any]) -> None:
                if starting.cancelled() or not (error := starting.exception()):
                    return
                for frame, _ in traceback.walk_tb(error.__traceback__):
                    if reserved := frame.f_locals.get("pg"):  # named nowhere else
                        ray.util.remove_placement_group(reserved)
                if not future.done():
                    future.set_exception(error)

            self.pg_futures[-1].add_done_callback(ended)
            return future

    module.RayTaskManager = Manager
    try:
        yield
    finally:
        module.RayTaskManager = manager


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """datatrove's own messages go to its log files only, as far as this process is concerned."""
    from loguru import logger

    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")


def _silent(phase: Phase, done: int, count: int) -> None:
    """Tell nobody."""
