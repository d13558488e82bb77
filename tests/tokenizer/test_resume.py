"""A killed training goes on from the counts it saved, and comes to the same tokenizer."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.common import savepoint
from hanlin.common.errors import HanlinError
from hanlin.tokenizer import counting, train_tokenizer

SCRIPT = """
import sys
from hanlin.common import savepoint
from hanlin.dataset import build_text_dataset
from hanlin.tokenizer import load_tokenizer, train_tokenizer
savepoint.SECONDS = 0
what, corpus, out, tokenizer = sys.argv[1:]
if what == "train":
    train_tokenizer([corpus], 600, out, threads=2, memory=1 << 30)
else:
    build_text_dataset([corpus], load_tokenizer(tokenizer), out, threads=2)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Some five batches of text."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏", k=draw.randint(1, 4)))
        for _ in range(3000)
    ]
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(2500):
            file.write(json.dumps({"text": "，".join(draw.choices(words, k=200))}, ensure_ascii=False) + "\n")
    return path


def start(what: str, corpus: Path, out: Path, tokenizer: Path | str = "", fail_at: str = "") -> int:
    environment = os.environ | {"HANLIN_FAIL_AT": fail_at, "HANLIN_LANG": "en"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, what, str(corpus), str(out), str(tokenizer)], env=environment
    ).returncode


def test_training_goes_on_wherever_it_was_killed(corpus, tmp_path):
    train_tokenizer([corpus], 600, tmp_path / "whole")
    kills = 0
    for occurrence in (
        1,
        3,
        2,
        1,
        4,
        # of the process's own savings: in the bigram counts, after them, among the pieces, when all are
        # counted
    ):
        kills += start("train", corpus, tmp_path / "out", fail_at=f"counting.saved:{occurrence}") == 137
        assert not (tmp_path / "out").exists()
    assert kills == 5
    assert start("train", corpus, tmp_path / "out") == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    metrics, wanted = (
        json.loads((tmp_path / name / "manifest.json").read_text())["metrics"] for name in ("out", "whole")
    )
    # the bigram counts were kept, so a second round of pieces needs no new one
    assert metrics.pop("passes") <= wanted.pop("passes")
    assert metrics == wanted and metrics["documents"] == 2500
    assert not (tmp_path / ".out.state").exists()


def test_another_corpus_or_vocabulary_starts_anew(corpus, tmp_path, monkeypatch):
    assert start("train", corpus, tmp_path / "out", fail_at="counting.saved:7") == 137
    assert (tmp_path / ".out.state" / "state.json").exists()
    monkeypatch.setattr(savepoint, "SECONDS", 0)
    other = train_tokenizer([corpus], 500, tmp_path / "out")
    assert other.vocabulary == train_tokenizer([corpus], 500, tmp_path / "fresh").vocabulary


def test_a_damaged_savepoint_is_explained(corpus, tmp_path):
    assert start("train", corpus, tmp_path / "out", fail_at="counting.saved:8") == 137
    for file in (tmp_path / ".out.state").rglob("bigram_counts-*"):
        file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(HanlinError, match="bigram_counts"):
        train_tokenizer([corpus], 600, tmp_path / "out")


def test_an_interrupted_run_keeps_what_it_saved(corpus, tmp_path, monkeypatch):
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(savepoint, "SECONDS", 0)
    with monkeypatch.context() as once:
        once.setattr(counting, "failpoint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer([corpus], 600, tmp_path / "out")
    assert (tmp_path / ".out.state" / "state.json").exists()
    train_tokenizer([corpus], 600, tmp_path / "out")
    assert not (tmp_path / ".out.state").exists()


def test_encoding_goes_on_wherever_it_was_killed(corpus, tmp_path):
    train_tokenizer([corpus], 600, tmp_path / "tokenizer")
    assert start("encode", corpus, tmp_path / "whole", tmp_path / "tokenizer") == 0
    for occurrence in (2, 1, 1):
        assert (
            start(
                "encode",
                corpus,
                tmp_path / "out",
                tmp_path / "tokenizer",
                fail_at=f"dataset.saved:{occurrence}",
            )
            == 137
        )
        assert not (tmp_path / "out").exists()
    assert start("encode", corpus, tmp_path / "out", tmp_path / "tokenizer") == 0
    for name in ("tokens.bin", "tokens.idx"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / ".out.state").exists()
