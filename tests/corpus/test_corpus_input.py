"""A corpus is taken wherever corpus files are, by its directory or by its file, and a damaged one nowhere."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import zstandard

from hanlin.cli.main import app
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.corpus.builder.build import CorpusConfig, build_corpus, read_corpus
from hanlin.corpus.readers.files import ReadLimits, blocks, expand
from hanlin.corpus.readers.read import Quarantine, read_documents, read_texts
from hanlin.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "mine"
    draw = random.Random(3)
    texts = [
        "".join(draw.choices("小明在学校里看书红公园唱歌今天的气很好大家都高兴", k=90)) for _ in range(300)
    ]
    config = CorpusConfig(preset="none", heldout_fraction=0.1)
    return build_corpus(({"text": text, "source": "故事"} for text in texts), folder, config, seed=1)


def texts_of(paths) -> list[str]:
    return [item["text"] for item in read_documents(paths)]


def test_a_corpus_directory_stands_for_its_training_documents(built: Path, tmp_path: Path) -> None:
    expected = [item["text"] for item in read_corpus(built)]
    assert expand(built) == [built / "documents.jsonl.zst"] and texts_of(built) == expected
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("别的文本。", encoding="utf-8")
    shutil.copytree(built, tmp_path / "data" / "deep" / "mine")
    assert [path.name for path in expand(tmp_path / "data")] == ["a.txt", "documents.jsonl.zst"]
    assert texts_of(tmp_path / "data") == ["别的文本。", *expected]


def test_only_a_corpus_is_one(built: Path, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"text": "一个网页的说明"}')  # somebody else's
    assert texts_of(tmp_path / "app") == ["一个网页的说明"]
    train_tokenizer(iter(["小明在学校里看书"] * 20), vocab_size=280, out=tmp_path / "words")
    with pytest.raises(HanlinError, match="tokenizer"):
        expand(tmp_path / "words")


def test_every_command_takes_the_directory(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, source in (("a", built), ("b", built / "documents.jsonl.zst")):
        app(["tokenizer", "train", str(source), "--vocab-size", "300", "--out", str(tmp_path / name)])
        app(
            [
                "dataset",
                "build",
                str(source),
                "--tokenizer",
                str(tmp_path / name),
                "--out",
                str(tmp_path / f"{name}-data"),
            ]
        )
        app(
            [
                "corpus",
                "build",
                str(source),
                "--preset",
                "none",
                "--workers",
                "1",
                "--out",
                str(tmp_path / f"{name}-again"),
            ]
        )
    capsys.readouterr()
    for made in ("", "-data", "-again"):  # the page and the figures of time aside
        assert (
            read_manifest(tmp_path / f"a{made}").content_hash
            == read_manifest(tmp_path / f"b{made}").content_hash
        )
    assert read_manifest(tmp_path / "a").parents == {"corpus": read_manifest(built).content_hash}


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_corpus_file_is_refused_before_a_word_of_it_is_used(
    built: Path, tmp_path: Path, seed: int
) -> None:
    shutil.copytree(built, tmp_path / "c")
    file = tmp_path / "c" / "documents.jsonl.zst"
    data = bytearray(file.read_bytes())
    place = random.Random(seed).randrange(len(data))
    data[place] ^= 1 << random.Random(seed).randrange(8)
    file.write_bytes(data)
    for reader in (read_documents, read_texts):
        with pytest.raises(HanlinError, match="SHA-256"):
            next(reader(file, quarantine=Quarantine()))
    with pytest.raises(
        HanlinError, match="SHA-256|damaged|损坏"
    ):  # its beginning is looked at before all else
        app(["corpus", "build", str(file), "--preset", "none", "--out", str(tmp_path / "d")])
    with pytest.raises(HanlinError, match="SHA-256"):
        app(["tokenizer", "train", str(file), "--vocab-size", "300", "--out", str(tmp_path / "d")])


@pytest.mark.parametrize("name", ["documents.jsonl.zst", "heldout.jsonl.zst"])
def test_frames_carry_a_checksum_of_their_own(built: Path, tmp_path: Path, name: str) -> None:
    """A file that was taken out of its directory has no manifest beside it."""
    data = (built / name).read_bytes()
    assert zstandard.get_frame_parameters(data).has_checksum
    quiet, draw = 0, random.Random(5)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        try:
            quiet += b"".join(
                blocks(tmp_path / name, ReadLimits())
            ) != zstandard.ZstdDecompressor().decompressobj().decompress(data)
        except HanlinError:
            continue
    assert not quiet


def test_a_file_is_hashed_once_and_again_when_it_changes(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hanlin.common import manifest

    shutil.copytree(built, tmp_path / "c")
    file, hashed, original = tmp_path / "c" / "documents.jsonl.zst", [], manifest.sha256_file
    monkeypatch.setattr(manifest, "sha256_file", lambda path: hashed.append(path) or original(path))
    for _ in range(3):
        assert texts_of(file)
    assert hashed == [file]
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(HanlinError, match="SHA-256"):
        texts_of(file)
