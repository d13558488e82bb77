"""What users get wrong: a paragraph with the place and the next step, exit 1, no stack trace, earlier artefacts untouched."""

from __future__ import annotations

import contextlib
import errno
import re

import pytest

from hanlin import cli
from hanlin.common import atomic
from hanlin.common.errors import HanlinError
from hanlin.dataset import build_text_dataset
from hanlin.stages.job import write_model
from tests.support import tiny_model, tiny_tokenizer

TEXT = "小明在学校里看书，小红在公园里唱歌。今天的天气很好，大家都很高兴。\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tokenizer, a dataset of another tokenizer, and a model."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    other = tiny_tokenizer(folder / "other", vocab_size=350)
    build_text_dataset([{"text": TEXT}] * 5, other, folder / "dataset")
    model = tiny_model("qwen3", tokenizer)
    write_model(folder / "model", model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    (folder / "chats.jsonl").write_text('{"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]}\n' * 30, encoding="utf-8")
    return folder


def complaint(capsys, monkeypatch, language, *arguments) -> str:
    """Run the command line in this process; it must end with 1 and one paragraph on stderr."""
    monkeypatch.setenv("HANLIN_LANG", language)
    monkeypatch.setattr("sys.argv", ["hanlin", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 1, error
    assert "Traceback" not in error
    last = [line for line in error.splitlines() if re.match("error: |错误：", line)]
    assert len(last) == 1, error
    return last[0]


ZH_MINI = ("pretrain.train.steps=2", "tokenizer.vocab_size=300", "model.num_hidden_layers=1")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_missing_file(tmp_path, capsys, monkeypatch, language):
    said = complaint(capsys, monkeypatch, language, "run", "zh-mini", *ZH_MINI, "--out", tmp_path / "r", "--corpus", tmp_path / "nowhere.txt", "--sft", tmp_path / "no.jsonl")
    assert "nowhere.txt" in said and (re.search("[一-鿿]", said) is not None) == (language == "zh")


@pytest.mark.parametrize("content", [b"", b"   \n\n", TEXT.encode(), b"\x00\x01\x02\xff\xfe" * 300])
def test_empty_one_document_and_binary_corpora(tmp_path, made, capsys, monkeypatch, content):
    (tmp_path / "c.txt").write_bytes(content)
    said = complaint(capsys, monkeypatch, "en", "run", "zh-mini", *ZH_MINI, "--out", tmp_path / "r", "--corpus", tmp_path / "c.txt", "--sft", made / "chats.jsonl")
    assert len(said) > 60
    assert not (tmp_path / "r" / "model").exists()


def test_vocabulary_larger_than_the_corpus_can_give(tmp_path, capsys, monkeypatch):
    (tmp_path / "c.txt").write_text(TEXT * 3, encoding="utf-8")
    said = complaint(capsys, monkeypatch, "en", "tokenizer", "train", tmp_path / "c.txt", "--vocab-size", 5000, "--out", tmp_path / "t")
    assert "--vocab-size" in said and not (tmp_path / "t").exists()


@pytest.mark.parametrize("override,hint", [("pretrain.train.stepz=5", "steps"), ("modle.hidden_size=5", "model"), ("pretrain.train.steps=viele", "integer"), ("model.hidden_size=102", "multiple")])
def test_recipe_mistakes_name_key_file_and_remedy(tmp_path, capsys, monkeypatch, override, hint):
    said = complaint(capsys, monkeypatch, "en", "run", "demo", override, "--out", tmp_path / "r")
    assert hint in said and "demo.yaml" in said and not (tmp_path / "r").exists()


def test_unknown_recipe_lists_those_there_are(tmp_path, capsys, monkeypatch):
    assert "zh-mini" in complaint(capsys, monkeypatch, "en", "run", "demoo", "--out", tmp_path / "r")


def test_sequence_longer_than_the_model(tmp_path, capsys, monkeypatch):
    assert "max_position_embeddings" in complaint(capsys, monkeypatch, "en", "run", "demo", "pretrain.seq_len=4096", "pretrain.batch_tokens=4096", "pretrain.micro_tokens=4096", "--out", tmp_path / "r")


def test_a_tokenizer_that_is_not_the_datasets(tmp_path, made, capsys, monkeypatch):
    (tmp_path / "p.yaml").write_text(f"dataset: {made / 'dataset'}\ntokenizer: {made / 'tokenizer'}\nmodel: {{hidden_size: 32, num_hidden_layers: 1}}\npretrain: {{train: {{steps: 1}}}}\n")
    assert "tokenizer" in complaint(capsys, monkeypatch, "en", "pretrain", "--config", tmp_path / "p.yaml", "--out", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_layout_that_is_not_recognised_shows_its_keys(tmp_path, made, capsys, monkeypatch):
    (tmp_path / "x.jsonl").write_text('{"foo": 1, "bar": 2}\n' * 5)
    (tmp_path / "s.yaml").write_text(f"model: {made / 'model'}\nfiles: [{tmp_path / 'x.jsonl'}]\n")
    said = complaint(capsys, monkeypatch, "en", "sft", "--config", tmp_path / "s.yaml", "--out", tmp_path / "m")
    assert "foo" in said and "x.jsonl" in said


@pytest.mark.parametrize("verb", ["chat", "generate", "serve", "eval"])
def test_no_model_there(tmp_path, capsys, monkeypatch, verb):
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    assert str(tmp_path) in complaint(capsys, monkeypatch, "en", verb, tmp_path)


def test_a_truncated_model_is_named(made, tmp_path, capsys, monkeypatch):
    import shutil

    shutil.copytree(made / "model", tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "model.safetensors" in complaint(capsys, monkeypatch, "en", "generate", tmp_path / "m", "你好")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "a"
    with atomic.atomic_directory(target) as folder:
        (folder / "old").write_text("precious")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HanlinError, match="MB"), atomic.atomic_directory(target) as folder:
        (folder / "new").write_text("x")
    with pytest.raises(HanlinError, match="MB"):
        atomic.atomic_write(tmp_path / "file.json", "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (target / "old").read_text() == "precious"


def test_a_really_full_disk(tmp_path):
    """/dev/full answers every write with ENOSPC."""
    with contextlib.suppress(FileNotFoundError), pytest.raises(OSError), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    with pytest.raises(HanlinError):
        atomic.atomic_write("/dev/full/x", b"x")


@pytest.mark.parametrize("arguments", [["run"], ["nonsense"], ["run", "demo", "--out"], ["serve", "x", "--port", "many"]])
def test_wrong_usage_exits_2(capsys, monkeypatch, arguments):
    monkeypatch.setattr("sys.argv", ["hanlin", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "Traceback" not in capsys.readouterr().err
