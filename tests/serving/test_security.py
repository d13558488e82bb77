"""Who may ask: keys, hosts, origins, headers, exposure."""

from __future__ import annotations

import base64
import http.client
import socket
import types

import pytest

from hanlin.common.errors import HanlinError
from hanlin.serving.security import OPEN_PATHS
from hanlin.serving.server import addresses, bind, check_exposure, check_origins, serve
from hanlin.serving.service import Settings

KEY = "correct-horse"


def get(
    port: int, path: str, headers: list[tuple[str, str]], method: str = "GET"
) -> http.client.HTTPResponse:
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
        (path, method)
        for route in guarded.app.routes
        for path in [route.path]
        for method in route.methods
        if method in ("GET", "POST")
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
            assert response.headers["www-authenticate"].startswith(
                "Bearer" if path.startswith("/v1/") else "Basic"
            )


@pytest.mark.parametrize("path", ["/", "/static/index.html", "/v1/models", "/health", "/nothing"])
def test_every_answer_carries_the_policy(live, path):
    headers = get(live.port, path, []).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert not any(name.lower().startswith("access-control-") for name in headers)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("127.0.0.1:8000", True),
        ("[::1]:99", True),
        ("LOCALHOST:80", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8000", False),
        ("", False),
        ("[::1]evil.example", False),
        ("[::1]:80evil.example", False),
        ("[::1", False),
        ("127.0.0.1:80@evil.example", False),
        ("evil@127.0.0.1", False),
        ("localhost:", False),
        ("localhost:80:80", False),
        ("localhost/x", False),
    ],
)
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
        "OPTIONS",
        "/v1/chat/completions",
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
    )
    response = connection.getresponse()
    assert response.status == 403 and not any(
        name.lower().startswith("access-control-") for name in response.headers
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_open_address_needs_a_key(tmp_path, host):
    with pytest.raises(HanlinError, match="api-key"):
        serve(tmp_path, host=host)
    check_exposure(host, "some-key")
    with pytest.raises(HanlinError, match="8"):
        check_exposure(host, "abc1234")
    check_exposure("127.0.0.1", "k")


@pytest.mark.parametrize("port", [80000, 65536, -1])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(HanlinError, match="65535"):
        bind("127.0.0.1", port)


def test_where_the_server_can_be_reached(monkeypatch):
    monkeypatch.setattr("hanlin.serving.server.lan_address", lambda: "192.168.1.5")
    assert addresses("127.0.0.2", 80) == ("http://127.0.0.2:80", None)
    assert addresses("::1", 80) == ("http://[::1]:80", None)
    assert addresses("0.0.0.0", 80) == ("http://127.0.0.1:80", "http://192.168.1.5:80")


def test_the_address_it_listens_on_is_answered(tmp_path, monkeypatch):
    """`--host 127.0.0.2` prints an address; a page from there must be served."""
    seen = {}
    monkeypatch.setattr("hanlin.serving.server.load_chat_model", lambda *_: (None, None))
    monkeypatch.setattr("hanlin.serving.server.Engine", lambda *_, **__: None)
    monkeypatch.setattr(
        "hanlin.serving.server.create_app",
        lambda engine, tokenizer, settings, others: seen.update(hosts=settings.hosts),
    )
    monkeypatch.setattr(
        "hanlin.serving.server.make_server",
        lambda *_: types.SimpleNamespace(run=lambda sockets: sockets[0].close()),
    )
    (tmp_path / "config.json").write_text("{}")
    serve(tmp_path, host="127.0.0.2", port=0)
    assert "127.0.0.2" in seen["hosts"] and "localhost" in seen["hosts"]


PAGE = "http://app.example:3000"


@pytest.fixture(scope="module")
def shared(serve_with):
    """A server that lets one other origin in, with a key."""
    with serve_with(Settings(model_id="tiny", api_key=KEY, origins=(PAGE,))) as server:
        yield server


def permissions(response: http.client.HTTPResponse) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in response.headers.items()
        if name.lower().startswith("access-control-")
    }


def test_an_allowed_page_may_call_and_no_other(shared):
    authorized = ("Authorization", f"Bearer {KEY}")
    response = get(shared.port, "/v1/models", [("Origin", PAGE), authorized])
    assert response.status == 200 and permissions(response)["access-control-allow-origin"] == PAGE
    assert "Origin" in response.headers["vary"] and "access-control-allow-credentials" not in permissions(
        response
    )
    refused = get(shared.port, "/v1/models", [("Origin", PAGE)])  # its page can read why
    assert refused.status == 401 and permissions(refused)["access-control-allow-origin"] == PAGE
    for other in (
        "http://app.example",
        "https://app.example:3000",
        "http://app.example:3000.evil.example",
        "null",
        PAGE + "/",
    ):
        response = get(shared.port, "/v1/models", [("Origin", other), authorized])
        assert response.status == 403 and not permissions(response)
    assert (
        get(
            shared.port, "/v1/models", [("Origin", PAGE), ("Origin", "http://evil.example"), authorized]
        ).status
        == 403
    )


def test_a_preflight_of_an_allowed_page(shared):
    asked = [
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os"),
    ]
    response = get(shared.port, "/v1/chat/completions", [("Origin", PAGE), *asked], "OPTIONS")
    given = permissions(response)
    assert (
        response.status == 204
        and given["access-control-allow-origin"] == PAGE
        and "POST" in given["access-control-allow-methods"]
    )
    assert {name.strip() for name in given["access-control-allow-headers"].split(",")} == {
        "authorization",
        "content-type",
        "x-stainless-os",
    }
    assert get(shared.port, "/v1/chat/completions", [("Origin", PAGE)], "OPTIONS").status == 401
    assert (
        get(
            shared.port, "/v1/chat/completions", [("Origin", "http://evil.example"), *asked], "OPTIONS"
        ).status
        == 403
    )


@pytest.mark.parametrize(
    ("origin", "key", "allowed"),
    [
        ("http://localhost:3000", None, True),
        ("app://obsidian.md", None, True),
        ("HTTP://Localhost:3000/", None, True),
        ("*", "a-long-key", True),
        ("null", "a-long-key", True),
        ("*", None, False),
        ("null", None, False),
        ("localhost:3000", None, False),
        ("http://a/b", None, False),
        ("http://u@a", None, False),
        ("http://*.a", "a-long-key", False),
        ("", None, False),
    ],
)
def test_which_origins_can_be_allowed(origin, key, allowed):
    if allowed:
        assert check_origins([origin], key) == (origin.lower().rstrip("/"),)
    else:
        with pytest.raises(HanlinError, match="allow-origin"):
            check_origins([origin], key)


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
