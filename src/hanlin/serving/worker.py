"""The thread that owns the engine: requests go in through a queue, tokens come out on each request's event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..common.errors import HanlinError
from ..inference import Engine, Generation, SamplingParams
from .errors import ApiError

logger = logging.getLogger("hanlin.serving")


@dataclasses.dataclass(frozen=True)
class Event:
    """What the engine says about one choice of a request: a token, or with `finish_reason` the end."""

    choice: int
    token: int = -1
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: str | None = None


class Ticket:
    """One request's choices inside the engine, and the queue their events arrive on."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.generations: list[Generation] = []


class EngineWorker:
    """Runs an engine on a thread of its own, all requests in one continuous batch.

    Args:
        max_waiting: choices that may wait for a slot; beyond it `submit` refuses.
    """

    def __init__(self, engine: Engine, max_waiting: int = 64):
        self.engine = engine
        self.limit = engine.max_batch + max_waiting
        self.unfinished = 0
        self.totals = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._outbox: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Event]]] = {}
        self._thread: threading.Thread | None = None

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

    def submit(self, requests: list[tuple[list[int], SamplingParams]]) -> Ticket:
        """Queue the choices of one request, from a coroutine.

        Raises:
            ApiError: 429, too many are waiting already; 503, the engine has stopped.
        """
        if not self.alive:
            raise ApiError(503, "The engine has stopped.", code="unavailable")
        with self._lock:
            if self.unfinished + len(requests) > self.limit:
                raise ApiError(429, "Too many requests are waiting; try again shortly.", code="queue_full", headers={"retry-after": "1"})
            self.unfinished += len(requests)
            self.totals["requests"] += 1
            self.totals["prompt_tokens"] += sum(len(prompt) for prompt, _ in requests)
        ticket = Ticket(asyncio.get_running_loop())
        for choice, (prompt, params) in enumerate(requests):
            ticket.generations.append(self._generation(ticket, choice, prompt, params))
        self._inbox.put(functools.partial(self._submit, ticket.generations))
        return ticket

    def cancel(self, generation: Generation) -> None:
        """End one choice; its slot is free after the engine's current step."""
        self._inbox.put(lambda: self.engine.cancel(generation))

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run a function on the engine's thread, between two steps."""
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        self._inbox.put(run)
        return await asyncio.wrap_future(future)

    def _generation(self, ticket: Ticket, choice: int, prompt: list[int], params: SamplingParams) -> Generation:
        def on_token(generation: Generation, token: int) -> None:
            logprob = generation.logprobs[-1] if params.logprobs else None
            top = tuple(generation.top[-1]) if params.top_logprobs else ()
            self._emit(ticket, Event(choice, token, logprob, top))

        def on_finish(generation: Generation) -> None:
            with self._lock:
                self.unfinished -= 1
                self.totals["completion_tokens"] += len(generation.ids)
            self._emit(ticket, Event(choice, finish_reason=generation.finish_reason))

        return Generation(prompt, params, on_token, on_finish)

    def _submit(self, generations: list[Generation]) -> None:
        for generation in generations:
            try:
                self.engine.submit(generation)
            except HanlinError:
                generation.finish_reason = "error"
                assert generation.on_finish is not None
                generation.on_finish(generation)

    def _emit(self, ticket: Ticket, event: Event) -> None:
        self._outbox.setdefault(ticket.loop, []).append((ticket, event))

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
            try:
                busy = self.engine.step()
            except Exception:
                logger.exception("a generation step failed; its requests end with an error")
                self.engine.abort("error")
                busy = False
            self._deliver()
        self.engine.abort("cancelled")
        self._deliver()

    def _deliver(self) -> None:
        """Wake each event loop once per step, whatever the number of tokens."""
        outbox, self._outbox = self._outbox, {}
        for loop, events in outbox.items():

            def put(events: list[tuple[Ticket, Event]] = events) -> None:
                for ticket, event in events:
                    ticket.events.put_nowait(event)

            try:
                loop.call_soon_threadsafe(put)
            except RuntimeError:  # that loop is closed; nobody is listening
                continue
