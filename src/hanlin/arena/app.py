"""The voting page and its few routes. What leaves here names no model."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from hanlin.arena.rules import ArenaConfig
from hanlin.arena.store import REASONS, UNDO_SECONDS, Outcome, Refused, Store
from hanlin.common.errors import HanlinError
from hanlin.serving.app import MEDIA
from hanlin.serving.app import STATIC as SERVING_STATIC
from hanlin.serving.security import Gate

STATIC = Path(__file__).parent / "static"
SHARED_FILES = ("markdown.js", "seal.svg")  # of the chat page
COOKIE = "hanlin_arena"
WRONG_CODES = 10
WAIT = 60.0  # seconds after so many wrong codes
BURST, PER_SECOND = 40, 4.0  # requests of one rater at once, and how fast they come back
MAX_BODY = 16 << 10


class CodeBody(BaseModel):
    code: str = Field(max_length=64)


class VoteBody(BaseModel):
    token: str = Field(max_length=64)
    outcome: Outcome
    reasons: list[str] = Field(default_factory=list, max_length=len(REASONS))


class Attempts:
    """Wrong codes by address, in memory and never on disk: ten, and the address waits.

    Raters who are in already are not held up, so a joker in a classroom behind one address costs newcomers a
    minute.
    """

    def __init__(self, limit: int = WRONG_CODES, wait: float = WAIT):
        self.limit, self.wait = limit, wait
        self._wrong: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def blocked(self, address: str) -> float:
        """Seconds this address has to wait, 0 if it may try."""
        count, since = self._wrong.get(address, (0, 0.0))
        left = since + self.wait - time.monotonic()
        if count >= self.limit and left <= 0:
            self.right(address)
        return max(0.0, left) if count >= self.limit else 0.0

    def wrong(self, address: str) -> None:
        """Count a wrong code."""
        with self._lock:
            if len(self._wrong) > 10000:
                self._wrong.clear()
            self._wrong[address] = (self._wrong.get(address, (0, 0.0))[0] + 1, time.monotonic())

    def right(self, address: str) -> None:
        """Forget the wrong ones."""
        with self._lock:
            self._wrong.pop(address, None)


class Pace:
    """Requests of each rater: a bucket that empties at once and fills slowly."""

    def __init__(self, burst: float = BURST, per_second: float = PER_SECOND):
        self.burst, self.per_second = burst, per_second
        self._left: dict[int, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def allows(self, rater: int) -> bool:
        """Whether one more is within bounds; it counts."""
        with self._lock:
            now = time.monotonic()
            left, since = self._left.get(rater, (self.burst, now))
            left = min(self.burst, left + (now - since) * self.per_second)
            self._left[rater] = (left - 1 if left >= 1 else left, now)
            return left >= 1


def create_app(
    store: Store,
    config: ArenaConfig,
    *,
    hosts: tuple[str, ...] | None = None,
    attempts: Attempts | None = None,
    pace: Pace | None = None,
) -> FastAPI:
    """The application around an open arena.

    Args:
        hosts: host names it answers to, any when absent.
    """
    app = FastAPI(title="Hanlin arena", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, api_key=None, hosts=hosts, max_body=MAX_BODY)
    attempts, pace = attempts or Attempts(), pace or Pace()
    schedule = store.schedule(config)
    _handle_errors(app)
    _serve_pages(app)

    def rater_of(request: Request) -> int:
        rater = store.rater_of_session(request.cookies.get(COOKIE, ""))
        if rater is None:
            raise Refused(401, "no_session")
        if not pace.allows(rater):
            raise Refused(429, "too_fast")
        return rater

    def state(rater: int) -> dict[str, Any]:
        shown = store.current(rater, config)
        if shown is None:
            done, total, undo = store.progress(rater)
            return {"done": done, "total": total, "undo": round(undo, 1), "battle": None}
        return {
            "done": shown.number - 1,
            "total": shown.total,
            "undo": shown.can_undo,
            "battle": {
                "token": shown.token,
                "prompt": shown.prompt,
                "left": shown.left,
                "right": shown.right,
                "thought": shown.thought,
            },
        }

    @app.post("/api/login")
    def login(body: CodeBody, request: Request) -> Response:
        address = request.client.host if request.client else ""
        wait = attempts.blocked(address)
        if wait:
            raise Refused(429, "too_many_codes")
        rater = store.rater_of(body.code)
        if rater is None:
            attempts.wrong(address)
            raise Refused(403, "unknown_code")
        attempts.right(address)
        store.join(rater, schedule)
        answer = JSONResponse(state(rater))
        answer.set_cookie(
            COOKIE, store.session(rater), max_age=7 * 86400, httponly=True, samesite="strict", path="/"
        )
        return answer

    @app.post("/api/leave")
    def leave() -> Response:
        answer = JSONResponse({})
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
        return answer

    @app.get("/api/battle")
    def battle(request: Request) -> dict[str, Any]:
        return state(rater_of(request))

    @app.post("/api/vote")
    def vote(body: VoteBody, request: Request) -> dict[str, Any]:
        rater = rater_of(request)
        reasons = [reason for reason in REASONS if reason in body.reasons]
        store.vote(rater, body.token, body.outcome, reasons)
        return state(rater)

    @app.post("/api/undo")
    def undo(request: Request) -> dict[str, Any]:
        rater = rater_of(request)
        store.undo(rater)
        return state(rater)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "undo_seconds": UNDO_SECONDS}

    return app


def _handle_errors(app: FastAPI) -> None:
    """Errors are a code that the page has words for; none repeats what was sent."""

    def respond(status: int, code: str, headers: dict[str, str] | None = None) -> Response:
        return JSONResponse({"error": code}, status, headers=headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        wait = {"too_many_codes": WAIT, "too_fast": 1}.get(error.code)
        return respond(error.status, error.code, None if wait is None else {"retry-after": str(round(wait))})

    @app.exception_handler(HanlinError)
    async def busy(_: Request, error: HanlinError) -> Response:
        return respond(503, "busy", {"retry-after": "1"})

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return respond(400, "invalid")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return respond(error.status_code, "not_found" if error.status_code == 404 else "invalid")

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return respond(500, "internal")


def _serve_pages(app: FastAPI) -> None:
    """The page's files, read once: what is not one of them does not exist."""
    files = [*STATIC.iterdir(), *(SERVING_STATIC / name for name in SHARED_FILES)]
    pages = {file.name: (file.read_bytes(), MEDIA[file.suffix]) for file in files if file.suffix in MEDIA}

    def page(name: str) -> Response:
        if name not in pages:
            raise HTTPException(404)
        content, media = pages[name]
        return Response(content, media_type=media, headers={"cache-control": "no-cache"})

    @app.get("/")
    async def index() -> Response:
        return page("index.html")

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        return page(name)
