"""One run, one directory: an advisory lock that names its holder, and can be taken from one that torchrun has
given up.

A process that hangs keeps its lock. To the next run of another command that is an error which says whom to
end. A later start of the same torchrun job puts a new lock file in the place of the old one; whoever holds
the old one finds out before it publishes anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hanlin.common.errors import HanlinError

try:
    import fcntl
except ImportError:  # Windows: no advisory lock; the pid file still tells who came first
    fcntl = None

LOCK = ".lock"
_held: dict[Path, IO[str]] = {}


@contextlib.contextmanager
def directory_lock(path: Path | str) -> Iterator[None]:
    """Hold `path/.lock` while the block runs.

    The kernel frees the lock with the process, so a killed run never blocks the next one.

    Raises:
        HanlinError: another process holds it; the message has its process id and host.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except (FileExistsError, NotADirectoryError):
        raise HanlinError("{path} is a file, not a directory. Choose another --out.", path=path) from None
    except OSError as error:
        raise HanlinError(
            "Cannot write to {path}: {error}. Choose another --out.", path=path, error=error.strerror
        ) from None
    with file:
        _held[path.absolute()] = file
        try:
            yield
        finally:
            del _held[path.absolute()]


def owned(path: Path | str) -> bool:
    """Whether `path` lies below a directory that this process holds the lock of."""
    path = Path(os.path.realpath(path))
    return any(Path(os.path.realpath(folder)) in path.parents for folder in list(_held))


def require_held(path: Path) -> None:
    """Check, right before `path` is published, that no lock of this process on a directory above was taken
    over.

    Between this and the rename that follows, a process may still be stopped; what it then publishes is
    whole, and of the same run.

    Raises:
        HanlinError: one was: a later start of the same job goes on in this process' place.
    """
    path = path.absolute()
    for folder, file in list(_held.items()):
        if folder in (path, *path.parents) and not _in_place(file, folder):
            raise HanlinError(
                "{folder} was taken over by a later start of the same torchrun job ({holder}): this "
                "process was away too long and writes nothing more.",
                folder=folder,
                holder=_holder(folder / LOCK),
            )


def lock_file(file: IO[Any], path: Path) -> bool:
    """Lock an open file until it is closed, if it is still the one at `path` and no other process has locked
    it; never waits."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _locked(path: Path) -> IO[str]:
    """The open lock file of a directory, locked and signed by this process."""
    while True:
        file = open(path / LOCK, "a+")  # noqa: SIM115 - the caller closes it
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            said = _read(path / LOCK)
            if not _given_up(said):
                raise _in_use(path, said) from None
            return _take_over(path)
        if not _in_place(file, path):  # taken over between opening and locking
            file.close()
            continue
        _sign(file)
        return file


def _take_over(path: Path) -> IO[str]:
    fresh = path / f"{LOCK}.{os.getpid()}"
    file = open(fresh, "a+")  # noqa: SIM115 - the caller closes it
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    _sign(file)
    os.replace(fresh, path / LOCK)
    return file


def _sign(file: IO[str]) -> None:
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **_torchrun()}))
    file.flush()


def _torchrun() -> dict[str, Any]:
    """Which job of torchrun this process is of, and its how-manieth start; nothing without a job that has a
    name of its own."""
    job = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return (
        {}
        if job in ("", "none")
        else {"job": job, "restart": int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))}
    )


def _given_up(said: dict[str, Any]) -> bool:
    """Whether the holder was started earlier by this very job, which starts anew only after it has given the
    earlier processes up.

    The count of restarts stays the same where only the membership changed, so an equal one will do.
    """
    mine = _torchrun()
    other = (said.get("pid"), said.get("host")) != (os.getpid(), socket.gethostname())
    return (
        bool(mine) and other and said.get("job") == mine["job"] and said.get("restart", 0) <= mine["restart"]
    )


def _in_place(file: IO[str], folder: Path) -> bool:
    """Whether an open lock file is still the one that its directory has."""
    if fcntl is None:
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK))
    except FileNotFoundError:
        return True


def _read(lock: Path) -> dict[str, Any]:
    try:
        said = json.loads(lock.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _holder(lock: Path) -> str:
    said = _read(lock)
    return f"pid {said['pid']} on {said['host']}" if {"pid", "host"} <= said.keys() else "?"


def _in_use(path: Path, said: dict[str, Any]) -> HanlinError:
    who = _holder(path / LOCK)
    pid, host = said.get("pid", "PID"), said.get("host", "?")
    return HanlinError(
        "{path} is in use by another run ({who}). Wait for it to end, or choose another --out; if it "
        "hangs, run kill -9 {pid} on {host}, then the same command again.",
        path=path,
        who=who,
        pid=pid,
        host=host,
    )
