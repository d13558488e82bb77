"""The one chat template: conversations as ChatML, rendered in plain Python and, for other programs, by a
Jinja template.

Both are generated from the same words here and tested equal byte for byte. The renderer yields pieces, so
that control tokens are known by construction: whatever a user, a tool or a model wrote is text and is never
searched for control tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing
from hanlin.tokenizer.special import (
    END_THINK,
    END_TOOL_CALL,
    END_TOOL_RESPONSE,
    IM_END,
    IM_START,
    THINK,
    TOOL_CALL,
    TOOL_RESPONSE,
)

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")

# What the model is told of its tools. No control token is spelt here: a template that is tokenised as one
# text would take it for one.
_TOOLS_BEFORE = "# 工具\n\n你可以调用下列函数来帮助用户。每行是一个函数的 JSON 描述：\n<tools>"
_TOOLS_AFTER = (
    '\n</tools>\n\n需要调用时，在 tool_call 标签内写一个 JSON 对象：{"name": 函数名, "arguments": 参数对象}。'
)


class Piece(NamedTuple):
    """A stretch of a rendered conversation that is tokenised on its own.

    Attributes:
        text: what it reads.
        control: whether it is one control token; otherwise it is plain text, whatever it may look like.
        learn: whether the assistant is trained to produce it.
    """

    text: str
    control: bool = False
    learn: bool = False


def render(
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    thinking: bool | None = None,
    tools: Sequence[Any] | None = None,
) -> str:
    """The conversation as one string; arguments as for `pieces`."""
    return "".join(piece.text for piece in pieces(messages, add_generation_prompt, thinking, tools))


def pieces(
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    thinking: bool | None = None,
    tools: Sequence[Any] | None = None,
    learn_from: int = 0,
) -> Iterator[Piece]:
    """Render a conversation.

    Reasoning (`reasoning_content`) is shown from the last user message on and dropped before it. An empty
    string is an empty block of thought, as a prompt with `thinking=False` begins with; None or no key is no
    block. What follows dropped reasoning up to the next user message is not learnt: it would teach to answer
    without the thought that it came from (see `cut_short`).

    Args:
        messages: role (system, user, assistant, tool), content, and for the assistant reasoning_content and
            tool_calls.
        add_generation_prompt: end with the head of an assistant message for the model to fill.
        thinking: for that head: True opens the block of thought, False closes it empty, None lets the model
            decide.
        tools: JSON-able descriptions of functions, shown in the system message.
        learn_from: what the assistant says before this message is context and not learnt.

    Raises:
        HanlinError: an unknown role, a missing or non-text content, a malformed tool call; the message's
            number is named.
    """
    first = 0
    if tools:
        yield Piece(IM_START, control=True)
        introduction = ""
        if messages and _role(messages[0], 0) == "system":
            introduction = _text(messages[0], 0) + "\n\n"
            first = 1
        listing = "".join("\n" + _json(tool) for tool in tools)
        yield Piece(f"system\n{introduction}{_TOOLS_BEFORE}{listing}{_TOOLS_AFTER}")
        yield from _end()

    roles = [_role(message, index) for index, message in enumerate(messages)]
    last_user = max((index for index, role in enumerate(roles) if role == "user"), default=-1)
    unlearnt = {index for start, end in cut_short(messages) for index in range(start, end)}
    for index in range(first, len(messages)):
        if roles[index] == "assistant":
            yield from _assistant(
                messages[index],
                index,
                show_reasoning=index > last_user,
                learn=index >= learn_from and index not in unlearnt,
            )
        elif roles[index] == "tool":
            follows_tool = index > first and roles[index - 1] == "tool"
            precedes_tool = index + 1 < len(messages) and roles[index + 1] == "tool"
            yield from _tool_result(
                _text(messages[index], index), opens=not follows_tool, closes=not precedes_tool
            )
        else:
            yield Piece(IM_START, control=True)
            yield Piece(f"{roles[index]}\n{_text(messages[index], index)}")
            yield from _end()

    if add_generation_prompt:
        yield Piece(IM_START, control=True)
        yield Piece("assistant\n")
        if thinking is not None:
            yield Piece(THINK, control=True)
            yield Piece("\n" if thinking else "\n\n")
        if thinking is False:
            yield Piece(END_THINK, control=True)
            yield Piece("\n")


def cut_short(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """The rounds (what lies between two user messages; first message, end) of which a rendering of the whole
    drops reasoning.

    `messages[:end]` shows a round's reasoning, as the model had it when it answered: with `learn_from` at
    its first message, that is what to learn the round from.
    """
    roles = [_role(message, index) for index, message in enumerate(messages)]
    users = [index for index, role in enumerate(roles) if role == "user"]
    rounds = zip([0, *(index + 1 for index in users[:-1])], users, strict=True) if users else ()
    return [
        (start, end)
        for start, end in rounds
        if any(
            roles[index] == "assistant" and messages[index].get("reasoning_content") is not None
            for index in range(start, end)
        )
    ]


def _assistant(message: Message, index: int, show_reasoning: bool, learn: bool) -> Iterator[Piece]:
    """Pieces end where a generation prompt may end, so that a prompt's tokens are the head of the whole
    conversation's.

    One newline follows a block of thought and not two: a run of white space gives its last character to what
    follows it, so that the ids of two would hang on whether the answer is there already.
    """
    yield Piece(IM_START, control=True)
    yield Piece("assistant\n")
    reasoning = message.get("reasoning_content")
    if reasoning is not None and not isinstance(reasoning, str):
        raise _malformed(index, Text("reasoning_content should be text"))
    if show_reasoning and reasoning is not None:
        yield Piece(THINK, control=True, learn=learn)
        if reasoning:
            yield Piece("\n", learn=learn)
            yield Piece(f"{reasoning}\n", learn=learn)
        else:
            yield Piece("\n\n", learn=learn)
        yield Piece(END_THINK, control=True, learn=learn)
        yield Piece("\n", learn=learn)
    calls = message.get("tool_calls") or []
    content = _text(message, index, optional=bool(calls))
    if content:
        yield Piece(content, learn=learn)
    for number, call in enumerate(calls):
        if number or content:
            yield Piece("\n", learn=learn)
        yield Piece(TOOL_CALL, control=True, learn=learn)
        yield Piece(f"\n{_call_json(call, index)}\n", learn=learn)
        yield Piece(END_TOOL_CALL, control=True, learn=learn)
    yield from _end(learn=learn)


def _tool_result(content: str, opens: bool, closes: bool) -> Iterator[Piece]:
    """Results of one turn's calls share one user message."""
    if opens:
        yield Piece(IM_START, control=True)
    yield Piece("user\n" if opens else "\n")
    yield Piece(TOOL_RESPONSE, control=True)
    yield Piece(f"\n{content}\n")
    yield Piece(END_TOOL_RESPONSE, control=True)
    if closes:
        yield from _end()


def _end(learn: bool = False) -> Iterator[Piece]:
    yield Piece(IM_END, control=True, learn=learn)
    yield Piece("\n")


def _role(message: Message, index: int) -> str:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in ROLES:
        raise _malformed(
            index, Text("role is {role!r}, should be one of {roles}", role=role, roles=listing(ROLES))
        )
    return role


def _text(message: Message, index: int, optional: bool = False) -> str:
    content = message.get("content")
    if content is None and optional:
        return ""
    if not isinstance(content, str):
        raise _malformed(index, Text("content should be text, not {type}", type=type(content).__name__))
    return content


def _call_json(call: Any, index: int) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if (
        not isinstance(function, Mapping)
        or not isinstance(function.get("name"), str)
        or "arguments" not in function
    ):
        raise _malformed(index, Text("each of tool_calls needs name and arguments"))
    arguments = function["arguments"]
    shown = arguments if isinstance(arguments, str) else _json(arguments)
    return f'{{"name": {_json(function["name"])}, "arguments": {shown}}}'


def _json(value: Any) -> str:
    """As the `tojson` filter of the Jinja template writes it in transformers."""
    return json.dumps(value, ensure_ascii=False)


def _malformed(index: int, fault: Text) -> HanlinError:
    return HanlinError("Message {index} is malformed: {fault}.", index=index + 1, fault=fault)


def _quote(text: str) -> str:
    """A Jinja string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _template() -> str:
    """The Jinja twin of `pieces`."""
    return f"""{{%- macro call_json(call) %}}
    {{%- set function = call.function if call.function is defined else call %}}
    {{{{- '{{"name": ' + (function.name | tojson) + ', "arguments": ' }}}}
    {{{{- function.arguments if function.arguments is string else function.arguments | tojson }}}}
    {{{{- '}}' }}}}
{{%- endmacro %}}
{{%- set state = namespace(first=0, last_user=-1) %}}
{{%- if tools %}}
    {{{{- '{IM_START}system\\n' }}}}
    {{%- if messages and messages[0].role == 'system' and messages[0].content is not string %}}
        {{{{- raise_exception('content should be text') }}}}
    {{%- endif %}}
    {{%- if messages and messages[0].role == 'system' %}}
        {{{{- messages[0].content + '\\n\\n' }}}}
        {{%- set state.first = 1 %}}
    {{%- endif %}}
    {{{{- {_quote(_TOOLS_BEFORE)} }}}}
    {{%- for tool in tools %}}
        {{{{- '\\n' + (tool | tojson) }}}}
    {{%- endfor %}}
    {{{{- {_quote(_TOOLS_AFTER)} + '{IM_END}\\n' }}}}
{{%- endif %}}
{{%- for message in messages %}}
    {{%- if message.role == 'user' %}}
        {{%- set state.last_user = loop.index0 %}}
    {{%- endif %}}
{{%- endfor %}}
{{%- for message in messages %}}
    {{%- if loop.index0 >= state.first %}}
        {{%- if message.content is not string and (message.content is defined and message.content is not none\
 or not message.tool_calls) %}}
            {{{{- raise_exception('content should be text') }}}}
        {{%- endif %}}
        {{%- if message.reasoning_content is defined and message.reasoning_content is not none\
 and message.reasoning_content is not string %}}
            {{{{- raise_exception('reasoning_content should be text') }}}}
        {{%- endif %}}
        {{%- set content = message.content if message.content is string else '' %}}
        {{%- if message.role == 'assistant' %}}
            {{{{- '{IM_START}assistant\\n' }}}}
            {{%- if loop.index0 > state.last_user and message.reasoning_content is string %}}
                {{{{- '{THINK}\\n' + message.reasoning_content + '\\n{END_THINK}\\n' }}}}
            {{%- endif %}}
            {{{{- content }}}}
            {{%- if message.tool_calls %}}
                {{%- for call in message.tool_calls %}}
                    {{%- if content or not loop.first %}}
                        {{{{- '\\n' }}}}
                    {{%- endif %}}
                    {{{{- '{TOOL_CALL}\\n' + call_json(call) + '\\n{END_TOOL_CALL}' }}}}
                {{%- endfor %}}
            {{%- endif %}}
            {{{{- '{IM_END}\\n' }}}}
        {{%- elif message.role == 'tool' %}}
            {{%- if loop.index0 > state.first and messages[loop.index0 - 1].role == 'tool' %}}
                {{{{- '\\n' }}}}
            {{%- else %}}
                {{{{- '{IM_START}user\\n' }}}}
            {{%- endif %}}
            {{{{- '{TOOL_RESPONSE}\\n' + content + '\\n{END_TOOL_RESPONSE}' }}}}
            {{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}}
                {{{{- '{IM_END}\\n' }}}}
            {{%- endif %}}
        {{%- elif message.role == 'user' or message.role == 'system' %}}
            {{{{- '{IM_START}' + message.role + '\\n' + content + '{IM_END}\\n' }}}}
        {{%- else %}}
            {{{{- raise_exception('unknown role: ' + message.role) }}}}
        {{%- endif %}}
    {{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
    {{{{- '{IM_START}assistant\\n' }}}}
    {{%- if enable_thinking is defined and enable_thinking is true %}}
        {{{{- '{THINK}\\n' }}}}
    {{%- elif enable_thinking is defined and enable_thinking is false %}}
        {{{{- '{THINK}\\n\\n{END_THINK}\\n' }}}}
    {{%- endif %}}
{{%- endif %}}
"""


CHAT_TEMPLATE = _template()


def prompt_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages before the last assistant turn."""
    messages = record["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages
