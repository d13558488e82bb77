"""Runs steps in order, skips what is already there, and remembers what each one said.

A step is skipped when its record has the same key (a hash of its configuration and of its parents' contents) and its
artefact still verifies. So a killed run goes on where it was, a finished one is over in seconds, and a changed recipe
recomputes what depends on the change and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..common.atomic import read_json, write_json
from ..common.errors import HanlinError
from ..common.manifest import hash_json, read_manifest
from ..common.progress import Progress

PIPELINE_FORMAT = 1  # raised when the meaning of a step changes, so that old records are not reused


@dataclasses.dataclass
class StepRecord:
    """What a finished step said: figures and samples for the report, and whether its model was kept."""

    key: str
    seconds: float
    peak_rss_mb: float
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    kept: bool = True
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


def peak_rss_mb(reset: bool = False) -> float:
    """Peak resident memory of this process in MB, since the last reset where the system can reset it (Linux)."""
    status = Path("/proc/self/status")
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


class Runner:
    """Runs the steps of one output directory."""

    def __init__(self, out: Path, names: list[str], progress: Progress):
        self.out, self.names, self.progress = out, names, progress
        self.records: dict[str, StepRecord] = {}
        self.reused: list[str] = []

    def run(self, name: str, inputs: Any, body: Callable[[str, StepRecord], None], artifacts: tuple[Path, ...] = ()) -> StepRecord:
        """Run one step, or take its record when nothing it depends on has changed.

        Args:
            inputs: JSON-able: everything the result depends on.
            body: does the work, given the key (to be written in manifests) and the record to fill.
            artifacts: directories that must still be whole for the record to count.
        """
        key = hash_json([PIPELINE_FORMAT, name, inputs])
        file = self.out / "steps" / f"{name}.json"
        self.progress.stage(self.names.index(name) + 1, len(self.names), name)
        record = self._finished(file, key, artifacts)
        if record is None:
            record = StepRecord(key, 0.0, 0.0)
            peak_rss_mb(reset=True)
            began = time.monotonic()
            body(key, record)
            record.seconds = round(time.monotonic() - began, 2)
            record.peak_rss_mb = round(peak_rss_mb(), 1)
            write_json(file, dataclasses.asdict(record))
        else:
            self.reused.append(name)
            self.progress.note(f"{name} 已完成，沿用", f"{name} is done already, kept")
        self.records[name] = record
        return record

    def _finished(self, file: Path, key: str, artifacts: tuple[Path, ...]) -> StepRecord | None:
        if not file.is_file():
            return None
        try:
            record = StepRecord(**read_json(file))
            if record.key != key:
                return None
            for path in artifacts:
                read_manifest(path)
        except (HanlinError, TypeError) as error:
            if isinstance(error, HanlinError):
                self.progress.warn(f"需要重做：{error.zh}", f"must be done again: {error.en}")
            return None
        return record
