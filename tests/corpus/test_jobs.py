"""A build gives the same bytes with any number of processes, in ranks of any executor, and after being killed
anywhere."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.progress import Progress
from hanlin.corpus.builder import build, job
from hanlin.corpus.builder.build import CorpusConfig, CorpusJob, build_corpus, read_corpus, read_lines
from hanlin.corpus.dedup.fingerprints import DedupConfig

CONFIG = CorpusConfig(
    preset="zh-short",
    heldout_fraction=0.05,
    mask_pii=True,
    source="file",
    weights={"part_1": 2.5, "part_[23]": 0.5},
    anneal=("part_0",),
    dedup=DedupConfig(),
)


@pytest.fixture
def files(tmp_path: Path, prose, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Seven files, each a task: prose, copies within and across files, near copies, bad records."""
    monkeypatch.setattr(job, "TASK_BYTES", 1)
    numbers = random.Random(5)
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(7):
        with open(folder / f"part_{part}.jsonl", "wb") as file:
            for index in range(60):
                text = prose(numbers.randrange(250), 150)
                if index % 10 == 3:
                    text = text[:70] + "改" + text[71:] + f"电话13812345{index:03d}。"
                file.write(orjson.dumps({"text": text}) + b"\n")
            file.write(b"{not json\n")
    return sorted(folder.iterdir())


def content(path: Path) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in read_manifest(path).files.items()}


def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, files: list[Path]) -> None:
    paths = [
        build_corpus(files, tmp_path / f"w{workers}", CONFIG, seed=4, workers=workers)
        for workers in (1, 2, 7)
    ]
    assert content(paths[0]) == content(paths[1]) == content(paths[2])
    metrics = read_manifest(paths[0]).metrics
    assert (
        metrics["quarantined"] == 7
        and metrics["dropped"]["exact_duplicate"] > 50
        and metrics["dropped"]["near_duplicate"] > 10
    )
    assert content(build_corpus(files, tmp_path / "other", CONFIG, seed=5)) != content(paths[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "other", "w1", "w2", "w7"]


def test_ranks_of_an_executor_write_the_same_bytes(tmp_path: Path, files: list[Path]) -> None:
    """As datatrove's executors call the phases, with more ranks than there are tasks and in any order."""
    job = CorpusJob(tmp_path / "work", CONFIG, files, seed=4)
    for phase in job.phases:
        for rank in reversed(range(4)):
            phase(None, rank, 4)
    job.finish(tmp_path / "ranks")
    assert content(tmp_path / "ranks") == content(build_corpus(files, tmp_path / "plain", CONFIG, seed=4))


def test_an_unfinished_job_makes_no_corpus(tmp_path: Path, files: list[Path]) -> None:
    job = CorpusJob(tmp_path / "work", CONFIG, files, seed=4)
    job.phases[0](None, 0, 2)
    with pytest.raises(HanlinError, match="clean"):
        job.finish(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_order_weights_and_tags(tmp_path: Path, files: list[Path]) -> None:
    documents = list(read_corpus(build_corpus(files, tmp_path / "c", CONFIG, seed=4)))
    plain = list(
        read_corpus(
            build_corpus(
                files,
                tmp_path / "p",
                CorpusConfig(
                    preset="zh-short", source="file", heldout_fraction=0.05, shuffle=False, mask_pii=True
                ),
                seed=4,
            )
        )
    )
    by_source = {
        source: [item["text"] for item in plain if item["source"] == source]
        for source in {item["source"] for item in plain}
    }
    assert [item["source"] for item in plain] == sorted(item["source"] for item in plain)
    assert [item["source"] for item in documents] != sorted(item["source"] for item in documents)
    for source, texts in by_source.items():
        found = [item["text"] for item in documents if item["source"] == source]
        if source == "part_1":
            assert (
                set(found) == set(texts)
                and all(2 <= found.count(text) <= 3 for text in texts)
                and 2 < len(found) / len(texts) < 3
            )
        elif source in ("part_2", "part_3"):
            assert set(found) < set(texts) and 0.2 < len(found) / len(texts) < 0.8
        else:
            assert sorted(found) == sorted(texts)
    assert {item.get("tag") for item in documents if item["source"] == "part_0"} == {"anneal"}
    assert not any("tag" in item for item in documents if item["source"] != "part_0")
    with pytest.raises(ValueError, match="max_repeats"):
        CorpusConfig(weights={"a": 4.5})


def test_clusters_name_who_stays_and_who_went(tmp_path: Path, files: list[Path]) -> None:
    path = build_corpus(files, tmp_path / "c", CONFIG, seed=4)
    clusters = list(read_lines(path / "clusters.jsonl.zst"))
    dropped = read_manifest(path).metrics["dropped"]
    assert (
        sum(len(cluster["members"]) for cluster in clusters)
        == dropped["exact_duplicate"] + dropped["near_duplicate"]
    )
    for cluster in clusters:
        assert all(member["document"] > cluster["cluster"] for member in cluster["members"])
        assert all(member["exact"] or member["similarity"] >= 0.8 for member in cluster["members"])


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_jobs
from hanlin.corpus.builder import job as plan
plan.TASK_BYTES = 1
if __name__ == "__main__":
    test_jobs.build_corpus(sorted(Path(sys.argv[1]).iterdir()), sys.argv[2], test_jobs.CONFIG,\
 seed=4, workers=int(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_build_killed_at_any_instant_goes_on_to_the_same_bytes(tmp_path: Path, files: list[Path]) -> None:
    """Twelve kills at random instants, of a build with one process and with two, each then gone on with by
    another number of them."""
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(here=str(Path(__file__).parent)))
    began = time.monotonic()
    expected = content(build_corpus(files, tmp_path / "whole", CONFIG, seed=4))
    usual = time.monotonic() - began
    numbers = random.Random(int.from_bytes(os.urandom(4), "big"))
    killed = 0
    out = tmp_path / "out"
    for attempt in range(12):
        command = [sys.executable, str(script), str(tmp_path / "in"), str(out), str(1 + attempt % 2)]
        child = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
        state = tmp_path / ".out.state"
        while not state.exists() and child.poll() is None:  # importing is not what is to be interrupted
            time.sleep(0.002)
        time.sleep(numbers.uniform(0, usual * 0.5))
        if child.poll() is None:
            os.killpg(
                child.pid, signal.SIGKILL
            ) if attempt % 3 else child.kill()  # every third time its workers must notice by themselves
            killed += 1
        assert child.wait() in (0, -signal.SIGKILL), child.communicate()[1].decode()
        if out.exists():
            assert content(out) == expected
            shutil.rmtree(out)
    build_corpus(files, out, CONFIG, seed=4, workers=2)
    assert killed and content(out) == expected


def test_progress_is_in_megabytes_read_by_all_processes(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_MEGABYTE", 1000)

    class Heard(Progress):
        def __init__(self) -> None:
            self.stages: list[str] = []
            self.steps: list[tuple[int, int]] = []

        def stage(self, index: int, count: int, name: str) -> None:
            self.stages.append(name)

        def update(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
            if len(self.stages) == 1:
                self.steps.append((step, steps))

    for workers in (1, 2):
        heard = Heard()
        build_corpus(files, tmp_path / f"c{workers}", CONFIG, seed=4, workers=workers, progress=heard)
        assert "MB" in heard.stages[0] and len(heard.stages) > 4
        steps = [step for step, _ in heard.steps]
        assert (
            steps == sorted(steps)
            and heard.steps[-1][0] == heard.steps[-1][1] > 100
            and len({whole for _, whole in heard.steps}) == 1
        )
        assert len(set(steps)) > 4
    assert not [path for path in tmp_path.rglob("seen")]
