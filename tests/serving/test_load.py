"""Requests that go away, queues that are full, engines that fail, clients that dawdle."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import threading
import time
import types

import openai
import pytest

from hanlin.serving.response_stream import Choice, ResponseStream
from hanlin.serving.service import Settings
from hanlin.serving.worker import RequestHandle, TokenEvent
from tests.inference.tiny import tiny_tokenizer

BODY = {
    "messages": [{"role": "user", "content": "你好"}],
    "temperature": 1,
    "logit_bias": {},
    "max_tokens": 100000,
}


@pytest.fixture(scope="module")
def slow(serve_with):
    """A server whose replies take long: 15 ms a step, and the end tokens are forbidden."""
    with serve_with(
        Settings(model_id="tiny", max_waiting=2), max_batch=2, max_position_embeddings=4096
    ) as live:
        step = live.engine.step

        def dawdle(admit_at: int = 1) -> bool:
            time.sleep(0.015)
            return step(admit_at)

        live.engine.step = dawdle
        live.body = json.dumps({**BODY, "logit_bias": {str(i): -100 for i in live.engine.eos_ids}})
        yield live


def idle(live, within: float) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if live.engine.active == live.engine.waiting == live.worker.unfinished == 0:
            return True
        time.sleep(0.005)
    return False


def ask(live, stream: bool) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps({**json.loads(live.body), "stream": stream}),
        {"content-type": "application/json"},
    )
    return connection


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("after", [0.0, 0.05, 0.3])
def test_a_client_that_leaves_frees_its_slot(slow, stream, after):
    connections = [ask(slow, stream) for _ in range(4)]  # two run, two wait
    while slow.worker.unfinished < 4:
        time.sleep(0.005)
    time.sleep(after)
    for connection in connections:
        assert connection.sock is not None
        connection.sock.close()
    assert idle(slow, 1.0)


def test_the_queue_has_an_end_and_says_when_to_come_back(slow):
    connections = [ask(slow, True) for _ in range(4)]
    while slow.worker.unfinished < 4:
        time.sleep(0.005)
    with (
        openai.OpenAI(base_url=f"{slow.url}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "你好"}])
    assert int(caught.value.response.headers["retry-after"]) >= 1 and caught.value.code == "queue_full"
    for connection in connections:
        connection.close()
    assert idle(slow, 1.0)


def test_leaving_at_the_moment_a_token_comes_is_noticed():
    """A cancellation and an event in one turn of the loop: the reader ends (Python < 3.12's
    `asyncio.wait_for` lost it)."""

    async def scene() -> bool:
        handle = RequestHandle(asyncio.get_running_loop(), "tiny")
        worker = types.SimpleNamespace(submit=lambda *_: handle)
        run = ResponseStream(
            worker,
            "tiny",
            [],
            [Choice(0, tiny_tokenizer(), [], chat=False, reasoning=False, keep_tags=False)],
            timeout=60,
        )

        async def read() -> None:
            async for _ in run.deltas():
                pass

        reader = asyncio.ensure_future(read())
        for _ in range(3):
            await asyncio.sleep(0)  # until it waits
        handle.events.put_nowait(TokenEvent(0, token=5))
        await asyncio.sleep(0)  # whatever hands the event on has done so
        reader.cancel()
        await asyncio.wait([reader], timeout=1)
        return reader.cancelled()

    assert asyncio.run(scene())


def test_many_requests_share_the_batch_and_all_are_served(serve_with):
    with serve_with(Settings(model_id="tiny", max_waiting=100), max_batch=8) as live:
        statuses: list[int] = []

        def one() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=20)
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps({**BODY, "max_tokens": 10}),
                {"content-type": "application/json"},
            )
            response = connection.getresponse()
            statuses.append(response.status)
            response.read()
            connection.close()

        threads = [threading.Thread(target=one) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 40 and idle(live, 1.0)
        assert live.worker.totals["requests"] == 40


def test_the_deadline_ends_a_request(serve_with):
    with serve_with(Settings(model_id="tiny", request_timeout=0.2), max_position_embeddings=4096) as live:
        step = live.engine.step
        live.engine.step = lambda admit_at=1: (time.sleep(0.02), step(admit_at))[1]
        live.body = json.dumps({**BODY, "logit_bias": {str(i): -100 for i in live.engine.eos_ids}})
        for stream in (False, True):
            response = ask(live, stream).getresponse()
            text = response.read().decode()
            assert '"timeout"' in text and response.status == (200 if stream else 503)
        assert idle(live, 1.0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_failing_engine_answers_and_recovers(serve_with, stream, caplog):
    secret = "不可告人"
    with serve_with(Settings(model_id="tiny")) as live, caplog.at_level(logging.DEBUG):
        hidden = live.engine.model.hidden

        def broken(*_, **__):
            raise RuntimeError("out of memory")

        live.engine.model.hidden = broken
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="x", max_retries=0) as client:
            messages = [{"role": "user", "content": secret}]
            with pytest.raises(openai.APIError):
                answer = client.chat.completions.create(model="tiny", messages=messages, stream=stream)
                list(answer)
            live.engine.model.hidden = hidden
            assert client.chat.completions.create(model="tiny", messages=messages, max_tokens=3).choices
        assert idle(live, 1.0)
    assert not any(secret in record.getMessage() for record in caplog.records)


def test_stopping_the_server_ends_streams_with_an_error_event(serve_with):
    with serve_with(Settings(model_id="tiny"), max_position_embeddings=4096) as live:
        step = live.engine.step
        live.engine.step = lambda admit_at=1: (time.sleep(0.02), step(admit_at))[1]
        live.body = json.dumps(
            {**BODY, "max_tokens": 20, "logit_bias": {str(i): -100 for i in live.engine.eos_ids}}
        )
        response = ask(live, True).getresponse()
        response.read(20)
    events = response.read().decode().split("\n\n")
    assert events[-2] == "data: [DONE]"  # it was allowed to finish, and nothing was cut in two
    for event in events[1:-2]:
        json.loads(event.removeprefix("data: "))
