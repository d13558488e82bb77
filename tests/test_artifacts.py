"""What a user has is never replaced by an artefact: not a directory, a file, a link, a device, an input, an
artefact of another kind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.cli import main
from hanlin.common.atomic import atomic_directory, atomic_file, atomic_write, sweep_temporaries
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import artifact, read_manifest
from hanlin.common.savepoint import Savepoint
from hanlin.dataset import build_text_dataset
from hanlin.stages.base import write_model
from tests.support import tiny_model, tiny_tokenizer

TEXT = "小明在学校里看书，小红在公园里唱歌。今天的天气很好，大家都很高兴。"
CHAT = {
    "messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}],
    "answer": "3",
}
PAIR = {"prompt": "你好", "chosen": "你好！", "rejected": "哦"}
STAGES = ("sft", "preference", "reward", "rl")
COMMANDS = ("tokenizer", "corpus", "dataset", "score", "pretrain", *STAGES)


def _write(file: Path, records: list) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
    )
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Inputs of every command, each as small as can be."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    texts = [{"text": f"{TEXT}第{number}天。"} for number in range(40)]
    _write(folder / "texts" / "a.jsonl", texts)
    _write(folder / "bad.jsonl", [{"text": f"买买买{number}点点点"} for number in range(40)])
    _write(folder / "chats.jsonl", [CHAT] * 30)
    _write(folder / "pairs.jsonl", [PAIR] * 30)
    build_text_dataset(texts, tokenizer, folder / "dataset")
    model = tiny_model("qwen3", tokenizer)
    write_model(folder / "model", model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    return folder


def arguments(command: str, made: Path, out: Path, tmp_path: Path, **inputs: Path) -> list[str]:
    """The command line that would write `out`; `inputs` replace those of `made`."""
    texts, model = inputs.get("texts", made / "texts"), inputs.get("model", made / "model")
    found: list[object]
    if command == "tokenizer":
        found = ["tokenizer", "train", texts / "a.jsonl", "--vocab-size", 300, "--out", out]
    elif command == "corpus":
        found = ["corpus", "build", texts, "--preset", "none", "--workers", 1, "--out", out]
    elif command == "dataset":
        found = ["dataset", "build", texts / "a.jsonl", "--tokenizer", made / "tokenizer", "--out", out]
    elif command == "score":
        found = ["corpus", "score", "--good", texts / "a.jsonl", "--bad", made / "bad.jsonl", "--out", out]
    else:
        config, train = tmp_path / f"{command}.yaml", "{steps: 1, compile: false}"
        if command == "pretrain":
            text = (
                f"dataset: {made / 'dataset'}\ntokenizer: {inputs.get('tokenizer', made / 'tokenizer')}\n"
                f"model: {{hidden_size: 32, num_hidden_layers: 1}}\nseq_len: 32\nbatch_tokens: 64\n"
                f"micro_tokens: 64\ntrain: {train}\n"
            )
        else:
            name = "pairs.jsonl" if command in ("preference", "reward") else "chats.jsonl"
            text = f"from: {model}\ndata: {{files: [{made / name}]}}\ntrain: {train}\n"
        config.write_text(text, encoding="utf-8")
        found = [command, "--config", config, "--out", out]
    return [str(item) for item in found]


def complaint(monkeypatch, capsys, command: list[str]) -> str:
    """Run a command line in this process: exit 1, one line on stderr, nothing done before."""
    capsys.readouterr()
    monkeypatch.setenv("HANLIN_LANG", "en")
    monkeypatch.setattr("sys.argv", ["hanlin", *command])
    with pytest.raises(SystemExit) as ended:
        main.main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert ended.value.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything in a directory, links and special files by what they are."""
    return {str(item.relative_to(folder)): _look(item) for item in sorted(folder.rglob("*"))}


def _look(item: Path) -> bytes | str:
    if item.is_symlink():
        return "-> " + os.readlink(item)
    return item.read_bytes() if item.is_file() else stat.filemode(item.lstat().st_mode)


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_of_a_users_is_replaced(made, tmp_path, monkeypatch, capsys, command):
    place = tmp_path / "place"
    (place / "photos").mkdir(parents=True)
    (place / "thesis.txt").write_text("thesis")
    (place / "notes.txt").write_text("notes")
    # in a device's stead: were it replaced, a test must not cost a machine its /dev/null
    os.mkfifo(place / "device")
    (place / "to-device").symlink_to("device")
    (place / "to-photos").symlink_to("photos")
    (place / "photos" / "a.jpg").write_bytes(b"jpg")
    with artifact(place / "other", "checkpoint") as writer:
        (writer.path / "x").write_text("x")
    before = tree(place)
    for target, why in (
        (place, "notes.txt"),
        (place / "photos", "a.jpg"),
        (place / "to-photos", "a.jpg"),
        (place / "notes.txt", "a file"),
        (place / "device", "special file"),
        (place / "to-device", "special file"),
        (place / "other", "checkpoint"),
        (place / "notes.txt" / "x", "not a directory"),
    ):
        said = complaint(monkeypatch, capsys, arguments(command, made, target, tmp_path))
        assert why in said and str(target) in said, said
    assert tree(place) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_an_input_below_the_output_is_refused(made, tmp_path, monkeypatch, capsys, command):
    """Also where the output is an artefact of the same kind, or the input reaches it through a link."""
    import shutil

    place = tmp_path / "place"
    shutil.copytree(made / "texts", place / "texts")
    shutil.copytree(made / "model", place / "model")
    (tmp_path / "link").symlink_to(place)
    inputs = {
        "texts": tmp_path / "link" / "texts",
        "model": tmp_path / "link" / "model",
        "tokenizer": tmp_path / "link" / "model",
    }
    target = place / ("texts" if command in ("tokenizer", "corpus", "dataset", "score") else "model")
    before = tree(place)
    assert "input" in complaint(monkeypatch, capsys, arguments(command, made, target, tmp_path, **inputs))
    assert tree(place) == before


@pytest.mark.parametrize("command", ["tokenizer", "corpus", "dataset", "pretrain"])
def test_an_artefact_of_the_same_kind_is_replaced(made, tmp_path, capsys, command):
    """Absent, empty, our own, and our own behind a link, which stays a link."""
    out = tmp_path / "out"
    for prepare in (lambda: None, lambda: None, lambda: (tmp_path / "link").symlink_to(out)):
        prepare()
        target = tmp_path / "link" if (tmp_path / "link").is_symlink() else out
        main.app(arguments(command, made, target, tmp_path))
        first = read_manifest(out)
    assert (tmp_path / "link").is_symlink() and read_manifest(tmp_path / "link").kind == first.kind
    (tmp_path / "empty").mkdir()
    main.app(arguments(command, made, tmp_path / "empty", tmp_path))
    assert read_manifest(tmp_path / "empty").content_hash == first.content_hash


def test_a_file_added_to_an_artefact_is_not_lost(made, tmp_path, monkeypatch, capsys):
    command = arguments("tokenizer", made, tmp_path / "t", tmp_path)
    main.app(command)
    (tmp_path / "t" / "sub").mkdir()
    (tmp_path / "t" / "sub" / "notes.txt").write_text("mine")
    assert "sub/notes.txt" in complaint(monkeypatch, capsys, command)
    assert (tmp_path / "t" / "sub" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"name": "extension", "manifest_version": 3}', '{"kind": "tokenizer"}']
)
def test_a_manifest_of_something_else_makes_no_artefact(made, tmp_path, monkeypatch, capsys, content):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "manifest.json").write_text(content)
    assert "manifest.json" in complaint(
        monkeypatch, capsys, arguments("tokenizer", made, tmp_path / "t", tmp_path)
    )
    assert (tmp_path / "t" / "manifest.json").read_text() == content


def test_what_appears_during_the_work_is_not_replaced(tmp_path):
    with pytest.raises(HanlinError, match="thesis"), artifact(tmp_path / "a", "model") as writer:
        (writer.path / "x").write_text("x")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "thesis.txt").write_text("thesis")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["a", "a/thesis.txt"]


def test_an_artefact_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    with artifact(tmp_path / "a", "model") as writer:
        (writer.path / "x").write_text("old")
    with pytest.raises(RuntimeError), artifact(tmp_path / "a", "model") as writer:
        (writer.path / "x").write_text("new")
        assert (tmp_path / "a" / "x").read_text() == "old"
        raise RuntimeError
    rename = os.rename

    def fails(source, target):
        if ".tmp." in str(source):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(HanlinError, match="output error"), artifact(tmp_path / "a", "model") as writer:
        (writer.path / "x").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a" / "x").read_text() == "old"


def test_below_a_lock_of_ours_damage_is_replaced(tmp_path):
    """A run makes its damaged artefacts again, whatever is left of them; the locked directory itself is no
    part of that."""
    (tmp_path / "run" / "corpus").mkdir(parents=True)
    (tmp_path / "run" / "corpus" / "manifest.json").write_text("{")
    with pytest.raises(HanlinError), artifact(tmp_path / "run" / "corpus", "corpus"):
        pass
    with directory_lock(tmp_path / "run"):
        with artifact(tmp_path / "run" / "corpus", "corpus"):
            pass
        with pytest.raises(HanlinError), atomic_directory(tmp_path / "run"):
            pass
    assert read_manifest(tmp_path / "run" / "corpus").kind == "corpus"


def test_leftovers_of_others_are_not_swept(tmp_path):
    """A name is no pattern, and only what a writer of ours left behind has a process id at its end."""
    for name in (".b.tmp.12", ".*.tmp.notes", ".*.tmp.12", ".*.old.12"):
        (tmp_path / name).mkdir()
    (tmp_path / ".*.tmp.13").write_text("a file")
    sweep_temporaries(tmp_path / "*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["*", ".*.tmp.13", ".*.tmp.notes", ".b.tmp.12"]


def test_a_foreign_state_folder_is_not_emptied(tmp_path):
    (tmp_path / ".out.state").mkdir()
    (tmp_path / ".out.state" / "mine").write_text("mine")
    with pytest.raises(HanlinError, match=r"\.out\.state"), Savepoint(tmp_path / "out", "key"):
        pass
    assert (tmp_path / ".out.state" / "mine").read_text() == "mine"


def test_corpora_beside_one_another_are_built_at_once(made, tmp_path, capsys):
    """The lock is of the output, not of the directory that it lies in, in which nothing else is left
    either."""
    with directory_lock(tmp_path / "data"):
        main.app(arguments("corpus", made, tmp_path / "data" / "a", tmp_path))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".lock", "a"]


@pytest.mark.parametrize("verb", ["ablate", "scaling"])
def test_experiments_refuse_a_foreign_directory(tmp_path, monkeypatch, capsys, verb):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "thesis.txt").write_text("thesis")
    more = {
        "ablate": ["--vary", "pretrain.train.learning_rate=0.001,0.002"],
        "scaling": ["--params", "0.3m,0.6m,1.2m"],
    }[verb]
    before = tree(tmp_path)
    assert "other files" in complaint(monkeypatch, capsys, [verb, "demo", *more, "--out", str(tmp_path)])
    assert tree(tmp_path) == before


# ------------------------------------------------------------------ files


def test_a_killed_writer_leaves_nothing_for_ever(tmp_path):
    """The next writer of the same file takes up what is left, and two at once do not meet."""
    script = f"import sys, time; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n" + (
        "from hanlin.common.atomic import atomic_file\n"
        "with atomic_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "a.bin")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "writing\n"
        atomic_write(tmp_path / "a.bin", "mine")  # while the other one writes
        assert (tmp_path / "a.bin").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2
        os.kill(other.pid, signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2
    atomic_write(tmp_path / "a.bin", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"] and (
        tmp_path / "a.bin"
    ).read_text() == "whole"


def test_a_file_is_written_through_a_link_and_never_over_a_device(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    atomic_write(tmp_path / "link", "a")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "a"
    os.mkfifo(tmp_path / "device")
    (tmp_path / "folder").mkdir()
    for name in ("device", "folder"):
        with pytest.raises(HanlinError, match=name):
            atomic_write(tmp_path / name, "a")
    assert stat.S_ISFIFO(os.stat(tmp_path / "device").st_mode)


def test_a_write_that_gives_no_reason_names_its_file(tmp_path):
    """As numpy's on a full disk: `25600 requested and 22272 written`."""
    with (
        pytest.raises(HanlinError, match=r"a\.bin failed: it was not written whole"),
        atomic_file(tmp_path / "a.bin"),
    ):
        raise OSError("25600 requested and 22272 written")
    assert not list(tmp_path.iterdir())


def test_a_model_can_be_read_by_others(made):
    """safetensors makes its file 0600; it should have the rights of its neighbours, or a service of another
    user cannot open it."""
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (made / "model").iterdir()} == {0o666 & ~umask}
