"""What a long job has done so far, kept beside its output until it is finished."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hanlin.common.atomic import read_json, write_json
from hanlin.common.errors import HanlinError
from hanlin.common.locks import LOCK, directory_lock
from hanlin.common.manifest import hash_json
from hanlin.common.version import __version__

SECONDS = 60.0  # of work that a kill may cost


def files_key(paths: Sequence[Path], config: Any) -> str:
    """Names a job by its configuration and its input files (path, size, time of change): another key,
    another job."""
    stats = [
        (
            str(path.resolve()).encode("utf-8", "backslashreplace").decode(),
            path.stat().st_size,
            path.stat().st_mtime_ns,
        )
        for path in paths
    ]
    return hash_json([__version__, config, stats])


class Savepoint:
    """A folder `.NAME.state` beside the output `NAME`, gone when the job is done or when nothing in it would
    help.

    Attributes:
        folder: for the job's own files, while the block runs.
        state: what was saved last for the same key, or None.

    Args:
        key: of the job; an empty one is never gone on with.
    """

    def __init__(self, out: Path, key: str):
        self.folder = out.parent / f".{out.name}.state"
        self.state: dict[str, Any] | None = None
        self._key = key
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether so much has been done since the last time that it should be saved."""
        return bool(self._key) and time.monotonic() - self._saved >= SECONDS

    def save(self, state: dict[str, Any]) -> None:
        """Remember `state`, JSON-able, in place of the last one; files it names must be written whole by
        then."""
        if self._key:
            write_json(self.folder / "state.json", {"key": self._key, "state": state})
            self.state = state
        self._saved = time.monotonic()

    def __enter__(self) -> Savepoint:
        if (
            self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / LOCK).is_file()
        ):  # it would be emptied
            raise HanlinError(
                "{folder} is no working folder of Hanlin's and holds other files. Choose another --out, or "
                "move it away.",
                folder=self.folder,
            )
        self._lock = directory_lock(self.folder)
        self._lock.__enter__()
        file = self.folder / "state.json"
        if file.is_file():
            saved = read_json(file)
            self.state = saved["state"] if self._key and saved.get("key") == self._key else None
        if self.state is None:
            self.clear(keep=())
        return self

    def clear(self, keep: Sequence[str]) -> None:
        """Remove all in the folder but what is named, the state, and the lock."""
        kept = {*keep, LOCK} | ({"state.json"} if self.state is not None else set())
        for item in list(self.folder.iterdir()):
            if item.name not in kept:
                _remove(item) if item.is_dir() else item.unlink()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self.state is None:
            self.state = None
            self.clear(keep=())
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.__exit__(kind, error, trace)


def _remove(folder: Path) -> None:
    """Remove a folder at once, not file by file: what a process that has not noticed yet is writing in it
    must not end up half there."""
    gone = folder.with_name(f".gone.{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
