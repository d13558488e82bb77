"""`POST /v1/completions`: plain continuation, with the echo and log-probabilities that evaluation harnesses
score with."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi.responses import Response
from starlette.requests import Request

from hanlin.inference import encode_prompt
from hanlin.serving.errors import invalid
from hanlin.serving.formats import TextLogprobs
from hanlin.serving.response_stream import Choice, ChunkDelta, ResponseStream
from hanlin.serving.schemas import CompletionRequest
from hanlin.serving.service import Service, collect, stop_strings
from hanlin.serving.stream import EventStream, json_response

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_CHOICES = 64
SPELT_AT_ONCE = 1024  # tokens


async def completions(service: Service, body: CompletionRequest, request: Request) -> Response:
    """Continue one prompt or several; choice i of prompt p has index p * n + i."""
    service.check_request(body)
    count = body.n or 1
    if body.suffix:
        raise invalid("suffix is not supported.", "suffix", "not_supported")
    if body.best_of not in (None, count):
        raise invalid("best_of other than n is not supported.", "best_of", "not_supported")
    distinct = prompts_of(service, body)
    prompts = [prompt for prompt in distinct for _ in range(count)]
    if len(prompts) > MAX_CHOICES:
        raise invalid(f"At most {MAX_CHOICES} choices per request.", "n")
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    asked = {"logprobs": body.logprobs is not None, "top_logprobs": body.logprobs or 0}
    requests = [(prompt, service.params(body, prompt, limit, **asked)) for prompt in prompts]
    choices = [
        Choice(i, service.tokenizer, stop_strings(body), chat=False, echo=prompt if body.echo else None)
        for i, prompt in enumerate(prompts)
    ]
    scored = (
        dict.fromkeys(range(len(prompts)), body.logprobs) if body.echo and body.logprobs is not None else {}
    )
    response = service.start(body, requests, choices, scored)
    usage = functools.partial(response.usage, sum(map(len, distinct)))
    if body.stream:
        return EventStream(_chunks(service, response, body, usage), response.close)
    whole = await collect(response, request)
    if whole is None:
        return Response(status_code=499)
    answers: list[dict[str, Any]] = []
    for group in _groups(whole):
        answers += await asyncio.to_thread(
            lambda group=group: [_choice(service, body, delta) for delta in group]
        )
    return await json_response(
        {**service.head("cmpl", "text_completion", body), "choices": answers, "usage": usage()}
    )


def prompts_of(service: Service, body: CompletionRequest) -> list[list[int]]:
    """The prompts as token ids. Text never becomes a control token, and is read as the beginning of a
    document, after the model's start token where it has one; ids are taken as they are."""
    given: list[Any] = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if isinstance(given[0], int):
        given = [given]
    size = service.engine.model.config.vocab_size
    prompts = []
    for prompt in given:
        if isinstance(prompt, list) and max(prompt) >= size:
            raise invalid(f"prompt has a token id beyond the vocabulary of {size}.", "prompt")
        bos_id = service.engine.model.config.bos_token_id
        prompts.append(
            prompt if isinstance(prompt, list) else encode_prompt(service.tokenizer, prompt, bos_id=bos_id)
        )
    return prompts


def _groups(deltas: list[ChunkDelta]) -> Iterator[list[ChunkDelta]]:
    """Choices to be spelt in one go, beside the event loop. 64 prompts with 20 alternatives at each token are
    650,000 spellings, between which others must come in; and 64 short ones are not worth 64 changes of
    thread."""
    group: list[ChunkDelta] = []
    tokens = 0
    for delta in deltas:
        group.append(delta)
        tokens += 1 + len(delta.tokens)
        if tokens >= SPELT_AT_ONCE:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def _choice(
    service: Service, body: CompletionRequest, delta: ChunkDelta, logprobs: TextLogprobs | None = None
) -> dict[str, Any]:
    """A choice, or what is new of it; then `logprobs` is what wrote those before."""
    if body.logprobs is not None and logprobs is None:
        logprobs = TextLogprobs(service.tokenizer, service.token_names)
    return {
        "index": delta.choice,
        "text": delta.content,
        "logprobs": None if logprobs is None else logprobs(delta.tokens),
        "finish_reason": delta.finish_reason,
    }


async def _chunks(
    service: Service, response: ResponseStream, body: CompletionRequest, usage: Any
) -> AsyncIterator[dict[str, Any]]:
    wanted = body.stream_options is not None and bool(body.stream_options.include_usage)
    head = service.head("cmpl", "text_completion", body) | ({"usage": None} if wanted else {})
    names = None if body.logprobs is None else await asyncio.to_thread(lambda: service.token_names)
    writers = [None if names is None else TextLogprobs(service.tokenizer, names) for _ in response.choices]
    async for deltas in response.deltas():
        for delta in deltas:
            if not delta.empty:
                choice = await asyncio.to_thread(_choice, service, body, delta, writers[delta.choice])
                yield {**head, "choices": [choice]}
    if wanted:
        yield {**head, "choices": [], "usage": usage()}
