"""A run that hangs keeps its lock; the job that gave it up may go on, and the one that comes back writes
nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from hanlin.common.atomic import atomic_directory
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock

HOLDER = """
import sys
from pathlib import Path
from hanlin.common.atomic import atomic_directory
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
folder = Path(sys.argv[1])
try:
    with directory_lock(folder), atomic_directory(folder / "step") as written:
        (written / "who").write_text("old")
        print("in", flush=True)
        sys.stdin.readline()
except HanlinError as error:
    print(error.en, flush=True)
"""


@pytest.fixture
def stopped(tmp_path):
    """A first start of the job `zh` that holds the lock and hangs in the middle of a write."""
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "zh", "TORCHELASTIC_RESTART_COUNT": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "in\n"
    process.send_signal(signal.SIGSTOP)
    yield process
    process.kill()
    process.wait()


def come_back(process: subprocess.Popen) -> str:
    process.send_signal(signal.SIGCONT)
    return process.communicate("on\n", timeout=30)[0]


@pytest.mark.parametrize(
    "job, restart", [(None, None), ("none", "2"), ("", "2"), ("other", "2"), ("zh", "0")]
)
def test_a_stranger_is_told_whom_to_end(stopped, tmp_path, monkeypatch, job, restart):
    for name, value in (("TORCHELASTIC_RUN_ID", job), ("TORCHELASTIC_RESTART_COUNT", restart)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with (
        pytest.raises(
            HanlinError, match=rf"pid {stopped.pid} on {socket.gethostname()}.*kill -9 {stopped.pid}"
        ),
        directory_lock(tmp_path),
    ):
        pass
    assert come_back(stopped) == "" and (tmp_path / "step" / "who").read_text() == "old", (
        "who was only slow goes on"
    )


@pytest.mark.parametrize("restart", ["1", "2"])
def test_a_later_start_of_the_same_job_takes_over_and_the_old_process_writes_nothing(
    stopped, tmp_path, monkeypatch, restart
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "zh")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restart)
    with directory_lock(tmp_path):
        assert f"taken over by a later start of the same torchrun job (pid {os.getpid()} " in come_back(
            stopped
        )
        assert not (tmp_path / "step").exists() and not list(tmp_path.glob(".step*"))
        with atomic_directory(tmp_path / "step") as written:
            (written / "who").write_text("new")
        with pytest.raises(HanlinError, match="in use"), directory_lock(tmp_path):
            pass
    assert (tmp_path / "step" / "who").read_text() == "new"
    with directory_lock(tmp_path):
        assert [file.name for file in tmp_path.glob(".lock*")] == [".lock"]
