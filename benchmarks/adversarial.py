"""Encoding must have no bad cases: runs of one thing and noise, beside ordinary text of the same size, in MB
per CPU second.

    python benchmarks/adversarial.py [FILE…] [--tokenizer DIR] [--megabytes 10] [--rounds 3]

Ordinary text comes from the files, or without any from the demo's world; the vocabulary is a tokenizer
directory, or one of 32k learnt from that text here. Exits 1 where a bad case is encoded at less than a third
of the speed of ordinary text.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hanlin
from hanlin.corpus.readers.read import read_documents
from hanlin.corpus.tinyworld import documents
from hanlin.tokenizer import Tokenizer

LEAST = 1 / 3  # of the speed on ordinary text
VOCABULARY = 32_768


def ordinary(files: list[str], size: int) -> list[str]:
    """Documents of about `size` bytes in all, an equal share of each file."""
    if not files:
        texts = (document["text"] for document in documents(1, size, "train"))
        return list(_up_to(texts, size))
    return [
        text
        for file in files
        for text in _up_to((document["text"] for document in read_documents(file)), size // len(files))
    ]


def _up_to(texts: Iterator[str], size: int) -> Iterator[str]:
    for text in texts:
        yield text
        size -= len(text.encode("utf-8", "surrogatepass"))
        if size <= 0:
            return


def cases(text: bytes, size: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """What ought to be hard, `size` bytes of each."""
    for name, unit in (
        ("中", "中"),
        ("a", "a"),
        ("space", " "),
        ("newline", "\n"),
        ("!", "!"),
        ("digit 7", "7"),
        ("ab", "ab"),
        ("中国", "中国"),
        ("U+0301", "\u0301"),
        ("😀", "😀"),
    ):
        yield f"{name} repeated", unit.encode() * (size // len(unit.encode()))
    rng = random.Random(seed)
    yield "random bytes", rng.randbytes(size)
    yield "random Han", "".join(map(chr, rng.choices(range(0x4E00, 0xA000), k=size // 3))).encode()
    yield "random digits", "".join(rng.choices("0123456789", k=size)).encode()
    yield "random letters", "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=size)).encode()
    yield "random spaces", "".join(rng.choices(" \t\n\r", k=size)).encode()
    planes = [*range(0xD800), *range(0xE000, 0x110000)]
    yield "random characters", "".join(map(chr, rng.choices(planes, k=size // 4))).encode()
    yield "one line of text", text.replace(b"\n", b"").replace(b"\r", b"")[:size]
    letters = "".join(filter(str.isalpha, text.decode("utf-8", "ignore")))  # nothing ends a pre-token
    yield "one word of text", letters.encode()[:size]


def speed(tokenizer: Tokenizer, texts: list[bytes], rounds: int) -> float:
    """MB per CPU second, the best of some rounds."""
    size = sum(map(len, texts))
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        ids, _ = tokenizer.encode_arrays(texts)
        best = min(best, time.process_time() - began)
        assert len(ids) > 0
    return size / 1e6 / best


def main() -> int:
    """Measure and print; the exit status says whether the promise was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    size = int(options.megabytes * 1e6)
    texts = ordinary(options.files, size)
    with tempfile.TemporaryDirectory() as folder:
        if options.tokenizer:
            tokenizer = hanlin.load_tokenizer(options.tokenizer)
        else:
            tokenizer = hanlin.train_tokenizer(
                iter(texts), vocab_size=VOCABULARY, out=Path(folder) / "tokenizer", min_frequency=1
            )
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    normal = speed(tokenizer, data, options.rounds)
    print(
        f"vocabulary {tokenizer.vocab_size}, {size / 1e6:g} MB of each, seed {options.seed}, "
        f"best of {options.rounds}"
    )
    print(f"{'ordinary text':<20}{normal:9.1f} MB/CPU s", flush=True)
    slow = False
    for name, case in cases(b"".join(data), size, options.seed):
        rate = speed(tokenizer, [case], options.rounds)
        slow |= rate < LEAST * normal
        print(
            f"{name:<20}{rate:9.1f} MB/CPU s   "
            f"×{rate / normal:.2f}{'' if rate >= LEAST * normal else '   BELOW A THIRD'}",
            flush=True,
        )
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
