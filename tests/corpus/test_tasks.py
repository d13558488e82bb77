"""Tasks leave whole results or none; any number of processes, killed or not, comes to the same files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hanlin.common.errors import HanlinError
from hanlin.corpus.builder.tasks import Phase, run_phases


@dataclass(frozen=True)
class Count:
    value: int

    def __call__(self) -> int:
        return self.value


@dataclass(frozen=True)
class Write:
    """A task that writes its number, and a trace of having run."""

    traces: Path
    dies: int = -1
    fails: int = -1
    slow: float = 0.0

    def __call__(self, task: int, folder: Path) -> None:
        with open(self.traces / f"{task}", "a") as file:
            file.write(f"{os.getpid()}\n")
        (folder / "half").write_text("x")
        time.sleep(self.slow)
        if task == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if task == self.fails:
            raise HanlinError("broken")
        (folder / "half").unlink()
        (folder / "result").write_text(str(task * task))


def results(phase: Phase) -> list[str]:
    return [(path / "result").read_text() for path in phase.paths()]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once(tmp_path: Path, workers: int) -> None:
    (tmp_path / "traces").mkdir()
    first, second = (Phase(name, tmp_path, Count(5), Write(tmp_path / "traces")) for name in ("a", "b"))
    told: list[tuple[str, int, int]] = []
    seconds = run_phases(
        [first, second], workers, lambda phase, done, count: told.append((phase.name, done, count))
    )
    assert results(first) == results(second) == ["0", "1", "4", "9", "16"]
    assert set(seconds) == {"a", "b"} and told[0] == ("a", 0, 5) and told[-1] == ("b", 5, 5)
    run_phases([first, second], workers)
    # once in each phase
    assert all(len((tmp_path / "traces" / str(task)).read_text().splitlines()) == 2 for task in range(5))
    pids = {pid for task in range(5) for pid in (tmp_path / "traces" / str(task)).read_text().split()}
    assert (str(os.getpid()) in pids) == (workers == 1)


def test_a_mistake_in_a_task_is_heard_of_and_costs_no_other_task(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    with pytest.raises(HanlinError, match="broken|坏了"):
        run_phases([Phase("a", tmp_path, Count(6), Write(tmp_path / "traces", fails=3))], 2)
    phase = Phase("a", tmp_path, Count(6), Write(tmp_path / "traces"))
    assert 3 in phase.missing()
    done = [task for task in range(6) if task not in phase.missing()]
    run_phases([phase], 2)
    assert results(phase) == ["0", "1", "4", "9", "16", "25"]
    assert all(len((tmp_path / "traces" / str(task)).read_text().splitlines()) == 1 for task in done)
    assert not list((tmp_path / "a").glob(".*"))  # nothing half-written is left


def test_a_killed_process_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    with pytest.raises(HanlinError, match="--memory"):
        run_phases([Phase("a", tmp_path, Count(4), Write(tmp_path / "traces", dies=2))], 2)
    assert 2 in Phase("a", tmp_path, Count(4), Write(tmp_path / "traces")).missing()


def test_ranks_divide_the_tasks_among_them(tmp_path: Path) -> None:
    """As datatrove's executors call a step: more ranks than tasks, or fewer."""
    (tmp_path / "traces").mkdir()
    for world_size in (3, 11):
        phase = Phase(f"w{world_size}", tmp_path, Count(7), Write(tmp_path / "traces"))
        for rank in reversed(range(world_size)):
            phase(None, rank, world_size)
        assert results(phase) == [str(task * task) for task in range(7)]


@dataclass(frozen=True)
class Overtaken:
    """A task that another machine finishes while this one is at it; if told so, that one also removes what
    is read."""

    other: Phase
    source: Path
    removes: bool

    def __call__(self, task: int, folder: Path) -> None:
        (folder / "result").write_text("late")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: "elsewhere")
            self.other.run(task)
        if self.removes:
            self.source.unlink()
        self.source.read_bytes()


@pytest.mark.parametrize("removes", [False, True])
def test_the_first_result_of_a_task_stays(tmp_path: Path, removes: bool) -> None:
    """As when a node is given up for lost and its task done elsewhere, while it works on."""
    (tmp_path / "traces").mkdir()
    (tmp_path / "source").write_text("x")
    other = Phase("a", tmp_path, Count(3), Write(tmp_path / "traces"))
    Phase("a", tmp_path, Count(3), Overtaken(other, tmp_path / "source", removes)).run(2)
    assert (other.path(2) / "result").read_text() == "4"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["00002"]


def test_what_other_processes_are_writing_is_left_alone_until_the_phase_is_complete(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    phase = Phase("a", tmp_path, Count(2), Write(tmp_path / "traces"))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    theirs = [
        tmp_path / "a" / f".00001.tmp.{name}"
        for name in (f"{host}.{dead.pid}", f"{host}.{os.getppid()}", f"elsewhere.{dead.pid}")
    ]
    for path in theirs:
        path.mkdir(parents=True)
    phase.run(1)
    assert [path.exists() for path in theirs] == [False, True, True]
    run_phases([phase], 1)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["00000", "00001"]


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_tasks import Count, Phase, Write, run_phases
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run_phases([Phase("a", folder, Count(8), Write(folder / "traces", slow=0.4))], 2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(here=str(Path(__file__).parent)))
    child = subprocess.Popen([sys.executable, str(script), str(tmp_path)], start_new_session=True)
    while len(list((tmp_path / "traces").iterdir())) < 2:
        time.sleep(0.05)
        assert child.poll() is None
    child.kill()
    child.wait()
    workers = {int(pid) for path in (tmp_path / "traces").iterdir() for pid in path.read_text().split()}
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.1)
    before = len(list((tmp_path / "traces").iterdir()))
    assert before < 8
    phase = Phase("a", tmp_path, Count(8), Write(tmp_path / "traces"))
    run_phases([phase], 1)
    assert results(phase) == [str(task * task) for task in range(8)]


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
