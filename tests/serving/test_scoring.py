"""Scoring prompts (`echo` with `logprobs`): many in one pass, in the same queue and under the same deadline
and cancellation as generating, and others go on meanwhile."""

from __future__ import annotations

import http.client
import json
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hanlin.inference import Generation, PromptScores, SamplingParams
from hanlin.serving.scoring import (
    FIRST_TOKENS,
    PASS_TOKENS,
    PATIENCE,
    PATIENCE_OF_STREAMS,
    Scoring,
    ScoringQueue,
    choose,
)
from hanlin.serving.service import Settings

PATH = "/v1/completions"
LONG = [[1 + i % 200, 2, 3, 4, 5] for i in range(12)]


class Book:
    """What the engine does, in order, with the scoring held up until `go`.

    Attributes:
        done: "step", or the number of prompts that a pass scored.
    """

    def __init__(self, live):
        self.done: list[str | int] = []
        self.go = threading.Event()
        score, step = live.engine.score, live.engine.step

        def scoring(prompts, top):
            self.done.append(len(prompts))
            self.go.wait(5)
            return score(prompts, top)

        def stepping(admit_at=1):
            if live.engine.active or live.engine.waiting:
                self.done.append("step")
            return step(admit_at)

        live.engine.score, live.engine.step = scoring, stepping

    @property
    def passes(self) -> list[int]:
        """Prompts of each scoring pass."""
        return [size for size in self.done if isinstance(size, int)]


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


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
def test_the_prompts_of_a_request_are_scored_in_one_pass_and_read_once(booked, max_tokens, stream):
    live, book = booked
    book.go.set()
    response = ask(
        live, prompt=LONG, echo=True, logprobs=1, max_tokens=max_tokens, stream=stream
    ).getresponse()
    assert response.status == 200 and response.read()
    assert book.done == [len(LONG)]  # and no step: the one new token comes from the same pass


def test_requests_that_wait_at_the_same_time_are_scored_together(serve_with):
    with serve_with(Settings(model_id="tiny", max_waiting=100), max_batch=4) as live:
        book = Book(live)
        prompts = [[1 + i, 2, 3, 4, *range(5, 6 + i % 4)] for i in range(64)]
        body = {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
        held = [ask(live, prompt=prompts[0], **body)]
        wait_for(lambda: book.done)
        held += [ask(live, prompt=prompt, **body) for prompt in prompts[1:]]
        wait_for(lambda: live.worker.unfinished == 64)
        book.go.set()
        answers = [json.loads(connection.getresponse().read())["choices"][0] for connection in held]
        # small ones at first: the pass that was held up looked slow
        assert sum(book.passes) == 64 and len(book.passes) <= 8 and max(book.passes) >= 16, book.passes
        together = [answer["logprobs"]["token_logprobs"] for answer in answers]
        for prompt, values in zip(prompts[::9], together[::9], strict=True):
            alone = json.loads(ask(live, prompt=prompt, **body).getresponse().read())["choices"][0]
            assert values == pytest.approx(alone["logprobs"]["token_logprobs"], abs=1e-5)
            assert len(values) == len(prompt) + 1


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
    first = ask(live, prompt=LONG[0], echo=True, logprobs=1, max_tokens=0)
    wait_for(lambda: book.done)  # a pass that holds up what comes
    left = ask(live, prompt=LONG[1:6], echo=True, logprobs=1, max_tokens=0, stream=stream)
    stayed = ask(live, prompt=LONG[6:8], echo=True, logprobs=1, max_tokens=0)
    wait_for(lambda: live.worker.unfinished == 8)
    assert left.sock is not None
    left.sock.close()
    time.sleep(0.1)  # the server hears of it
    book.go.set()
    assert first.getresponse().status == stayed.getresponse().status == 200
    wait_for(lambda: live.worker.unfinished == 0)
    assert sum(book.passes) == 3  # of eight


def test_each_distinct_prompt_is_scored_once(booked):
    live, book = booked
    book.go.set()
    response = ask(
        live, prompt=[LONG[0], LONG[1], LONG[0]], echo=True, logprobs=1, max_tokens=1, n=3
    ).getresponse()
    choices = json.loads(response.read())["choices"]
    assert len(choices) == 9 and book.passes == [2]
    assert choices[0]["logprobs"]["token_logprobs"][:5] == choices[8]["logprobs"]["token_logprobs"][:5]


def test_those_who_generate_go_on_between_passes(serve_with):
    """While a hundred prompts are scored slowly, the chat gets a token after each pass, and a pass is no
    longer than its patience."""
    with serve_with(Settings(model_id="tiny", max_waiting=200), max_batch=4) as live:
        book = Book(live)
        book.go.set()
        score, step = live.engine.score, live.engine.step

        def slowly(prompts, top):
            time.sleep(0.002 * sum(map(len, prompts)))
            return score(prompts, top)

        live.engine.score = slowly
        live.engine.step = lambda admit_at=1: (time.sleep(0.004), step(admit_at))[1]
        first = ask(live, prompt=LONG, echo=True, logprobs=1, max_tokens=0)  # now the speed is known
        assert first.getresponse().status == 200
        book.done.clear()
        ends = {str(i): -100 for i in live.engine.eos_ids}
        chat = ask(live, prompt=[1, 2, 3], max_tokens=200, logit_bias=ends)
        wait_for(lambda: "step" in book.done)
        held = [ask(live, prompt=[LONG[i % 12]] * 2, echo=True, logprobs=1, max_tokens=0) for i in range(50)]
        assert chat.getresponse().status == 200
        assert all(connection.getresponse().status == 200 for connection in held)
        last = len(book.done) - book.done[::-1].index("step")
        during = book.done[book.done.index("step") : last]
        assert not any(
            isinstance(a, int) and isinstance(b, int) for a, b in zip(during, during[1:], strict=False)
        )
        sizes = [size for size in during if isinstance(size, int)]
        assert len(sizes) > 5 and max(sizes) * 5 * 0.002 <= 2 * PATIENCE_OF_STREAMS, sizes


def test_the_deadline_ends_scoring(serve_with):
    with serve_with(Settings(model_id="tiny", request_timeout=0.3)) as live:
        book = Book(live)
        for stream in (False, True):
            response = ask(
                live, prompt=LONG, echo=True, logprobs=1, max_tokens=0, stream=stream
            ).getresponse()
            assert response.status == (200 if stream else 503) and b'"timeout"' in response.read()
        time.sleep(0.1)  # the engine hears of it
        book.go.set()
        wait_for(lambda: live.worker.unfinished == 0)
        assert book.passes == [len(LONG)]  # the second request's prompts were dropped while they waited


def test_a_failure_while_scoring_is_answered(serve_with):
    with serve_with(Settings(model_id="tiny")) as live:

        def broken(*_):
            raise RuntimeError("out of memory")

        for name in ("score", "submit_scored"):
            working = getattr(live.engine, name)
            setattr(live.engine, name, broken)
            response = ask(live, prompt=LONG, echo=True, logprobs=1, max_tokens=2).getresponse()
            assert response.status == 500 and b"memory" not in response.read()
            setattr(live.engine, name, working)
            assert ask(live, prompt=LONG, echo=True, logprobs=1, max_tokens=2).getresponse().status == 200
            wait_for(lambda: live.worker.unfinished == 0)


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_scores_that_are_no_numbers_are_an_error(serve_with, max_tokens):
    """A diverged model; null would be read as a score that is missing."""
    with serve_with(Settings(model_id="tiny")) as live:
        with torch.no_grad():
            next(live.engine.model.parameters()).fill_(float("nan"))
        response = ask(live, prompt=LONG[:2], echo=True, logprobs=1, max_tokens=max_tokens).getresponse()
        assert response.status == 500 and b"engine_error" in response.read()
        wait_for(lambda: live.worker.unfinished == 0)


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_streamed_echo_equals_the_whole_one(booked, logprobs):
    live, book = booked
    book.go.set()
    for length in (1, 4):
        body = {
            "prompt": LONG[:3],
            "echo": True,
            "logprobs": logprobs,
            "max_tokens": length,
            "seed": 1,
            "n": 2,
        }
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


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 4000))
def test_a_pass_has_the_oldest_prompt_and_those_like_it(lengths, budget):
    """Of all runs of neighbours in the order of lengths that have the oldest prompt and fit, one that does
    most for its cost."""
    chosen = choose(lengths, budget)
    taken = [lengths[index] for index in chosen]
    assert 0 in chosen and len(set(chosen)) == len(chosen) and taken == sorted(taken)
    assert len(taken) == 1 or max(taken) * len(taken) <= budget

    def gain(run: list[int]) -> float:
        return sum(run) / (len(run) * run[-1] + PASS_TOKENS)

    ordered = sorted(lengths)
    ends = range(len(ordered) + 1)
    oldest = ordered.index(lengths[0])  # the first of its equals
    runs = [ordered[a:b] for a in ends for b in ends if a <= oldest < b]
    fitting = [run for run in runs if len(run) * run[-1] <= budget]
    assert gain(taken) == pytest.approx(max([gain([lengths[0]]), *map(gain, fitting)]))


@pytest.mark.parametrize("count", [64, 1000])
def test_prompts_of_different_lengths_waste_little_padding_and_few_passes(count):
    waiting = [20 + i * 37 % 41 for i in range(count)]
    passes, padded = 0, 0
    total = sum(waiting)
    while waiting:
        chosen = choose(waiting, 8192)
        passes += 1
        padded += len(chosen) * max(waiting[index] for index in chosen)
        waiting = [length for index, length in enumerate(waiting) if index not in set(chosen)]
    assert padded < 1.2 * total and passes < 4 + total / 2000


class PacedEngine:
    """An engine that scores a known number of tokens a second, by a clock of its own."""

    def __init__(self, speed: float):
        self.speed = speed
        self.time = 0.0
        self.active = self.waiting = 0
        self.passes: list[tuple[int, float]] = []  # prompts, seconds

    def score(self, prompts, top):
        seconds = len(prompts) * max(map(len, prompts)) / self.speed
        self.time += seconds
        self.passes.append((len(prompts), seconds))
        scores = [
            PromptScores([0.0] * (len(p) - 1), [[] for _ in p[1:]], [[] for _ in p[1:]]) for p in prompts
        ]
        return scores, torch.zeros(len(prompts), 1)

    def submit_scored(self, generations, hidden):
        for generation in generations:
            generation.finish_reason = "length"


@pytest.mark.parametrize("speed", [500, 20_000, 10_000_000])
@pytest.mark.parametrize("streams", [0, 3])
def test_a_pass_takes_no_longer_than_its_patience(speed, streams):
    engine = PacedEngine(speed)
    engine.active = streams
    queue = ScoringQueue(engine, lambda *_: None, lambda: engine.time)  # type: ignore[arg-type]
    told: list[int] = []
    queue.add(
        Scoring(
            [1] * (30 + i % 20),
            0,
            {i: Generation([1], SamplingParams())},
            lambda choice, _: told.append(choice),
        )
        for i in range(300)
    )
    while queue:
        queue.step()
    assert sorted(told) == list(range(300))
    patience = PATIENCE_OF_STREAMS if streams else PATIENCE
    first, *later = engine.passes
    assert first[0] * 30 <= FIRST_TOKENS
    assert all(seconds <= patience or prompts == 1 for prompts, seconds in later)
    if speed == 20_000 and not streams:
        assert max(prompts for prompts, _ in later) > 32
