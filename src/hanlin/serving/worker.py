"""The thread that owns the engine: requests go in through a queue, tokens come out on each request's event
loop."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import queue
import threading
from collections.abc import Callable, Mapping

from hanlin.common.errors import HanlinError
from hanlin.inference import Engine, Generation, PromptScores, SamplingParams
from hanlin.inference.generation import FinishReason
from hanlin.serving.errors import ApiError
from hanlin.serving.scoring import Scoring, ScoringQueue

logger = logging.getLogger("hanlin.serving")


@dataclasses.dataclass(frozen=True)
class TokenEvent:
    """What the engine says about one choice of a request: its prompt's scores, a token, or with
    `finish_reason` the end.

    Attributes:
        scores: of the prompt's tokens after the first.
    """

    choice: int
    scores: PromptScores | None = None
    token: int = -1
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: str | None = None


class RequestHandle:
    """One request's choices inside the engine, and the queue their events arrive on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, model: str):
        self.loop = loop
        self.model = model
        self.events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        self.generations: list[Generation] = []


class EngineWorker:
    """Runs an engine on a thread of its own, all requests in one continuous batch; or several engines in
    turns, such as a base and adapters on it.

    Args:
        engines: by the names of their models.
        max_waiting: choices that may wait for a slot, of all engines together; beyond it `submit` refuses.
    """

    def __init__(self, engines: Mapping[str, Engine], max_waiting: int = 64):
        self.engines = dict(engines)
        self.limit = max(engine.max_batch for engine in self.engines.values()) + max_waiting
        self.unfinished = 0
        self.totals = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._outbox: dict[asyncio.AbstractEventLoop, list[tuple[RequestHandle, TokenEvent]]] = {}
        self._scorings = {name: ScoringQueue(engine, self._end) for name, engine in self.engines.items()}
        self._thread: threading.Thread | None = None

    @property
    def active(self) -> int:
        """Choices being generated now."""
        return sum(engine.active for engine in self.engines.values())

    @property
    def alive(self) -> bool:
        """Whether requests are being served."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="hanlin-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End all requests and the thread."""
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join(timeout=30)

    def submit(
        self,
        model: str,
        requests: list[tuple[list[int], SamplingParams]],
        scored: Mapping[int, int] | None = None,
    ) -> RequestHandle:
        """Queue the choices of one request, from a coroutine.

        Args:
            model: name of the engine that answers.
            scored: choices whose prompts are scored before they are continued, and how many of the likeliest
                tokens are wanted at each position. A prompt of several choices is scored once. A choice
                counts as waiting from here to its end.

        Raises:
            ApiError: 429, too many are waiting already; 503, the engine has stopped.
        """
        if not self.alive:
            raise ApiError(503, "The engine has stopped.", code="unavailable")
        with self._lock:
            if self.unfinished + len(requests) > self.limit:
                raise ApiError(
                    429,
                    "Too many requests are waiting; try again shortly.",
                    code="queue_full",
                    headers={"retry-after": "1"},
                )
            self.unfinished += len(requests)
            self.totals["requests"] += 1
            self.totals["prompt_tokens"] += sum(len(prompt) for prompt, _ in requests)
        handle = RequestHandle(asyncio.get_running_loop(), model)
        scorings: dict[tuple[int, ...], Scoring] = {}
        unscored = []
        for choice, (prompt, params) in enumerate(requests):
            generation = self._generation(handle, choice, prompt, params)
            handle.generations.append(generation)
            if scored is None or choice not in scored:
                unscored.append(generation)
                continue
            if tuple(prompt) not in scorings:
                tell = functools.partial(self._tell_scores, handle)
                scorings[tuple(prompt)] = Scoring(prompt, scored[choice], {}, tell)
            scorings[tuple(prompt)].generations[choice] = generation
        self._inbox.put(functools.partial(self._take, model, list(scorings.values()), unscored))
        return handle

    def cancel(self, handle: RequestHandle, choice: int) -> None:
        """End one choice; its slot is free after the engine's current step."""
        engine, generation = self.engines[handle.model], handle.generations[choice]
        self._inbox.put(lambda: engine.cancel(generation))

    def _generation(
        self, handle: RequestHandle, choice: int, prompt: list[int], params: SamplingParams
    ) -> Generation:
        def on_token(generation: Generation, token: int) -> None:
            logprob = generation.logprobs[-1] if params.logprobs else None
            top = tuple(generation.top[-1]) if params.top_logprobs else ()
            self._emit(handle, TokenEvent(choice, token=token, logprob=logprob, top=top))

        def on_finish(generation: Generation) -> None:
            with self._lock:
                self.unfinished -= 1
                self.totals["completion_tokens"] += len(generation.ids)
            self._emit(handle, TokenEvent(choice, finish_reason=generation.finish_reason))

        return Generation(prompt, params, on_token, on_finish)

    def _take(self, model: str, scorings: list[Scoring], generations: list[Generation]) -> None:
        self._scorings[model].add(scorings)
        for generation in generations:
            try:
                self.engines[model].submit(generation)
            except HanlinError:
                self._end(generation, "error")

    def _end(self, generation: Generation, reason: FinishReason) -> None:
        """End a choice that the engine does not have."""
        generation.finish_reason = generation.finish_reason or reason
        assert generation.on_finish is not None
        generation.on_finish(generation)

    def _tell_scores(self, handle: RequestHandle, choice: int, scores: PromptScores) -> None:
        self._emit(handle, TokenEvent(choice, scores))

    def _emit(self, handle: RequestHandle, event: TokenEvent) -> None:
        self._outbox.setdefault(handle.loop, []).append((handle, event))

    def _run(self) -> None:
        busy = False
        while True:
            try:
                message = self._inbox.get_nowait() if busy else self._inbox.get()
                if message is None:
                    break
                message()
                busy = True  # look for more before stepping
                continue
            except queue.Empty:
                pass
            busy = any([self._step(name) for name in self.engines])  # every one takes its turn
            self._deliver()
        for name, engine in self.engines.items():
            self._scorings[name].close()
            engine.abort("cancelled")
        self._deliver()

    def _step(self, model: str) -> bool:
        """A pass over prompts to be scored and a step of one engine; whether it has more to do."""
        engine, scorings = self.engines[model], self._scorings[model]
        scorings.step()
        try:
            return engine.step() or bool(scorings)
        except Exception:
            logger.exception("a generation step failed; its requests end with an error")
            engine.abort("error")
            return bool(scorings)

    def _deliver(self) -> None:
        """Wake each event loop once per step, whatever the number of tokens."""
        outbox, self._outbox = self._outbox, {}
        for loop, events in outbox.items():

            def put(events: list[tuple[RequestHandle, TokenEvent]] = events) -> None:
                for handle, event in events:
                    handle.events.put_nowait(event)

            try:
                loop.call_soon_threadsafe(put)
            except RuntimeError:  # that loop is closed; nobody is listening
                continue
