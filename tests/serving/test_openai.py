"""The official client finds what it expects."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import openai
import pytest

from hanlin.inference import Engine, SamplingParams, derive_seed, encode_prompt, split_reply
from tests.inference.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
QUESTION = [{"role": "user", "content": "小明有几个苹果？"}]


@pytest.fixture
def client(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0, timeout=20) as client:
        yield client


def direct(live, messages, **changes) -> tuple[str, str]:
    """What the engine itself says, (reasoning, content)."""
    thinking = changes.pop("thinking", None)
    engine = Engine(live.engine.model, TOKENIZER)
    completion = engine.generate([encode_prompt(TOKENIZER, messages, thinking)], [SamplingParams(**changes)])[
        0
    ]
    return split_reply(TOKENIZER, completion.ids, reasoning=thinking is True)


def test_models(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == ["tiny"] and client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


def test_chat_equals_the_engine(client, live):
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, max_tokens=24)
    _, content = direct(live, QUESTION, temperature=0, max_new_tokens=24)
    choice = answer.choices[0]
    assert choice.message.content == content and choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length") and answer.object == "chat.completion"
    assert answer.usage.prompt_tokens == len(encode_prompt(TOKENIZER, QUESTION))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("thinking", [None, True, False])
def test_stream_joined_equals_the_whole(client, thinking):
    settings = {
        "model": "tiny",
        "messages": QUESTION,
        "temperature": 0.9,
        "seed": 5,
        "max_completion_tokens": 40,
        "n": 2,
    }
    if thinking is not None:
        settings["extra_body"] = {"chat_template_kwargs": {"enable_thinking": thinking}}
    whole = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    )
    for index in (0, 1):
        deltas = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert deltas[0].delta.role == "assistant"
        message = whole.choices[index].message
        assert "".join(d.delta.content or "" for d in deltas) == message.content
        for name in ("reasoning_content", "reasoning"):
            streamed = "".join(getattr(d.delta, name, None) or "" for d in deltas)
            assert streamed == (getattr(message, name, None) or "")
        assert [d.finish_reason for d in deltas if d.finish_reason] == [whole.choices[index].finish_reason]
    assert whole.choices[0].message != whole.choices[1].message
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1]) and len({c.id for c in chunks}) == 1
    if thinking:
        assert whole.choices[0].message.reasoning_content == direct_reasoning(client, settings)


def direct_reasoning(client, settings) -> str:
    """The same reply with its tags kept in the content, and the reasoning cut out by hand."""
    extra = {**settings["extra_body"], "separate_reasoning": False}
    content = client.chat.completions.create(**{**settings, "extra_body": extra}).choices[0].message.content
    assert content.startswith("<think>\n")
    return content.removeprefix("<think>\n").lstrip("\n").partition("</think>")[0].rstrip("\n")


def test_no_stream_option_no_usage_chunk(client):
    chunks = list(client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=5, stream=True))
    assert all(chunk.choices for chunk in chunks)


def test_the_wire_ends_with_done(live):
    body = json.dumps({"messages": QUESTION, "max_tokens": 3, "stream": True}).encode()
    request = urllib.request.Request(
        f"{live.url}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and all(event.startswith("data: ") for event in events[:-1])


def test_seed_reproduces_whatever_else_runs(live):
    async def ask(client, seed):
        answer = await client.chat.completions.create(
            model="tiny", messages=QUESTION, temperature=1, seed=seed, max_tokens=20
        )
        return answer.choices[0].message.content

    async def crowd():
        async with openai.AsyncOpenAI(
            base_url=f"{live.url}/v1", api_key="unused", max_retries=0, timeout=20
        ) as client:
            alone = await ask(client, 7)
            together = await asyncio.gather(*[ask(client, seed) for seed in (1, 7, 2, 3, 7, 4, 5)])
            return alone, together

    alone, together = asyncio.run(crowd())
    assert together[1] == together[4] == alone and len(set(together)) > 2
    assert alone == direct(live, QUESTION, temperature=1, seed=derive_seed(7, 0), max_new_tokens=20)[1]


def test_stop_strings_end_the_reply_and_stay_out_of_it(client):
    settings = {"model": "tiny", "messages": QUESTION, "temperature": 1, "seed": 11, "max_tokens": 60}
    free = client.chat.completions.create(**settings).choices[0].message.content
    stop = free[10:12]
    stopped = client.chat.completions.create(**settings, stop=[stop, "不会出现的"])
    assert (
        stopped.choices[0].message.content == free[: free.index(stop)]
        and stopped.choices[0].finish_reason == "stop"
    )
    chunks = client.chat.completions.create(**settings, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == free[: free.index(stop)]


def test_logprobs_spell_the_content(client):
    answer = client.chat.completions.create(
        model="tiny", messages=QUESTION, seed=2, max_tokens=20, logprobs=True, top_logprobs=3
    )
    entries = answer.choices[0].logprobs.content
    spelt = b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace")
    assert spelt == answer.choices[0].message.content
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) <= 3 for entry in entries)
    streamed = client.chat.completions.create(
        model="tiny", messages=QUESTION, seed=2, max_tokens=20, logprobs=True, top_logprobs=3, stream=True
    )
    again = [
        entry
        for chunk in streamed
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in again] == [entry.token for entry in entries]


def test_logit_bias_and_parts_and_developer_and_null(client):
    token = TOKENIZER.encode("猫")
    assert len(token) == 1 or token
    bias = {str(token[0]): 100}
    answer = client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "developer", "content": "只说猫"},
            {"role": "user", "content": [{"type": "text", "text": "说"}]},
        ],
        logit_bias=bias,
        temperature=0,
        max_tokens=4,
        top_p=None,
        seed=None,
        logprobs=True,
    )
    assert [tuple(e.bytes) for e in answer.choices[0].logprobs.content] == [
        tuple(TOKENIZER.decode_bytes(token[:1]))
    ] * 4


def test_completions(client, live):
    text = "小明在公园里"
    engine = Engine(live.engine.model, TOKENIZER)
    ids = engine.generate([TOKENIZER.encode(text)], SamplingParams(temperature=0, max_new_tokens=12))[0].ids
    expected = TOKENIZER.decode([i for i in ids if i not in TOKENIZER.special.values()])
    by_text = client.completions.create(model="tiny", prompt=text, temperature=0, max_tokens=12)
    by_ids = client.completions.create(
        model="tiny", prompt=TOKENIZER.encode(text), temperature=0, max_tokens=12
    )
    echoed = client.completions.create(
        model="tiny", prompt=[text, "今天"], temperature=0, max_tokens=12, echo=True, n=2
    )
    assert (
        by_text.choices[0].text == by_ids.choices[0].text == expected and by_text.object == "text_completion"
    )
    assert [c.index for c in echoed.choices] == [0, 1, 2, 3] and echoed.choices[1].text == text + expected
    assert echoed.choices[2].text.startswith("今天")
    chunks = list(
        client.completions.create(
            model="tiny",
            prompt=text,
            temperature=0,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == expected and chunks[
        -1
    ].usage.prompt_tokens == len(TOKENIZER.encode(text))


def test_an_echo_is_scored_as_an_evaluation_harness_needs_it(client, live):
    prompt = TOKENIZER.encode("小红有三个苹果，又买了五个")
    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=0, echo=True, logprobs=2)
    logprobs = answer.choices[0].logprobs
    expected = Engine(live.engine.model, TOKENIZER).score([prompt], [2])[0][0].logprobs
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert answer.choices[0].text == TOKENIZER.decode(prompt) and len(logprobs.tokens) == len(prompt) == len(
        logprobs.text_offset
    )
    assert logprobs.top_logprobs[0] is None and len(logprobs.top_logprobs[1]) == 2


def test_reasoning_in_the_history_is_accepted_under_both_names_and_dropped(client):
    base = [*QUESTION, {"role": "assistant", "content": "八个"}, {"role": "user", "content": "为什么？"}]
    counts = set()
    for name in (None, "reasoning", "reasoning_content"):
        messages = [dict(message) for message in base]
        if name:
            messages[1][name] = "三加五等于八"
        counts.add(
            client.chat.completions.create(model="tiny", messages=messages, max_tokens=2).usage.prompt_tokens
        )
    assert len(counts) == 1


def test_health_metrics_and_absent_features(client, live):
    with urllib.request.urlopen(f"{live.url}/health", timeout=5) as response:
        assert json.load(response) == {"status": "ok"}
    with urllib.request.urlopen(f"{live.url}/metrics", timeout=5) as response:
        assert b"hanlin_completion_tokens_total" in response.read()
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="tiny", input="字")
    assert caught.value.status_code == 501
    for extra in (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"response_format": {"type": "json_object"}},
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="tiny", messages=QUESTION, **extra)
        assert refused.value.code == "not_supported"


def test_a_prompt_beyond_the_context_says_so(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "字" * 300}])
    assert caught.value.code == "context_length_exceeded"


def test_the_description_names_what_is_sent(live):
    with urllib.request.urlopen(f"{live.url}/openapi.json", timeout=5) as response:
        paths = json.load(response)["paths"]
    sent = {
        ("/health", "get"): {200, 503},
        ("/metrics", "get"): {200, 401},
        ("/suggestions", "get"): {200, 401},
        ("/v1/models", "get"): {200, 401, 403},
        ("/v1/models/{model_id}", "get"): {200, 401, 404},
        ("/v1/chat/completions", "post"): {200, 400, 401, 403, 404, 408, 413, 429, 431, 499, 500, 503},
        ("/v1/completions", "post"): {200, 400, 401, 403, 404, 408, 413, 429, 431, 499, 500, 503},
        ("/tokenize", "post"): {200, 400, 401, 403, 404, 408, 413, 431},
        ("/detokenize", "post"): {200, 400, 401, 403, 404, 408, 413, 431},
        ("/tokenizer_info", "get"): {200, 401, 403, 404},
        ("/v1/embeddings", "post"): {400, 401, 408, 413, 501},
    }
    assert {(path, method) for path, operations in paths.items() for method in operations} == set(sent)
    for (path, method), statuses in sent.items():
        responses = paths[path][method]["responses"]
        assert statuses <= set(map(int, responses)) and "422" not in responses
    assert set(paths["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}
    for path in ("/v1/chat/completions", "/v1/completions"):
        content = paths[path]["post"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
    assert (
        "401" not in paths["/health"]["get"]["responses"]
        and "200" not in paths["/v1/embeddings"]["post"]["responses"]
    )
