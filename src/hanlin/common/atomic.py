"""Files and directories that appear whole or not at all: temporary sibling, fsync, rename, fsync of the
parent.

A directory is replaced only where `refuse_foreign_target` allows it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import orjson

from hanlin.common.errors import HanlinError
from hanlin.common.failpoints import failpoint
from hanlin.common.locks import lock_file, require_held
from hanlin.common.messages import Text
from hanlin.common.target import real_target, refuse_foreign_target

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)


def fsync_path(path: Path) -> None:
    """Force one file's data, or one directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems cannot fsync a directory; their rename is ordered anyway
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """fsync every file below `root`, then every directory, deepest first."""
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            fsync_path(Path(folder) / name)
        fsync_path(Path(folder))


def disk_full(path: Path, error: OSError) -> HanlinError:
    """The error a user sees when a write fails for want of room or permission."""
    parent = next((p for p in [path, *path.parents] if p.exists()), Path("."))
    free = shutil.disk_usage(parent).free
    reason = error.strerror or Text("it was not written whole")  # numpy gives none
    return HanlinError(
        "Writing {path} failed: {reason} ({free:.0f} MB free there). Nothing that existed was changed. Free "
        "some space or choose another --out and run the same command: it goes on from where it was.",
        path=path,
        reason=reason,
        free=free / 1e6,
    )


@contextlib.contextmanager
def atomic_directory(path: Path | str, kind: str | None = None) -> Iterator[Path]:
    """Yield a temporary sibling directory that becomes `path` when the block ends well, and vanishes when it
    does not.

    An existing artefact at `path` stays until the new one is whole, and is replaced by two renames; a crash
    between them leaves it as `.NAME.old.PID`, which the next writer puts back.

    Args:
        kind: of artefact; what may be replaced hangs on it (`refuse_foreign_target`).

    Raises:
        HanlinError: the disk is full, the place cannot be written or holds what is not ours, or another
            process has taken over this one's lock on it.
    """
    path = real_target(path)
    temporary = path.parent / f".{path.name}.tmp.{os.getpid()}"
    old = path.parent / f".{path.name}.old.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_held(path)
        sweep_temporaries(path)
        refuse_foreign_target(path, kind)
        temporary.mkdir()
        yield temporary
        failpoint("directory.before_fsync")
        fsync_tree(temporary)
        failpoint("directory.before_rename")
        require_held(path)
        refuse_foreign_target(path, kind)  # hours may have passed
        if path.exists():
            os.rename(path, old)
            failpoint("directory.between_renames")
        try:
            os.rename(temporary, path)
        except OSError:
            if old.exists() and not os.path.lexists(path):
                os.rename(old, path)
            raise
        fsync_path(path.parent)
        _remove(old)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in _NO_ROOM:
            raise disk_full(path, error) from error
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep_temporaries(path: Path) -> None:
    """Remove what a killed writer of `path` left behind; put back an old tree that lost its replacement.

    Callers hold the run's lock, so no living process owns these leftovers.
    """
    for leftover in _leftovers(path, "old"):
        if path.exists():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            os.rename(leftover, path)
    for leftover in _leftovers(path, "tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _leftovers(path: Path, what: str) -> list[Path]:
    """Directories `.NAME.tmp.PID` or `.NAME.old.PID` beside `path`; what is named otherwise is somebody
    else's."""
    pattern = re.compile(re.escape(f".{path.name}.{what}.") + r"\d+")
    found = path.parent.glob(glob.escape(f".{path.name}.{what}.") + "*")
    return [
        item for item in found if pattern.fullmatch(item.name) and item.is_dir() and not item.is_symlink()
    ]


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling that becomes the file `path` when the block ends well, and vanishes when it
    does not.

    Its name is always the same, so that the next writer of `path` takes up what a killed one left; a lock,
    which the kernel frees with the process, keeps two writers apart.

    Raises:
        HanlinError: `path` is a directory or no plain file, the disk is full, or the place cannot be written.
    """
    path = real_target(path)
    if os.path.lexists(path) and not path.is_file():
        raise HanlinError(
            "{path} is no plain file and cannot be replaced. Choose another output file.", path=path
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held, temporary = _temporary_file(path.parent / f".{path.name}.tmp")
        with held:
            try:
                yield temporary
                fsync_path(temporary)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        fsync_path(path.parent)
    except OSError as error:
        raise disk_full(path, error) from error


def _temporary_file(path: Path) -> tuple[IO[bytes], Path]:
    """An empty file that no other process writes, locked: `path`, or where that is being written, one named
    after this process."""
    file = open(path, "ab")  # noqa: SIM115 - the caller closes it
    if lock_file(file, path):
        file.truncate(0)
        return file, path
    file.close()
    path = path.with_name(f"{path.name}.{os.getpid()}")
    return open(path, "wb"), path


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Write a whole file, or leave the earlier one untouched."""
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    atomic_write(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a damaged one is a `HanlinError` that names it."""
    path = Path(path)
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise HanlinError("No such file: {path}. Check the path.", path=path) from None
    except orjson.JSONDecodeError as error:
        raise HanlinError(
            "{path} is not whole JSON ({error}). It was cut short or edited; remove its directory and run "
            "again.",
            path=path,
            error=error,
        ) from None


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """The objects of a file with one on each line; none where there is no file. A line that is being
    written, or that a kill cut short, is passed over."""
    path, found = Path(path), []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            found.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue
    return found
