"""One request from submission to its last token: text per choice, stop strings, reasoning, deadline,
cancellation."""

from __future__ import annotations

import codecs
import dataclasses
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hanlin.inference import PromptScores, ReplyParser, SamplingParams, StopStrings
from hanlin.serving.errors import ApiError
from hanlin.serving.worker import EngineWorker, TokenEvent

if TYPE_CHECKING:
    from hanlin.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Token:
    """A token, for `logprobs`.

    Attributes:
        logprob: NaN for the first token of an echoed prompt, which nothing precedes.
        top_ids, top_logprobs: the most likely tokens in its place.
        in_text: whether its bytes are part of the choice's text.
    """

    id: int
    logprob: float
    top_ids: Sequence[int]
    top_logprobs: Sequence[float]
    in_text: bool = True


@dataclasses.dataclass
class ChunkDelta:
    """What is new about one choice."""

    choice: int
    content: str = ""
    reasoning: str = ""
    tokens: list[Token] = dataclasses.field(default_factory=list)
    finish_reason: str | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.content or self.reasoning or self.tokens or self.finish_reason)


class Choice:
    """The text side of one choice.

    Control tokens of a reply never become text. In a chat the tokens reported for `logprobs` are those that
    spell the content; of a completion every token is, also a control token and what completes a stop string,
    so that they are as many as prompt and reply have.

    Args:
        chat: reasoning is taken apart; otherwise the text is what the tokens spell.
        reasoning: the prompt ended inside an open <think>.
        echo: a prompt whose text is the beginning of the answer's, its control tokens by their names.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        *,
        chat: bool,
        reasoning: bool = False,
        keep_tags: bool = False,
        echo: Sequence[int] | None = None,
    ):
        self.index = index
        self.echo = echo
        self._spell = tokenizer.decode_bytes
        self.completion_tokens = 0
        self.finish_reason: str | None = None
        self.parser = ReplyParser(tokenizer, reasoning=reasoning, keep_tags=keep_tags) if chat else None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopStrings(stops)
        self._control = frozenset(tokenizer.special.values())
        self._vocab_size = tokenizer.vocab_size

    def feed(self, event: TokenEvent) -> ChunkDelta:
        """Turn one event into text."""
        delta = ChunkDelta(self.index)
        if event.scores is not None:
            return self.opening(event.scores)
        if event.finish_reason is not None:
            self._finish(delta, event.finish_reason)
            return delta
        self.completion_tokens += 1
        spelt = event.token < self._vocab_size and event.token not in self._control
        if self.parser is not None:
            self._add(delta, self.parser.push(event.token))
            reported = spelt and self.parser.channel == "content" and not self._stops.hit
        else:
            self._add(delta, [("content", self._utf8.decode(self._spell([event.token])))] if spelt else [])
            reported = True
        if event.logprob is not None and reported:
            top_ids, top_logprobs = zip(*event.top, strict=True) if event.top else ((), ())
            delta.tokens.append(Token(event.token, event.logprob, top_ids, top_logprobs, spelt))
        if self._stops.hit:
            self.finish_reason = delta.finish_reason = "stop"
        return delta

    def opening(self, scores: PromptScores | None = None) -> ChunkDelta:
        """The echoed prompt; with its scores, if there are any, as the first tokens. The first of all has no
        log-probability."""
        ids = self.echo or ()
        known = [token < self._vocab_size for token in ids]
        spelt = self._spell([token for token, inside in zip(ids, known, strict=True) if inside])
        delta = ChunkDelta(self.index, content=self._utf8.decode(spelt))
        if scores is not None:
            logprobs = [math.nan, *scores.logprobs]
            top = zip([(), *scores.top_ids], [(), *scores.top_logprobs], strict=True)
            delta.tokens = [
                Token(token, logprob, *likeliest, inside)
                for token, logprob, likeliest, inside in zip(ids, logprobs, top, known, strict=True)
            ]
        return delta

    def _finish(self, delta: ChunkDelta, reason: str) -> None:
        if self.parser is not None:
            self._add(delta, self.parser.finish())
        else:
            self._add(delta, [("content", self._utf8.decode(b"", final=True))])
        delta.content += self._stops.finish()
        self.finish_reason = delta.finish_reason = "stop" if self._stops.hit else reason

    def _add(self, delta: ChunkDelta, pieces: Sequence[tuple[str, str]]) -> None:
        for channel, text in pieces:
            if channel == "content":
                delta.content += self._stops.push(text)
            else:
                delta.reasoning += text


class ResponseStream:
    """One request in flight. Iterate over its deltas, then `close` it; closing early cancels what still runs.

    Args:
        model, scored: see `EngineWorker.submit`.

    Raises (while iterating):
        ApiError: the engine failed, or the deadline passed.
    """

    def __init__(
        self,
        worker: EngineWorker,
        model: str,
        requests: list[tuple[list[int], SamplingParams]],
        choices: list[Choice],
        timeout: float,
        scored: Mapping[int, int] | None = None,
    ):
        self.choices = choices
        self._worker = worker
        self._scored = scored or {}
        self._handle = worker.submit(model, requests, scored)
        # The deadline is an event like any other: `asyncio.wait_for` before Python 3.12 can lose a
        # cancellation that comes with one.
        self._timer = self._handle.loop.call_later(
            timeout, self._handle.events.put_nowait, TokenEvent(0, finish_reason="timeout")
        )

    async def deltas(self) -> AsyncIterator[list[ChunkDelta]]:
        """What is new, as often as the reader comes back for it: a slow reader gets larger pieces, not a
        longer queue."""
        echoes = [
            choice.opening()
            for choice in self.choices
            if choice.echo is not None and choice.index not in self._scored
        ]
        if echoes:
            yield echoes
        while any(choice.finish_reason is None for choice in self.choices):
            events = [await self._handle.events.get()]
            while not self._handle.events.empty():
                events.append(self._handle.events.get_nowait())
            merged: dict[int, ChunkDelta] = {}
            for event in events:
                if event.finish_reason == "timeout":
                    raise ApiError(503, "The request took too long.", code="timeout")
                choice = self.choices[event.choice]
                if choice.finish_reason is not None:
                    continue
                if event.finish_reason in ("error", "cancelled"):
                    status, message = (
                        (500, "Generation failed.")
                        if event.finish_reason == "error"
                        else (503, "The server is shutting down.")
                    )
                    raise ApiError(status, message, code="engine_error")
                delta = choice.feed(event)
                if choice.finish_reason is not None and event.finish_reason is None:
                    self._worker.cancel(self._handle, choice.index)
                merge(merged.setdefault(choice.index, ChunkDelta(choice.index)), delta)
            yield list(merged.values())

    def close(self) -> None:
        """Free the slots of choices that are not finished."""
        self._timer.cancel()
        for choice in self.choices:
            if choice.finish_reason is None:
                self._worker.cancel(self._handle, choice.index)

    def usage(self, prompt_tokens: int) -> dict[str, Any]:
        """OpenAI's usage object, over all choices."""
        completion = sum(choice.completion_tokens for choice in self.choices)
        reasoning = sum(
            choice.parser.reasoning_tokens for choice in self.choices if choice.parser is not None
        )
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": prompt_tokens + completion,
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }


def merge(into: ChunkDelta, new: ChunkDelta) -> None:
    """Append what is new."""
    into.content += new.content
    into.reasoning += new.reasoning
    into.tokens += new.tokens
    into.finish_reason = new.finish_reason or into.finish_reason
