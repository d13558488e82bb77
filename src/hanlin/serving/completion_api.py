"""`POST /v1/completions`: plain continuation, with the echo and log-probabilities that evaluation harnesses score with."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.requests import Request

from .errors import invalid
from .formats import text_logprobs
from .run import Choice, Delta, Run, Token
from .schemas import CompletionRequest
from .service import Service, collect, stop_strings
from .stream import EventStream

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_CHOICES = 64


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
    choices = [Choice(i, service.tokenizer, stop_strings(body), chat=False, reasoning=False, keep_tags=False) for i in range(len(prompts))]
    echoes = [await _echo(service, body, prompt) for prompt in distinct for _ in range(count)] if body.echo else []
    run = service.start(body, requests, choices)
    usage = functools.partial(run.usage, sum(map(len, distinct)))
    if body.stream:
        return EventStream(_chunks(service, run, body, echoes, usage), run.close)
    whole = await collect(run, request)
    if whole is None:
        return Response(status_code=499)
    for echo, delta in zip(echoes, whole, strict=False):
        delta.content = echo.content + delta.content
        delta.tokens = echo.tokens + delta.tokens
    answers = [_choice(service, body, delta, 0) for delta in whole]
    return JSONResponse({**service.head("cmpl", "text_completion"), "choices": answers, "usage": usage()})


def prompts_of(service: Service, body: CompletionRequest) -> list[list[int]]:
    """The prompts as token ids. Text never becomes a control token; ids are taken as they are."""
    given: list[Any] = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if isinstance(given[0], int):
        given = [given]
    size = service.engine.model.config.vocab_size
    prompts = []
    for prompt in given:
        if isinstance(prompt, list) and max(prompt) >= size:
            raise invalid(f"prompt has a token id beyond the vocabulary of {size}.", "prompt")
        prompts.append(prompt if isinstance(prompt, list) else service.tokenizer.encode(prompt) or [service.tokenizer.eos_id])
    return prompts


async def _echo(service: Service, body: CompletionRequest, prompt: list[int]) -> Delta:
    """The prompt as the beginning of its answer, scored if log-probabilities are wanted."""
    known = [token for token in prompt if token < service.tokenizer.vocab_size]
    delta = Delta(0, content=service.tokenizer.decode(known))
    if body.logprobs is not None and len(known) == len(prompt):
        own, top = await service.worker.call(functools.partial(service.engine.score, prompt, body.logprobs))
        pairs = [tuple(pairs) for pairs in top] or [()] * len(own)
        delta.tokens = [Token(token, value, best) for token, value, best in zip(prompt, [math.nan, *own], [(), *pairs], strict=True)]
    return delta


def _choice(service: Service, body: CompletionRequest, delta: Delta, offset: int) -> dict[str, Any]:
    logprobs = None if body.logprobs is None else text_logprobs(service.tokenizer, delta.tokens, offset)
    return {"index": delta.choice, "text": delta.content, "logprobs": logprobs, "finish_reason": delta.finish_reason}


async def _chunks(service: Service, run: Run, body: CompletionRequest, echoes: list[Delta], usage: Any) -> AsyncIterator[dict[str, Any]]:
    wanted = body.stream_options is not None and bool(body.stream_options.include_usage)
    head = service.head("cmpl", "text_completion") | ({"usage": None} if wanted else {})
    offsets = [0] * len(run.choices)
    for index, echo in enumerate(echoes):
        echo.choice = index
        yield {**head, "choices": [_choice(service, body, echo, 0)]}
        offsets[index] = len(echo.content)
    async for deltas in run.deltas():
        for delta in deltas:
            if not delta.empty:
                yield {**head, "choices": [_choice(service, body, delta, offsets[delta.choice])]}
                offsets[delta.choice] += len(delta.content)
    if wanted:
        yield {**head, "choices": [], "usage": usage()}
