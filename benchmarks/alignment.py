"""What alignment costs: bytes per token on held-out text of aligned and of plain vocabularies, trained on the
same documents.

    python benchmarks/alignment.py FILE… [--sizes 8192 32768 50000] [--train 100] [--heldout 20]

The held-out documents are spread evenly over all files. Exits 1 where an aligned vocabulary spends over LIMIT
more tokens than a plain one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import hanlin
from hanlin.corpus.readers.read import read_documents

LIMIT = 0.001


def divide(files: list[str], train: float, heldout: float) -> tuple[list[str], list[str]]:
    """Documents to train on and documents to measure on, in equal shares of each file and in megabytes."""
    kept: tuple[list[str], list[str]] = ([], [])
    for file in files:
        taken = [0, 0]
        for document in read_documents(file):
            text = document["text"].encode("utf-8", "ignore").decode()
            size = len(text.encode())
            which = int(taken[1] * train <= taken[0] * heldout)
            kept[which].append(text)
            taken[which] += size
            if sum(taken) > (train + heldout) * 1e6 / len(files):
                break
    return kept


def main() -> int:
    """Train, measure, print; the exit status says whether the promise was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 32_768, 50_000])
    parser.add_argument("--max-token-chars", type=int, nargs="+", default=[0, 16])
    parser.add_argument("--train", type=float, default=100)
    parser.add_argument("--heldout", type=float, default=20)
    options = parser.parse_args()
    train, heldout = divide(options.files, options.train, options.heldout)
    size = sum(len(text.encode()) for text in heldout)
    print(
        f"trained on {sum(len(text.encode()) for text in train) / 1e6:.1f} MB, "
        f"measured on {size / 1e6:.1f} MB of {len(heldout)} other documents"
    )
    print("vocabulary  max chars  aligned B/token   plain B/token   aligned needs", flush=True)
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        for vocab_size in options.sizes:
            for longest in options.max_token_chars:
                tokens = []
                began = time.monotonic()
                for aligned in (True, False):
                    out = Path(folder) / "tokenizer"
                    tokenizer = hanlin.train_tokenizer(
                        iter(train), vocab_size=vocab_size, out=out, aligned=aligned, max_token_chars=longest
                    )
                    tokens.append(
                        sum(
                            len(tokenizer.encode_arrays(heldout[begin : begin + 200])[0])
                            for begin in range(0, len(heldout), 200)
                        )
                    )
                more = tokens[0] / tokens[1] - 1
                missed |= more > LIMIT
                figures = f"{size / tokens[0]:17.5f}{size / tokens[1]:16.5f}{more:+15.4%} tokens"
                print(
                    f"{vocab_size:10}{longest or 'none':>11}{figures}"
                    f"   ({time.monotonic() - began:.0f} s){'  OVER THE LIMIT' if more > LIMIT else ''}",
                    flush=True,
                )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
