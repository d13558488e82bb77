"""`hanlin serve`: a model directory behind a socket."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing, tr
from hanlin.inference import Engine, load_chat_model, resolve_model_dir, sampling_defaults
from hanlin.model.checkpoint_io import adapted_copy
from hanlin.serving.app import create_app
from hanlin.serving.connections import (
    SEND_BUFFER,
    Limits,
    TimedProtocol,
    affordable,
    bound_logs,
    raise_file_limit,
)
from hanlin.serving.security import LOOPBACK, MAX_HEADERS, check_origin
from hanlin.serving.service import Settings

SHORTEST_KEY = 8  # characters, where other machines can try


def serve(
    model_dir: Path | str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    *,
    adapters: Sequence[str] = (),
    origins: Sequence[str] = (),
    model_id: str | None = None,
    max_batch: int = 16,
    max_waiting: int = 64,
    device: str | None = None,
) -> None:
    """Serve a model until interrupted: OpenAI's API under /v1 and a chat page at /.

    Args:
        model_dir: a model's directory, or a run's.
        api_key: required of every client when set; without one only this machine itself can be served.
        adapters: `NAME=DIR` each, served beside the model under that name.
        origins: pages of other origins whose scripts may call the API; "*" for any, which needs a key.
        model_id: the model's name in the API; the directory's when absent.
        max_batch: replies generated at the same time.
        max_waiting: replies that may wait for their turn.

    Raises:
        HanlinError: no model, an adapter of another one, an open address without a key, or a port in use.
    """
    check_exposure(host, api_key)
    origins = check_origins(origins, api_key)
    listener = bind(host, port)
    folder = resolve_model_dir(model_dir).resolve()
    sampling = sampling_defaults(folder)
    suggestions = read_suggestions(folder)
    model, tokenizer = load_chat_model(folder, device)
    name = model_id or (folder.parent.name if folder.name == "model" else folder.name)
    others = {
        own: Engine(adapted_copy(model, folder, path), tokenizer, max_batch=max_batch)
        for own, path in named_adapters(adapters, name).items()
    }
    hosts = (*LOOPBACK, host) if is_loopback(host) and api_key is None else None
    settings = Settings(
        model_id=name,
        api_key=api_key,
        hosts=hosts,
        origins=origins,
        suggestions=suggestions,
        max_waiting=max_waiting,
        sampling=sampling,
    )
    listener.listen()  # who reads that it is ready may connect from then on
    address, beside = addresses(host, listener.getsockname()[1])
    print(
        tr(
            "{name} is ready: page {address}/, API {address}/v1. Ctrl-C stops it.", name=name, address=address
        ),
        file=sys.stderr,
        flush=True,
    )
    if beside is not None:
        print(
            tr("From other machines of this network: {beside}/", beside=beside),
            file=sys.stderr,
            flush=True,
        )
    if others:
        print(tr("With adapters: {names}.", names=listing(others)), file=sys.stderr, flush=True)
    if api_key is not None:
        print(
            tr("A browser asks to log in: any user name, the API key as password."),
            file=sys.stderr,
            flush=True,
        )
    app = create_app(Engine(model, tokenizer, max_batch=max_batch), tokenizer, settings, others)
    limits = Limits()
    limits = dataclasses.replace(limits, connections=affordable(limits.connections, raise_file_limit()))
    server = make_server(app, limits)
    bound_logs()
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
        server.run(sockets=[listener])


def named_adapters(given: Sequence[str], model_id: str) -> dict[str, Path]:
    """`NAME=DIR` each, as name → directory.

    Raises:
        HanlinError: something else, or a name that is taken.
    """
    found: dict[str, Path] = {}
    for entry in given:
        name, _, path = entry.partition("=")
        if not name or not path:
            raise HanlinError(
                "--adapter {entry} should be NAME=DIR: the name that clients ask for, and the adapter's "
                "directory.",
                entry=entry,
            )
        if name == model_id or name in found:
            raise HanlinError(
                "--adapter {entry}: {name} is the name of another model.", entry=entry, name=name
            )
        found[name] = Path(path)
    return found


def make_server(app: Any, limits: Limits | None = None) -> uvicorn.Server:
    """A uvicorn server with limits on time, connections and header size; it drains for up to 30 s when
    stopped."""
    limits = limits or Limits()
    config = uvicorn.Config(
        app,
        http=functools.partial(TimedProtocol, limits=limits),  # type: ignore[arg-type]  # a class or what makes one
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=round(limits.idle) + 1,
        timeout_graceful_shutdown=30,
        h11_max_incomplete_event_size=MAX_HEADERS,
    )
    return uvicorn.Server(config)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def addresses(host: str, port: int) -> tuple[str, str | None]:
    """Where this machine reaches the server, and where others do when it listens on every address (None:
    they do not, or it is the same)."""

    def url(name: str) -> str:
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    if host not in ("0.0.0.0", "::", ""):
        return url(host), None
    lan = lan_address()
    return url("localhost" if host == "::" else "127.0.0.1"), None if lan is None else url(lan)


def lan_address() -> str | None:
    """This machine's address in its network, None if it has none. Nothing is sent: the socket only asks for
    the route."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # an address reserved for documentation (RFC 5737)
        found = probe.getsockname()[0]
        return None if is_loopback(found) else found
    return None


def read_suggestions(folder: Path) -> tuple[dict[str, Any], ...]:
    """First questions for the chat page from `suggestions.json` of a model directory, none if there is no
    such file.

    The file is a list of strings, or of {"text": …, "title": {"zh": …, "en": …}}; a title may be left out.

    Raises:
        HanlinError: it is something else.
    """
    file = folder / "suggestions.json"
    if not file.is_file():
        return ()
    found = read_json(file)
    entries = (
        [{"text": entry} if isinstance(entry, str) else entry for entry in found]
        if isinstance(found, list)
        else [None]
    )
    for entry in entries:
        title = entry.get("title", {}) if isinstance(entry, dict) else None
        titles = (
            isinstance(title, dict)
            and set(title) <= {"zh", "en"}
            and all(isinstance(text, str) for text in title.values())
        )
        if (
            not titles
            or not isinstance(entry, dict)
            or not isinstance(entry.get("text"), str)
            or not entry["text"].strip()
        ):
            raise HanlinError(
                '{file} should be a list of strings or of {{"text": …, "title": {{"zh": …, "en": …}}}}. '
                "Correct it, or remove it (the page has examples of its own).",
                file=file,
            )
    return tuple(
        {"text": entry["text"], "title": entry.get("title", {})} for entry in entries[:8] if entry is not None
    )


def check_origins(origins: Sequence[str], api_key: str | None) -> tuple[str, ...]:
    """The origins as browsers send them.

    Raises:
        HanlinError: something else than an origin; or everybody ("*", or "null", which any page can make
            itself) without a key.
    """
    cleaned = tuple(origin.strip().lower().rstrip("/") for origin in origins)
    for origin in cleaned:
        if not check_origin(origin):
            raise HanlinError(
                "--allow-origin {origin} is no origin. An origin is scheme, host and port, "
                "http://localhost:3000 for example.",
                origin=origin,
            )
        if origin in ("*", "null") and api_key is None:
            raise HanlinError(
                "--allow-origin {origin} lets every page a browser opens use this model, which needs an "
                "--api-key; or name the origin, http://localhost:3000 for example.",
                origin=origin,
            )
    return cleaned


def check_exposure(host: str, api_key: str | None) -> None:
    """Refuse to let others in without a key, and keys that no header can carry."""
    if api_key is None and not is_loopback(host):
        raise HanlinError(
            "Listening on {host} lets other machines in, which needs an API key: hanlin serve … --host "
            "{host} --api-key SOME-LONG-RANDOM-STRING. For this machine alone drop --host.",
            host=host,
        )
    if api_key is not None and (
        not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key
    ):
        raise HanlinError("The API key must consist of visible ASCII characters and not be empty.")
    if api_key is not None and len(api_key) < SHORTEST_KEY and not is_loopback(host):
        raise HanlinError(
            "The API key is so short that others can guess it: {shortest_key} characters at least, {value} "
            "for example.",
            shortest_key=SHORTEST_KEY,
            value=secrets.token_urlsafe(18),
        )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        HanlinError: there is no such port, it is taken or not permitted, or the address is not this
            machine's.
    """
    if not 0 <= port <= 65535:  # the resolver would take it modulo 65,536
        raise HanlinError(
            "--port {port} is no port: it must be between 1 and 65535 (0 takes any that is free).", port=port
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. A small buffer in the kernel shows a slow reader's progress in small steps.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind(address)
    except OSError as error:
        raise HanlinError(
            "Cannot listen on {host}:{port} ({error}). Try another port: --port {another}.",
            host=host,
            port=port,
            error=error,
            another=port % 60000 + 1,
        ) from None
    return listener
