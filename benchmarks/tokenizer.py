"""Train and encode against Hugging Face `tokenizers`, interleaved on the same text: CPU seconds, medians, ratio.

    python benchmarks/tokenizer.py FILE… [--vocab-size 32768] [--megabytes 8] [--rounds 3]

Exits 1 below the ratios of CPU time that are promised here: training 8, encoding 4.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tokenizers

import hanlin
from hanlin.corpus.readers import read_documents
from hanlin.tokenizer.special import PATTERN

TARGETS = {"train": 8.0, "encode": 4.0}


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of one call, all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def peer(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    """The same pattern and vocabulary size, trained by the peer."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    return model


def main() -> int:
    """Run and print; the exit status says whether the targets were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts: list[str] = []
    size = 0.0
    for document in read_documents(options.files):
        texts.append(document["text"])
        size += len(document["text"].encode()) / 1e6
        if size >= options.megabytes:
            break
    times: dict[str, dict[str, list[float]]] = {task: {"hanlin": [], "tokenizers": []} for task in TARGETS}
    ours, theirs = None, None
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            times["train"]["hanlin"].append(cpu(lambda: hanlin.train_tokenizer(iter(texts), vocab_size=options.vocab_size, out=Path(folder) / "t")))  # noqa: B023
            ours = hanlin.load_tokenizer(Path(folder) / "t")
        times["train"]["tokenizers"].append(cpu(lambda: peer(texts, options.vocab_size)))
        theirs = theirs or peer(texts, options.vocab_size)
        times["encode"]["hanlin"].append(cpu(lambda: ours.encode_batch(texts)))  # noqa: B023
        times["encode"]["tokenizers"].append(cpu(lambda: [encoding.ids for encoding in theirs.encode_batch_fast(texts)]))  # noqa: B023
    print(f"hanlin {hanlin.__version__}, tokenizers {tokenizers.__version__}, {size:.1f} MB, {len(texts)} documents, vocabulary {options.vocab_size}")
    failed = False
    for task, target in TARGETS.items():
        mine, peers = (statistics.median(times[task][name]) for name in ("hanlin", "tokenizers"))
        print(f"{task:<7} hanlin {mine:8.2f} CPU s   tokenizers {peers:8.2f} CPU s   ratio {peers / mine:6.1f} (target {target})")
        failed |= peers / mine < target
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
