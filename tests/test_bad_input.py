"""What users get wrong: a paragraph with the place and the next step, exit 1, no stack trace, earlier
artefacts untouched."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanlin.cli import main
from hanlin.common import atomic
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact
from hanlin.corpus.builder.build import CorpusConfig, build_corpus
from hanlin.dataset import build_text_dataset
from hanlin.stages.base import write_model
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
    (folder / "chats.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]}\n'
        * 30,
        encoding="utf-8",
    )
    return folder


def complaint(capsys, monkeypatch, language, *arguments) -> str:
    """Run the command line in this process; it must end with 1 and one paragraph on stderr."""
    monkeypatch.setenv("HANLIN_LANG", language)
    monkeypatch.setattr("sys.argv", ["hanlin", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    error = capsys.readouterr().err
    assert ended.value.code == 1, error
    assert "Traceback" not in error
    last = [line for line in error.splitlines() if re.match("error: |错误：", line)]
    assert len(last) == 1, error
    return last[0]


ZH_MINI = ("pretrain.train.steps=2", "tokenizer.vocab_size=300", "model.num_hidden_layers=1")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_missing_file(tmp_path, capsys, monkeypatch, language):
    said = complaint(
        capsys,
        monkeypatch,
        language,
        "run",
        "zh-mini",
        *ZH_MINI,
        "--out",
        tmp_path / "r",
        "--corpus",
        tmp_path / "nowhere.txt",
        "--sft",
        tmp_path / "no.jsonl",
    )
    assert "nowhere.txt" in said and (re.search("[一-鿿]", said) is not None) == (language == "zh")


@pytest.mark.parametrize("content", [b"", b"   \n\n", TEXT.encode(), b"\x00\x01\x02\xff\xfe" * 300])
def test_empty_one_document_and_binary_corpora(tmp_path, made, capsys, monkeypatch, content):
    (tmp_path / "c.txt").write_bytes(content)
    said = complaint(
        capsys,
        monkeypatch,
        "en",
        "run",
        "zh-mini",
        *ZH_MINI,
        "--out",
        tmp_path / "r",
        "--corpus",
        tmp_path / "c.txt",
        "--sft",
        made / "chats.jsonl",
    )
    assert len(said) > 60
    assert not (tmp_path / "r" / "model").exists()


def test_vocabulary_larger_than_the_corpus_can_give(tmp_path, capsys, monkeypatch):
    (tmp_path / "c.txt").write_text(TEXT * 3, encoding="utf-8")
    said = complaint(
        capsys,
        monkeypatch,
        "en",
        "tokenizer",
        "train",
        tmp_path / "c.txt",
        "--vocab-size",
        5000,
        "--out",
        tmp_path / "t",
    )
    assert "--vocab-size" in said and not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    "override,hint",
    [
        ("pretrain.train.stepz=5", "steps"),
        ("modle.hidden_size=5", "model"),
        ("pretrain.train.steps=viele", "integer"),
        ("model.hidden_size=102", "multiple"),
    ],
)
def test_mistakes_in_overrides_name_key_and_remedy_and_no_file_of_the_package(
    tmp_path, capsys, monkeypatch, override, hint
):
    said = complaint(capsys, monkeypatch, "en", "run", "demo", override, "--out", tmp_path / "r")
    assert (
        hint in said
        and "command line" in said
        and ("demo.yaml" in said) == (hint == "multiple")
        and not (tmp_path / "r").exists()
    )


def test_unknown_recipe_lists_those_there_are(tmp_path, capsys, monkeypatch):
    assert "zh-mini" in complaint(capsys, monkeypatch, "en", "run", "demoo", "--out", tmp_path / "r")


def test_sequence_longer_than_the_model(tmp_path, capsys, monkeypatch):
    assert "max_position_embeddings" in complaint(
        capsys,
        monkeypatch,
        "en",
        "run",
        "demo",
        "pretrain.seq_len=4096",
        "pretrain.batch_tokens=4096",
        "pretrain.micro_tokens=4096",
        "--out",
        tmp_path / "r",
    )


def test_a_tokenizer_that_is_not_the_datasets(tmp_path, made, capsys, monkeypatch):
    (tmp_path / "p.yaml").write_text(
        f"dataset: {made / 'dataset'}\ntokenizer: {made / 'tokenizer'}\n"
        f"model: {{hidden_size: 32, num_hidden_layers: 1}}\ntrain: {{steps: 1}}\n"
    )
    assert "tokenizer" in complaint(
        capsys, monkeypatch, "en", "pretrain", "--config", tmp_path / "p.yaml", "--out", tmp_path / "m"
    )
    assert not (tmp_path / "m").exists()


def test_layout_that_is_not_recognised_shows_its_keys(tmp_path, made, capsys, monkeypatch):
    (tmp_path / "x.jsonl").write_text('{"foo": 1, "bar": 2}\n' * 5)
    (tmp_path / "s.yaml").write_text(f"from: {made / 'model'}\ndata: {{files: [{tmp_path / 'x.jsonl'}]}}\n")
    said = complaint(
        capsys, monkeypatch, "en", "sft", "--config", tmp_path / "s.yaml", "--out", tmp_path / "m"
    )
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
    with artifact(target, "model") as written:
        (written.path / "x").write_text("precious")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HanlinError, match="MB"), atomic.atomic_directory(target) as folder:
        (folder / "new").write_text("x")
    with pytest.raises(HanlinError, match="MB"):
        atomic.atomic_write(tmp_path / "file.json", "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (target / "x").read_text() == "precious"


def test_a_really_full_disk(tmp_path):
    """/dev/full answers every write with ENOSPC."""
    with (
        contextlib.suppress(FileNotFoundError),
        pytest.raises(OSError),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")
    with pytest.raises(HanlinError):
        atomic.atomic_write("/dev/full/x", b"x")


@pytest.mark.parametrize(
    "arguments", [["run"], ["nonsense"], ["run", "demo", "--out"], ["serve", "x", "--port", "many"]]
)
def test_wrong_usage_exits_2(capsys, monkeypatch, arguments):
    monkeypatch.setattr("sys.argv", ["hanlin", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2 and "Traceback" not in capsys.readouterr().err


# ------------------------------------------------------------------ tokenizer train, dataset build


LINES = "".join(f'{{"text": "{TEXT.strip()}第{number}天。"}}\n' for number in range(5000)).encode()
TRAIN = ("tokenizer", "train")


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(64) + data[middle + 64 :]


def compressed_zstd() -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(LINES)


@pytest.mark.parametrize(
    "name,content,hint",
    [
        ("empty.txt", b"", "empty"),
        ("spaces.jsonl", b" \n\n ", "empty"),
        ("binary.txt", bytes(range(256)) * 400, "binary"),
        ("binary.jsonl", b"\x7fELF" + bytes(1000), "ELF"),
        ("utf-nothing.txt", b"\xff\xfd\x81\x00\x9f" * 100, "binary"),
        ("cut.jsonl.gz", gzip.compress(LINES)[: len(gzip.compress(LINES)) // 2], "after byte"),
        ("middle.jsonl.gz", damaged(gzip.compress(LINES)), "after byte"),
        ("cut.jsonl.zst", compressed_zstd()[: len(compressed_zstd()) // 2], "after byte"),
        ("middle.jsonl.zst", damaged(compressed_zstd()), "after byte"),
        ("keys.jsonl", b'{"headline": "a", "abstract": "b"}\n' * 200, "headline, abstract"),
        ("broken.jsonl", b'{"text": "never ends\n' * 200, "broken.jsonl:1"),
    ],
)
@pytest.mark.parametrize("verb", ["tokenizer", "corpus"])
def test_texts_that_cannot_be_used_are_named(tmp_path, capsys, monkeypatch, name, content, hint, verb):
    (tmp_path / name).write_bytes(content)
    arguments = (
        (*TRAIN, tmp_path / name, "--vocab-size", 300)
        if verb == "tokenizer"
        else ("corpus", "build", tmp_path / name)
    )
    said = complaint(capsys, monkeypatch, "en", *arguments, "--out", tmp_path / "out")
    assert name in said and hint in said
    assert [path.name for path in tmp_path.iterdir() if path.name != name] == []


def test_a_file_that_cannot_be_read(tmp_path, capsys, monkeypatch):
    path = tmp_path / "secret.jsonl"
    path.write_bytes(LINES)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything
        path = Path("/proc/self/mem")  # but not the page at 0
        if not path.is_file():
            pytest.skip("no file that cannot be read")
    said = complaint(capsys, monkeypatch, "en", *TRAIN, path, "--vocab-size", 300, "--out", tmp_path / "out")
    assert str(path) in said and not (tmp_path / "out").exists()


def test_a_directory_without_texts_names_what_it_may_hold(tmp_path, capsys, monkeypatch):
    said = complaint(
        capsys, monkeypatch, "en", *TRAIN, tmp_path, "--vocab-size", 300, "--out", tmp_path / "out"
    )
    assert ".jsonl" in said and ".zst" in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "size,hint", [(271, "272"), (0, "272"), (5000, "--vocab-size"), (2_000_000, "1048576")]
)
@pytest.mark.parametrize("plain", [(), ("--plain",)])
def test_vocabulary_sizes_that_cannot_be(tmp_path, capsys, monkeypatch, size, hint, plain):
    (tmp_path / "c.jsonl").write_bytes(LINES)
    assert hint in complaint(
        capsys,
        monkeypatch,
        "en",
        *TRAIN,
        tmp_path / "c.jsonl",
        "--vocab-size",
        size,
        "--out",
        tmp_path / "t",
        *plain,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_a_dataset_is_made_of_a_corpus_and_a_tokenizer(tmp_path, made, capsys, monkeypatch):
    (tmp_path / "c.jsonl").write_bytes(LINES)
    build = ("dataset", "build")
    for corpus, tokenizer, hint in (
        (tmp_path / "nowhere", made / "tokenizer", "nowhere"),
        (made / "tokenizer", made / "tokenizer", "corpus"),
    ):
        assert hint in complaint(
            capsys, monkeypatch, "en", *build, corpus, "--tokenizer", tokenizer, "--out", tmp_path / "d"
        )
    build_corpus([str(tmp_path / "c.jsonl")], tmp_path / "corpus", CorpusConfig(preset="none"))
    assert "tokenizer.json" in complaint(
        capsys,
        monkeypatch,
        "en",
        *build,
        tmp_path / "corpus",
        "--tokenizer",
        tmp_path,
        "--out",
        tmp_path / "d",
    )
    file = tmp_path / "corpus" / "documents.jsonl.zst"
    file.write_bytes(file.read_bytes()[:-100])
    assert str(file) in complaint(
        capsys,
        monkeypatch,
        "en",
        *build,
        tmp_path / "corpus",
        "--tokenizer",
        made / "tokenizer",
        "--out",
        tmp_path / "d",
    )
    assert not (tmp_path / "d").exists()


def hanlin(*arguments, **options) -> subprocess.Popen:
    environment = os.environ | {"HANLIN_LANG": "en"}
    return subprocess.Popen(
        [sys.executable, "-m", "hanlin.cli.main", *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        **options,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes to be had")
def test_no_room_for_what_is_made(tmp_path, made):
    """A limit on the size of files stands for the full disk: the place and the remedy are told, and nothing
    is left there."""
    import resource

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    (tmp_path / "c.jsonl").write_bytes(LINES)
    build_corpus([str(tmp_path / "c.jsonl")], tmp_path / "corpus", CorpusConfig(preset="none"))
    before = sorted(tmp_path.iterdir())
    for arguments in (
        (*TRAIN, tmp_path / "c.jsonl", "--vocab-size", 350, "--out", tmp_path / "out"),
        (
            "dataset",
            "build",
            tmp_path / "corpus",
            "--tokenizer",
            made / "tokenizer",
            "--out",
            tmp_path / "out",
        ),
    ):
        child = hanlin(*arguments, preexec_fn=limited)
        error = child.communicate(timeout=120)[1]
        assert child.returncode == 1 and "Traceback" not in error, error
        assert str(tmp_path / "out") in error and "MB free" in error, error
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name,begin,end", [("endless.txt", b"", b""), ("endless.jsonl", b'{"text": "', b'"}')]
)
def test_one_line_of_half_a_gigabyte(tmp_path, name, begin, end):
    """Plain text is cut; a record above the limit is told with its place. Neither takes 2 GB when training
    may take 1.5."""
    unit = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))).encode()
    with open(tmp_path / name, "wb") as file:
        file.write(begin)
        for _ in range(500_000_000 // len(unit)):
            file.write(unit)
        file.write(end)
    child = hanlin(
        *TRAIN,
        tmp_path / name,
        "--vocab-size",
        20_000,
        "--threads",
        2,
        "--memory",
        "1500MiB",
        "--out",
        tmp_path / "out",
    )
    assert child.stderr is not None
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    (tmp_path / name).unlink()
    assert usage.ru_maxrss < 2_000_000, f"{usage.ru_maxrss} KiB"
    if name.endswith("txt"):
        assert child.returncode == 0 and (tmp_path / "out" / "tokenizer.json").exists(), error
    else:
        assert (
            child.returncode == 1 and f"{name}:1" in error and "64 MiB" in error and "Traceback" not in error
        )
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """120 MB that hardly repeat."""
    path = tmp_path_factory.mktemp("large") / "large.jsonl"
    rng = random.Random(1)
    han = [chr(point) for point in range(0x4E00, 0x5600)]
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(40_000):
            file.write(
                f'{{"text": "{"".join(rng.choices(han, k=900))}，'
                f'{"".join(rng.choices("abcdefghij ", k=300))}"}}\n'
            )
    yield path
    path.unlink()


@pytest.mark.nightly
@pytest.mark.parametrize("after", ["MB read", "learnt"])
@pytest.mark.parametrize(
    "plain",
    [
        (),
        pytest.param(
            ("--plain",),
            marks=pytest.mark.xfail(
                reason="plain learning looks for Ctrl-C only every 256 merges, and not while it begins"
            ),
        ),
    ],
)
def test_interrupting_a_long_training(tmp_path, large, after, plain):
    """Within a second on a quiet machine (the test allows two on a busy one): 130, a sentence, nothing
    left."""
    child = hanlin(*TRAIN, large, "--vocab-size", 60_000, "--out", tmp_path / "out", *plain)
    assert child.stderr is not None
    for line in child.stderr:
        if after in line:
            break
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    error = child.communicate(timeout=120)[1]
    assert child.returncode == 130 and "Interrupted" in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - began < 2


# ------------------------------------------------------------------ many files


@pytest.fixture
def mixed(tmp_path):
    """A directory with good files, and bad ones of every kind."""
    folder = tmp_path / "data"
    folder.mkdir()
    good = "".join(f'{{"text": "{TEXT.strip() * 3}第{number}天。"}}\n' for number in range(40))
    (folder / "good.jsonl").write_text(good, encoding="utf-8")
    (folder / "poems.csv").write_text("标题,作者,诗句\n静夜思,李白,床前明月光\n" * 3, encoding="utf-8")
    (folder / "chats.jsonl").write_text('{"instruction": "问", "output": "答"}\n' * 3, encoding="utf-8")
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(LINES)[:200])
    late = gzip.compress(
        b"".join(b'{"text": "%s"}\n' % random.Random(1).randbytes(40).hex().encode() for _ in range(3))
        + LINES * 40
    )
    (folder / "late.jsonl.gz").write_bytes(late[: len(late) * 3 // 4])
    (folder / "empty.txt").write_bytes(b"")
    (folder / "picture.txt").write_bytes(b"\x89PNG" + bytes(500))
    (folder / "zip.zip").write_bytes(b"PK\x05\x06 no archive")
    with contextlib.suppress(OSError):  # a file system that allows it
        os.rename(folder / "good.jsonl", os.fsencode(folder) + b"/\xc4\xe3\xba\xc3.jsonl")
    return folder


BAD = ("poems.csv", "chats.jsonl", "cut.jsonl.gz", "picture.txt", "zip.zip")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_all_bad_files_are_named_at_once(tmp_path, mixed, capsys, monkeypatch, language):
    build = ("corpus", "build", mixed, "--preset", "none", "--workers", 1, "--out", tmp_path / "c")
    monkeypatch.setenv("HANLIN_LANG", language)
    monkeypatch.setattr("sys.argv", ["hanlin", *map(str, build)])
    with pytest.raises(SystemExit):
        main.main()
    said = capsys.readouterr().err
    assert (
        "Traceback" not in said
        and all(name in said for name in BAD)
        and "--skip-bad" in said
        and "--sft" in said
    )
    assert not (tmp_path / "c").exists()
    for name in BAD:
        (mixed / name).unlink()
    (mixed / "later.jsonl.gz").write_bytes((mixed / "late.jsonl.gz").read_bytes())
    with pytest.raises(SystemExit):  # what shows only when a file is read to its end
        main.main()
    said = capsys.readouterr().err
    assert "late.jsonl.gz" in said and "later.jsonl.gz" in said and "Traceback" not in said


def test_bad_files_can_be_skipped_and_are_accounted_for(tmp_path, mixed, capsys, monkeypatch):
    import json

    monkeypatch.setenv("HANLIN_LANG", "zh")
    monkeypatch.setattr(
        "sys.argv",
        [
            "hanlin",
            "corpus",
            "build",
            str(mixed),
            "--preset",
            "none",
            "--skip-bad",
            "--workers",
            "1",
            "--out",
            str(tmp_path / "c"),
        ],
    )
    main.main()
    out = capsys.readouterr().out
    entries = [
        json.loads(line)
        for line in (tmp_path / "c" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert {Path(entry["file"]).name for entry in entries} == {
        *BAD,
        "late.jsonl.gz",
        "empty.txt",
    } and "空文件" in out
    report = json.loads((tmp_path / "c" / "report.json").read_text(encoding="utf-8"))
    assert set(report["sources"]) in ({"你好", "late"}, {"good", "late"})


def test_the_text_is_found_under_the_key_that_is_named(tmp_path, capsys, monkeypatch):
    import json

    text = TEXT.strip() * 3
    (tmp_path / "a.csv").write_text(f"标题,作者,诗句\n静夜思,李白,{text}\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"text": "摘要", "诗句": text + "又一天。"}) + "\n", encoding="utf-8"
    )
    (tmp_path / "c.txt").write_text(text + "再一天。", encoding="utf-8")
    files = [tmp_path / name for name in ("a.csv", "b.jsonl", "c.txt")]
    assert "--text-key" in complaint(
        capsys, monkeypatch, "zh", "corpus", "build", files[0], "--out", tmp_path / "x"
    )
    assert "没有键 诗，" in complaint(
        capsys, monkeypatch, "zh", "corpus", "build", files[1], "--text-key", "诗", "--out", tmp_path / "x"
    )
    monkeypatch.setattr(
        "sys.argv",
        [
            "hanlin",
            "corpus",
            "build",
            *map(str, files),
            "--text-key",
            "诗句",
            "dedup.near=false",
            "--preset",
            "none",
            "--out",
            str(tmp_path / "x"),
        ],
    )
    main.main()
    from hanlin.corpus.builder.build import read_corpus

    assert {item["text"] for item in read_corpus(tmp_path / "x")} == {
        text,
        text + "又一天。",
        text + "再一天。",
    }


@pytest.mark.parametrize(("key", "title"), [("内容", "标题"), ("正文", "标题"), ("文本", "title")])
def test_chinese_keys_are_known(tmp_path, key, title):
    from hanlin.corpus.readers.read import read_documents

    (tmp_path / "a.csv").write_text(f"{title},作者,{key}\n静夜思,李白,床前明月光\n", encoding="utf-8-sig")
    assert [item["text"] for item in read_documents(tmp_path / "a.csv")] == ["静夜思\n\n床前明月光"]
    (tmp_path / "b.csv").write_text(f"{title},{key}\n静夜思,床前明月光\n", encoding="utf-8")
    assert [item["text"] for item in read_documents(tmp_path / "b.csv")] == ["静夜思\n\n床前明月光"]


def test_nothing_left_names_rules_and_settings_as_they_are_written(tmp_path, made, capsys, monkeypatch):
    (tmp_path / "c.txt").write_text("短。", encoding="utf-8")
    said = complaint(
        capsys, monkeypatch, "zh", "corpus", "build", tmp_path / "c.txt", "--out", tmp_path / "c"
    )
    assert "太短（too_short） 1" in said and "--preset zh-short" in said
    said = complaint(
        capsys,
        monkeypatch,
        "zh",
        "run",
        "zh-mini",
        *ZH_MINI,
        "--out",
        tmp_path / "r",
        "--corpus",
        tmp_path / "c.txt",
        "--sft",
        made / "chats.jsonl",
    )
    assert "太短（too_short） 1" in said and "corpus.preset=zh-short" in said and "--preset" not in said


def test_inputs_are_looked_into_before_work_begins(tmp_path, made):
    from hanlin.corpus.readers.read import check_inputs

    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").write_text(
        '{"prompt": "你好", "chosen": "你好！", "rejected": "走开。"}\n', encoding="utf-8"
    )
    kinds = {
        "documents": tmp_path / "a.jsonl",
        "conversations": made / "chats.jsonl",
        "preferences": tmp_path / "b.jsonl",
    }
    for kind, file in kinds.items():
        check_inputs([file], kind)
        for other in kinds.keys() - {kind}:
            with pytest.raises(HanlinError, match=file.name):
                check_inputs([file], other)
    with pytest.raises(HanlinError, match=r"(?s)a\.jsonl.*chats\.jsonl"):
        check_inputs([tmp_path / "*.jsonl", made / "chats.jsonl"], "preferences")
    with pytest.raises(HanlinError, match="nowhere"):
        check_inputs(["nowhere/*.jsonl"], "documents")
    (tmp_path / "e.txt").write_bytes(b"")
    with pytest.raises(HanlinError, match="e.txt"):
        check_inputs(tmp_path / "e.txt", "documents")
    check_inputs([tmp_path / "e.txt", tmp_path / "a.jsonl"], "documents")


def test_looking_into_a_file_reads_its_beginning_only(tmp_path):
    from hanlin.corpus.readers.read import check_inputs

    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(
            b"".join(
                b'{"text": "%s"}\n' % random.Random(i).randbytes(400).hex().encode() for i in range(30_000)
            )
        )
    data = bytearray((tmp_path / "a.jsonl.gz").read_bytes())
    data[-1000:] = bytes(1000)
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    check_inputs(tmp_path / "a.jsonl.gz", "documents")
