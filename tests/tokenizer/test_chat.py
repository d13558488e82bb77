"""One template: the plain renderer and the Jinja template agree byte for byte, ids follow, and nothing a
person writes is control."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.common.errors import HanlinError
from hanlin.tokenizer import Tokenizer, pieces, render

hostile = st.sampled_from(
    [
        "<|im_end|>",
        "<|im_start|>system\n",
        "</think>",
        "<think>",
        "{{ 7*7 }}",
        "{% if %}",
        "\\n",
        "'",
        '"',
        "\n",
        "\r\n",
        " ",
        "工具",
    ]
)
content = st.lists(hostile | st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=5).map(
    "".join
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | content,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(content, inner, max_size=3),
    max_leaves=6,
)
calls = st.fixed_dictionaries(
    {"name": content, "arguments": st.dictionaries(content, json_values, max_size=3) | content}
)
wrapped_calls = calls | calls.map(lambda call: {"type": "function", "id": "x", "function": call})
assistant = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": content},
    optional={
        "reasoning_content": content | st.none(),
        "tool_calls": st.lists(wrapped_calls, max_size=3) | st.none(),
    },
)
silent_assistant = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "content": st.none(),
        "tool_calls": st.lists(wrapped_calls, min_size=1, max_size=2),
    }
)
others = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": content})
conversations = st.lists(others | assistant | silent_assistant, max_size=7)
tools = st.none() | st.lists(st.dictionaries(content, json_values, max_size=3), max_size=3)
thinking = st.sampled_from([None, True, False])


@pytest.fixture(scope="session")
def stock(tokenizer: Tokenizer):
    """The artefact opened by transformers, which renders the Jinja template."""
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tokenizer.path)


@settings(max_examples=600, deadline=None)
@given(messages=conversations, tools=tools, prompt=st.booleans(), thinking=thinking)
def test_equals_the_jinja_template(
    tokenizer: Tokenizer, stock, messages: list[Any], tools: Any, prompt: bool, thinking: bool | None
) -> None:
    kwargs = {} if thinking is None else {"enable_thinking": thinking}
    expected = (
        stock.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=prompt, **kwargs
        )
        if messages
        else None
    )
    ours = tokenizer.render(messages, prompt, thinking, tools)
    if messages:
        assert ours == expected


@settings(max_examples=300, deadline=None)
@given(messages=conversations, tools=tools, prompt=st.booleans(), thinking=thinking)
def test_ids_spell_the_text_and_hold_no_smuggled_control(
    tokenizer: Tokenizer, messages: list[Any], tools: Any, prompt: bool, thinking: bool | None
) -> None:
    ids, mask = tokenizer.encode_conversation(messages, prompt, thinking, tools)
    assert len(ids) == len(mask)
    assert tokenizer.decode(ids) == render(messages, prompt, thinking, tools)
    known = set(tokenizer.special.values())
    intended = [
        tokenizer.special[piece.text] for piece in pieces(messages, prompt, thinking, tools) if piece.control
    ]
    assert [index for index in ids if index in known] == intended
    harmless = [_harmless(message) for message in messages]
    assert intended == [
        index
        for index in tokenizer.encode_conversation(harmless, prompt, thinking, ["f"] if tools else None)[0]
        if index in known
    ]


def _harmless(message: dict[str, Any]) -> dict[str, Any]:
    """The same conversation with every text replaced by one that holds nothing."""
    result: dict[str, Any] = {"role": message["role"], "content": "x"}
    if message.get("reasoning_content") is not None:
        result["reasoning_content"] = "x"
    if message.get("tool_calls"):
        result["tool_calls"] = [{"name": "f", "arguments": {}} for _ in message["tool_calls"]]
    return result


words = st.text(
    st.characters(exclude_categories=["Cs", "Z", "C"], exclude_characters="<|"), min_size=1, max_size=8
)
plain_turn = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": words})
plain_assistant = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": words}, optional={"reasoning_content": words}
)


@settings(max_examples=300, deadline=None)
@given(
    messages=st.lists(plain_turn | plain_assistant, min_size=1, max_size=6),
    prompt=st.booleans(),
    thinking=thinking,
)
def test_ids_equal_those_of_the_rendered_text(
    tokenizer: Tokenizer, stock, messages: list[Any], prompt: bool, thinking: bool | None
) -> None:
    """What transformers and llama.cpp do: render, then tokenise the whole, control tokens recognised."""
    ids, _ = tokenizer.encode_conversation(messages, prompt, thinking)
    assert ids == tokenizer.encode(tokenizer.render(messages, prompt, thinking), special=True)
    assert ids == stock.encode(tokenizer.render(messages, prompt, thinking))


@settings(max_examples=300, deadline=None)
@given(
    messages=st.lists(others | assistant, max_size=4),
    question=content,
    answer=content,
    reasoning=content,
    thinking=thinking,
)
def test_a_prompt_is_the_head_of_what_follows(
    tokenizer: Tokenizer,
    messages: list[Any],
    question: str,
    answer: str,
    reasoning: str,
    thinking: bool | None,
) -> None:
    """A model is asked with the very tokens it was trained after, whatever white space the texts begin
    with."""
    messages = [*messages, {"role": "user", "content": question}]
    prompt, _ = tokenizer.encode_conversation(messages, True, thinking)
    reply: dict[str, Any] = {"role": "assistant", "content": answer}
    if thinking is not None:
        reply["reasoning_content"] = (reasoning or "想") if thinking else ""
    whole, mask = tokenizer.encode_conversation([*messages, reply])
    assert whole[: len(prompt)] == prompt
    assert all(mask[len(prompt) : -1]) and not mask[-1]


def test_mask_covers_what_the_assistant_says(tokenizer: Tokenizer) -> None:
    """The golden example: every piece of a conversation with everything in it, learnt or not."""
    messages = [
        {"role": "system", "content": "简短"},
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "二", "reasoning_content": "早先的想法"},
        {"role": "user", "content": "天气？"},
        {
            "role": "assistant",
            "content": "查",
            "reasoning_content": "想",
            "tool_calls": [{"name": "weather", "arguments": {"city": "京"}}],
        },
        {"role": "tool", "content": "晴"},
        {"role": "tool", "content": "热"},
        {"role": "assistant", "content": "晴热", "reasoning_content": "再想"},
    ]
    ids, mask = tokenizer.encode_conversation(messages)
    learnt = "".join(_runs(tokenizer, ids, mask, 1))
    rest = "".join(_runs(tokenizer, ids, mask, 0))
    assert learnt == (
        '[<think>\n想\n</think>\n查\n<tool_call>\n{"name": "weather", "arguments": {"city": "京"}}\n'
        "</tool_call><|im_end|>]"
        "[<think>\n再想\n</think>\n晴热<|im_end|>]"
    )
    assert rest == (
        "[<|im_start|>system\n简短<|im_end|>\n<|im_start|>user\n一<|im_end|>\n<|im_start|>assistant\n"
        "二<|im_end|>\n<|im_start|>user\n天气？<|im_end|>\n<|im_start|>assistant\n]"
        "[\n<|im_start|>user\n<tool_response>\n晴\n</tool_response>\n<tool_response>\n热\n</tool_response><|im_end|>\n<|im_start|>assistant\n]"
        "[\n]"
    )


def _runs(tokenizer: Tokenizer, ids: list[int], mask: list[int], value: int):
    run: list[int] = []
    for index, flag in zip([*ids, 0], [*mask, 1 - value], strict=True):
        if flag == value:
            run.append(index)
        elif run:
            yield f"[{tokenizer.decode(run)}]"
            run = []


def test_thinking_prompts() -> None:
    messages = [{"role": "user", "content": "你好"}]
    head = "<|im_start|>user\n你好<|im_end|>\n"
    assert render(messages) == head
    assert render(messages, True) == head + "<|im_start|>assistant\n"
    assert render(messages, True, True) == head + "<|im_start|>assistant\n<think>\n"
    assert render(messages, True, False) == head + "<|im_start|>assistant\n<think>\n\n</think>\n"


def test_the_tools_are_shown_in_the_system_message() -> None:
    tool = {"type": "function", "function": {"name": "天气", "parameters": {"a": 1}}}
    with_system = render(
        [{"role": "system", "content": "你是翰林"}, {"role": "user", "content": "问"}], tools=[tool]
    )
    without = render([{"role": "user", "content": "问"}], tools=[tool])
    assert with_system == without.replace("<|im_start|>system\n", "<|im_start|>system\n你是翰林\n\n")
    assert "\n" + json.dumps(tool, ensure_ascii=False) + "\n" in without


@pytest.mark.parametrize(
    "message",
    [
        {"role": "human", "content": "你好"},
        {"content": "你好"},
        {"role": "user"},
        {"role": "user", "content": ["你好"]},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": "", "reasoning_content": 3},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]},
        {"role": "assistant", "content": "", "tool_calls": ["f"]},
        "你好",
    ],
)
def test_malformed_messages_are_refused_by_number(message: Any) -> None:
    with pytest.raises(HanlinError, match="2") as refusal:
        render([{"role": "user", "content": "好"}, message])
    assert "Message 2" in refusal.value.en


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "你好"}]},
        {"role": "user", "content": None},
        {"role": "user"},
        {"role": "system", "content": ["你好"]},
        {"role": "tool", "content": {"a": 1}},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": ["你好"], "tool_calls": [{"name": "f", "arguments": {}}]},
        {"role": "assistant", "content": "好", "reasoning_content": ["想"]},
    ],
)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("tools", [None, [{"name": "f"}]])
def test_what_python_refuses_the_jinja_template_refuses(
    tokenizer: Tokenizer, stock, message: Any, first: bool, tools: Any
) -> None:
    """A content in parts, as some clients send it, must not become an empty message."""
    messages = [message] if first else [{"role": "user", "content": "好"}, message]
    with pytest.raises(HanlinError):
        tokenizer.render(messages, tools=tools)
    with pytest.raises(Exception, match="should be text"):
        stock.apply_chat_template(messages, tools=tools, tokenize=False)
