"""The work that one body can cause is bounded before it is done, whatever fills the body."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import pytest
from pydantic import ValidationError

from hanlin.serving.errors import ApiError
from hanlin.serving.schemas import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from hanlin.serving.security import Gate

MANY = 300_000
WRONG = [{}, [], None, -1, 0.5, "", True, "x" * 300]
FIELDS = {
    "content": (ChatRequest, lambda value: {"messages": [{"role": "user", "content": [value] * MANY}]}),
    "messages": (ChatRequest, lambda value: {"messages": [value] * MANY}),
    "prompt": (CompletionRequest, lambda value: {"prompt": [value] * MANY}),
    "prompts": (CompletionRequest, lambda value: {"prompt": [[value] * MANY]}),
    "tokens": (DetokenizeRequest, lambda value: {"tokens": [value] * MANY}),
    "tokenized messages": (TokenizeRequest, lambda value: {"messages": [value] * MANY}),
    "stop": (
        ChatRequest,
        lambda value: {"messages": [{"role": "user", "content": ""}], "stop": [value] * MANY},
    ),
    "logit_bias": (
        ChatRequest,
        lambda value: {
            "messages": [{"role": "user", "content": ""}],
            "logit_bias": {str(i): value for i in range(MANY)},
        },
    ),
    "parts": (
        ChatRequest,
        lambda value: {"messages": [{"role": "user", "content": [{"type": "text", "text": value}] * MANY}]},
    ),
}


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("field", FIELDS)
def test_the_first_wrong_element_ends_the_check(field, value):
    """Few errors, and little memory for them: three hundred thousand of them took a gigabyte and seconds."""
    schema, body_with = FIELDS[field]
    body = body_with(value)
    tracemalloc.start()
    try:
        try:
            schema.model_validate(body)
        except ValidationError as error:
            assert error.error_count() <= 12
            error.errors(include_url=False)
        else:
            raise AssertionError("accepted")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def gate(body: bytes) -> bytes:
    """What the gate makes of a body."""

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def read():
        return await Gate(receive, api_key=None, hosts=None)._read_json({}, receive)  # type: ignore[arg-type]

    return asyncio.run(read())


@pytest.mark.parametrize("element", ["{}", "[]", '{"a":1}', "[[]]"])
def test_a_body_of_too_many_parts_is_refused_before_it_is_understood(element):
    body = json.dumps({"messages": json.loads(f"[{','.join([element] * 100_000)}]")}).encode()
    with pytest.raises(ApiError, match="lists and objects"):
        gate(body)
    assert gate(b'{"prompt": [%b]}' % b",".join([b"1"] * 100_000))  # numbers are a prompt of token ids
    most = json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 7}] * 1024})
    assert gate(most.encode()) == most.encode()
    program = json.dumps({"prompt": '[{"\\' * 100_000})
    assert gate(program.encode()) == program.encode()
