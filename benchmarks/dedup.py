"""Deduplicate against peers on the same text: CPU seconds from JSON lines to the numbers of documents that
stay, and peak memory.

    python benchmarks/dedup.py FILE… [--megabytes 10] [--rounds 3]

Every run is a process of its own with one thread, rounds are interleaved. Peers, at 14 bands of 8 rows over
character 5-grams: `rensa` (its bulk interface, the fastest of those that make whole signatures) and
`datatrove` (its four stages, with characters for words, which spares it the segmentation of Chinese). Both
take every pair that shares a band for duplicates; ours verifies each, and compares comparison keys. Then the
share of injected near duplicates that is found, by similarity, beside theory. Exits 1 below TARGETS.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TARGETS = {"datatrove": 10.0, "rensa": 3.0}  # least ratio of the peer's CPU seconds to ours
BANDS, ROWS, SHINGLE = 14, 8, 5
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def work_hanlin(corpus: Path, folder: Path) -> Callable[[], int]:
    """Ours: sketch, texts in a spill file, search with verified pairs."""
    import numpy as np

    from hanlin.corpus.dedup.fingerprints import DedupConfig
    from hanlin.corpus.dedup.search import find_duplicates, read_duplicates
    from hanlin.corpus.dedup.sketches import SketchWriter, TextSpill
    from hanlin.corpus.readers.read import read_texts

    def work() -> int:
        config = DedupConfig(bands=BANDS, rows=ROWS, shingle=SHINGLE)
        with open(folder / "texts", "w+b") as file:
            spill = TextSpill(file)
            with SketchWriter(folder / "sketch", config) as sketch:
                for batch in read_texts([corpus]):
                    spill.add(batch)
                    sketch.add(batch)
            stays = np.ones(sketch.documents, bool)
            for block in read_duplicates(find_duplicates([sketch.path], spill, config, folder / "search")):
                stays[block["document"]] = False
        return len(np.flatnonzero(stays))

    return work


def work_rensa(corpus: Path, folder: Path) -> Callable[[], int]:
    """Signatures of all documents in one matrix, then duplicate flags by shared bands; of a group, all are
    flagged."""
    import rensa  # type: ignore[import-not-found]

    def work() -> int:
        with open(corpus, encoding="utf-8") as file:
            texts = (json.loads(line)["text"] for line in file)
            grams = (
                {text[index : index + SHINGLE] for index in range(max(1, len(text) - SHINGLE + 1))}
                for text in texts
            )
            matrix = rensa.RMinHash.digest_matrix_from_token_sets(grams, BANDS * ROWS, 1)
        flags = rensa.RMinHashLSH(0.8, BANDS * ROWS, BANDS).insert_matrix_and_query_duplicate_flags(matrix)
        return sum(not flag for flag in flags)

    return work


def work_datatrove(corpus: Path, folder: Path) -> Callable[[], int]:
    """Its four stages, one after another in this process."""
    from datatrove.executor.local import LocalPipelineExecutor  # type: ignore[import-not-found]
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature  # type: ignore[import-not-found]
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets  # type: ignore[import-not-found]
    from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]
    from datatrove.utils.hashing import HashConfig  # type: ignore[import-not-found]

    class Characters:
        def word_tokenize(self, text: str) -> list[str]:
            return list(text)

    kept = 0

    def count(data: Any, rank: int = 0, world_size: int = 1) -> Any:
        nonlocal kept
        for document in data:
            kept += 1
            yield document

    def work() -> int:
        config = MinhashConfig(
            n_grams=SHINGLE, num_buckets=BANDS, hashes_per_bucket=ROWS, hash_config=HashConfig(precision=64)
        )
        signatures, buckets, removed = (str(folder / name) for name in ("signatures", "buckets", "removed"))
        # any whose word tokenizer needs no model
        signature = MinhashDedupSignature(signatures, config=config, language="ace_Arab")
        signature.word_tokenizer = Characters()
        read = JsonlReader(str(corpus.parent), glob_pattern=corpus.name)
        stages: list[tuple[list[Any], int]] = [
            ([read, signature], 1),
            ([MinhashDedupBuckets(signatures, buckets, config=config)], BANDS),
            ([MinhashDedupCluster(buckets, removed, config=config)], 1),
            ([read, MinhashDedupFilter(removed), count], 1),
        ]
        for number, (pipeline, tasks) in enumerate(stages):
            LocalPipelineExecutor(
                pipeline=pipeline, tasks=tasks, workers=1, logging_dir=str(folder / f"logs{number}")
            ).run()
        return kept

    return work


WORKERS = {name.removeprefix("work_"): work for name, work in globals().items() if name.startswith("work_")}


def measure(worker: str, corpus: Path) -> dict[str, float]:
    """One run in a fresh process: CPU seconds of the work itself, peak memory of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--worker", worker, "--out", folder, str(corpus)]
        done = subprocess.run(
            command,
            env=os.environ | ONE_THREAD,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            text=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def prepare(files: list[str], megabytes: float, corpus: Path) -> int:
    """The first megabytes of the files, an equal share of each; bytes of text."""
    from hanlin.corpus.readers.read import read_documents

    size = 0
    with open(corpus, "w", encoding="utf-8") as lines:
        for file in files:
            taken = 0
            for document in read_documents(file):
                text = document["text"].encode("utf-8", "ignore").decode()
                lines.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                taken += len(text.encode())
                if taken > megabytes * 1e6 / len(files):
                    break
            size += taken
    return size


def shared(left: str, right: str) -> float:
    """Jaccard similarity of the sets of shingles."""
    one, other = (
        {text[index : index + SHINGLE] for index in range(len(text) - SHINGLE + 1)} for text in (left, right)
    )
    return len(one & other) / len(one | other)


def injected(corpus: Path, similarity: float, count: int, draw: random.Random) -> list[tuple[str, str]]:
    """Comparison keys of real texts, each with a copy in which single characters were exchanged as long as
    the similarity is at least as asked for."""
    from hanlin.corpus.dedup.fingerprints import comparison_key

    pairs: list[tuple[str, str]] = []
    with open(corpus, encoding="utf-8") as file:
        for line in file:
            text = comparison_key(json.loads(line)["text"])[:400]
            if len(text) < 200:
                continue
            copy, places = list(text), draw.sample(range(len(text)), len(text))
            while places:
                place = places.pop()
                before, copy[place] = copy[place], chr(draw.randrange(0x4E00, 0x9FA5))
                if shared(text, "".join(copy)) < similarity:
                    copy[place] = before
                    break
            pairs.append((text, "".join(copy)))
            if len(pairs) == count:
                break
    return pairs


def curve(corpus: Path, count: int = 400) -> None:
    """Candidates and duplicates among injected pairs, beside theory and beside an exhaustive comparison."""
    from hanlin.corpus.dedup.fingerprints import DedupConfig
    from hanlin.corpus.dedup.search import near_duplicates

    print(
        f"\ninjected pairs, {BANDS} × {ROWS}    similarity  candidates  theory    "
        "dropped at 0.8  truly ≥ 0.8  falsely dropped"
    )
    for similarity in (0.9, 0.8, 0.7, 0.5):
        pairs = injected(corpus, similarity, count, random.Random(similarity))
        texts = [text for pair in pairs for text in pair]
        truth = [shared(*pair) for pair in pairs]
        every, verified = DedupConfig(threshold=1e-6), DedupConfig()
        found = near_duplicates(texts, every)[1::2] != range(1, len(texts), 2)
        gone = near_duplicates(texts, verified)[1::2] != range(1, len(texts), 2)
        theory = statistics.fmean(every.recall(value) for value in truth)
        real = [value >= verified.threshold for value in truth]
        false = sum(went and not is_real for went, is_real in zip(gone, real, strict=True))
        print(
            f"  {len(pairs):>6} pairs {statistics.fmean(truth):>19.3f} {found.mean():>11.3f} {theory:>7.3f} "
            f"{gone.mean():>17.3f} {statistics.fmean(real):>12.3f} {false / len(pairs):>16.3f}"
        )


def main() -> int:
    """Run and print; the exit status says whether the targets were met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work = WORKERS[options.worker](Path(options.files[0]), options.out)
        began = time.process_time()
        kept = work()
        cpu = time.process_time() - began
        print(
            json.dumps(
                {"cpu": cpu, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "kept": kept}
            )
        )
        return 0
    missing = [name for name in TARGETS if find_spec(name) is None]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}  (pip install {' '.join(missing)})")
    below = bool(missing)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        size = prepare(options.files, options.megabytes, corpus)
        print(f"{size / 1e6:.1f} MB, one thread, medians of {options.rounds} interleaved rounds")
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in WORKERS if name not in missing}
        for _ in range(options.rounds):
            for name, found in runs.items():
                found.append(measure(name, corpus))
        medians = {
            name: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for name, found in runs.items()
        }
        for name, figures in medians.items():
            line = (
                f"{name:<10} {version(name):<8}{figures['cpu']:8.2f} CPU s "
                f"{size / 1e6 / figures['cpu']:8.1f} MB/CPU s {figures['rss']:8.0f} MB"
            )
            line += f" {figures['kept']:10,.0f} stay"
            if name in TARGETS:
                ratio = figures["cpu"] / medians["hanlin"]["cpu"]
                below |= ratio < TARGETS[name]
                line += (
                    f"   ×{ratio:.1f} "
                    f"(target {TARGETS[name]:g}{'' if ratio >= TARGETS[name] else ', MISSED'})"
                )
            print(line, flush=True)
        curve(corpus)
    return int(below)


if __name__ == "__main__":
    sys.exit(main())
