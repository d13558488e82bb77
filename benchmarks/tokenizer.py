"""Train and encode against peers on the same text: CPU seconds and peak memory, every run a process of its
own, rounds interleaved.

    python benchmarks/tokenizer.py FILE… [--vocab-size 50000] [--megabytes 20] [--rounds 3]

Peers, each pinned to one thread: `tokenizers`, `gigabpe` (training), `tiktoken`, `fastokens` (encoding);
those that are not installed are named and left out. Exits 1 below the ratios promised in TARGETS.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Least ratio of the peer's figure to ours.
TARGETS = {
    ("train", "tokenizers", "cpu"): 25.0,
    ("train", "gigabpe", "cpu"): 4.0,
    ("train", "tokenizers", "rss"): 10.0,
    ("train", "gigabpe", "rss"): 3.0,
    ("encode", "tokenizers", "cpu"): 30.0,
    ("encode", "tiktoken", "cpu"): 12.0,
    ("encode", "fastokens", "cpu"): 2.5,
}
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def texts_of(corpus: Path) -> Iterator[str]:
    """The documents of the prepared corpus."""
    with open(corpus, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def train_hanlin(corpus: Path, vocab_size: int, out: Path) -> Callable[[], Any]:
    """Our trainer, on the file."""
    import hanlin
    import hanlin.corpus.readers.read
    import hanlin.tokenizer.train  # noqa: F401 - loaded when first used, otherwise, and not what is measured

    return lambda: hanlin.train_tokenizer([corpus], vocab_size=vocab_size, out=out)


def train_tokenizers(corpus: Path, vocab_size: int, out: Path) -> Callable[[], Any]:
    """Hugging Face's trainer with our pattern."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    from hanlin.tokenizer.special import PATTERN

    def train() -> None:
        model = tokenizers.Tokenizer(models.BPE())
        split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
        model.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        model.train_from_iterator(texts_of(corpus), trainer)

    return train


def train_gigabpe(corpus: Path, vocab_size: int, out: Path) -> Callable[[], Any]:
    """The fastest peer found; its pattern is GPT-2's and cannot be changed."""
    import gigabpe  # type: ignore[import-not-found]

    return lambda: gigabpe.train_bpe([str(corpus.with_suffix(".txt"))], vocab_size, threads=1)


def encode_hanlin(corpus: Path, vocab_size: int, out: Path) -> Callable[[], Any]:
    """Our encoder, into arrays."""
    import numpy  # noqa: F401 - what the arrays are made of is loaded before the clock starts

    import hanlin

    tokenizer, texts = hanlin.load_tokenizer(out), list(texts_of(corpus))
    return lambda: len(tokenizer.encode_arrays(texts)[0])


def encode_tokenizers(corpus: Path, vocab_size: int, out: Path) -> Callable[[], Any]:
    """Hugging Face's encoder."""
    import tokenizers

    tokenizer, texts = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")), list(texts_of(corpus))
    return lambda: sum(
        len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    )


def encode_tiktoken(corpus: Path, vocab_size: int, out: Path) -> Callable[[], Any]:
    """OpenAI's encoder with our ranks."""
    import tiktoken  # type: ignore[import-not-found]

    import hanlin
    from hanlin.tokenizer.special import PATTERN

    tokens = hanlin.load_tokenizer(out).vocabulary.tokens
    tokenizer = tiktoken.Encoding(
        "ours",
        pat_str=PATTERN,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={},
    )
    texts = list(texts_of(corpus))
    return lambda: sum(len(ids) for ids in map(tokenizer.encode_ordinary, texts))


def encode_fastokens(corpus: Path, vocab_size: int, out: Path) -> Callable[[], Any]:
    """The fastest exact peer found, into one buffer."""
    import fastokens  # type: ignore[import-not-found]

    tokenizer, texts = fastokens.Tokenizer.from_file(str(out / "tokenizer.json")), list(texts_of(corpus))
    return lambda: len(tokenizer.encode_batch_flat(texts)[0]) // 4


WORKERS = {name: work for name, work in globals().items() if name.startswith(("train_", "encode_"))}


def measure(worker: str, corpus: Path, vocab_size: int, out: Path) -> dict[str, float]:
    """One run in a fresh process: CPU seconds of the work itself, peak memory of the whole process."""
    command = [
        sys.executable,
        __file__,
        "--worker",
        worker,
        str(corpus),
        "--vocab-size",
        str(vocab_size),
        "--out",
        str(out),
    ]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def prepare(files: list[str], megabytes: float, folder: Path) -> tuple[Path, int]:
    """The first megabytes of the files, an equal share of each, as `corpus.jsonl` and `corpus.txt`."""
    from hanlin.corpus.readers.read import read_documents

    corpus, size = folder / "corpus.jsonl", 0
    with (
        open(corpus, "w", encoding="utf-8") as lines,
        open(folder / "corpus.txt", "w", encoding="utf-8") as plain,
    ):
        for file in files:
            taken = 0.0
            for document in read_documents(file):
                text = document["text"].encode("utf-8", "ignore").decode()
                lines.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                plain.write(text + "\n")
                taken += len(text.encode())
                if taken > megabytes * 1e6 / len(files):
                    break
            size += int(taken)
    return corpus, size


def main() -> int:
    """Run and print; the exit status says whether the targets were met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--vocab-size", type=int, default=50_000)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["train", "encode"])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work = WORKERS[options.worker](Path(options.files[0]), options.vocab_size, options.out)
        began = time.process_time()
        result = work()
        cpu = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"cpu": cpu, "rss": peak, "tokens": result if isinstance(result, int) else 0}))
        return 0
    return compare(options)


def compare(options: argparse.Namespace) -> int:
    """Interleave the libraries, print medians and ratios."""
    missing = [name for name in ("gigabpe", "tiktoken", "fastokens") if find_spec(name) is None]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}  (pip install {' '.join(missing)})")
    below = bool(missing)
    with tempfile.TemporaryDirectory() as folder:
        corpus, size = prepare(options.files, options.megabytes, Path(folder))
        print(
            f"{size / 1e6:.1f} MB, vocabulary {options.vocab_size}, one thread, "
            f"medians of {options.rounds} interleaved rounds"
        )
        for task in ("train", "encode"):
            names = [
                name.removeprefix(f"{task}_")
                for name in WORKERS
                if name.startswith(task) and name.removeprefix(f"{task}_") not in missing
            ]
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            if options.only in (None, task):
                for _ in range(options.rounds):
                    for name in names:
                        runs[name].append(
                            measure(f"{task}_{name}", corpus, options.vocab_size, Path(folder) / "tokenizer")
                        )
                below |= report(task, runs, size)
            elif task == "train":
                measure("train_hanlin", corpus, options.vocab_size, Path(folder) / "tokenizer")
    return int(below)


def report(task: str, runs: dict[str, list[dict[str, float]]], size: int) -> bool:
    """Print one task's table; whether a target was missed."""
    medians = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }
    ours, below = medians["hanlin"], False
    for name, figures in medians.items():
        line = (
            f"{task:<7}{name:<12}{figures['cpu']:8.2f} CPU s "
            f"{size / 1e6 / figures['cpu']:8.1f} MB/CPU s {figures['rss']:8.0f} MB"
        )
        if figures["tokens"]:
            line += f" {figures['tokens']:12,.0f} tokens"
        for key in ("cpu", "rss"):
            if (task, name, key) in TARGETS:
                ratio, target = figures[key] / ours[key], TARGETS[task, name, key]
                below |= ratio < target
                line += f"   {key} ×{ratio:.1f} (target {target:g}{'' if ratio >= target else ', MISSED'})"
        print(line, flush=True)
    return below


if __name__ == "__main__":
    sys.exit(main())
