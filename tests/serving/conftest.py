"""A server with a tiny random model on a loopback port."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from hanlin.inference import Engine  # noqa: E402
from hanlin.serving.app import create_app  # noqa: E402
from hanlin.serving.connections import Limits  # noqa: E402
from hanlin.serving.server import bind, make_server  # noqa: E402
from hanlin.serving.service import Settings  # noqa: E402
from tests.inference.tiny import tiny_model, tiny_tokenizer  # noqa: E402


class Live:
    """A running server."""

    def __init__(self, port: int, app, engine: Engine):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.app = app
        self.engine = engine
        self.worker = app.state.worker


@contextlib.contextmanager
def running(
    settings: Settings, *, max_batch: int = 4, limits: Limits | None = None, **model
) -> Iterator[Live]:
    """Start a server, stop it at the end."""
    listener = bind("127.0.0.1", 0)
    engine = Engine(
        tiny_model(3, **{"max_position_embeddings": 256, **model}), tiny_tokenizer(), max_batch=max_batch
    )
    app = create_app(engine, tiny_tokenizer(), settings)
    server = make_server(app, limits)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Live(listener.getsockname()[1], app, engine)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """Without a key, for most tests."""
    with running(Settings(model_id="tiny")) as server:
        yield server


@pytest.fixture(scope="session")
def serve_with() -> Callable[..., contextlib.AbstractContextManager[Live]]:
    """For tests that need other settings."""
    return running
