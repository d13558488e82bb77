"""`hanlin serve`: a model directory behind a socket."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from ..common.errors import HanlinError, tr
from ..inference import Engine, load_chat_model, resolve_model_dir, sampling_defaults
from .app import create_app
from .connections import SEND_BUFFER, Limits, TimedProtocol, affordable, bound_logs, raise_file_limit
from .security import LOOPBACK, MAX_HEADERS
from .service import Settings


def serve(
    model_dir: Path | str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    *,
    model_id: str | None = None,
    max_batch: int = 16,
    max_waiting: int = 64,
    device: str | None = None,
) -> None:
    """Serve a model until interrupted: OpenAI's API under /v1 and a chat page at /.

    Args:
        model_dir: a model's directory, or a run's.
        api_key: required of every client when set; without one only this machine itself can be served.
        model_id: the model's name in the API; the directory's when absent.
        max_batch: replies generated at the same time.
        max_waiting: replies that may wait for their turn.

    Raises:
        HanlinError: no model, an open address without a key, or a port in use.
    """
    check_exposure(host, api_key)
    folder = resolve_model_dir(model_dir).resolve()
    model, tokenizer = load_chat_model(folder, device)
    name = model_id or (folder.parent.name if folder.name == "model" else folder.name)
    hosts = LOOPBACK if is_loopback(host) and api_key is None else None
    settings = Settings(model_id=name, api_key=api_key, hosts=hosts, max_waiting=max_waiting, sampling=sampling_defaults(folder))
    listener = bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    print(
        tr(
            f"{name} 已就绪：网页 {address}/ ，API {address}/v1 。Ctrl-C 停止。",
            f"{name} is ready: page {address}/, API {address}/v1. Ctrl-C stops it.",
        ),
        file=sys.stderr,
        flush=True,
    )
    if api_key is not None:
        print(
            tr("浏览器会要求登录：用户名随意，密码是 API key。", "A browser asks to log in: any user name, the API key as password."),
            file=sys.stderr,
            flush=True,
        )
    app = create_app(Engine(model, tokenizer, max_batch=max_batch), tokenizer, settings)
    limits = Limits()
    limits = dataclasses.replace(limits, connections=affordable(limits.connections, raise_file_limit()))
    server = make_server(app, limits)
    bound_logs()
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
        server.run(sockets=[listener])


def make_server(app: Any, limits: Limits | None = None) -> uvicorn.Server:
    """A uvicorn server with limits on time, connections and header size; it drains for up to 30 s when stopped."""
    limits = limits or Limits()
    config = uvicorn.Config(
        app, http=functools.partial(TimedProtocol, limits=limits),  # type: ignore[arg-type]  # a class or what makes one
        ws="none", log_level="warning", access_log=False, server_header=False, timeout_keep_alive=round(limits.idle) + 1,
        timeout_graceful_shutdown=30, h11_max_incomplete_event_size=MAX_HEADERS,
    )  # fmt: skip
    return uvicorn.Server(config)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, api_key: str | None) -> None:
    """Refuse to let others in without a key, and keys that no header can carry."""
    if api_key is None and not is_loopback(host):
        raise HanlinError(
            f"监听 {host} 会让别的机器也能访问，必须设置 API key：hanlin serve … --host {host} --api-key 一个长随机串。只给本机用请去掉 --host。",
            f"Listening on {host} lets other machines in, which needs an API key: hanlin serve … --host {host} --api-key SOME-LONG-RANDOM-STRING. For this machine alone drop --host.",
        )
    if api_key is not None and (not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key):
        raise HanlinError(
            "API key 只能由可见的 ASCII 字符组成，不能为空。", "The API key must consist of visible ASCII characters and not be empty."
        )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        HanlinError: the port is taken or not permitted, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. A small buffer in the kernel shows a slow reader's progress in small steps.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        raise HanlinError(
            f"无法监听 {host}:{port}（{error}）。换一个端口试试：--port {port % 60000 + 1}。",
            f"Cannot listen on {host}:{port} ({error}). Try another port: --port {port % 60000 + 1}.",
        ) from None
    return listener
