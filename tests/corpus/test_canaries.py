"""Canaries: the same for a seed, each copy a document that cleaning and deduplication leave alone, and a
record from which they are known again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanlin.cli.main import app
from hanlin.common.errors import HanlinError
from hanlin.corpus.builder.build import CorpusConfig, build_corpus, read_corpus
from hanlin.corpus.canaries import Canaries, read_canaries, twins


def test_a_seed_decides_the_canaries_and_groups_do_not_depend_on_one_another() -> None:
    ours = Canaries(7, (1, 4, 16))
    assert ours.drawn() == Canaries(7, (1, 4, 16)).drawn()
    assert ours.documents() == Canaries(7, (1, 4, 16)).documents()
    assert Canaries(7, (4,)).drawn() == [canary for canary in ours.drawn() if canary.times == 4]
    other = {canary.question for canary in Canaries(8, (1, 4, 16)).drawn()}
    assert not other & {canary.question for canary in ours.drawn()}


def test_documents_hold_each_canary_as_often_as_it_is_planted() -> None:
    canaries = Canaries(3, (1, 4, 16), 6)
    documents = [document["text"] for document in canaries.documents()]
    assert len(documents) == 6 * (1 + 4 + 16) == len(set(documents))
    for canary in canaries.drawn():
        assert sum(canary.prompt + canary.number in text for text in documents) == canary.times
        others = twins(canary, 63)
        assert len({canary.number, *others}) == 64
        assert all(len(number) == len(canary.number) for number in others)


@pytest.mark.parametrize("preset", ["zh-web", "zh-short"])
def test_cleaning_and_deduplication_leave_every_copy(tmp_path: Path, prose, preset: str) -> None:
    canaries = Canaries(5, (1, 16), 20)
    documents = [{"text": prose(at, 200), "source": "web"} for at in range(200)] + canaries.documents()
    path = build_corpus(documents, tmp_path / "c", CorpusConfig(preset=preset, heldout_fraction=0.0))
    kept = [document["text"] for document in read_corpus(path) if document["source"] == "canary"]
    assert len(kept) == 20 * 17


def test_the_command_writes_documents_and_the_record(tmp_path: Path, capsys) -> None:
    out = tmp_path / "mine.jsonl"
    words = ["--out", str(out), "--seed", "11", "--times", "1,4", "--each", "5", "--json"]
    app(["corpus", "canary", *words])
    said = json.loads(capsys.readouterr().out)
    assert said["count"] == 25 == len(out.read_text(encoding="utf-8").splitlines())
    assert read_canaries(Path(said["record"])) == Canaries(11, (1, 4), 5)
    Canaries(11, (1, 4), 5).write(out)  # the same again is no harm
    before = out.read_bytes()
    with pytest.raises(HanlinError, match="something else"):
        Canaries(12, (1, 4), 5).write(out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("times, each", [((), 20), ((0, 4), 20), ((4, 4), 20), ((1,), 2)])
def test_what_could_show_nothing_is_refused(times: tuple[int, ...], each: int) -> None:
    with pytest.raises(HanlinError):
        Canaries(1, times, each)


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": 2, "seed": 1, "times": [1], "each": 20}'])
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(HanlinError, match="no record of canaries"):
        read_canaries(file)
    with pytest.raises(HanlinError, match="No such file"):
        read_canaries(tmp_path / "none.json")
