"""The OpenAI-compatible API and the chat page, as an ASGI application around an engine, or several."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from hanlin.inference import Engine
from hanlin.serving.chat_api import chat_completions
from hanlin.serving.completion_api import completions
from hanlin.serving.errors import ApiError, declared, invalid
from hanlin.serving.schemas import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from hanlin.serving.security import Gate
from hanlin.serving.service import Service, Settings
from hanlin.serving.tokenizer_api import detokenize, tokenize, tokenizer_info
from hanlin.serving.worker import EngineWorker

if TYPE_CHECKING:
    from hanlin.tokenizer import Tokenizer

STATIC = Path(__file__).parent / "static"
MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def create_app(
    engine: Engine,
    tokenizer: Tokenizer,
    settings: Settings | None = None,
    others: Mapping[str, Engine] | None = None,
) -> FastAPI:
    """The application; its engines run from start-up to shutdown on a thread of their own.

    Neither prompts nor answers are ever logged.

    Args:
        others: engines of further models, by name, such as adapters on the first one's.
    """
    settings = settings or Settings()
    worker = EngineWorker({settings.model_id: engine, **(others or {})}, settings.max_waiting)
    service = Service(worker, tokenizer, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()

    app = FastAPI(title="Hanlin", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.worker = worker
    app.add_middleware(Gate, api_key=settings.api_key, hosts=settings.hosts, origins=settings.origins)
    _handle_errors(app)
    _serve_pages(app)

    @app.get(
        "/health", responses={503: {"description": "the engine has stopped"}, **_without_key(declared())}
    )
    async def health() -> dict[str, str]:
        return JSONResponse({"status": "ok" if worker.alive else "stopped"}, 200 if worker.alive else 503)  # type: ignore[return-value]

    @app.get("/metrics", response_class=PlainTextResponse, responses=declared())
    async def metrics() -> Response:
        """Prometheus text."""
        lines = [
            f"# TYPE hanlin_{name}_total counter\nhanlin_{name}_total {value}"
            for name, value in worker.totals.items()
        ]
        gauges = {"running": worker.active, "waiting": max(0, worker.unfinished - worker.active)}
        lines += [f"# TYPE hanlin_{name} gauge\nhanlin_{name} {value}" for name, value in gauges.items()]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    @app.get("/suggestions", responses=declared())
    async def suggestions() -> list[dict[str, Any]]:
        """First questions for the chat page; empty when it should take its own."""
        return [dict(entry) for entry in settings.suggestions]

    @app.get("/v1/models", responses=declared())
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": service.cards()}

    @app.get("/v1/models/{model_id:path}", responses=declared(404))
    async def get_model(model_id: str) -> dict[str, Any]:
        service.check_model(model_id)
        return service.card(model_id)

    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "the answer, or with stream: true its chunks",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        499: {"description": "the client went away"},
        **declared(404, 408, 413, 429, 500, 503),
    }

    @app.post("/v1/chat/completions", responses=answers)
    async def post_chat(body: ChatRequest, request: Request) -> Response:
        return await chat_completions(service, body, request)

    @app.post("/v1/completions", responses=answers)
    async def post_completion(body: CompletionRequest, request: Request) -> Response:
        return await completions(service, body, request)

    found: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/json": {"schema": {"type": "object"}}}},
        **declared(404),
    }

    @app.post("/tokenize", responses={**found, **declared(408, 413)})
    async def post_tokenize(body: TokenizeRequest) -> Response:
        return await tokenize(service, body)

    @app.post("/detokenize", responses={**found, **declared(408, 413)})
    async def post_detokenize(body: DetokenizeRequest) -> Response:
        return await detokenize(service, body)

    @app.get("/tokenizer_info", responses=found)
    async def get_tokenizer_info() -> Response:
        return await tokenizer_info(service)

    @app.post("/v1/embeddings", status_code=501, responses=declared(408, 413, 501))
    async def post_embeddings() -> Response:
        raise ApiError(501, "This server has a language model, not an embedding model.", code="not_supported")

    describe = app.openapi

    def openapi() -> dict[str, Any]:
        """The description without FastAPI's own 422, which is never sent: what does not fit the schema is a
        400."""
        description = describe()
        for path in description["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            description["components"]["schemas"].pop(name, None)
        return description

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _without_key(responses: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that asks for no key."""
    return {status: response for status, response in responses.items() if status != 401}


def _handle_errors(app: FastAPI) -> None:
    """Every error leaves as OpenAI's error object; none repeats what the user wrote."""

    def respond(error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return respond(error)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "model_attributes_type" and first["loc"] == ("body",):
            # the gate has read it as a JSON object already
            return respond(
                invalid("The header Content-Type: application/json is missing.", code="invalid_type")
            )
        # Names and indices only: what pydantic adds about the branches of a union tells a reader nothing.
        param = ".".join(
            str(part)
            for part in first["loc"]
            if part != "body" and not re.search(r"[\[(]|^(str|int|dict)$", str(part))
        )
        return respond(invalid(f"{param or 'body'}: {first['msg']}", param or None, "invalid_value"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and request.url.path.startswith("/v1/responses"):
            message = (
                "There is no Responses API here; use POST /v1/chat/completions "
                "(client.chat.completions.create)."
            )
            return respond(ApiError(404, message, code="not_found"))
        if error.status_code == 404:
            return respond(
                ApiError(
                    404, f"There is nothing at {request.method} {request.url.path[:100]}.", code="not_found"
                )
            )
        return respond(ApiError(error.status_code, str(error.detail), headers=error.headers))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return respond(ApiError(500, "Something went wrong inside the server.", code="internal_error"))


def _serve_pages(app: FastAPI) -> None:
    """The chat page, read into memory once: what is not one of its files does not exist."""
    pages = {
        file.name: (file.read_bytes(), MEDIA[file.suffix])
        for file in STATIC.iterdir()
        if file.suffix in MEDIA
    }

    def page(name: str) -> Response:
        if name not in pages:
            raise HTTPException(404)
        content, media = pages[name]
        return Response(content, media_type=media, headers={"cache-control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page("index.html")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        return page(name)
