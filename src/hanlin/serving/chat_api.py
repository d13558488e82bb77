"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import Response
from starlette.requests import Request

from hanlin.common.errors import HanlinError
from hanlin.serving.errors import invalid
from hanlin.serving.formats import chat_choice
from hanlin.serving.response_stream import Choice, ChunkDelta, ResponseStream
from hanlin.serving.schemas import ChatMessage, ChatRequest
from hanlin.serving.service import Service, collect, stop_strings
from hanlin.serving.stream import EventStream, json_response

THINKING_EFFORT = {"none": False, "minimal": False, "low": True, "medium": True, "high": True, "xhigh": True}


async def chat_completions(service: Service, body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    service.check_request(body)
    if body.tools or body.functions or body.tool_choice not in (None, "none", "auto"):
        raise invalid("Tools are not supported.", "tools", "not_supported")
    if body.response_format is not None and body.response_format.type != "text":
        raise invalid("Only response_format text is supported.", "response_format", "not_supported")
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs needs logprobs: true.", "top_logprobs")
    thinking = wants_thinking(body)
    try:
        messages = [template_message(message) for message in body.messages]
        prompt = service.tokenizer.encode_conversation(
            messages, add_generation_prompt=True, thinking=thinking
        )[0]
    except HanlinError as error:
        raise invalid(error.en, "messages") from None
    limit = body.max_completion_tokens or body.max_tokens
    params = service.params(
        body, prompt, limit, logprobs=bool(body.logprobs), top_logprobs=body.top_logprobs or 0
    )
    choices = [
        Choice(
            index,
            service.tokenizer,
            stop_strings(body),
            chat=True,
            reasoning=thinking is True,
            keep_tags=body.separate_reasoning is False,
        )
        for index in range(body.n or 1)
    ]
    response = service.start(body, [(prompt, params)] * len(choices), choices)
    if body.stream:
        return EventStream(_chunks(service, response, body, len(prompt)), response.close)
    whole = await collect(response, request)
    if whole is None:
        return Response(status_code=499)
    spell = functools.partial(
        chat_choice, service.tokenizer, key="message", logprobs=params.logprobs, role=True
    )
    answers = (
        [await asyncio.to_thread(spell, delta) for delta in whole]
        if params.logprobs
        else [spell(delta) for delta in whole]
    )
    return await json_response(
        {
            **service.head("chatcmpl", "chat.completion", body),
            "choices": answers,
            "usage": response.usage(len(prompt)),
        }
    )


def wants_thinking(body: ChatRequest) -> bool | None:
    """Whether a request asks for reasoning, forbids it, or leaves it to the model."""
    options = body.chat_template_kwargs
    if options is not None and options.enable_thinking is not None:
        return options.enable_thinking
    return THINKING_EFFORT[body.reasoning_effort] if body.reasoning_effort else None


def template_message(message: ChatMessage) -> dict[str, Any]:
    """A request's message as the chat template takes it."""
    content = message.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    if content is None and message.role != "assistant":
        raise HanlinError("A {role} message has no content.", role=message.role)
    rendered = {"role": "system" if message.role == "developer" else message.role, "content": content or ""}
    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    if reasoning is not None and message.role == "assistant":
        rendered["reasoning_content"] = reasoning
    return rendered


async def _chunks(
    service: Service, response: ResponseStream, body: ChatRequest, prompt_tokens: int
) -> AsyncIterator[dict[str, Any]]:
    """The stream's chunks: the role of every choice, its text as it comes, its finish reason, the usage if
    asked for."""
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    head = service.head("chatcmpl", "chat.completion.chunk", body) | ({"usage": None} if usage else {})
    for choice in response.choices:
        yield {
            **head,
            "choices": [
                chat_choice(
                    service.tokenizer, ChunkDelta(choice.index), key="delta", logprobs=False, role=True
                )
            ],
        }
    async for deltas in response.deltas():
        for delta in deltas:
            if not delta.empty:
                yield {
                    **head,
                    "choices": [
                        chat_choice(service.tokenizer, delta, key="delta", logprobs=bool(body.logprobs))
                    ],
                }
    if usage:
        yield {**head, "choices": [], "usage": response.usage(prompt_tokens)}
