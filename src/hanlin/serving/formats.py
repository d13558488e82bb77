"""Responses in OpenAI's shapes (field names and required fields as the official client's models have
them)."""

from __future__ import annotations

import functools
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
                "top_logprobs": [entry(id_, logprob) for id_, logprob in token.top if known(id_)],
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


def text_logprobs(tokenizer: Tokenizer, tokens: list[Token], offset: int) -> dict[str, Any]:
    """`choices[].logprobs` of a text completion; `offset` is where the first token's text begins.

    A token whose log-probability is NaN (the first of an echoed prompt) gets null.
    """
    spell = functools.cache(lambda id_: tokenizer.decode([id_]))
    spelt = [spell(token.id) for token in tokens]
    offsets = []
    for piece in spelt:
        offsets.append(offset)
        offset += len(piece)
    none = [token.logprob != token.logprob for token in tokens]
    return {
        "tokens": spelt,
        "token_logprobs": [
            None if missing else token.logprob for missing, token in zip(none, tokens, strict=True)
        ],
        "top_logprobs": [
            None
            if missing
            else {spell(id_): logprob for id_, logprob in token.top if id_ < tokenizer.vocab_size}
            for missing, token in zip(none, tokens, strict=True)
        ],
        "text_offset": offsets,
    }
