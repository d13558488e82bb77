"""A client is dropped when it is late, at every stage of every request of its connection; one that only reads
slowly is not."""

from __future__ import annotations

import logging
import socket
import time

import pytest
from starlette.responses import Response
from starlette.routing import Route

from hanlin.serving.connections import Limits, Seldom, affordable, raise_file_limit
from hanlin.serving.service import Settings

QUICK = Limits(idle=0.9, header=0.3, body=0.3, answered=0.3, stall=0.8, connections=8)
KEY = "a-long-enough-key"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = 4 << 20


@pytest.fixture(scope="module")
def hasty(serve_with):
    """A server that waits for tenths of a second, with a key and one large answer."""
    with serve_with(Settings(model_id="tiny", api_key=KEY), limits=QUICK) as server:
        server.app.router.routes.insert(0, Route("/large", lambda _: Response(b"x" * LARGE)))
        yield server


def connect(live) -> socket.socket:
    return socket.create_connection(("127.0.0.1", live.port), timeout=3)


def answer(raw: socket.socket, sent: bytes) -> bytes:
    """What comes back for a whole request with a short answer."""
    raw.sendall(sent)
    received = b""
    while b"}" not in received:
        received += raw.recv(4096)
    return received


def closed(raw: socket.socket) -> bool:
    """Whether the server closes the connection before the socket's timeout of three seconds."""
    try:
        while raw.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


BEGINNINGS = {
    "a header that stops": b"G",
    "an unfinished header": GET[:-2],
    "a body that stops": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Authorization: Bearer %b\r\nContent-Length: 50\r\n\r\n{" % KEY.encode(),
    "a body behind a 401": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"
    ),
    "a body of a GET": b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nx",
    "nothing": b"",
}


@pytest.mark.parametrize("requests_before", [0, 1, 2])
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_client_that_stops_in_the_middle_is_dropped(hasty, beginning, requests_before):
    with connect(hasty) as raw:
        for _ in range(requests_before):
            assert b" 200 " in answer(raw, GET)
        raw.sendall(BEGINNINGS[beginning])
        assert closed(raw)


@pytest.mark.parametrize("beginning", ["an unfinished header", "a body behind a 401", "a body of a GET"])
def test_trickling_does_not_buy_time(hasty, beginning):
    """A byte in every fifth of a limit; the connection must end after a few of them."""
    with connect(hasty) as raw:
        assert b" 200 " in answer(raw, GET)
        raw.sendall(BEGINNINGS[beginning])
        for _ in range(40):  # of the body's 50 bytes
            try:
                raw.sendall(b"x")
            except ConnectionError:
                return
            time.sleep(0.06)
    raise AssertionError("still open")


def test_a_client_that_takes_its_time_between_requests_is_served(hasty):
    with connect(hasty) as raw:
        for _ in range(3):
            assert b" 200 " in answer(raw, GET)
            time.sleep(0.4)  # longer than a header may take, shorter than a connection may be idle


def fetch_large(live, pause: float) -> int:
    """Bytes read of the large answer, 256 KiB at a time with pauses between; as many as come before the
    server hangs up."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        raw.settimeout(3)
        raw.connect(("127.0.0.1", live.port))
        raw.sendall(
            b"GET /large HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n" % KEY.encode()
        )
        size = 0
        while size < LARGE:
            time.sleep(pause)
            block = 0
            while block < 256 << 10:
                try:
                    got = len(raw.recv((256 << 10) - block))
                except ConnectionError:
                    return size
                if not got:
                    return size
                block += got
                size += got
                if size >= LARGE:
                    break
        return size


def test_a_slow_reader_gets_its_whole_answer_and_one_that_stops_does_not(hasty):
    """Reading takes 1.8 s or more in all, over twice what an answer may lie there without a byte being
    taken."""
    assert fetch_large(hasty, pause=0.11) >= LARGE
    assert fetch_large(hasty, pause=1.5) < LARGE


def test_more_connections_than_allowed_are_refused_as_they_come(hasty):
    held = [connect(hasty) for _ in range(QUICK.connections)]
    for raw in held:
        assert b" 200 " in answer(raw, GET)
    with connect(hasty) as late:
        refusal = late.recv(4096)
        assert (
            refusal.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in refusal and refusal.endswith(b"}}")
        )
    assert b" 200 " in answer(held[0], GET)  # those who are in are served
    for raw in held:
        assert closed(raw)
        raw.close()
    with connect(hasty) as later:
        assert b" 200 " in answer(later, GET)


def test_the_limit_of_open_files_is_raised_and_leaves_room():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        assert raise_file_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert affordable(1024, 20000) == 1024 and affordable(1024, 1024) < 1024 and affordable(1024, 10) == 1


def test_a_flood_of_equal_lines_is_a_few_lines_and_their_number():
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.Logger("flooded")
    logger.addHandler(handler)
    logger.addFilter(Seldom(often=3, period=0.05))
    for _ in range(1000):
        logger.error("socket.accept() out of system resources")
    assert len(lines) == 3
    time.sleep(0.06)
    logger.error("socket.accept() out of system resources")
    assert "997" in lines[3]
