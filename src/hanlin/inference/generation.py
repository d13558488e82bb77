"""One prompt on its way through the engine, and what comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from hanlin.inference.sampling import SamplingParams

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One continuation.

    Attributes:
        ids: the new tokens; the stop token is the last of them when `finish_reason` is "stop".
        logprobs: log-probability of each under the model at temperature 1, if asked for.
        finish_reason: "stop", or "length" when `max_new_tokens` or the context ended it.
    """

    ids: list[int]
    finish_reason: FinishReason
    logprobs: list[float] | None = None


class Generation:
    """One submitted prompt, waiting, running or done; the handle that `Engine.submit` returns.

    Attributes:
        ids, logprobs: the tokens so far when there is an `on_token`, else filled at the end.
        top: per token the most likely (id, log-probability) pairs, if asked for.
        finish_reason: None until done.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        on_token: Callable[[Generation, int], None] | None = None,
        on_finish: Callable[[Generation], None] | None = None,
    ):
        self.prompt = list(prompt)
        self.params = params
        self.on_token = on_token
        self.on_finish = on_finish
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.top: list[list[tuple[int, float]]] = []
        self.finish_reason: FinishReason | None = None
        self.limit = 0
