"""The directory an experiment works in: refused if it is somebody else's, locked while the experiment
runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.progress import Progress, make_progress
from hanlin.common.target import refuse_foreign_directory

TRIALS = "trials"
_TRIALS_BEFORE = "cells"  # of earlier versions; nothing in it has the keys of today


@contextlib.contextmanager
def locked_run(out: Path, progress: Progress | None = None) -> Iterator[Progress]:
    """Hold `out` for one experiment; yields the progress to report to, which is closed at the end if it was
    made here.

    Raises:
        HanlinError: `out` holds other files, is in use, or is an experiment of an earlier version.
    """
    own = make_progress() if progress is None else None
    try:
        if (out / _TRIALS_BEFORE).is_dir() and not (out / TRIALS).exists():
            raise HanlinError(
                "{out} holds the trials of an earlier version ({before}/), which cannot be gone on with. "
                "What is in {result} stays readable. Choose another --out.",
                out=out,
                before=_TRIALS_BEFORE,
                result=out / "result",
            )
        refuse_foreign_directory(out, TRIALS)
        with directory_lock(out):
            yield progress or own or Progress()
    finally:
        if own is not None:
            own.close()
