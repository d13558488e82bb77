"""Who may ask: keys, hosts, origins, headers, exposure."""

from __future__ import annotations

import base64
import http.client
import socket

import pytest

from hanlin.common.errors import HanlinError
from hanlin.serving.security import OPEN_PATHS
from hanlin.serving.server import bind, check_exposure, serve
from hanlin.serving.service import Settings

KEY = "correct-horse"


def get(port: int, path: str, headers: list[tuple[str, str]], method: str = "GET") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    hosted = any(name.lower() == "host" for name, _ in headers)
    connection.putrequest(method, path, skip_host=hosted)
    for name, value in headers:
        connection.putheader(name, value)
    if method == "POST":
        connection.putheader("Content-Length", "2")
        connection.endheaders(b"{}")
    else:
        connection.endheaders()
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


@pytest.fixture(scope="module")
def guarded(serve_with):
    with serve_with(Settings(model_id="tiny", api_key=KEY, hosts=None)) as server:
        yield server


def basic(password: str, user: str = "anyone") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


CREDENTIALS = {
    "none": ([], False),
    "right": ([("Authorization", f"Bearer {KEY}")], True),
    "lower-case scheme": ([("authorization", f"bearer {KEY}")], True),
    "basic": ([("Authorization", basic(KEY))], True),
    "wrong": ([("Authorization", "Bearer wrong")], False),
    "prefix": ([("Authorization", f"Bearer {KEY[:-1]}")], False),
    "longer": ([("Authorization", f"Bearer {KEY}x")], False),
    "empty": ([("Authorization", "Bearer ")], False),
    "bare": ([("Authorization", KEY)], False),
    "wrong basic": ([("Authorization", basic("no", KEY))], False),
    "broken basic": ([("Authorization", "Basic §§§".encode().decode("latin-1"))], False),
    "twice": ([("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer wrong")], False),
    "in the query": ([("X-Api-Key", KEY)], False),
}


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_every_route_but_health_needs_the_key(guarded, credential):
    headers, accepted = CREDENTIALS[credential]
    routes = [
        (path, method) for route in guarded.app.routes for path in [route.path] for method in route.methods if method in ("GET", "POST")
    ]
    assert len(routes) > 8
    for path, method in [
        *routes,
        ("/nothing/here", "GET"),
        ("/v1/nothing", "POST"),
        ("//health", "GET"),
        ("/health/", "GET"),
        ("/HEALTH", "GET"),
    ]:
        path = path.replace("{model_id:path}", "tiny").replace("{name}", "index.html")
        response = get(guarded.port, path, [*headers, ("Content-Type", "application/json")], method)
        if path in OPEN_PATHS:
            assert response.status == 200
        elif accepted:
            assert response.status not in (401, 403), (path, response.status)
        else:
            assert response.status == 401, (path, response.status)
            assert response.headers["www-authenticate"].startswith("Bearer" if path.startswith("/v1/") else "Basic")


@pytest.mark.parametrize("path", ["/", "/static/index.html", "/v1/models", "/health", "/nothing"])
def test_every_answer_carries_the_policy(live, path):
    headers = get(live.port, path, []).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert not any(name.lower().startswith("access-control-") for name in headers)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("localhost", True), ("127.0.0.1:8000", True), ("[::1]:99", True), ("LOCALHOST:80", True), ("evil.example", False), ("127.0.0.1.evil.example", False),
     ("localhost.evil.example:8000", False), ("", False)],
)  # fmt: skip
def test_only_this_machines_names_are_answered(live, host, allowed):
    assert (get(live.port, "/v1/models", [("Host", host)]).status == 200) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:8000", True),
        ("http://evil.example", False),
        ("null", False),
        ("http://localhost:9000", False),
        ("https://localhost:8000", True),
    ],
)
def test_pages_of_other_origins_are_refused(live, origin, allowed):
    status = get(live.port, "/v1/models", [("Host", "localhost:8000"), ("Origin", origin)]).status
    assert status == (200 if allowed else 403)


def test_a_preflight_is_not_answered_with_permission(live):
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    connection.request(
        "OPTIONS", "/v1/chat/completions", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    response = connection.getresponse()
    assert response.status == 403 and not any(name.lower().startswith("access-control-") for name in response.headers)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_open_address_needs_a_key(tmp_path, host):
    with pytest.raises(HanlinError, match="api-key"):
        serve(tmp_path, host=host)
    check_exposure(host, "some-key")


@pytest.mark.parametrize("key", ["", "has space", "键", "line\nbreak"])
def test_keys_no_header_can_carry_are_refused(key):
    with pytest.raises(HanlinError):
        check_exposure("127.0.0.1", key)


def test_a_port_in_use_is_said_plainly():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(HanlinError, match=str(taken.getsockname()[1])):
            bind("127.0.0.1", taken.getsockname()[1])
