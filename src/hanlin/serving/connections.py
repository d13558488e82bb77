"""What one connection may cost: its time at every stage of every request, its place among the others, its
lines in the log.

uvicorn arms one timer, between two requests, and drops it at the next byte; a client that sends that one byte
and then nothing holds its connection for ever. Here each connection has one clock that looks at the stage it
is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from typing import Any, Literal

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from hanlin.serving.errors import ApiError

Stage = Literal["idle", "header", "body", "answered", "answering"]

FILES_BESIDE_CONNECTIONS = 64  # standard streams, the model's files, the event loop, what libraries open
SEND_BUFFER = 64 << 10
_REFUSAL_BODY = orjson.dumps(
    ApiError(503, "Too many connections; try again shortly.", code="unavailable").body()
)
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"retry-after: 1\r\ncontent-length: %d\r\n\r\n%b" % (len(_REFUSAL_BODY), _REFUSAL_BODY)
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds a client may take, and how many clients there may be.

    Attributes:
        idle: between two requests of a connection.
        header: for a request's header, from its first byte; for a connection's first request from the
            beginning.
        body: for a request's body. More than `security.Gate` allows, so that the slow client gets an answer
            first.
        answered: for the rest of a body whose request is answered already (one without a key, say).
        stall: without taking a byte of the answer.
        connections: at the same time; more are refused as they come.
    """

    idle: float = 30.0
    header: float = 10.0
    body: float = 35.0
    answered: float = 5.0
    stall: float = 30.0
    connections: int = 1024

    @property
    def tick(self) -> float:
        """Seconds between two looks at a connection."""
        return min(self.idle, self.header, self.body, self.answered, self.stall, 4.0) / 4


class TimedProtocol(H11Protocol):
    """HTTP/1.1 for one client, which is dropped when it is late at any stage of any request."""

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.limits = limits
        self._stage: Stage = "header"
        self._since = 0.0
        self._unsent = 0
        self._progress = 0.0
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the client, or refuse it if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self.connections.discard(self)
            transport.write(REFUSAL)  # into an empty buffer of the kernel
            transport.close()
            return
        self._since = self._progress = self.loop.time()
        self._clock = self.loop.call_later(self.limits.tick, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        """An answer was handed over."""
        super().on_response_complete()
        self._note(afresh=True)

    def _now_in(self) -> Stage:
        """The stage this connection is in."""
        if self.conn.their_state is h11.SEND_BODY:
            return "body" if self.cycle is not None and not self.cycle.response_complete else "answered"
        if self.cycle is not None and not self.cycle.response_complete:
            return "answering"
        # Before the first request nothing is owed to the client yet: it gets the header's time, not the idle
        # one's.
        return "header" if self.cycle is None or self.conn.trailing_data[0] else "idle"

    def _note(self, afresh: bool = False) -> None:
        stage = self._now_in()
        if afresh or stage != self._stage:
            self._stage, self._since = stage, self.loop.time()

    def _look(self) -> None:
        now = self.loop.time()
        self._note()
        unsent = self.transport.get_write_buffer_size()
        # Less to send than a while ago: the client reads. Whether the buffer is below its low-water mark
        # says nothing: an answer of 16 MB takes minutes to get there.
        if unsent < self._unsent or not unsent:
            self._progress = now
        self._unsent = unsent
        if now - self._progress > self.limits.stall:
            self.transport.abort()
        elif self._stage != "answering" and now - self._since > getattr(self.limits, self._stage):
            self.transport.close()
        self._clock = self.loop.call_later(self.limits.tick, self._look)


def raise_file_limit() -> int:
    """Raise this process' limit of open files to the highest it may set itself; returns the limit in
    force."""
    try:
        import resource
    except ImportError:  # Windows has no such limit for sockets
        return 1 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems report more than they grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def affordable(connections: int, open_files: int) -> int:
    """How many of the connections wanted leave enough files for everything else."""
    return max(1, min(connections, open_files - FILES_BESIDE_CONNECTIONS))


class Seldom(logging.Filter):
    """Lets each message through `often` times a minute, and then says how many it kept back.

    For loggers whose lines strangers can cause: asyncio writes a stack trace for each connection it cannot
    accept, a thousand in a row.
    """

    def __init__(self, often: int = 5, period: float = 60.0):
        super().__init__()
        self.often = often
        self.period = period
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        now = time.monotonic()
        key = str(record.msg)[:200]
        since, count = self._seen.get(key, (now, 0))
        kept_back = 0
        if now - since > self.period:
            kept_back, since, count = max(0, count - self.often), now, 0
        if len(self._seen) > 256:
            self._seen.clear()
        self._seen[key] = (since, count + 1)
        if kept_back:
            record.msg = f"{record.msg} (and {kept_back} more like it)"
        return count < self.often


def bound_logs() -> None:
    """Put `Seldom` before the loggers that strangers can make talk."""
    for name in ("asyncio", "uvicorn.error", "hanlin.serving"):
        logger = logging.getLogger(name)
        if not any(isinstance(present, Seldom) for present in logger.filters):
            logger.addFilter(Seldom())
