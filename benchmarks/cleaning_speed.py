"""How fast text is cleaned on one core: jsonl.zst in, `Cleaner`, jsonl.zst out, and the steps of it by themselves.

    python benchmarks/cleaning_speed.py [FILES…] [--preset zh-web] [--rounds 5] [--level 3]

Without FILES the larger web sources of ../shared/data/pretrain_zh. MB are 10⁶ bytes of UTF-8 text, seconds those of this process' CPU
time, medians over rounds in which the steps take turns. Exits 1 below the targets: 60 MB/s for signals and rules, 25 MB/s for the whole.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import zstandard

from hanlin.corpus.clean import Cleaner
from hanlin.corpus.output import LEVEL
from hanlin.corpus.readers import read_documents
from hanlin.corpus.rules import PRESETS, verdicts
from hanlin.corpus.score import batched
from hanlin.corpus.signals import measure

DATA = Path(__file__).resolve().parents[2] / "shared/data/pretrain_zh"
SOURCES = ("web_translated", "web_encyclopedia", "web_crawl_noisy", "tech_articles", "short_web_noisy")
TARGETS = {"signals and rules": 60.0, "whole path": 25.0}


class Null:
    """Counts what is written."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


def write(batches: list[list[Any]], level: int) -> int:
    """The documents as compressed JSON lines; bytes."""
    out = Null()
    with zstandard.ZstdCompressor(level=level).stream_writer(out, closefd=False) as stream:  # type: ignore[arg-type]
        for batch in batches:
            stream.write(b"".join(orjson.dumps(item) + b"\n" for item in batch if item is not None))
    return out.size


def whole(files: list[Path], preset: str, level: int) -> int:
    """Everything, streaming; bytes written."""
    cleaner, out = Cleaner(PRESETS[preset]), Null()
    with zstandard.ZstdCompressor(level=level).stream_writer(out, closefd=False) as stream:  # type: ignore[arg-type]
        for batch in batched(read_documents(files)):
            stream.write(b"".join(orjson.dumps(item) + b"\n" for item in cleaner(batch) if item is not None))
    return out.size


def main() -> int:
    """Measure and print; the exit status says whether the targets were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--preset", default="zh-web", choices=PRESETS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--level", type=int, default=LEVEL, help="of zstd")
    options = parser.parse_args()
    files = options.files or [DATA / f"{name}.jsonl.zst" for name in SOURCES]
    if missing := [str(file) for file in files if not file.is_file()]:
        print(f"SKIPPED: nothing was measured, since {missing[0]} is not there", file=sys.stderr)
        return 0
    batches = list(batched(read_documents(files)))
    data = [[(item["text"].encode("utf-8", "replace"), item["source"]) for item in batch] for batch in batches]
    size = sum(len(text) for batch in data for text, _ in batch)
    kept = [Cleaner(PRESETS[options.preset])(batch) for batch in batches]

    def read() -> None:
        for _ in read_documents(files):
            pass

    def judge() -> None:  # new strings each time: a used one holds its UTF-8 already
        for batch in data:
            verdicts(measure([str(text, "utf-8") for text, _ in batch]), PRESETS[options.preset])

    def clean() -> None:
        cleaner = Cleaner(PRESETS[options.preset])
        for batch in data:
            cleaner([{"text": str(text, "utf-8"), "source": source} for text, source in batch])

    steps: dict[str, Callable[[], Any]] = {
        "read": read, "signals and rules": judge, "clean": clean, "write": lambda: write(kept, options.level),
        "whole path": lambda: whole(files, options.preset, options.level),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            began = time.process_time()
            step()
            seconds[name].append(time.process_time() - began)
    documents = sum(map(len, batches))
    print(f"{size / 1e6:.1f} MB in {documents:,} documents of {len(files)} files; written {write(kept, options.level) / 1e6:.1f} MB at zstd level {options.level}")
    slow = False
    for name, found in seconds.items():
        speeds = sorted(size / 1e6 / value for value in found)
        target = TARGETS.get(name)
        slow |= target is not None and statistics.median(speeds) < target
        print(f"{name:<18} {statistics.median(speeds):7.1f} MB/s [{speeds[0]:.1f}, {speeds[-1]:.1f}]" + (f"   target {target:.0f}" if target else ""))
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
