"""`chat` and `generate` as commands: plain mistakes are answered in a line, and no byte of a model's commands
the terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from hanlin.cli import main
from hanlin.cli.chat import COMMANDS, ChatSession
from hanlin.common.errors import HanlinError
from hanlin.common.terminal import for_stream, printable
from hanlin.inference import Engine, SamplingParams, load_chat_model, sampling_defaults
from hanlin.model import save_weights
from tests.inference.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    folder.mkdir()
    save_weights(tiny_model(3, max_position_embeddings=256), folder, im_end_id=tiny_tokenizer().im_end_id)
    tiny_tokenizer().save(folder)
    return folder


class Terminal(io.StringIO):
    """A terminal's side of an output."""

    def isatty(self) -> bool:
        return True


def complaint(capsys, monkeypatch, *arguments) -> str:
    """What a command that fails says: one line."""
    monkeypatch.setenv("HANLIN_LANG", "en")
    monkeypatch.setattr("sys.argv", ["hanlin", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def session_of(model_dir: Path, output: io.StringIO, **settings) -> ChatSession:
    model, tokenizer = load_chat_model(model_dir)
    params = SamplingParams(**{"max_new_tokens": 8, "temperature": 1.0, "seed": 3, **settings})
    return ChatSession(Engine(model, tokenizer, max_batch=1), tokenizer, params, output, None, None)


@pytest.mark.parametrize(
    ("verb", "option", "value"),
    [
        ("chat", "--max-new-tokens", "-1"),
        ("chat", "--temperature", "nan"),
        ("chat", "--temperature", "-1"),
        ("generate", "--max-new-tokens", "-1"),
        ("generate", "--temperature", "-1"),
        ("generate", "--temperature", "inf"),
        ("eval", "--count", "0"),
    ],
)
def test_impossible_numbers(model_dir, capsys, monkeypatch, verb, option, value):
    monkeypatch.setattr("sys.stdin", io.StringIO("你好\n"))
    name = option.removeprefix("--").replace("-", "_")
    assert name in complaint(capsys, monkeypatch, verb, model_dir, option, value).replace("--count", "count")


@pytest.mark.parametrize("verb", ["chat", "generate"])
def test_a_closed_standard_input(model_dir, capsys, monkeypatch, verb):
    monkeypatch.setattr("sys.stdin", None)
    assert "input is closed" in complaint(capsys, monkeypatch, verb, model_dir)


@pytest.mark.parametrize(
    "entry",
    [
        {"temperature": -1},
        {"top_p": 7},
        {"top_k": 1e308},
        {"top_k": 0.5},
        {"repetition_penalty": 0},
        {"temperature": "hot"},
        {"min_p": True},
        [1],
    ],
    ids=str,
)
def test_recommended_settings_that_cannot_be_are_refused_when_they_are_read(model_dir, tmp_path, entry):
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    (folder / "generation_config.json").write_text(json.dumps(entry))
    with pytest.raises(HanlinError, match="generation_config.json"):
        sampling_defaults(folder)


def test_recommended_settings_that_can_be(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    file.write_text('{"temperature": 0.5, "top_k": -1, "top_p": null, "eos_token_id": [1]}')
    assert sampling_defaults(tmp_path) == {"temperature": 0.5, "top_k": 0}


@pytest.mark.parametrize("verb", ["chat", "generate", "serve"])
def test_what_is_no_chat_model_is_called_by_its_name(model_dir, tmp_path, capsys, monkeypatch, verb):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    assert "llama.cpp" in complaint(capsys, monkeypatch, verb, tmp_path / "model.gguf")
    shutil.copytree(model_dir, tmp_path / "reward")
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    config["architectures"] = ["Qwen3ForSequenceClassification"]
    (tmp_path / "reward" / "config.json").write_text(json.dumps(config))
    for manifest in (tmp_path / "reward").glob("manifest.json"):
        manifest.unlink()
    assert "reward model" in complaint(capsys, monkeypatch, verb, tmp_path / "reward")


def test_an_ascii_terminal_gets_escapes(model_dir, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr("sys.argv", ["hanlin", "generate", str(model_dir), "今天", "--max-new-tokens", "4"])
    main.main()
    sys.stdout.flush()
    assert written.getvalue().startswith(b"\\u4eca\\u5929")


def test_help_on_an_ascii_terminal():
    environment = {**os.environ, "HANLIN_LANG": "zh", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = subprocess.run(
        [sys.executable, "-m", "hanlin", "--help"], capture_output=True, env=environment, timeout=120
    )
    assert result.returncode == 0 and b"serve" in result.stdout and b"Traceback" not in result.stderr


def test_an_empty_completion_is_said(model_dir, capsys, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "zh")
    monkeypatch.setattr("hanlin.inference.generate_text", lambda *_, **__: [""])
    monkeypatch.setattr("sys.argv", ["hanlin", "generate", str(model_dir), "今天"])
    main.main()
    said = capsys.readouterr()
    assert said.out == "今天\n" and "模型立刻结束了" in said.err


def test_what_commands_a_terminal_is_shown_and_everything_else_stays():
    for code in range(0x11000):
        if 0xD800 <= code < 0xE000:
            continue
        character = chr(code)
        shown = printable(character)
        commands = unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in (
            "LRE",
            "RLE",
            "PDF",
            "LRO",
            "RLO",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
        if commands and character not in "\n\t":
            assert shown.isascii() and shown.isprintable() and shown.startswith("\\")
        elif shown != character:
            assert character in "\u061c\u200e\u200f"
    text = "标题\x1b]0;evil\x07\x9b2J\u202e"
    assert (
        for_stream(text, Terminal()) == "标题\\x1b]0;evil\\x07\\x9b2J\\u202e"
        and for_stream(text, io.StringIO()) == text
    )


def test_a_models_escape_sequences_do_not_reach_the_terminal(model_dir):
    byte = tiny_tokenizer().encode("\x1b")
    assert len(byte) == 1
    for output, expected in ((Terminal(), "\\x1b" * 8), (io.StringIO(), "\x1b" * 8)):
        session = session_of(model_dir, output, logit_bias={byte[0]: 1e9}, temperature=0)
        session.colour = False
        session.handle("你好")
        assert output.getvalue() == expected + "\n"


def test_results_and_errors_show_escape_sequences_of_names(monkeypatch):
    out, err = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setattr("sys.argv", ["hanlin", "generate", "absent\x1b[2J", "你好"])
    main.show({}, False, "来源\x1b]52;c;x\x07：3 篇")
    with pytest.raises(SystemExit):
        main.main()
    assert (
        "\\x1b]52" in out.getvalue()
        and "\\x1b[2J" in err.getvalue()
        and "\x1b" not in out.getvalue() + err.getvalue()
    )


def test_help_is_a_line_for_each_command(model_dir, capsys):
    session_of(model_dir, io.StringIO()).handle("/help")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == [name.split()[0] for name, _ in COMMANDS]


def test_retry_answers_the_last_question_again(model_dir, capsys):
    session = session_of(model_dir, io.StringIO())
    session.handle("/retry")
    assert capsys.readouterr().err and not session.messages
    session.handle("你好")
    session.handle("再见")
    before = [dict(message) for message in session.messages]
    answers = {before[-1]["content"]}
    for _ in range(3):
        session.handle("/retry")
        assert session.messages[:-1] == before[:-1] and len(session.messages) == 4
        answers.add(session.messages[-1]["content"])
    assert len(answers) > 1


def test_the_temperature_can_be_changed(model_dir, capsys):
    session = session_of(model_dir, io.StringIO())
    session.handle("/temp 0.25")
    assert session.params.temperature == 0.25
    for wrong in ("", "hot", "-1", "nan"):
        capsys.readouterr()
        session.handle(f"/temp {wrong}")
        assert session.params.temperature == 0.25 and capsys.readouterr().err


def test_a_conversation_is_appended_to_a_file(model_dir, tmp_path, capsys):
    session = session_of(model_dir, io.StringIO())
    session.handle("/system 你是老师")
    session.handle("你好")
    for _ in range(2):
        session.handle(f"/save {tmp_path / 'c.jsonl'}")
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [{"messages": [{"role": "system", "content": "你是老师"}, *session.messages]}] * 2
    capsys.readouterr()
    session.handle(f"/save {tmp_path / 'absent' / 'c.jsonl'}")
    assert "c.jsonl" in capsys.readouterr().err


def test_several_lines_at_once_are_one_message(model_dir):
    session = session_of(model_dir, io.StringIO())
    session.handle("/path/to/file\n第二行")
    assert [message["content"] for message in session.messages[:1]] == ["/path/to/file\n第二行"]


@pytest.mark.parametrize(
    "pasted", ["第一行\n第二行\n", "\x1b[200~第一行\r第二行\x1b[201~\r"], ids=["plain", "bracketed"]
)
def test_a_paste_into_a_terminal_is_one_message(pasted):
    program = (
        "import sys, types; from hanlin.cli.chat import read_lines\n"
        "session = types.SimpleNamespace(say=print)\n"
        "print('ready', flush=True)\n"
        "for text in read_lines(sys.stdin, session): print('GOT', ascii(text), flush=True); break\n"
    )
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(child)
    seen = b""
    try:
        while "»".encode() not in seen:
            seen += os.read(parent, 1000)
        os.write(parent, pasted.encode())
        while b"GOT" not in seen or not seen.endswith(b"\n"):
            seen += os.read(parent, 1000)
        assert ascii("第一行\n第二行").encode() in seen
    finally:
        process.kill()
        process.wait()
        os.close(parent)
