"""From tokens to text as they arrive: whole characters only, reasoning apart from the answer, stop strings
cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

Channel = Literal["reasoning", "content"]

_REPLACEMENT = "\ufffd"


class Decodes(Protocol):
    """What this file needs of a tokenizer."""

    special: dict[str, int]
    think_id: int
    end_think_id: int

    @property
    def vocab_size(self) -> int: ...

    def decode(self, ids: list[int], special: bool = True) -> str: ...


class IncrementalDecoder:
    """Text of a growing list of tokens; a character split over tokens appears when its last byte does.

    The pieces of `push` and `finish` joined are exactly `tokenizer.decode` of all the ids.
    """

    def __init__(self, tokenizer: Decodes):
        self._tokenizer = tokenizer
        self._pending: list[int] = []
        self._given = 0  # characters of the pending tokens' text already returned

    def push(self, token: int) -> str:
        """The characters that `token` completes."""
        self._pending.append(token)
        text = self._tokenizer.decode(self._pending)
        if not text.endswith(_REPLACEMENT):
            piece = text[self._given :]
            self._pending, self._given = [], 0
            return piece
        # Only the last character can still change: an unfinished one decodes to exactly one replacement
        # character.
        piece = text[self._given : -1]
        self._given = max(self._given, len(text) - 1)
        self._shorten(text)
        return piece

    def finish(self) -> str:
        """What is left at the end; an unfinished character becomes U+FFFD."""
        piece = self._tokenizer.decode(self._pending)[self._given :] if self._pending else ""
        self._pending, self._given = [], 0
        return piece

    def _shorten(self, text: str) -> None:
        """Forget pending tokens before a point where the bytes separate, so that rubbish costs no quadratic
        time."""
        if len(self._pending) <= 8:
            return
        head = self._tokenizer.decode(self._pending[:-4])
        if head + self._tokenizer.decode(self._pending[-4:]) == text and len(head) <= self._given:
            self._pending = self._pending[-4:]
            self._given -= len(head)


class ReplyParser:
    """Splits a reply into reasoning (between <think> and </think>) and content, as its tokens arrive.

    The switch is made by token ids, so a model that spells "<think>" in ordinary tokens stays in its
    channel. Line breaks that belong to the template are dropped: those around the reasoning, and those
    between it and the answer. Control tokens never become text.

    Args:
        reasoning: the prompt ended inside an open <think>.
        keep_tags: everything is content, with the tags spelt out.

    Attributes:
        channel: where the next ordinary token's text goes.
        reasoning_tokens: how many tokens the reasoning took, its closing tag included.
    """

    def __init__(self, tokenizer: Decodes, *, reasoning: bool = False, keep_tags: bool = False):
        self.reasoning_tokens = 0
        self._tokenizer = tokenizer
        self._control = frozenset(tokenizer.special.values())
        self._keep_tags = keep_tags
        self._decoder = IncrementalDecoder(tokenizer)
        self.channel: Channel = "content"
        self._strip = False  # at the start of a section that the template opens with line breaks
        self._held = ""  # line breaks at the end of the reasoning, perhaps the template's
        self._opening: list[tuple[Channel, str]] = []
        if reasoning:
            if keep_tags:
                self._opening.append(("content", "<think>\n"))
            else:
                self._switch("reasoning")

    def push(self, token: int) -> list[tuple[Channel, str]]:
        """The pieces of text that `token` completes."""
        pieces = self._opening
        self._opening = []
        if self.channel == "reasoning":
            self.reasoning_tokens += 1
        if token not in self._control:
            if token >= self._tokenizer.vocab_size:  # a row of a padded embedding, which no text has
                return pieces
            return pieces + self._emit(self._decoder.push(token))
        if token not in (self._tokenizer.think_id, self._tokenizer.end_think_id):
            return pieces
        pieces += self._emit(self._decoder.finish())
        if self._keep_tags:
            return [*pieces, ("content", self._tokenizer.decode([token]))]
        self._switch("reasoning" if token == self._tokenizer.think_id else "content")
        return pieces

    def finish(self) -> list[tuple[Channel, str]]:
        """What is left at the end."""
        pieces = self._opening + self._emit(self._decoder.finish())
        self._opening = []
        return pieces

    def _switch(self, channel: Channel) -> None:
        self.channel, self._strip, self._held = channel, True, ""

    def _emit(self, text: str) -> list[tuple[Channel, str]]:
        if self._strip:
            text = text.lstrip("\n")
            if text:
                self._strip = False
        if self.channel == "reasoning":
            text = self._held + text
            kept = text.rstrip("\n")
            self._held = text[len(kept) :]
            text = kept
        return [(self.channel, text)] if text else []


class StopStrings:
    """Passes text through until one of the stop strings appears; never lets the beginning of one slip out.

    Attributes:
        hit: a stop string was found; everything from it on is swallowed.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The part of the text so far that can be shown."""
        if self.hit:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held


def split_reply(tokenizer: Decodes, ids: Sequence[int], *, reasoning: bool = False) -> tuple[str, str]:
    """(reasoning, content) of a finished reply's token ids.

    Args:
        reasoning: the prompt ended inside an open <think>.
    """
    parser = ReplyParser(tokenizer, reasoning=reasoning)
    parts: dict[str, list[str]] = {"reasoning": [], "content": []}
    for token in ids:
        for channel, text in parser.push(token):
            parts[channel].append(text)
    for channel, text in parser.finish():
        parts[channel].append(text)
    return "".join(parts["reasoning"]), "".join(parts["content"])


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next(
        (size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0
    )
