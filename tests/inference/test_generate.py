"""From a directory to text: resolving, defaults, whole prompts, the terminal chat."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanlin.cli.chat import ChatSession, chat
from hanlin.common.errors import HanlinError
from hanlin.inference import (
    Engine,
    encode_prompt,
    generate_text,
    load_chat_model,
    resolve_model_dir,
    split_reply,
)
from hanlin.inference.generate import SamplingParams, sampling_defaults
from hanlin.model import save_weights
from tests.inference.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run's directory with a tiny random model in `model`."""
    folder = tmp_path_factory.mktemp("run") / "model"
    folder.mkdir()
    tokenizer = tiny_tokenizer()
    save_weights(tiny_model(3, max_position_embeddings=256), folder, im_end_id=tokenizer.im_end_id)
    tokenizer.save(folder)
    return folder.parent


def test_a_run_and_its_model_are_the_same_model(run_dir):
    assert resolve_model_dir(run_dir) == resolve_model_dir(run_dir / "model") == run_dir / "model"
    assert sampling_defaults(run_dir)["temperature"] == 0.7


@pytest.mark.parametrize("name", ["absent", "."])
def test_no_model_there_says_so(tmp_path, name):
    with pytest.raises(HanlinError, match=str(tmp_path)):
        resolve_model_dir(tmp_path / name)


def test_a_tokenizer_too_large_for_its_model_is_refused(tmp_path):
    save_weights(tiny_model(vocab_size=300), tmp_path)
    tiny_tokenizer().save(tmp_path)
    with pytest.raises(HanlinError, match="300"):
        load_chat_model(tmp_path)


def test_texts_and_conversations_reproducibly(run_dir):
    model, tokenizer = load_chat_model(run_dir)
    prompts = ["今天", [{"role": "user", "content": "你好"}], ""]
    found = generate_text(model, tokenizer, prompts, max_new_tokens=12, seed=3)
    assert len(found) == 3 and all(isinstance(text, str) for text in found)
    assert found == generate_text(
        Engine(model, tokenizer, max_batch=1), tokenizer, prompts, max_new_tokens=12, seed=3
    )
    assert not any("<|im_end|>" in text or "<|endoftext|>" in text for text in found)


def replies(run_dir, turns, length):
    """(reasoning, content) of the answers to turns of (system, thinking, earlier messages kept, question),
    by the engine itself."""
    model, tokenizer = load_chat_model(run_dir)
    engine = Engine(model, tokenizer, max_batch=1)
    messages: list[dict[str, str]] = []
    found = []
    for system, thinking, kept, question in turns:
        messages = [*messages[:kept], {"role": "user", "content": question}]
        head = [{"role": "system", "content": system}] if system else []
        prompt = encode_prompt(tokenizer, head + messages, thinking)
        completion = engine.generate(
            [prompt], SamplingParams(max_new_tokens=length, temperature=0, top_p=0.9)
        )[0]
        found.append(split_reply(tokenizer, completion.ids, reasoning=thinking is True))
        messages.append({"role": "assistant", "content": found[-1][1]})
    return found


def test_chat_through_a_pipe(run_dir, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    source = io.StringIO(
        "你好\n\n/think on\n再说一遍\n/system 你是一只猫\n喵\n/nonsense\n/reset\n/quit\n不会读到\n"
    )
    output = io.StringIO()
    chat(run_dir, source=source, output=output, max_new_tokens=8, temperature=0.0)
    expected = replies(
        run_dir, [(None, None, 0, "你好"), (None, True, 2, "再说一遍"), ("你是一只猫", True, 0, "喵")], 8
    )
    text = ""
    for reasoning, content in expected:
        assert reasoning or content
        text += (
            (f"[thinking] {reasoning}" if reasoning else "")
            + ("\n\n[answer] " if reasoning and content else "")
            + content
            + "\n"
        )
    assert output.getvalue() == text
    assert source.readline() == "不会读到\n"


def test_a_long_conversation_forgets_its_oldest_exchanges(run_dir, capsys):
    model, tokenizer = load_chat_model(run_dir)
    session = ChatSession(
        Engine(model, tokenizer, max_batch=1),
        tokenizer,
        SamplingParams(max_new_tokens=6, temperature=0),
        io.StringIO(),
        "系统",
        None,
    )
    submit, seen = session.engine.submit, []
    session.engine.submit = lambda generation: (seen.append(generation.prompt), submit(generation))[1]  # type: ignore[method-assign]
    system = {"role": "system", "content": "系统"}
    forgotten = 0
    for turn in range(12):
        before = [
            *session.messages,
            {"role": "user", "content": f"小明有{turn}个苹果，又买了五个，一共有几个？"},
        ]
        assert session.handle(before[-1]["content"])
        # the newest messages, from the earliest question with which the prompt leaves room for the reply
        fits = [
            prompt
            for start in range(0, len(before), 2)
            if len(prompt := encode_prompt(tokenizer, [system, *before[start:]]))
            <= session.engine.max_length - 6
        ]
        assert seen[turn] == fits[0]
        forgotten += len(fits) < len(range(0, len(before), 2))
    assert forgotten > 3 and len(session.messages) == 24
    assert capsys.readouterr().err.count("\n") == forgotten  # and it says so, each time
    session.handle("字" * 500)
    assert len(session.messages) == 24 and len(seen) == 12  # longer than the context: said so, nothing added


def test_ctrl_c_stops_the_reply_and_not_the_program(run_dir):
    model, tokenizer = load_chat_model(run_dir)
    session = ChatSession(
        Engine(model, tokenizer, max_batch=1),
        tokenizer,
        SamplingParams(max_new_tokens=100, temperature=0),
        io.StringIO(),
        None,
        None,
    )
    step, calls = session.engine.step, iter(range(100))

    def interrupted() -> bool:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return step()

    session.engine.step = interrupted  # type: ignore[method-assign]
    assert session.handle("你好")
    assert session.engine.active == 0
    session.engine.step = step  # type: ignore[method-assign]
    assert session.handle("还在吗") and len(session.messages) == 4


def test_ctrl_c_in_a_real_process(run_dir):
    program = (
        f"from hanlin.cli.chat import chat; chat({str(run_dir)!r}, max_new_tokens=100000, temperature=1.0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HANLIN_LANG": "zh", "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("你好\n".encode())
    process.stdin.flush()
    process.stdout.read(1)  # it speaks
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    output, errors = process.communicate(b"/quit\n", timeout=90)
    assert process.returncode == 0, errors.decode()
    assert b"Traceback" not in errors
