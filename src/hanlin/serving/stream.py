"""Answering over a connection that may go away: server-sent events, and plain answers that stop when nobody
waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hanlin.serving.errors import ApiError

T = TypeVar("T")


class EventStream(Response):
    """Sends each object as a server-sent event, then `[DONE]`; an `ApiError` on the way becomes a last event.

    Args:
        objects: what to send; closed when the client goes away, so its `finally` runs.
        on_close: called at the end, however it comes.
    """

    def __init__(self, objects: AsyncIterator[dict[str, Any]], on_close: Callable[[], None]):
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )
        self._objects = objects
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _until_gone(receive, self._send_all(send))
        finally:
            self._on_close()

    async def _send_all(self, send: Send) -> None:
        async def write(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            async for value in self._objects:
                await write(b"data: " + orjson.dumps(value) + b"\n\n")
            await write(b"data: [DONE]\n\n")
        except ApiError as error:
            await write(b"data: " + orjson.dumps(error.body()) + b"\n\n")
        await write(b"", more=False)


async def json_response(value: Any) -> Response:
    """A whole answer, written as JSON beside the event loop: with log-probabilities it may have 16 MB."""
    return Response(await asyncio.to_thread(orjson.dumps, value), media_type="application/json")


async def while_connected(request: Request, work: Awaitable[T]) -> T | None:
    """The result of `work`, or None if the client went away first, in which case `work` is cancelled."""
    return await _until_gone(request.receive, work)


async def _until_gone(receive: Receive, work: Awaitable[T]) -> T | None:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(gone())
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)
