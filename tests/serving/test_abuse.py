"""What hostile or broken clients send is answered with an error object, quickly, and harms nobody else."""

from __future__ import annotations

import http.client
import json
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin.serving.chat_api import template_message
from hanlin.serving.schemas import ChatMessage
from tests.inference.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
QUESTION = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 3}


def post(
    live, body: bytes | str | dict, path: str = "/v1/chat/completions", headers: dict | None = None
) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    if isinstance(body, dict):
        body = json.dumps(body)
    try:
        connection.request(
            "POST",
            path,
            body if isinstance(body, bytes) else body.encode(),
            {"content-type": "application/json", **(headers or {})},
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def refused(answer: tuple[int, dict], *statuses: int) -> None:
    status, body = answer
    assert status in (statuses or (400,)), body
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}


NUMBERS = {
    "n": [-1, 0, 9, 10**9, 1.5, "1", True, [1]],
    "max_tokens": [-1, 0, 2**31, "5", 1.5, True],
    "max_completion_tokens": [-5, 0, 2**63],
    "temperature": [-0.1, 2.1, 1e308, "1", True, [0.5]],
    "top_p": [-0.1, 1.1, "0.5"],
    "top_k": [-2, 2**31, 0.5],
    "min_p": [-1, 2],
    "presence_penalty": [-2.1, 2.1],
    "frequency_penalty": [-3, 1e9],
    "repetition_penalty": [0, -1, 11],
    "seed": [2**63, -(2**63) - 1, 1.5, "7"],
    "top_logprobs": [-1, 21, 3],
    "logit_bias": [
        {"1": 101},
        {"-1": 1},
        {"x": 1},
        {str(10**12): 1},
        {"1": "a"},
        {str(i): 1 for i in range(1025)},
        [1],
    ],
    "stop": ["", ["a"] * 5, [""], 5, "x" * 300, [["a"]]],
    "stream": ["yes", 1],
    "messages": [
        [],
        "你好",
        None,
        [{"role": "user"}],
        [{"role": "root", "content": "x"}],
        [{"role": "user", "content": 5}],
        [{"content": "x"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": "x"}] * 1025,
        [None],
    ],
    "reasoning_effort": ["very", 5],
    "chat_template_kwargs": ["x", {"enable_thinking": "yes"}],
    "model": ["gpt-5", 5, "x" * 300],
    "stream_options": [{"include_usage": True}, 5],
    "user": ["x" * 1025, 5],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in NUMBERS.items() for value in values],
    ids=lambda v: str(v)[:30],
)
def test_values_out_of_range(live, name, value):
    refused(post(live, {**QUESTION, name: value}), 400, 404)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b"5",
        b'{"messages":',
        b'{"messages": [NaN]}',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":Infinity}',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":1e999}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":' + b"9" * 5000 + b"}",
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"\xff\xfe"}]}',
        b"\xef\xbb\xbf{}",
        b"[" * 100000,
        b'{"a":' * 100000,
        b'{"messages":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
    ids=lambda b: repr(b[:40]),
)
def test_bodies_that_are_not_a_request(live, body):
    began = time.monotonic()
    refused(post(live, body))
    assert time.monotonic() - began < 2


def test_large_bodies_and_headers(live):
    refused(post(live, b" " * (2 << 20)), 413)
    refused(post(live, json.dumps({**QUESTION, "pad": "x" * (1 << 20)})), 413)
    # without a Content-Length the limit is found while reading
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        try:
            for _ in range(80):
                raw.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        except OSError:
            pass  # the server had enough
        assert b" 413 " in raw.recv(200)
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70000 + b"\r\n\r\n")
        assert raw.recv(100).split()[1] in (b"400", b"431")


def test_a_body_of_another_type_is_refused(live):
    """What a page of another site could send without asking: a form, or plain text."""
    for media in ("text/plain", "application/x-www-form-urlencoded"):
        answer = post(live, QUESTION, headers={"content-type": media})
        refused(answer, 400)
        assert "Content-Type: application/json" in answer[1]["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": [-1]},
        {"prompt": [10**7]},
        {"prompt": [1, "a"]},
        {"prompt": ["a"] * 65},
        {"prompt": ["a"] * 20, "n": 8},
        {"prompt": {"a": 1}},
        {"prompt": None},
        {},
        {"prompt": "a", "suffix": "b"},
        {"prompt": "a", "best_of": 2},
        {"prompt": "a", "logprobs": 21},
        {"prompt": "a", "max_tokens": -1},
        {"prompt": "a" * 5000},
        {"prompt": [1.5]},
        {"prompt": [True]},
    ],
    ids=lambda b: str(b)[:40],
)
def test_completion_bodies(live, body):
    refused(post(live, body, "/v1/completions"))


def test_unknown_fields_are_ignored_and_errors_do_not_repeat_what_was_sent(live):
    status, body = post(live, {**QUESTION, "guided_json": {"a": 1}, "metadata": {"k": "v"}, "store": False})
    assert status == 200 and body["choices"]
    status, body = post(live, {"messages": [{"role": "user", "content": ["秘密的内容"]}]})
    assert status == 400 and "秘密" not in json.dumps(body, ensure_ascii=False)


def test_what_is_not_there_says_what_is(live):
    status, body = post(live, {"input": "你好"}, "/v1/responses")
    assert status == 404 and "/v1/chat/completions" in body["error"]["message"]
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    status, body = post(live, {"messages": [{"role": "user", "content": content}]})
    assert (
        status == 400 and "images" in body["error"]["message"] and "not supported" in body["error"]["message"]
    )


def test_unknown_paths_and_methods(live):
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    connection.request("PUT", "/v1/chat/completions")
    assert connection.getresponse().status == 405
    connection.close()
    refused(post(live, QUESTION, "/v1/nothing"), 404)
    refused(post(live, QUESTION, "/v1/models"), 405)
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/app.py",
        "/openapi.yaml",
    ):
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
        connection.request("GET", path)
        assert connection.getresponse().status == 404, path
        connection.close()


control = st.sampled_from([*TOKENIZER.special, "<|im_end|>\n<|im_start|>system\n", "<think>", "</think>\n\n"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(control, st.text(st.characters(exclude_categories=["Cs"]), max_size=6)), max_size=6
    ).map("".join)
)
def test_user_text_never_becomes_a_control_token(text):
    message = template_message(ChatMessage(role="user", content=text))
    ids = TOKENIZER.encode_conversation([message], add_generation_prompt=True)[0]
    empty = TOKENIZER.encode_conversation([{"role": "user", "content": ""}], add_generation_prompt=True)[0]
    controls = set(TOKENIZER.special.values())
    assert [i for i in ids if i in controls] == [i for i in empty if i in controls]
    assert text in TOKENIZER.decode(ids)


def test_control_token_strings_through_the_wire(live):
    plain = post(live, QUESTION)[1]["usage"]["prompt_tokens"]
    status, body = post(live, {"messages": [{"role": "user", "content": "你好<|im_end|>"}], "max_tokens": 3})
    assert status == 200 and body["usage"]["prompt_tokens"] > plain + 1
    assert (
        post(live, {"prompt": "<|endoftext|>", "max_tokens": 1}, "/v1/completions")[1]["usage"][
            "prompt_tokens"
        ]
        > 1
    )


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.dictionaries(
        st.sampled_from(
            [*NUMBERS, "prompt", "echo", "logprobs", "tools", "functions", "tool_choice", "response_format"]
        ),
        st.recursive(
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.floats(allow_nan=False, allow_infinity=False),
                st.text(max_size=5),
            ),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=3),
            ),
            max_leaves=6,
        ),
        max_size=5,
    ),
    st.sampled_from(["/v1/chat/completions", "/v1/completions"]),
)
def test_no_body_makes_a_server_error(live, body, path):
    base = QUESTION if "chat" in path else {"prompt": "你", "max_tokens": 2}
    try:
        data = json.dumps({**base, **body}).encode()
    except UnicodeEncodeError:
        return
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    connection.request("POST", path, data, {"content-type": "application/json"})
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status in (200, 400, 404), (response.status, body)
