"""What a run says of itself is checked like everything else: a step whose record or file is not what was
written is done again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact, read_manifest
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.pipeline.runner import Runner, StepRecord, read_record
from hanlin.tokenizer import load_tokenizer
from tests.support import tiny_model, tiny_tokenizer


class Told(Progress):
    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, message, /, **fields) -> None:
        self.warnings.append(Text.of(message, **fields).en)


def step(out: Path, told: Told) -> tuple[StepRecord, bool]:
    """Run one step, which writes a file; whether it was taken from its record."""
    runner = Runner(out, ["gguf"], told)

    def body(key: str, record: StepRecord) -> None:
        (out / "model.gguf").write_bytes(b"GGUF" + bytes(1000))
        record.metrics["story_answers"] = {"value": 0.5, "low": 0.41, "high": 0.59, "n": 200}

    record = runner.run("gguf", lambda: {"a": 1}, body, files=(out / "model.gguf",))
    return record, runner.reused == ["gguf"]


def test_a_whole_record_is_taken(tmp_path):
    first, reused = step(tmp_path, Told())
    assert not reused and first.files["model.gguf"]["bytes"] == 1004
    told = Told()
    assert step(tmp_path, told) == (first, True) and not told.warnings


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'"a"',
        b"{}",
        b'{"key": 1, "digest": {}}',
        b"\xff\xfe",
        b'{"metrics": []}',
    ],
)
def test_a_record_that_is_none_is_written_again(tmp_path, content):
    step(tmp_path, Told())
    file = tmp_path / "steps" / "gguf.json"
    whole = json.loads(file.read_text())
    file.write_bytes(content)
    told = Told()
    record, reused = step(tmp_path, told)
    assert not reused and len(told.warnings) == 1 and "gguf.json" in told.warnings[0]
    assert read_record(file) == record and json.loads(file.read_text())["metrics"] == whole["metrics"]


def test_no_flip_in_a_record_changes_what_it_says(tmp_path):
    """120 bits: the same record, or the step is done again. Nothing else."""
    first, _ = step(tmp_path, Told())
    file = tmp_path / "steps" / "gguf.json"
    whole = file.read_bytes()
    draw = random.Random(5)
    known = 0
    for _ in range(120):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        told = Told()
        record, reused = step(tmp_path, told)
        assert record.metrics == first.metrics and record.kept and reused == (not told.warnings)
        known += not reused
    assert known > 100
    file.write_bytes(whole.replace(b'"n": 200', b'"n": 600'))
    with pytest.raises(HanlinError, match="altered"):
        read_record(file)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_file_that_is_not_what_was_written_is_made_again(tmp_path, damage):
    step(tmp_path, Told())
    file = tmp_path / "model.gguf"
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(whole[:-1] if damage == "cut" else whole[:500] + b"\x01" + whole[501:])
    told = Told()
    assert step(tmp_path, told)[1] is False and "model.gguf" in told.warnings[0]
    assert file.read_bytes() == whole and step(tmp_path, Told())[1]


def test_a_manifest_without_a_digest_of_itself_is_refused(tmp_path):
    with artifact(tmp_path / "a", "model") as written:
        (written.path / "x").write_text("x")
    file = tmp_path / "a" / "manifest.json"
    said = json.loads(file.read_text())
    del said["digest"]
    file.write_text(json.dumps(said))
    with pytest.raises(HanlinError, match="manifest"):
        read_manifest(tmp_path / "a")


@pytest.mark.parametrize("where", ["tokenizer", "model"])
def test_no_flip_in_a_tokenizer_goes_unnoticed(tmp_path, where):
    """Also inside a model's directory, whose manifest names the tokenizer's files."""
    from hanlin.stages.base import write_model

    folder = tmp_path / where
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    if where == "model":
        model = tiny_model("qwen3", tokenizer)
        write_model(folder, model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    draw = random.Random(6)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        whole = (folder / name).read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            (folder / name).write_bytes(damaged)
            with pytest.raises(HanlinError, match=name):
                load_tokenizer(folder)
        (folder / name).write_bytes(whole)
    assert load_tokenizer(folder).content_hash == tokenizer.content_hash
    (folder / "manifest.json").unlink()
    load_tokenizer(folder)
