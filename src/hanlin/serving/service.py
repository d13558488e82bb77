"""What both generating endpoints need: the model's card, sampling settings from a request, collecting a whole
answer."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from hanlin.common.atomic import read_json
from hanlin.inference import SamplingParams, derive_seed
from hanlin.serving.errors import ApiError, invalid
from hanlin.serving.formats import token_names
from hanlin.serving.response_stream import Choice, ChunkDelta, ResponseStream, merge
from hanlin.serving.schemas import Body, ModelBody, SamplingBody
from hanlin.serving.security import LOOPBACK
from hanlin.serving.stream import while_connected
from hanlin.serving.worker import EngineWorker
from hanlin.tokenizer.files import TOKENIZER_CONFIG

if TYPE_CHECKING:
    from hanlin.tokenizer import Tokenizer

logger = logging.getLogger("hanlin.serving")

MOST_TOLD = 256


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an application behaves.

    Attributes:
        model_id: the name clients call the model by.
        api_key: required of every request when set.
        hosts: names accepted in the Host header; None accepts any.
        origins: pages of other origins whose scripts may call the API.
        suggestions: what the chat page offers as first questions, [{"title": {"zh", "en"}, "text": …}]; its
            own when empty.
        max_waiting: choices that may wait for a slot; more are answered with 429.
        request_timeout: seconds from submission to the last token.
        sampling: what a request gets that does not say: temperature, top_p, top_k, min_p, repetition_penalty.
    """

    model_id: str = "hanlin"
    api_key: str | None = None
    hosts: tuple[str, ...] | None = LOOPBACK
    origins: tuple[str, ...] = ()
    suggestions: tuple[Mapping[str, Any], ...] = ()
    max_waiting: int = 64
    request_timeout: float = 600.0
    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Service:
    """One model being served."""

    def __init__(self, worker: EngineWorker, tokenizer: Tokenizer, settings: Settings):
        self.worker = worker
        self.engine = worker.engines[settings.model_id]  # the others have its vocabulary and its positions
        self.tokenizer = tokenizer
        self.settings = settings
        self.created = int(time.time())
        self._told: set[tuple[str, ...]] = set()

    @functools.cached_property
    def token_names(self) -> list[str]:
        """What `logprobs` calls each id of the model."""
        return token_names(self.tokenizer, self.engine.model.config.vocab_size)

    @functools.cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """What tokenizer_config.json says, whose file names stay here.

        Raises:
            HanlinError: there is none, or it is damaged.
        """
        found = read_json(self.tokenizer.path / TOKENIZER_CONFIG)
        return {name: value for name, value in found.items() if name != "name_or_path"}

    def card(self, name: str) -> dict[str, Any]:
        """A model as `/v1/models` lists it; `max_model_len`, and `parent` of an adapter, are extensions that
        vLLM has too."""
        base = self.settings.model_id
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "hanlin",
            "max_model_len": self.engine.max_length,
        } | ({} if name == base else {"parent": base})

    def cards(self) -> list[dict[str, Any]]:
        """All models, the one that answers by default first."""
        return [self.card(name) for name in self.worker.engines]

    def model_of(self, body: ModelBody) -> str:
        """Name of the model that a request is for."""
        return body.model or self.settings.model_id

    def head(self, prefix: str, kind: str, body: ModelBody) -> dict[str, Any]:
        """The fields every response object and chunk begins with."""
        return {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model_of(body),
        }

    def check_model(self, name: str | None) -> None:
        """Raise a 404 for a model that is not served."""
        if name is not None and name not in self.worker.engines:
            known = ", ".join(map(repr, self.worker.engines))
            message = f"The model {name[:100]!r} does not exist; this server has {known}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_request(self, body: SamplingBody) -> None:
        """What is the same for both generating endpoints."""
        self.check_body(body)
        if body.stream_options is not None and not body.stream:
            raise invalid("stream_options needs stream: true.", "stream_options")

    def check_body(self, body: ModelBody) -> None:
        """What is the same for all endpoints; unknown fields are logged by name, never by value."""
        self.check_model(body.model)
        ignored = ignored_fields(body)
        if ignored and ignored not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(ignored)  # once for each set of names, or a client's habit fills the log
            logger.warning("ignored request fields: %s", ", ".join(ignored))

    def params(
        self,
        body: SamplingBody,
        prompt: Sequence[int],
        limit: int | None,
        *,
        logprobs: bool,
        top_logprobs: int,
    ) -> SamplingParams:
        """Sampling settings of a request for one of its prompts.

        Args:
            limit: tokens asked for; as many as the context holds when None.

        Raises:
            ApiError: the prompt does not fit the context, or `logit_bias` names an unknown token.
        """
        room = self.engine.max_length - len(prompt)
        if room < (0 if limit == 0 else 1):
            message = (
                f"This model's context is {self.engine.max_length} tokens; "
                f"the prompt alone has {len(prompt)}."
            )
            raise invalid(
                message, "messages" if hasattr(body, "messages") else "prompt", "context_length_exceeded"
            )
        bias: dict[int, float] = {}
        for key, value in (body.logit_bias or {}).items():
            if not (
                key.isdecimal()
                and key.isascii()
                and len(key) < 10
                and int(key) < self.engine.model.config.vocab_size
            ):
                raise invalid("logit_bias has a key that is no token id.", "logit_bias")
            bias[int(key)] = value
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        given = {name: getattr(body, name) for name in names if getattr(body, name) is not None}
        settings: dict[str, Any] = {**self.settings.sampling, **given}
        settings["top_k"] = max(0, int(settings.get("top_k", 0)))
        return SamplingParams(
            max_new_tokens=room if limit is None else min(limit, room),
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=bias,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            **settings,
        )

    def start(
        self,
        body: SamplingBody,
        requests: list[tuple[list[int], SamplingParams]],
        choices: list[Choice],
        scored: Mapping[int, int] | None = None,
    ) -> ResponseStream:
        """Submit a request's choices, each with its own stream of the request's seed; `scored` as for
        `EngineWorker.submit`."""
        if body.seed is not None:
            requests = [
                (ids, dataclasses.replace(params, seed=derive_seed(body.seed or 0, i)))
                for i, (ids, params) in enumerate(requests)
            ]
        model, timeout = self.model_of(body), self.settings.request_timeout
        return ResponseStream(self.worker, model, requests, choices, timeout, scored)


async def collect(response: ResponseStream, request: Request) -> list[ChunkDelta] | None:
    """The whole answer of every choice; None if the client went away, whereupon the work stops."""
    whole = [ChunkDelta(choice.index) for choice in response.choices]

    async def read() -> None:
        async for deltas in response.deltas():
            for delta in deltas:
                merge(whole[delta.choice], delta)

    try:
        await while_connected(request, read())
    finally:
        response.close()
    return whole if all(delta.finish_reason for delta in whole) else None


def stop_strings(body: SamplingBody) -> list[str]:
    """`stop` as a list."""
    return [body.stop] if isinstance(body.stop, str) else list(body.stop or [])


def ignored_fields(body: Body) -> tuple[str, ...]:
    """Names of fields the schema does not know; what is no plain name is not repeated."""
    return tuple(
        sorted(
            name if re.fullmatch(r"[\w.-]{1,40}", name, re.ASCII) else "?" for name in body.model_extra or {}
        )[:20]
    )
