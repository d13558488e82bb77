"""Chat templates of other families: Jinja as transformers runs it, cut into what the template wrote and what
people wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError
from hanlin.tokenizer.chat import Message, Piece

# Stand in for what messages say while the template runs; private use, so that no text has them.
_OPEN, _CLOSE = "\uf5a0", "\uf5a1"
_MARK = re.compile(f"({_OPEN}[0-9]+{_CLOSE})")
# What templates do to what messages say before they write it.
_CHANGES: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: text.strip(),
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
)


class ForeignTemplate:
    """A Jinja chat template.

    Args:
        source: of the template.
        folder: it was found in, for errors.
        named: `eos_token`, `bos_token` and their like, which templates may use.
        control: names of the control tokens.
        ends: names of those that end a turn.
    """

    def __init__(
        self,
        source: str,
        folder: Path,
        named: Mapping[str, Any],
        control: Sequence[str],
        ends: set[str],
    ):
        import jinja2
        import jinja2.ext
        import jinja2.sandbox

        self.folder, self._named, self._ends = folder, named, ends
        names = sorted(control, key=len, reverse=True)
        self._control = re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else "(?!)")
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise self._broken(error) from None

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        thinking: bool | None = None,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """The conversation as one string; arguments as for `hanlin.tokenizer.chat.pieces`.

        Raises:
            HanlinError: the template refuses the messages.
        """
        import jinja2

        chosen = {} if thinking is None else {"enable_thinking": thinking}
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=list(tools) if tools else None,
                **{**self._named, **chosen},
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> HanlinError:
        return HanlinError(
            "The chat template of {folder} cannot take these messages: {error}.",
            folder=self.folder,
            error=str(error).rstrip("."),
        )

    def pieces(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        thinking: bool | None = None,
        tools: Sequence[Any] | None = None,
        learn_from: int = 0,
    ) -> Iterator[Piece]:
        """As `hanlin.tokenizer.chat.pieces`. A turn of the assistant is learnt from behind its head (what
        `add_generation_prompt` would have written) to the token that ends it.

        Raises:
            HanlinError: the template refuses the messages, or changes what they say in a way that is not
                known, so that it cannot be told what may hold control tokens.
        """
        whole = self.render(messages, add_generation_prompt, thinking, tools)
        for change in _CHANGES:
            marked, said = _marked(messages, change)
            text = self.render(marked, add_generation_prompt, thinking, tools)
            if "".join(piece.text for piece in self._cut(text, said, ())) == whole:
                return self._cut(text, said, self._learnt(text, messages, said, learn_from, thinking, tools))
        if any(self._control.search(said) for message in messages for said in _sayings(message).values()):
            raise HanlinError(
                "The chat template of {folder} changes what messages say, and these spell a control token: "
                "which are the template's cannot be told. Take it out of the messages.",
                folder=self.folder,
            )
        return self._cut(whole, {}, self._learnt(whole, messages, {}, learn_from, thinking, tools))

    def _learnt(
        self,
        text: str,
        messages: Sequence[Message],
        said: Mapping[str, tuple[int, str]],
        learn_from: int,
        thinking: bool | None,
        tools: Sequence[Any] | None,
    ) -> list[tuple[int, int]]:
        """Stretches of the text that the assistant is to write."""
        spoken = [at for at, message in enumerate(messages) if message.get("role") == "assistant"]
        if not spoken:
            return []
        head = self._head(messages[: spoken[0]], tools)
        found: list[tuple[int, int]] = []
        place = 0
        for at in spoken:
            begin = text.find(head, place) + len(head) if head else -1
            if not head:
                marks = [mark for mark, (owner, _) in said.items() if owner == at and mark in text]
                begin = min((text.index(mark) for mark in marks), default=-1)
            if begin < max(place, len(head)):
                raise HanlinError(
                    "The chat template of {folder} shows no beginning of the assistant's turns, so what they "
                    "should teach cannot be told.",
                    folder=self.folder,
                )
            end = next(
                (m.end() for m in self._control.finditer(text, begin) if m[0] in self._ends), len(text)
            )
            if at >= learn_from:
                found.append((begin, end))
            place = end
        return found

    def _head(self, before: Sequence[Message], tools: Sequence[Any] | None) -> str:
        """What comes before the assistant's first word."""
        asked = list(before) or [{"role": "user", "content": "?"}]
        plain, opened = (self.render(asked, opens, None, tools) for opens in (False, True))
        return opened[len(plain) :] if opened.startswith(plain) else ""

    def _cut(
        self, text: str, said: Mapping[str, tuple[int, str]], learnt: Sequence[tuple[int, int]]
    ) -> Iterator[Piece]:
        """The text at its marks, its control tokens and the edges of what is learnt."""
        edges = sorted({0, len(text), *(edge for stretch in learnt for edge in stretch)})
        for begin, end in zip(edges, edges[1:], strict=False):
            learn = any(first <= begin < last for first, last in learnt)
            for index, part in enumerate(_MARK.split(text[begin:end])):
                if index % 2:
                    yield Piece(said[part][1], learn=learn)
                    continue
                for place, piece in enumerate(self._control.split(part)):
                    if piece:
                        yield Piece(piece, control=bool(place % 2), learn=learn)


def _sayings(message: Message) -> dict[str, str]:
    """What of a message people or models wrote."""
    return {
        key: message[key]
        for key in ("content", "reasoning_content")
        if isinstance(message.get(key), str) and message[key]
    }


def _marked(
    messages: Sequence[Message], change: Callable[[str], str]
) -> tuple[list[dict[str, Any]], dict[str, tuple[int, str]]]:
    """The messages with a mark for what they say; mark → index of the message and what stands there."""
    said: dict[str, tuple[int, str]] = {}
    marked = []
    for at, message in enumerate(messages):
        copy = dict(message)
        for key, text in _sayings(message).items():
            mark = f"{_OPEN}{len(said)}{_CLOSE}"
            said[mark] = (at, change(text))
            copy[key] = mark
        marked.append(copy)
    return marked, said


def _to_json(value: Any, **settings: Any) -> str:
    """The filter as transformers has it: not escaped for HTML, Chinese as it is."""
    return json.dumps(value, ensure_ascii=False, **{k: v for k, v in settings.items() if k == "indent"})


def _refuse(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    import datetime

    return datetime.datetime.now().strftime(pattern)
