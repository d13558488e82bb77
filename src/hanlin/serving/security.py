"""What every request passes before it reaches a route: host, origin, key, size and form of the body; and the
headers of every answer.

Denied by default: with a key set, `/health` alone answers without it. A browser is asked for the key as the
password of HTTP Basic authentication, so that the chat page works without a page of its own being open to
everybody.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanlin.serving.errors import ApiError, invalid

MAX_HEADERS = 16 << 10
MAX_DEPTH = 32
MAX_CONTAINERS = 16384  # a conversation of 1,024 messages with 14 parts each
OPEN_PATHS = frozenset({"/health"})
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
LOOPBACK = ("127.0.0.1", "localhost", "::1")

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

# A name or IPv4 address, or an IPv6 address in brackets; then perhaps a port. Nothing may stand before,
# between or behind.
_HOST = re.compile(r"(?:\[([0-9A-Za-z:.%]+)\]|([0-9A-Za-z._-]+))(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_HEADER_NAMES = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+(?: ?, ?[0-9A-Za-z!#$%&'*+.^_`|~-]+){0,63}")


class Gate:
    """The one middleware.

    Args:
        api_key: required of every request but `/health`; no key, no check.
        hosts: acceptable names in the Host header, which defeats DNS rebinding; None accepts any. A name may
            be given with or without its port.
        origins: pages of other origins whose scripts may call; "*" lets any.
        max_body: bytes.
        body_timeout: seconds a client may take to send its body.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        hosts: Sequence[str] | None,
        origins: Sequence[str] = (),
        max_body: int = 1 << 20,
        body_timeout: float = 30.0,
    ):
        self.app = app
        self.origins = frozenset(origins)
        self.hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self.max_body = max_body
        self.body_timeout = body_timeout
        self._key = None if api_key is None else _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        permission: dict[str, str] = {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", [])}
                extra = [
                    (k.encode(), v.encode())
                    for k, v in (HEADERS | permission).items()
                    if k.encode() not in present
                ]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        try:
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
                raise ApiError(
                    431,
                    f"The headers are larger than {MAX_HEADERS} bytes.",
                    code="headers_too_large",
                    headers={"connection": "close"},
                )
            self._check_host(headers)
            permission.update(self._check_origin(headers))
            if permission and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                permission.update(_preflight(headers))  # it never carries a key
                await send_with_headers({"type": "http.response.start", "status": 204, "headers": []})
                await send_with_headers({"type": "http.response.body", "body": b""})
                return
            self._check_key(scope["path"], headers)
            if scope["method"] == "POST":
                receive = _replay(await self._read_json(headers, receive), receive)
        except ApiError as error:
            await send_error(error, send_with_headers)
            return
        except ClientGone:
            return
        await self.app(scope, receive, send_with_headers)

    def _check_host(self, headers: dict[str, list[str]]) -> None:
        hosts = headers.get("host", [])
        if len(hosts) != 1:
            raise invalid("Exactly one Host header is needed.", code="invalid_host")
        host = _HOST.fullmatch(hosts[0])
        if host is None:
            raise invalid("The Host header is not a host with or without a port.", code="invalid_host")
        name = (host[1] or host[2]).lower()
        if self.hosts is not None and name not in self.hosts and hosts[0].lower() not in self.hosts:
            raise ApiError(
                403, f"This server does not answer to the host name {hosts[0][:100]!r}.", code="invalid_host"
            )

    def _check_origin(self, headers: dict[str, list[str]]) -> dict[str, str]:
        """The CORS headers for a page of an allowed origin; none for our own pages and for programs.

        Raises:
            ApiError: 403, a page of another origin.
        """
        given = headers.get("origin", [])
        own = headers["host"][0].lower()
        foreign = [origin for origin in given if origin.lower() not in (f"http://{own}", f"https://{own}")]
        if not foreign:
            return {"vary": "Origin"} if self.origins else {}
        if (
            len(given) > 1
            or not (foreign[0].lower() in self.origins or "*" in self.origins)
            or not _known_origin(foreign[0].lower())
        ):
            raise ApiError(
                403,
                "Requests from pages of other origins are refused "
                "(hanlin serve … --allow-origin lets one in).",
                code="invalid_origin",
            )
        # Never "allow-credentials": a browser's stored log-in must not serve another page.
        return {
            "access-control-allow-origin": foreign[0],
            "access-control-expose-headers": "retry-after",
            "vary": "Origin",
        }

    def _check_key(self, path: str, headers: dict[str, list[str]]) -> None:
        if self._key is None or path in OPEN_PATHS:
            return
        given = headers.get("authorization", [])
        if len(given) == 1:
            candidate = _credential(given[0])
            if candidate is not None and hmac.compare_digest(_digest(candidate), self._key):
                return
        scheme = (
            "Bearer"
            if path.startswith("/v1/")
            else 'Basic realm="Hanlin: the API key is the password", charset="UTF-8"'
        )
        raise ApiError(
            401,
            "A valid API key is needed: Authorization: Bearer KEY.",
            code="invalid_api_key",
            headers={"www-authenticate": scheme},
        )

    async def _read_json(self, headers: dict[str, list[str]], receive: Receive) -> bytes:
        """The whole body, bounded in size and time, checked to be JSON: UTF-8, finite numbers, no lone
        surrogates, bounded depth."""
        try:
            body = await asyncio.wait_for(self._collect(headers, receive), self.body_timeout)
        except asyncio.TimeoutError:
            raise ApiError(
                408, "The body took too long to arrive.", code="timeout", headers={"connection": "close"}
            ) from None
        check_size(body)
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise invalid(f"The body is not valid JSON: {error}.", code="invalid_json") from None
        if not isinstance(value, dict):
            raise invalid("The body must be a JSON object.", code="invalid_json")
        if _depth_exceeds(value, MAX_DEPTH):
            raise invalid(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")
        return body

    async def _collect(self, headers: dict[str, list[str]], receive: Receive) -> bytes:
        """The body, if it stays below the limit.

        A body somewhat over it is read to its end and thrown away: a client that is still sending when the
        connection closes would see a broken pipe in place of the answer.
        """
        too_large = ApiError(
            413,
            f"The body is larger than {self.max_body} bytes.",
            code="body_too_large",
            headers={"connection": "close"},
        )
        patience = 4 * self.max_body
        if any(
            not length.isdecimal() or int(length) > patience for length in headers.get("content-length", [])
        ):
            raise too_large
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            size += len(message.get("body", b""))
            if size <= self.max_body:
                parts.append(message.get("body", b""))
            if size > patience or (size > self.max_body and not message.get("more_body")):
                raise too_large
            if not message.get("more_body"):
                return b"".join(parts)


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


async def send_error(error: ApiError, send: Send) -> None:
    """Answer with an error object."""
    body = orjson.dumps(error.body())
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one piece and then whatever comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _credential(header: str) -> bytes | None:
    """The key in an Authorization header: a bearer token, or the password of Basic authentication."""
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value.encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return None
    return None


def _digest(key: bytes) -> bytes:
    """Equal lengths for the comparison, so that not even the key's length shows."""
    return hashlib.sha256(key).digest()


def check_origin(origin: str) -> bool:
    """Whether `origin` is one as browsers send them: scheme, host, perhaps a port, and nothing else; "*", or
    "null"."""
    return origin == "*" or _known_origin(origin)


def _known_origin(origin: str) -> bool:
    return origin == "null" or _ORIGIN.fullmatch(origin) is not None


def _preflight(headers: dict[str, list[str]]) -> dict[str, str]:
    """What an allowed page may send: the API's methods, and the headers it asks for (the official client
    brings a dozen)."""
    wanted = ", ".join(headers.get("access-control-request-headers", []))
    allowed = (
        wanted if len(wanted) <= 1024 and _HEADER_NAMES.fullmatch(wanted) else "authorization, content-type"
    )
    permission = {
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": allowed,
        "access-control-max-age": "600",
    }
    if headers.get("access-control-request-private-network") == ["true"]:
        permission["access-control-allow-private-network"] = "true"
    return permission


def check_size(body: bytes) -> None:
    """Refuse a body of too many lists and objects before they are made: 349,000 empty lists take a second to
    parse.

    Raises:
        ApiError: 400.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_CONTAINERS:
        return
    bare = _STRINGS.sub(b"", body)  # a message may be a long program
    if bare.count(b"[") + bare.count(b"{") > MAX_CONTAINERS:
        raise invalid(f"The body has more than {MAX_CONTAINERS} lists and objects.", code="invalid_json")


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested deeper than `limit`; no recursion."""
    layer = [value]
    for _ in range(limit):
        layer = [
            child
            for item in layer
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not layer:
            return False
    return True
