"""What the corpus tests share; nothing here imports torch."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"
COMMON = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实"
    "日军者意无力它与长把机十民第公此已工使情"
)


@pytest.fixture
def shared():
    """`shared(path)`: a file of the real data beside the checkout; the test is skipped, and says so, where
    it is absent."""

    def find(path: str) -> Path:
        if not (SHARED / path).exists():
            pytest.skip(f"{SHARED / path} not present")
        return SHARED / path

    return find


@pytest.fixture
def prose():
    """`prose(seed, length)`: sentences of common characters, random but the same for a seed."""

    def make(seed: int, length: int = 120) -> str:
        draw = random.Random(seed)
        return (
            "".join(
                draw.choice(COMMON) + ("，" if i % 9 == 8 else "。" if i % 23 == 22 else "")
                for i in range(length)
            )
            + "。"
        )

    return make


@pytest.fixture
def write(tmp_path):
    """`write(name, lines)`: a JSON-lines file of records (or raw strings)."""

    def make(name: str, records: list) -> Path:
        path = tmp_path / name
        path.write_text(
            "".join(
                (item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)) + "\n"
                for item in records
            ),
            encoding="utf-8",
        )
        return path

    return make
