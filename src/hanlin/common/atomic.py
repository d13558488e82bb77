"""Files and directories that appear whole or not at all: temporary sibling, fsync, rename, fsync of the parent."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from .errors import HanlinError
from .failpoints import failpoint
from .locks import require_held


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
    return HanlinError(
        f"写入 {path} 失败：{error.strerror}（该磁盘剩余 {free / 1e6:.0f} MB）。已有的产物没有被改动。请腾出空间或换一个 --out，再运行同一条命令，会从断点继续。",
        f"Writing {path} failed: {error.strerror} ({free / 1e6:.0f} MB free there). Nothing that existed was changed. "
        "Free some space or choose another --out and run the same command: it goes on from where it was.",
    )


@contextlib.contextmanager
def atomic_directory(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling directory that becomes `path` when the block ends well, and vanishes when it does not.

    An existing `path` is replaced by two renames; a crash between them leaves the old tree as `.NAME.old.PID`.

    Raises:
        HanlinError: the disk is full, the place cannot be written, or another process has taken over this one's lock on it.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.tmp.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_held(path)
        sweep_temporaries(path)
        temporary.mkdir()
        yield temporary
        failpoint("directory.before_fsync")
        fsync_tree(temporary)
        failpoint("directory.before_rename")
        require_held(path)
        old = path.parent / f".{path.name}.old.{os.getpid()}"
        if path.exists():
            os.rename(path, old)
            failpoint("directory.between_renames")
        os.rename(temporary, path)
        fsync_path(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO):
            raise disk_full(path, error) from error
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep_temporaries(path: Path) -> None:
    """Remove what a killed writer of `path` left behind; put back an old tree that lost its replacement.

    Callers hold the run's lock, so no living process owns these leftovers.
    """
    for leftover in path.parent.glob(f".{path.name}.old.*"):
        if path.exists():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            os.rename(leftover, path)
    for leftover in path.parent.glob(f".{path.name}.tmp.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Write a whole file, or leave the earlier one untouched."""
    path = Path(path)
    temporary = path.parent / f".{path.name}.tmp.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_path(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise disk_full(path, error) from error


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    atomic_write(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a damaged one is a `HanlinError` that names it."""
    path = Path(path)
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise HanlinError(f"找不到文件 {path}。请检查路径。", f"No such file: {path}. Check the path.") from None
    except orjson.JSONDecodeError as error:
        raise HanlinError(
            f"{path} 不是完整的 JSON（{error}）。文件可能写到一半或被改动；请删除它所在的目录后重新运行。",
            f"{path} is not whole JSON ({error}). It was cut short or edited; remove its directory and run again.",
        ) from None


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """The objects of a file with one on each line; none where there is no file. A line that is being written, or that a kill cut short, is passed over."""
    path, found = Path(path), []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            found.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue
    return found
