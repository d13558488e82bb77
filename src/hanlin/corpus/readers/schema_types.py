"""The house's three schemas, and one chat message of whatever dialect a data set speaks.

Roles are `role` or `from`, contents `content`, `value`, a list of typed parts, or nothing but text whose
position tells the role.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from hanlin.common.messages import tr
from hanlin.corpus.readers.files import DEFAULT_LIMITS
from hanlin.corpus.text.structure import too_complex

if TYPE_CHECKING:
    from typing_extensions import LiteralString

_THINK = re.compile(r"^\s*<think>(.*?)</think>\s*", re.S)
_ROLES = {
    **dict.fromkeys(("user", "human", "client", "q", "问", "usr"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "bot", "model", "counselor", "chatgpt", "bing", "bard", "答", "sys"), "assistant"
    ),
    **dict.fromkeys(("tool", "observation", "function", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
    **dict.fromkeys(("system", "developer"), "system"),
}


class _Text(TypedDict):
    text: str


class Document(_Text, total=False):
    """`text`, and `source`: the name its figures are reported under."""

    source: str


class _Messages(TypedDict):
    messages: list[dict[str, Any]]


class Conversation(_Messages, total=False):
    """`messages` of `role` (system, user, assistant, tool), `content`, and for the assistant maybe
    `reasoning_content`, `tool_calls`."""

    tools: list[Any]
    source: str
    answer: Any  # what a verifiable reward compares with


class _Pair(TypedDict):
    prompt: list[dict[str, Any]]
    chosen: dict[str, Any]
    rejected: dict[str, Any]


class Preference(_Pair, total=False):
    """`prompt` (messages), and two assistant messages: `chosen` is better than `rejected`."""

    source: str


class _Labelled(TypedDict):
    prompt: list[dict[str, Any]]
    completion: dict[str, Any]
    label: bool


class Labelled(_Labelled, total=False):
    """`prompt` (messages), one assistant message, and whether it is good: a preference without a pair."""

    source: str


class BadRecord(ValueError):
    """A record of a known layout that cannot be used; the message says why."""

    def __init__(self, template: LiteralString, /, **fields: Any):
        super().__init__(tr(template, **fields))


def text_of(value: Any, *, empty: bool = False) -> str:
    """A value that must be text; lone surrogates (half an emoji, cut by somebody) become U+FFFD."""
    if not isinstance(value, str):
        raise BadRecord("{type} where text belongs", type=type(value).__name__)
    if not empty and not value.strip():
        raise BadRecord("empty text")
    try:
        value.encode()
    except UnicodeEncodeError:
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def answer(content: Any, reasoning: Any = None) -> dict[str, Any]:
    """An assistant message; a leading `<think>…</think>` in the content becomes `reasoning_content`."""
    content = text_of(content, empty=True)
    if isinstance(reasoning, str) and reasoning.strip():
        return {
            "role": "assistant",
            "content": content.strip(),
            "reasoning_content": text_of(reasoning).strip(),
        }
    thought = _THINK.match(content)
    if thought:
        rest = content[thought.end() :].strip()
        return {"role": "assistant", "content": rest} | (
            {"reasoning_content": thought[1].strip()} if thought[1].strip() else {}
        )
    return {"role": "assistant", "content": content}


def question(*parts: Any) -> dict[str, Any]:
    """A user message of the parts that are there, a line each."""
    return {
        "role": "user",
        "content": text_of(
            "\n".join(text_of(part, empty=True) for part in parts if part is not None and part != "")
        ),
    }


def unquoted(value: Any) -> Any:
    """Tools and tool calls are often JSON inside a string."""
    if not isinstance(value, str) or too_complex(value, DEFAULT_LIMITS.record_values):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def message(item: Any, position: int = 0) -> dict[str, Any]:
    """One message of any dialect: role/content, from/value, typed content parts, or content alone (role by
    position)."""
    if isinstance(item, str):
        item = {"content": item}
    if not isinstance(item, Mapping):
        raise BadRecord("a message is a {type}", type=type(item).__name__)
    name = item.get("role") or item.get("from") or ("assistant" if position % 2 else "user")
    role = _ROLES.get(str(name).lower())
    if role is None:
        raise BadRecord("unknown role {name!r}", name=name)
    content = next(
        (item[key] for key in ("content", "value", "message", "text") if item.get(key) is not None), ""
    )
    reasoning, calls = item.get("reasoning_content"), unquoted(item.get("tool_calls"))
    if isinstance(content, list):
        parts: dict[str, list[Any]] = {}
        for part in content:
            part = part if isinstance(part, Mapping) else {"type": "text", "text": part}
            parts.setdefault(str(part.get("type", "text")), []).append(
                part.get("value", part.get("text", ""))
            )
        unknown = set(parts) - {"text", "reasoning", "tool_call"}
        if unknown:
            raise BadRecord("unsupported content parts {unknown}", unknown=sorted(unknown))
        content = "".join(parts.get("text", []))
        reasoning = reasoning or "".join(parts.get("reasoning", []))
        calls = calls or [unquoted(call) for call in parts.get("tool_call", [])]
    if role == "function_call":
        call = unquoted(content)
        return {"role": "assistant", "content": "", "tool_calls": call if isinstance(call, list) else [call]}
    if role != "assistant":
        return {"role": role, "content": text_of(content, empty=True)}
    return answer(content, reasoning) | ({"tool_calls": calls} if calls else {})


def is_message(record: Any) -> bool:
    """Whether a JSON value is one chat message, so that an array of such is one conversation."""
    return (
        isinstance(record, Mapping)
        and bool({"role", "from"} & record.keys())
        and bool({"content", "value"} & record.keys())
    )
