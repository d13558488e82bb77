"""One run, one directory: an advisory lock that names its holder."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from .errors import HanlinError

try:
    import fcntl
except ImportError:  # Windows: no advisory lock; the pid file still tells who came first
    fcntl = None


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
        file = open(path / ".lock", "a+")  # noqa: SIM115 - held for the length of the block
    except (FileExistsError, NotADirectoryError):
        raise HanlinError(f"{path} 是一个文件，不能作为输出目录。请换一个 --out。", f"{path} is a file, not a directory. Choose another --out.") from None
    except OSError as error:
        raise HanlinError(f"不能写入 {path}：{error.strerror}。请换一个 --out。", f"Cannot write to {path}: {error.strerror}. Choose another --out.") from None
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "?"
                raise HanlinError(
                    f"{path} 正被另一个运行占用（{holder}）。请等它结束，或换一个 --out。",
                    f"{path} is in use by another run ({holder}). Wait for it to end, or choose another --out.",
                ) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
