"""`/tokenize`, `/detokenize` and `/tokenizer_info` say what the model reads, in vLLM's shapes, behind the
same gate as everything else."""

from __future__ import annotations

import http.client
import json

import pytest

from hanlin.serving.formats import token_names
from hanlin.serving.service import Settings
from tests.inference.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
KEY = "a-long-enough-key"
ROUTES = {"/tokenize": {"prompt": "字"}, "/detokenize": {"tokens": [1]}, "/tokenizer_info": None}


def ask(live, path: str, body=None, headers: dict | None = None) -> tuple[int, dict]:
    """A POST of the body, a GET without one."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body)
    method = "GET" if body is None else "POST"
    connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


@pytest.mark.parametrize(
    "text",
    ["小明在公园里看见一只猫", "龘😀 \n\t", "", "a" * 1000, "前<|im_end|>后", "<|im_end|> ", "<think>x"],
)
@pytest.mark.parametrize("add_special_tokens", [None, True, False])
def test_a_text_is_read_as_a_completion_reads_it(live, text, add_special_tokens):
    status, answer = ask(live, "/tokenize", {"prompt": text, "add_special_tokens": add_special_tokens})
    ids = TOKENIZER.encode(text)
    assert status == 200
    assert answer == {
        "count": len(ids),
        "max_model_len": live.engine.max_length,
        "tokens": ids,
        "token_strs": None,
    }
    assert not set(ids) & set(TOKENIZER.special.values())
    assert ask(live, "/detokenize", {"tokens": ids}) == (200, {"prompt": text})
    if text and len(ids) < 100:
        status, completed = ask(live, "/v1/completions", {"prompt": text, "max_tokens": 1})
        assert completed["usage"]["prompt_tokens"] == len(ids)


def test_control_tokens_are_found_by_name_and_in_a_text_only_if_wanted(live):
    for name, token in TOKENIZER.special.items():
        assert ask(live, "/tokenize", {"prompt": name})[1]["tokens"] == [token]
        assert ask(live, "/detokenize", {"tokens": [token]})[1] == {"prompt": name}
    text = "<|im_start|>user\n你好<|im_end|>"
    parsed = ask(live, "/tokenize", {"prompt": text, "parse_special": True})[1]["tokens"]
    assert parsed == TOKENIZER.encode(text, special=True) and parsed[-1] == TOKENIZER.im_end_id


def test_the_info_names_tokens_that_tokenize_finds(live):
    """As lm-evaluation-harness looks up its prefix and end tokens."""
    status, info = ask(live, "/tokenizer_info")
    file = json.loads((TOKENIZER.path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert status == 200 and info == file
    assert info["bos_token"] == "<|endoftext|>" and not info["add_bos_token"]
    assert "<|im_start|>" in info["chat_template"]
    for name, token in (("eos_token", TOKENIZER.im_end_id), ("pad_token", TOKENIZER.eos_id)):
        assert ask(live, "/tokenize", {"prompt": info[name], "add_special_tokens": False})[1]["tokens"] == [
            token
        ]


@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize("open_reply", [None, True, False])
def test_a_conversation_is_read_as_a_chat_reads_it(live, thinking, open_reply):
    messages = [
        {"role": "developer", "content": "只说<|im_end|>"},
        {"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]},
        {"role": "assistant", "content": "好", "reasoning": "想一想"},
        {"role": "user", "content": "再说"},
    ]
    body = {"messages": messages, "add_generation_prompt": open_reply}
    if thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    status, answer = ask(live, "/tokenize", body)
    plain = [
        {"role": "system", "content": "只说<|im_end|>"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "好", "reasoning_content": "想一想"},
        {"role": "user", "content": "再说"},
    ]
    expected = TOKENIZER.encode_conversation(
        plain, add_generation_prompt=open_reply is not False, thinking=thinking
    )[0]
    assert status == 200 and answer["tokens"] == expected
    if open_reply is not False:
        chat = {name: value for name, value in body.items() if name != "add_generation_prompt"}
        completed = ask(live, "/v1/chat/completions", {**chat, "max_tokens": 1})[1]
        assert completed["usage"]["prompt_tokens"] == answer["count"]


def test_tokens_can_be_named(live):
    names = token_names(TOKENIZER, TOKENIZER.vocab_size)
    answer = ask(live, "/tokenize", {"prompt": "龘😀好", "return_token_strs": True})[1]
    assert answer["token_strs"] == [names[token] for token in answer["tokens"]]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": [1]}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": "yes"}, "add_special_tokens"),
        ("/tokenize", {"prompt": "a", "model": "gpt-5"}, "model"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "root", "content": "x"}]}, "messages.0.role"),
        ("/tokenize", {"messages": [{"role": "user", "content": None}]}, "messages"),
        (
            "/tokenize",
            {"messages": [{"role": "user", "content": "x"}], "chat_template": "{{1}}"},
            "chat_template",
        ),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools"),
        (
            "/tokenize",
            {"messages": [{"role": "user", "content": "x"}], "continue_final_message": True},
            "continue_final_message",
        ),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "1"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0"),
        ("/detokenize", {"tokens": [TOKENIZER.vocab_size]}, "tokens"),
        ("/detokenize", {"tokens": [1 << 70]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens.0"),
        ("/detokenize", {"tokens": [1.5]}, "tokens.0"),
    ],
)
def test_what_is_wrong_is_said(live, path, body, param):
    status, answer = ask(live, path, body)
    assert status == (404 if param == "model" else 400) and answer["error"]["param"] == param, answer


def test_no_tokens_are_no_text(live):
    assert ask(live, "/detokenize", {"tokens": []}) == (200, {"prompt": ""})


def test_what_is_no_character_is_replaced(live):
    part = TOKENIZER.encode("😀")[:2]
    assert ask(live, "/detokenize", {"tokens": part}) == (200, {"prompt": "\ufffd"})


@pytest.mark.parametrize("path", ROUTES)
def test_the_gate_is_before_these_routes(serve_with, path):
    with serve_with(Settings(model_id="tiny", api_key=KEY, hosts=None)) as live:
        body = ROUTES[path]
        authorized = {"authorization": f"Bearer {KEY}"}
        assert ask(live, path, body)[0] == 401
        assert ask(live, path, body, {"authorization": "Bearer wrong"})[0] == 401
        assert ask(live, path, body, authorized)[0] == 200
        assert ask(live, path, body, {**authorized, "origin": "http://evil.example"})[0] == 403
        if body is not None:
            assert ask(live, path, b" " * (1 << 20) + b"{}", authorized)[0] == 413
            assert ask(live, path, b"[1]", authorized)[0] == 400
            assert ask(live, path, b'{"prompt": "\\ud800"}', authorized)[0] == 400
            lists = json.dumps({"tokens": [[]] * 20_000, "messages": [[]] * 20_000}).encode()
            assert ask(live, path, lists, authorized)[1]["error"]["code"] == "invalid_json"
            assert ask(live, path, body, {**authorized, "content-type": "text/plain"})[0] == 400
    with serve_with(Settings(model_id="tiny")) as live:
        assert ask(live, path, body, {"host": "evil.example"})[0] == 403


def test_the_largest_text_is_read_at_once(live):
    text = "我们的😀" * 65_000  # 1,040,000 bytes
    body = json.dumps({"prompt": text}, ensure_ascii=False).encode()
    status, answer = ask(live, "/tokenize", body)
    assert status == 200 and answer["tokens"] == TOKENIZER.encode(text)


def test_a_tokenizer_without_its_config_has_no_info(serve_with, monkeypatch, tmp_path):
    """lm-evaluation-harness then goes on with a tokenizer from files."""
    monkeypatch.setattr(TOKENIZER, "path", tmp_path)
    with serve_with(Settings(model_id="tiny")) as live:
        status, answer = ask(live, "/tokenizer_info")
        message = answer["error"]["message"]
        assert status == 404 and "tokenizer_config.json" in message and str(tmp_path) not in message
