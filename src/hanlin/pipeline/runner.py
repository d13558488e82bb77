"""Runs steps in order, skips what is already there, and remembers what each one said.

A step is skipped when its record has the same key (a hash of its configuration and of its parents' contents)
and its artefact still verifies. So a killed run goes on where it was, a finished one is over in seconds, and
a changed recipe recomputes what depends on the change and nothing else.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import hash_json, read_digested, read_manifest, sha256_file, write_digested
from hanlin.common.messages import Text
from hanlin.common.process_memory import peak_rss_mb
from hanlin.common.progress import Progress
from hanlin.report.summary import outcome
from hanlin.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup

PIPELINE_FORMAT = 2  # raised when the meaning of a step changes, so that old records are not reused


@dataclasses.dataclass
class StepRecord:
    """What a finished step said: figures and samples for the report, and whether its model was kept.

    Attributes:
        kind, title, does: of the stage; empty of a step that a report knows by its name.
        target: the metric it is judged by.
        files: size and SHA-256 of what it wrote besides artefacts, by path below the run.
    """

    key: str
    seconds: float
    peak_rss_mb: float
    kind: str = ""
    target: str = ""
    title: dict[str, str] = dataclasses.field(default_factory=dict)
    does: dict[str, str] = dataclasses.field(default_factory=dict)
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    kept: bool = True
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


class Runner:
    """Runs the steps of one output directory."""

    def __init__(self, out: Path, names: list[str], progress: Progress, group: ProcessGroup = SINGLE_PROCESS):
        self.out = out
        self.names = names
        self.progress = progress
        self.group = group
        self.records: dict[str, StepRecord] = {}
        self.reused: list[str] = []

    def run(
        self,
        name: str,
        inputs: Callable[[], Any],
        body: Callable[[str, StepRecord], None],
        artifacts: tuple[Path, ...] = (),
        files: tuple[Path, ...] = (),
    ) -> StepRecord:
        """Run one step, or take its record when nothing it depends on has changed.

        Args:
            inputs: makes, in rank 0, JSON-able values: everything the result depends on.
            body: does the work in every process, given the key (to be written in manifests) and the record
                to fill; what rank 0 has in its record at the end is the record.
            artifacts: directories that must still be whole for the record to count.
            files: below `out`, that the step writes and that must still be what it wrote.
        """
        file = self.out / "steps" / f"{name}.json"
        self.progress.stage(self.names.index(name) + 1, len(self.names), name)
        key = self.group.run_on_rank0(lambda: hash_json([PIPELINE_FORMAT, name, inputs()]))
        record = self.group.run_on_rank0(lambda: self._finished(file, key, artifacts, files))
        if record is None:
            started = StepRecord(key, 0.0, 0.0)
            peak_rss_mb(reset=True)
            began = time.monotonic()
            body(key, started)

            def finish() -> StepRecord:
                started.seconds = round(time.monotonic() - began, 2)
                started.peak_rss_mb = round(peak_rss_mb(), 1)
                started.files = {str(path.relative_to(self.out)): _look(path) for path in files}
                write_digested(file, dataclasses.asdict(started))
                return started

            record = self.group.run_on_rank0(finish)
            self.progress.done(record.seconds, outcome(record.target, record.metrics))
        else:
            self.reused.append(name)
            self.progress.note("{name} is done already, kept", name=name)
        self.records[name] = record
        return record

    def _finished(
        self, file: Path, key: str, artifacts: tuple[Path, ...], files: tuple[Path, ...]
    ) -> StepRecord | None:
        """The record of an earlier start, if it is of this key and whole, and what the step wrote is too.

        Whatever is wrong with it, the step can be done again; so nothing that a damaged record may raise
        ends the run.
        """
        if not os.path.lexists(file):
            return None
        try:
            record = read_record(file)
            if record.key != key:
                return None
            for path in artifacts:
                read_manifest(path)
            for path in files:
                _require_whole(path, record.files.get(str(path.relative_to(self.out))))
        except (HanlinError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, HanlinError):
                reason: Any = error
            else:
                reason = Text("{file} is damaged ({error!r})", file=file, error=error)
            self.progress.warn("must be done again: {error}", error=reason)
            return None
        return record


def read_record(file: Path) -> StepRecord:
    """Read what a step said.

    Raises:
        HanlinError: cut short, altered, or of an earlier version, which kept no digest.
    """
    said = read_digested(file)
    if said.keys() != {field.name for field in dataclasses.fields(StepRecord)}:
        raise HanlinError("{file} is of another version.", file=file)
    return StepRecord(**said)


def _look(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _require_whole(path: Path, recorded: dict[str, Any] | None) -> None:
    if not path.is_file() or recorded is None or _look(path) != recorded:
        raise HanlinError("{path} is missing, or differs from its recorded SHA-256.", path=path)
