"""The same phases on datatrove's executors: the same bytes, mistakes heard of, nothing done twice. Slurm is
played by `fake_slurm.py`."""

from __future__ import annotations

import importlib.util
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from hanlin.cli.main import app
from hanlin.common.config import build
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.progress import Progress
from hanlin.corpus.builder import executors, job
from hanlin.corpus.builder.build import CorpusConfig, CorpusJob, build_corpus
from hanlin.corpus.builder.executors import Datatrove, parse_options
from hanlin.corpus.builder.tasks import Phase, run_phases

SETTINGS = {
    "preset": "zh-short",
    "heldout_fraction": 0.05,
    "mask_pii": True,
    "source": "file",
    "weights": {"part_1": 2.5},
    "boilerplate": {"documents": 3},
}
CONFIG = build(CorpusConfig, SETTINGS, "test")
SLURM = {"partition": "cpu", "time": "00:10:00"}


@pytest.fixture
def datatrove() -> None:
    pytest.importorskip(
        "datatrove",
        reason="datatrove is not installed: nothing here was tried with its executors (extra `data`)",
    )


@pytest.fixture
def ray() -> None:
    pytest.importorskip(
        "datatrove",
        reason="datatrove is not installed: nothing here was tried with its executors (extra `data`)",
    )
    pytest.importorskip(
        "ray", reason="ray is not installed: nothing was tried on a Ray cluster (extra `ray`)"
    )


@pytest.fixture
def files(tmp_path: Path, prose, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Five files, each a task: prose, copies within and across files, near copies, a line that all of a file
    have, bad records."""
    monkeypatch.setattr(job, "TASK_BYTES", 1)
    numbers = random.Random(6)
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(5):
        texts = [prose(numbers.randrange(120), 150) for _ in range(40)]
        texts[3] = texts[3][:70] + "改" + texts[3][71:]
        lines = [orjson.dumps({"text": f"{text}\n本站文章来自第{part}个来源。"}) for text in texts]
        (folder / f"part_{part}.jsonl").write_bytes(b"\n".join([*lines, b"{not json\n"]))
    return sorted(folder.iterdir())


@pytest.fixture
def plain(tmp_path: Path, files: list[Path]) -> dict[str, str]:
    """What one process of ours makes of them."""
    path = build_corpus(files, tmp_path / "plain", CONFIG, seed=4)
    report = orjson.loads((path / "report.json").read_bytes())
    assert (
        report["lines"]["boilerplate_line"]["count"] > 50
        and read_manifest(path).metrics["dropped"]["near_duplicate"] > 0
    )
    return content(path)


def content(path: Path) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in read_manifest(path).files.items()}


@dataclass(frozen=True)
class Count:
    value: int

    def __call__(self) -> int:
        return self.value


@dataclass(frozen=True)
class Write:
    """A task that writes its number, and a trace of having run."""

    traces: Path
    fails: int = -1

    def __call__(self, task: int, folder: Path) -> None:
        with open(self.traces / f"{task}", "a") as file:
            file.write("x")
        if task == self.fails:
            raise ZeroDivisionError("in words")
        (folder / "result").write_text(str(task * task))

    def runs(self, count: int) -> list[int]:
        return [(self.traces / str(task)).stat().st_size for task in range(count)]


@pytest.fixture
def squares(tmp_path: Path) -> Phase:
    (tmp_path / "traces").mkdir()
    return Phase("squares", tmp_path, Count(7), Write(tmp_path / "traces"))


# ------------------------------------------------------------------ without datatrove


def test_phases_travel_without_what_belongs_to_this_process(
    tmp_path: Path, files: list[Path], plain: dict[str, str]
) -> None:
    class Bound(Progress):
        def __init__(self) -> None:
            self.lock = threading.Lock()  # cannot be pickled, as a terminal cannot

    job = CorpusJob(tmp_path / "work", CONFIG, files, seed=4, progress=Bound())
    for phase in job.phases:
        for rank in range(3):
            pickle.loads(pickle.dumps(phase))(None, rank, 3)
    job.finish(tmp_path / "out")
    assert content(tmp_path / "out") == plain


def test_documents_of_a_program_are_refused() -> None:
    with pytest.raises(HanlinError, match="文件|files"):
        build_corpus([{"text": "字"}], "never", engine=lambda phases, tell: {})


def test_some_results_outlive_a_failed_first_phase(
    tmp_path: Path, files: list[Path], plain: dict[str, str]
) -> None:
    """As when a node is lost: what the others did is not done again."""
    done = []

    def half(phases, tell):
        phases[0].run(1)
        done.append(phases[0].path(1).stat().st_ino)
        raise HanlinError("lost")

    def rest(phases, tell):
        assert phases[0].name != "clean" or phases[0].path(1).stat().st_ino == done[0]
        return run_phases(phases, 1, tell)

    with pytest.raises(HanlinError, match="断了|lost"):
        build_corpus(files, tmp_path / "out", CONFIG, seed=4, engine=half)
    assert content(build_corpus(files, tmp_path / "out", CONFIG, seed=4, engine=rest)) == plain


def test_what_is_missing_is_named(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (
        (["--tasks", "3"], "--executor"),
        (["--executor", "cloud"], "cloud"),
        (["--executor", "local"], r"hanlin\[data\]"),
    ):
        if "local" in arguments:
            monkeypatch.setitem(sys.modules, "datatrove", None)
            monkeypatch.setitem(sys.modules, "datatrove.executor", None)
        with pytest.raises(HanlinError, match=message):
            app(["corpus", "build", str(files[0]), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ this machine


@pytest.mark.usefixtures("datatrove")
@pytest.mark.parametrize(("tasks", "workers"), [(0, 1), (2, 1), (3, 2)])
def test_the_local_executor_writes_the_same_bytes(
    tmp_path: Path, files: list[Path], plain: dict[str, str], tasks: int, workers: int
) -> None:
    told = []

    def engine(phases, tell):
        def both(phase, done, count):
            told.append((phase.name, done, count))
            tell(phase, done, count)

        return Datatrove("local", tasks, workers)(phases, both)

    path = build_corpus(files, tmp_path / "out", CONFIG, seed=4, engine=engine)
    assert content(path) == plain
    assert told[0] == ("clean", 0, 5) and ("write", 5, 5) in told and told[-1][0] == "finalize"
    seconds = read_manifest(path).metrics["seconds"]
    assert seconds["clean"] > 0 and set(seconds) == set(read_manifest(tmp_path / "plain").metrics["seconds"])
    assert sorted(item.name for item in tmp_path.iterdir()) == ["in", "out", "plain"]


@pytest.mark.usefixtures("datatrove")
def test_results_count_whatever_the_markers_of_datatrove_say(tmp_path: Path, squares: Phase) -> None:
    logs = tmp_path / "logs" / "squares"

    def run(tasks: int) -> list[int]:
        Datatrove("local", tasks, 1)([squares])
        assert [(path / "result").read_text() for path in squares.paths()] == [
            "0",
            "1",
            "4",
            "9",
            "16",
            "25",
            "36",
        ]
        return squares.work.runs(7)  # type: ignore[attr-defined]

    assert run(3) == [1] * 7
    assert sorted(path.name for path in (logs / "completions").iterdir()) == ["00000", "00001", "00002"]
    assert orjson.loads((logs / "stats.json").read_bytes())[0]["name"] == "hanlin corpus: squares"
    shutil.rmtree(logs)
    assert run(3) == [1] * 7  # nothing is done again without the markers
    shutil.rmtree(squares.path(4))
    assert run(3) == [1, 1, 1, 1, 2, 1, 1]  # nor is a result taken to be there that is not
    (logs / "completions" / "00001").unlink()
    shutil.rmtree(squares.path(3))
    assert run(2) == [1, 1, 1, 2, 2, 1, 1]  # another number of ranks than the markers are of


@pytest.mark.usefixtures("datatrove")
def test_one_rank_after_another_may_go_on(tmp_path: Path, squares: Phase) -> None:
    """datatrove's executor by itself: its markers and our results both spare work."""
    from datatrove.executor import LocalPipelineExecutor

    def run(folder: str) -> list[int]:
        LocalPipelineExecutor([squares], tasks=3, workers=1, logging_dir=str(tmp_path / folder)).run()
        return squares.work.runs(7)  # type: ignore[attr-defined]

    assert run("a") == run("a") == run("b") == [1] * 7


@pytest.mark.usefixtures("datatrove")
def test_a_mistake_in_a_rank_is_heard_of(
    tmp_path: Path, squares: Phase, files: list[Path], plain: dict[str, str]
) -> None:
    failing = Phase("squares", tmp_path, Count(7), Write(tmp_path / "traces", fails=4))
    with pytest.raises(HanlinError, match=r"squares.*ZeroDivisionError: in words"):
        Datatrove("local", 7, 1)([failing])
    assert 4 in squares.missing() and 3 not in squares.missing()
    Datatrove("local", 7, 1)([squares])
    assert not squares.missing()
    good = files[2].read_bytes()
    files[2].write_bytes(b"\x00\x01\x02\xff" * 50)
    with pytest.raises(HanlinError, match=files[2].name):
        build_corpus(files, tmp_path / "out", CONFIG, seed=4, engine=Datatrove("local", 0, 2))
    files[2].write_bytes(good)
    assert (
        content(build_corpus(files, tmp_path / "out", CONFIG, seed=4, engine=Datatrove("local", 0, 1)))
        == plain
    )


KILLED = """
from pathlib import Path
import sys
from test_tasks import Count, Phase, Write
from hanlin.corpus.builder.executors import Datatrove
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    Datatrove("local", 4, 2)([Phase("a", folder, Count(4), Write(folder / "traces", dies=2))])
"""


@pytest.mark.usefixtures("datatrove")
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_rank_is_an_error_in_words(tmp_path: Path) -> None:
    """datatrove's pool by itself would wait for it for ever."""
    (tmp_path / "traces").mkdir()
    (tmp_path / "child.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "HANLIN_LANG": "en"}
    command = [sys.executable, str(tmp_path / "child.py"), str(tmp_path)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1 and "ended by SIGKILL" in found.stderr and "--memory" in found.stderr, (
        found.stderr
    )
    assert not (tmp_path / "a" / "00002").exists()


@pytest.mark.usefixtures("datatrove")
def test_options_are_those_of_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        "partition=cpu",
        "time=20:00:00",
        "cpus_per_task=2",
        "requeue=false",
        "sbatch_args.account=lab",
        "sbatch_args.nice=5",
    ]
    assert parse_options("slurm", given) == {
        "partition": "cpu",
        "time": "20:00:00",
        "cpus_per_task": 2,
        "requeue": False,
        "sbatch_args": {"account": "lab", "nice": "5"},
    }
    if importlib.util.find_spec("ray"):
        assert parse_options("ray", ["mem_per_cpu_gb=0.5", "time=60", "address=auto"]) == {
            "mem_per_cpu_gb": 0.5,
            "time": 60,
            "address": "auto",
        }
    for item in ("cpus_per_task=two", "requeue=perhaps", "sbatch_args=x", "partition", "=x"):
        with pytest.raises(HanlinError, match=item.partition("=")[0] or "=x"):
            parse_options("slurm", [item])
    for name in ("colour", "logging_dir", "skip_completed"):
        with pytest.raises(HanlinError, match=name):
            Datatrove("local", options={name: "x"})
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HanlinError, match="sbatch"):
        Datatrove("slurm", options=SLURM)
    with pytest.raises(HanlinError, match="partition.*time"):
        Datatrove("slurm")


# ------------------------------------------------------------------ Slurm, played


@pytest.fixture
def slurm(tmp_path: Path, datatrove: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the jobs of a stand-in for Slurm; its commands are on PATH."""
    jobs, commands = tmp_path / "slurm", tmp_path / "commands"
    jobs.mkdir()
    commands.mkdir()
    fake = Path(__file__).with_name("fake_slurm.py")
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun"):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {fake} {name} "$@"\n')
    (commands / "launch_pickled_pipeline").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m datatrove.tools.launch_pickled_pipeline "$@"\n'
    )
    for command in commands.iterdir():
        command.chmod(0o755)
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setattr(executors, "_LATE", 2.0)
    return jobs


@pytest.mark.nightly
def test_slurm_runs_the_script_that_datatrove_writes(
    tmp_path: Path, slurm: Path, files: list[Path], plain: dict[str, str]
) -> None:
    options = SLURM | {"max_array_size": 2, "sbatch_args": {"account": "lab"}, "logs": str(tmp_path / "logs")}
    path = build_corpus(files, tmp_path / "out", CONFIG, seed=4, engine=Datatrove("slurm", 3, 2, options))
    assert content(path) == plain
    jobs = [orjson.loads((job / "job.json").read_bytes()) for job in sorted(slurm.iterdir())]
    assert {job["directives"]["account"] for job in jobs} == {"lab"}
    clean = [job for job in jobs if "-clean-" in job["directives"]["job-name"]]
    # three ranks in two arrays
    assert [(job["directives"]["array"], job["export"]["RUN_OFFSET"]) for job in clean] == [
        ("0-1%2", "0"),
        ("0-1%2", "1"),
    ]
    outcomes = [
        orjson.loads(path.read_bytes()) for path in (tmp_path / "logs" / "clean" / "outcomes").iterdir()
    ]
    assert {outcome["where"] for outcome in outcomes} == {"node1", "node2"}


@pytest.mark.nightly
def test_slurm_tells_what_went_wrong(tmp_path: Path, slurm: Path, files: list[Path]) -> None:
    files[2].write_bytes(b"\x00\x01\x02\xff" * 50)
    with pytest.raises(HanlinError, match=files[2].name):
        build_corpus(files, tmp_path / "out", CONFIG, seed=4, engine=Datatrove("slurm", options=SLURM))
    with pytest.raises(HanlinError, match="sbatch"):
        build_corpus(
            files,
            tmp_path / "other",
            CONFIG,
            seed=4,
            engine=Datatrove("slurm", options=SLURM | {"partition": "closed"}),
        )
    killed = SLURM | {"env_command": "kill -9 $$", "logs": str(tmp_path / "logs")}
    with pytest.raises(HanlinError, match="OUT_OF_MEMORY × 5"):
        build_corpus(files, tmp_path / "third", CONFIG, seed=4, engine=Datatrove("slurm", options=killed))


# ------------------------------------------------------------------ Ray, two nodes

BUILD = """
import sys
from pathlib import Path
from hanlin.common.config import build
from hanlin.common.errors import HanlinError
from hanlin.corpus.builder import job as plan
from hanlin.corpus.builder.build import CorpusConfig, build_corpus
from hanlin.corpus.builder.executors import Datatrove
plan.TASK_BYTES = 1
files, out, address, logs = sys.argv[1:]
config = build(CorpusConfig, SETTINGS, "test")
engine = Datatrove("ray", options={"address": address, "mem_per_cpu_gb": 0.5, "logs": logs})
try:
    build_corpus(sorted(Path(files).iterdir()), out, config, seed=4, engine=engine)
except HanlinError as error:
    sys.exit(f"error: {error}")
"""


class Cluster:
    """Two nodes of one CPU each on this machine, with addresses of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes = folder, []
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.2", 0))
            self.address = f"127.0.0.2:{probe.getsockname()[1]}"

    def add(self, *arguments: str) -> None:
        ip = f"127.0.0.{len(self.nodes) + 2}"  # 127.0.0.1 it would replace by an outer address
        head = (
            []
            if self.nodes
            else [
                "--head",
                "--port",
                self.address.split(":")[1],
                "--include-dashboard",
                "false",
                "--temp-dir",
                str(self.folder / "r"),
            ]
        )
        join = ["--address", self.address] if self.nodes else []
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            *head,
            *join,
            "--node-ip-address",
            ip,
            "--num-cpus",
            "1",
            "--object-store-memory",
            "100000000",
            "--memory",
            "1000000000",
            "--disable-usage-stats",
            "--block",
        ]
        with open(self.folder / f"{ip}.log", "wb") as log:
            self.nodes.append(subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log))
        deadline = time.monotonic() + 60
        while not self.raylet(ip):
            assert self.nodes[-1].poll() is None and time.monotonic() < deadline, (
                self.folder / f"{ip}.log"
            ).read_text()
            time.sleep(0.5)
        time.sleep(5)  # the raylet runs; now it makes itself known

    def raylet(self, ip: str) -> int:
        """The process that is this node, 0 if there is none."""
        return next(
            (
                number
                for number, words in self.processes()
                if words[0].endswith("/raylet") and f"--node_ip_address={ip}" in words
            ),
            0,
        )

    def processes(self) -> Iterator[tuple[int, list[str]]]:
        """Those that work in this cluster's own folder, and their command lines."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.folder) in line:
                yield int(path.parent.name), line.split("\0")

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.terminate()
        for number, _ in list(self.processes()):
            os.kill(number, signal.SIGKILL)
        for node in self.nodes:
            node.kill()
            node.wait()


@pytest.fixture
def cluster(ray: None) -> Iterator[Cluster]:
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: sockets have their place in it
    made = Cluster(folder)
    try:
        made.add()
        made.add()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def start_build(tmp_path: Path, cluster: Cluster, out: str) -> subprocess.Popen:
    (tmp_path / "build.py").write_text(BUILD.replace("SETTINGS", repr(SETTINGS)))
    command = [
        sys.executable,
        str(tmp_path / "build.py"),
        str(tmp_path / "in"),
        str(tmp_path / out),
        cluster.address,
        str(tmp_path / f"logs_{out}"),
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )


def await_results(tmp_path: Path, out: str, phase: str, count: int, child: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while len(list((tmp_path / f".{out}.state").glob(f"*/{phase}/0*"))) < count:
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()[0]
        time.sleep(0.02)


@pytest.mark.nightly
def test_two_nodes_of_ray_write_the_same_bytes(
    tmp_path: Path, files: list[Path], plain: dict[str, str], cluster: Cluster
) -> None:
    child = start_build(tmp_path, cluster, "out")
    output = child.communicate(timeout=600)[0]
    assert child.returncode == 0, output
    assert content(tmp_path / "out") == plain
    for phase in ("clean", "select", "write"):
        outcomes = [
            orjson.loads(path.read_bytes()) for path in (tmp_path / "logs_out" / phase / "outcomes").iterdir()
        ]
        assert len(outcomes) == 5 and {outcome["where"] for outcome in outcomes} == {
            "127.0.0.2",
            "127.0.0.3",
        }, outcomes


@pytest.mark.nightly
def test_a_lost_driver_and_a_lost_node_change_nothing(
    tmp_path: Path, files: list[Path], plain: dict[str, str], cluster: Cluster
) -> None:
    """First the program that gives out the work is killed, then, of the next run, one of the nodes; it goes
    on with what is left."""
    child = start_build(tmp_path, cluster, "out")
    await_results(tmp_path, "out", "clean", 2, child)
    child.kill()
    child.communicate()
    kept = {path.name: path.stat().st_ino for path in (tmp_path / ".out.state").glob("*/clean/0*")}
    assert not (tmp_path / "out").exists()
    child = start_build(tmp_path, cluster, "out")
    await_results(tmp_path, "out", "select", 2, child)
    assert (
        kept.items()
        <= {path.name: path.stat().st_ino for path in (tmp_path / ".out.state").glob("*/clean/0*")}.items()
    )
    os.kill(cluster.raylet("127.0.0.3"), signal.SIGKILL)
    output = child.communicate(timeout=300)[0]
    assert child.returncode == 0, output
    assert content(tmp_path / "out") == plain


@pytest.mark.nightly
def test_ray_hides_no_mistake(tmp_path: Path, files: list[Path], cluster: Cluster) -> None:
    """datatrove's executor for Ray only logs that ranks failed."""
    files[2].write_bytes(b"\x00\x01\x02\xff" * 50)
    output = (child := start_build(tmp_path, cluster, "out")).communicate(timeout=600)[0]
    assert child.returncode == 1 and f"error: {files[2]}" in output, output
