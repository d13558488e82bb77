"""Speed of the corpus engine on one thread: megabytes of UTF-8 per CPU second, and peak memory.

    python benchmarks/corpus.py FILE… [--megabytes 120] [--rounds 3]

Every run is a process of its own, rounds are interleaved, medians are printed. The text is an equal share of
each file, packed as jsonl.zst. `rules` measures every signal and applies every rule to texts in memory;
`clean` reads the jsonl.zst, normalises, cleans and writes a jsonl.zst; `build` is the whole `hanlin corpus
build` (duplicates, shuffle, accounts) and has no target. Exits 1 below TARGETS, or above MOST_MEMORY.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TARGETS = {"rules": 60.0, "clean": 25.0}  # MB per CPU second, on one core
MOST_MEMORY = 1 << 30
BATCH = 512  # documents
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def batches(corpus: Path) -> Iterator[list[dict[str, Any]]]:
    """The documents of the file, BATCH at a time."""
    from hanlin.corpus.readers.read import read_documents

    batch: list[dict[str, Any]] = []
    for document in read_documents(corpus):
        batch.append(document)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def work_rules(corpus: Path, folder: Path) -> Callable[[], int]:
    """All signals, all rules of zh-web; texts are in memory before."""
    from hanlin.corpus.filters.rules import PRESETS, verdicts
    from hanlin.corpus.filters.signals import measure

    texts = [[document["text"] for document in batch] for batch in batches(corpus)]

    def work() -> int:
        return sum(int((verdicts(measure(batch), PRESETS["zh-web"]) < 0).sum()) for batch in texts if batch)

    return work


def work_clean(corpus: Path, folder: Path) -> Callable[[], int]:
    """From jsonl.zst to jsonl.zst: read, repair, normalise, line rules, signals, rules, write."""
    import orjson
    import zstandard

    from hanlin.corpus.filters.clean import Cleaner
    from hanlin.corpus.filters.rules import PRESETS

    def work() -> int:
        cleaner, kept = Cleaner(PRESETS["zh-web"]), 0
        with (
            open(folder / "clean.jsonl.zst", "wb") as file,
            zstandard.ZstdCompressor(level=3).stream_writer(file) as out,
        ):
            for batch in batches(corpus):
                lines = [
                    orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
                    for document in cleaner(batch)
                    if document
                ]
                out.write(b"".join(lines))
                kept += len(lines)
        return kept

    return work


def work_build(corpus: Path, folder: Path) -> Callable[[], int]:
    """The artefact, by one process."""
    from hanlin.corpus.builder.build import CorpusConfig, build_corpus

    def work() -> int:
        build_corpus([corpus], folder / "corpus", CorpusConfig(preset="zh-web"), workers=1)
        return json.loads((folder / "corpus" / "manifest.json").read_text())["metrics"]["documents_kept"]

    return work


WORKERS = {"rules": work_rules, "clean": work_clean, "build": work_build}


def run(worker: str, corpus: Path, folder: Path) -> None:
    """In a process of its own: one piece of work, measured."""
    work = WORKERS[worker](corpus, folder)
    began, clock = time.process_time(), time.monotonic()
    kept = work()
    figures = {"cpu": time.process_time() - began, "wall": time.monotonic() - clock, "kept": kept}
    print(json.dumps(figures | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def measure(worker: str, corpus: Path) -> dict[str, float]:
    """One run in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--worker", worker, "--out", folder, str(corpus)]
        done = subprocess.run(
            command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, check=True, text=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def prepare(files: list[str], megabytes: float, corpus: Path) -> int:
    """An equal share of each file, from its beginning, as one jsonl.zst; bytes of text."""
    import zstandard

    from hanlin.corpus.readers.read import read_documents

    size = 0
    with open(corpus, "wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as out:
        for name in files:
            taken = 0
            for document in read_documents(name):
                text = document["text"].encode("utf-8", "ignore").decode()
                out.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
                taken += len(text.encode())
                if taken > megabytes * 1e6 / len(files):
                    break
            size += taken
    return size


def main() -> int:
    """Measure and print; the exit status says whether the targets were reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    parser.add_argument("--megabytes", type=float, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=list(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run(options.worker, Path(options.files[0]), options.out)
        return 0
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl.zst"
        size = prepare(options.files, options.megabytes, corpus)
        print(
            f"{size / 1e6:.1f} MB, preset zh-web, one thread, medians of {options.rounds} interleaved rounds",
            flush=True,
        )
        runs: dict[str, list[dict[str, float]]] = {worker: [] for worker in WORKERS}
        for _ in range(options.rounds):
            for worker, found in runs.items():
                found.append(measure(worker, corpus))
        for worker, found in runs.items():
            cpu, memory = (statistics.median(one[name] for one in found) for name in ("cpu", "memory"))
            target = TARGETS.get(worker)
            short = target is not None and size / 1e6 / cpu < target
            wide = worker != "rules" and memory > MOST_MEMORY
            missed |= short or wide
            verdict = "" if target is None else f"   (target {target:.0f}{', MISSED' if short else ''})"
            note = f"   (limit {MOST_MEMORY >> 20} MiB exceeded)" if wide else ""
            print(
                f"{worker:<6} {size / 1e6 / cpu:7.1f} MB/CPU s  {cpu:6.2f} CPU s  {memory / 2**20:6.0f} MiB  "
                f"kept {found[0]['kept']:,}{verdict}{note}"
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
