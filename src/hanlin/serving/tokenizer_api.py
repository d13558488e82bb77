"""`POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, in vLLM's shapes: what evaluation harnesses
use in place of a copy of the tokenizer."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi.responses import Response

from hanlin.common.errors import HanlinError
from hanlin.serving.chat_api import template_message
from hanlin.serving.errors import ApiError, invalid
from hanlin.serving.schemas import DetokenizeRequest, TokenizeRequest
from hanlin.serving.service import Service
from hanlin.serving.stream import json_response


async def tokenize(service: Service, body: TokenizeRequest) -> Response:
    """The token ids of a text, as /v1/completions reads it but for its start token, or of a conversation, as
    /v1/chat/completions does.

    Control tokens in a text are recognised only with `parse_special`; but a text that is the name of one and
    nothing else is that token, since that is how clients look up the ids of `tokenizer_info`'s tokens.
    """
    service.check_body(body)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("Either prompt or messages is needed.", "prompt")
    for name in ("tools", "continue_final_message", "chat_template"):
        if getattr(body, name):
            raise invalid(f"{name} is not supported.", name, "not_supported")
    ids = await asyncio.to_thread(_encode, service, body)
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": service.engine.max_length,
        "tokens": ids,
        "token_strs": None,
    }
    if body.return_token_strs:
        answer["token_strs"] = await asyncio.to_thread(lambda: [service.token_names[token] for token in ids])
    return await json_response(answer)


def _encode(service: Service, body: TokenizeRequest) -> list[int]:
    tokenizer = service.tokenizer
    if body.prompt is not None:
        return tokenizer.encode(
            body.prompt, special=bool(body.parse_special) or body.prompt in tokenizer.special
        )
    options = body.chat_template_kwargs
    try:
        return tokenizer.encode_conversation(
            [template_message(message) for message in body.messages or ()],
            add_generation_prompt=body.add_generation_prompt is not False,
            thinking=None if options is None else options.enable_thinking,
        )[0]
    except HanlinError as error:
        raise invalid(error.en, "messages") from None


async def detokenize(service: Service, body: DetokenizeRequest) -> Response:
    """The text that token ids spell, control tokens by their names; bytes that form no character become
    U+FFFD."""
    service.check_body(body)
    size = service.tokenizer.vocab_size
    if max(body.tokens, default=0) >= size:
        raise invalid(f"tokens has an id beyond the vocabulary of {size}.", "tokens")
    text = await asyncio.to_thread(service.tokenizer.decode, body.tokens)
    return await json_response({"prompt": text})


async def tokenizer_info(service: Service) -> Response:
    """What the tokenizer's tokenizer_config.json says (`eos_token`, `bos_token`, `pad_token`, `chat_template`
    …), so that a client takes what it would take from the files themselves."""
    try:
        return await json_response(await asyncio.to_thread(lambda: service.tokenizer_config))
    except HanlinError:  # whose words name a path of this machine
        message = "This model's tokenizer has no tokenizer_config.json that can be read."
        raise ApiError(404, message, code="not_found") from None
