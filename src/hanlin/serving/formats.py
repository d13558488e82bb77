"""Responses in OpenAI's shapes (field names and required fields as the official client's models have
them)."""

from __future__ import annotations

import codecs
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hanlin.serving.response_stream import ChunkDelta, Token

if TYPE_CHECKING:
    from hanlin.tokenizer import Tokenizer


def chat_logprobs(tokenizer: Tokenizer, tokens: list[Token]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion."""

    @functools.cache
    def spell(token: int) -> tuple[str, list[int]]:
        spelt = tokenizer.decode_bytes([token])
        return spelt.decode("utf-8", "replace"), list(spelt)

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text, spelt = spell(token)
        return {"token": text, "logprob": logprob, "bytes": spelt}

    def known(token: int) -> bool:
        return token < tokenizer.vocab_size

    return {
        "content": [
            {
                **entry(token.id, token.logprob),
                "top_logprobs": [
                    entry(id_, logprob)
                    for id_, logprob in zip(token.top_ids, token.top_logprobs, strict=True)
                    if known(id_)
                ],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def chat_choice(
    tokenizer: Tokenizer, delta: ChunkDelta, *, key: str, logprobs: bool, role: bool = False
) -> dict[str, Any]:
    """One choice, whole (`key` "message") or new text only ("delta").

    Reasoning goes out under both names in use, `reasoning_content` (DeepSeek) and `reasoning` (vLLM since
    2026).
    """
    message: dict[str, Any] = {"role": "assistant"} if role else {}
    if key == "message" or delta.content or role:
        message["content"] = delta.content
    if delta.reasoning:
        message["reasoning_content"] = message["reasoning"] = delta.reasoning
    return {
        "index": delta.choice,
        key: message,
        "logprobs": chat_logprobs(tokenizer, delta.tokens) if logprobs else None,
        "finish_reason": delta.finish_reason,
    }


class TextLogprobs:
    """Writes `choices[].logprobs` of one choice of a text completion, piece by piece.

    `tokens` and the keys of `top_logprobs` are the `token_names`. `text_offset` is where each token's text
    begins, in characters (Unicode code points) of the choice's text: as many as were complete before it.
    Tokens that are parts of one character thus share an offset, and a token without text has the next
    one's. The token that completes a stop string, and those before it that began the string, point at or
    behind the end of the text, which is cut there.
    """

    def __init__(self, tokenizer: Tokenizer, names: Sequence[str]):
        self._names = names
        self._spell = functools.cache(lambda token: tokenizer.decode_bytes([token]))
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def __call__(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """The object for the next tokens; null where there is no log-probability (NaN)."""
        offsets = []
        for token in tokens:
            offsets.append(self._characters)
            if token.in_text:
                self._characters += len(self._utf8.decode(self._spell(token.id)))
        names = self._names
        none = [math.isnan(token.logprob) for token in tokens]
        return {
            "tokens": [names[token.id] for token in tokens],
            "token_logprobs": [
                None if missing else token.logprob for missing, token in zip(none, tokens, strict=True)
            ],
            "top_logprobs": [
                None
                if missing
                else dict(zip([names[id_] for id_ in token.top_ids], token.top_logprobs, strict=True))
                for missing, token in zip(none, tokens, strict=True)
            ],
            "text_offset": offsets,
        }


def token_names(tokenizer: Tokenizer, size: int) -> list[str]:
    """A name for each of `size` ids, no two alike, the same whenever the vocabulary is.

    A token is called as it is spelt; one that is no UTF-8 by itself `bytes:\\xe4\\xb8`, as OpenAI writes it;
    an id beyond the tokenizer, which only a padded embedding has, `token_id:N`. Where a lower id is already
    called that, `#` and the id follow, again until the name is free.
    """
    names: list[str] = []
    taken: set[str] = set()
    for token in range(size):
        name = f"token_id:{token}"
        if token < tokenizer.vocab_size:
            spelt = tokenizer.decode_bytes([token])
            try:
                name = spelt.decode()
            except UnicodeDecodeError:
                name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)
        while name in taken:
            name += f"#{token}"
        taken.add(name)
        names.append(name)
    return names
