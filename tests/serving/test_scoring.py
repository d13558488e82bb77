"""Scoring prompts (`echo` with `logprobs`) obeys the same queue, deadline and cancellation as generating, and
lets others go on."""

from __future__ import annotations

import http.client
import json
import threading
import time

import pytest

from hanlin.serving.service import Settings

PATH = "/v1/completions"
LONG = [[1 + i % 200, 2, 3, 4, 5] for i in range(12)]


class Book:
    """What the engine does, in order, with the scoring held up until `go`."""

    def __init__(self, live):
        self.done: list[str] = []
        self.go = threading.Event()
        score, step = live.engine.score, live.engine.step

        def scoring(ids, top=0):
            self.done.append("score")
            self.go.wait(5)
            return score(ids, top)

        def stepping(admit_at=1):
            if live.engine.active or live.engine.waiting:
                self.done.append("step")
            return step(admit_at)

        live.engine.score, live.engine.step = scoring, stepping


@pytest.fixture
def booked(serve_with):
    with serve_with(Settings(model_id="tiny", max_waiting=8), max_batch=4) as live:
        yield live, Book(live)


def ask(live, **body) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    connection.request("POST", PATH, json.dumps(body), {"content-type": "application/json"})
    return connection


def wait_for(condition) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_scoring_is_counted_in_the_queue(booked):
    live, book = booked
    held = ask(live, prompt=LONG, echo=True, logprobs=1, max_tokens=0)
    wait_for(lambda: book.done)
    assert live.worker.unfinished == len(LONG)
    late = ask(live, prompt=LONG[0], echo=True, logprobs=1, max_tokens=0).getresponse()
    assert late.status == 429 and int(late.headers["retry-after"]) >= 1
    book.go.set()
    answer = json.loads(held.getresponse().read())
    assert [len(choice["logprobs"]["tokens"]) for choice in answer["choices"]] == [5] * len(LONG)
    wait_for(lambda: live.worker.unfinished == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_nobody_waits_for_are_not_scored(booked, stream):
    live, book = booked
    connection = ask(live, prompt=LONG, echo=True, logprobs=1, max_tokens=0, stream=stream)
    wait_for(lambda: book.done)
    assert connection.sock is not None
    connection.sock.close()
    time.sleep(0.1)  # the server hears of it
    book.go.set()
    wait_for(lambda: live.worker.unfinished == 0)
    assert book.done.count("score") <= 2


def test_each_distinct_prompt_is_scored_once(booked):
    live, book = booked
    book.go.set()
    response = ask(
        live, prompt=[LONG[0], LONG[1], LONG[0]], echo=True, logprobs=1, max_tokens=1, n=3
    ).getresponse()
    choices = json.loads(response.read())["choices"]
    assert len(choices) == 9 and book.done.count("score") == 2
    assert choices[0]["logprobs"]["token_logprobs"][:5] == choices[8]["logprobs"]["token_logprobs"][:5]


def test_one_prompt_is_scored_between_two_steps_of_those_who_generate(booked):
    live, book = booked
    ends = {str(i): -100 for i in live.engine.eos_ids}
    chat = ask(live, prompt=[1, 2, 3], max_tokens=60, logit_bias=ends)
    scoring = ask(live, prompt=LONG[:8], echo=True, logprobs=1, max_tokens=0)
    book.go.set()
    assert chat.getresponse().status == scoring.getresponse().status == 200
    begun = book.done[book.done.index("step") :]
    last = len(begun) - begun[::-1].index("step")
    between = "".join(kind[1] for kind in begun[:last])  # t for a step, c for scoring
    assert "cc" not in between and book.done.count("score") == 8


def test_the_deadline_ends_scoring(serve_with):
    with serve_with(Settings(model_id="tiny", request_timeout=0.3)) as live:
        book = Book(live)
        for stream in (False, True):
            response = ask(
                live, prompt=LONG, echo=True, logprobs=1, max_tokens=0, stream=stream
            ).getresponse()
            assert response.status == (200 if stream else 503) and b'"timeout"' in response.read()
        book.go.set()
        wait_for(lambda: live.worker.unfinished == 0)


def test_a_failure_while_scoring_is_answered(serve_with):
    with serve_with(Settings(model_id="tiny")) as live:

        def broken(*_):
            raise RuntimeError("out of memory")

        score, live.engine.score = live.engine.score, broken
        response = ask(live, prompt=LONG, echo=True, logprobs=1, max_tokens=2).getresponse()
        assert response.status == 500 and b"memory" not in response.read()
        live.engine.score = score
        assert ask(live, prompt=LONG, echo=True, logprobs=1, max_tokens=2).getresponse().status == 200
        wait_for(lambda: live.worker.unfinished == 0)


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_streamed_echo_equals_the_whole_one(booked, logprobs):
    live, book = booked
    book.go.set()
    body = {"prompt": LONG[:3], "echo": True, "logprobs": logprobs, "max_tokens": 4, "seed": 1, "n": 2}
    whole = json.loads(ask(live, **body).getresponse().read())["choices"]
    events = ask(live, **body, stream=True).getresponse().read().decode().split("\n\n")
    chunks = [
        json.loads(event.removeprefix("data: "))["choices"][0]
        for event in events
        if event.startswith("data: {")
    ]
    for choice in whole:
        own = [chunk for chunk in chunks if chunk["index"] == choice["index"]]
        assert "".join(chunk["text"] for chunk in own) == choice["text"]
        if logprobs is not None:
            for name in ("tokens", "token_logprobs"):
                assert [x for chunk in own for x in chunk["logprobs"][name]] == choice["logprobs"][name]
