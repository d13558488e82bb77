"""`logprobs` of /v1/completions: one entry for every token of prompt and reply, whatever the token is; names
that differ where tokens do; offsets into the text that was sent."""

from __future__ import annotations

import http.client
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.inference import PromptScores
from hanlin.serving.formats import TextLogprobs, token_names
from hanlin.serving.response_stream import Choice
from hanlin.serving.service import Settings
from hanlin.serving.worker import TokenEvent
from tests.inference.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
NAMES = token_names(TOKENIZER, TOKENIZER.vocab_size)
TEXT = "小明在公园里看见龘😀，笑"
PROMPT = TOKENIZER.encode(TEXT)
CONTROL_IDS = frozenset(TOKENIZER.special.values())
CONTROL = {"<|endoftext|>": TOKENIZER.eos_id, "<|im_end|>": TOKENIZER.im_end_id}


def complete(live, **body) -> list[dict]:
    """The choices of a completion; of a streamed one, each put together from its chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=20)
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    received = response.read().decode()
    connection.close()
    assert response.status == 200, received
    if not body.get("stream"):
        return json.loads(received)["choices"]
    choices: dict[int, dict] = {}
    for event in received.split("\n\n"):
        if event.startswith("data: {"):
            chunk = json.loads(event.removeprefix("data: "))["choices"][0]
            whole = choices.setdefault(chunk["index"], {"text": "", "logprobs": None, "finish_reason": None})
            whole["text"] += chunk["text"]
            whole["finish_reason"] = chunk["finish_reason"] or whole["finish_reason"]
            if chunk["logprobs"] is not None:
                whole["logprobs"] = whole["logprobs"] or {name: [] for name in chunk["logprobs"]}
                for name, values in chunk["logprobs"].items():
                    whole["logprobs"][name] += values
    return [choices[index] for index in sorted(choices)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", CONTROL)
def test_a_control_token_has_its_entry(live, name, stream):
    """lm-eval takes `token_logprobs[ctxlen:-1]`: without this entry the continuation's last token is lost."""
    (choice,) = complete(
        live,
        prompt=PROMPT,
        max_tokens=1,
        echo=True,
        logprobs=1,
        temperature=0,
        logit_bias={str(CONTROL[name]): 100},
        stream=stream,
    )
    logprobs = choice["logprobs"]
    assert {len(values) for values in logprobs.values()} == {len(PROMPT) + 1}
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    assert logprobs["tokens"][-1] == name and logprobs["text_offset"][-1] == len(TEXT)
    assert choice["text"] == TEXT and choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_cuts_the_text_and_no_entry(live, stream):
    body = {"prompt": PROMPT, "max_tokens": 30, "logprobs": 2, "seed": 3, "stream": stream}
    (free,) = complete(live, **body)
    start = next(at for at in range(3, 60) if "\ufffd" not in free["text"][at : at + 2])
    stop = free["text"][start : start + 2]
    (stopped,) = complete(live, **body, stop=stop)
    assert stopped["text"] == free["text"][: free["text"].index(stop)] and stopped["finish_reason"] == "stop"
    count = len(stopped["logprobs"]["tokens"])
    assert stopped["logprobs"]["tokens"] == free["logprobs"]["tokens"][:count]
    assert {len(values) for values in stopped["logprobs"].values()} == {count}
    ids = [NAMES.index(name) for name in free["logprobs"]["tokens"]]
    assert count == next(n for n in range(len(ids)) if stop in TOKENIZER.decode(ids[:n], special=False))
    (echoed,) = complete(live, **body, stop=stop, echo=True)
    assert len(echoed["logprobs"]["tokens"]) == len(PROMPT) + count


def test_as_many_entries_as_tokens_were_counted(live):
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=20)
    body = {"prompt": "小明", "max_tokens": 60, "logprobs": 0, "seed": 5, "temperature": 1.5}
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == answer["usage"]["completion_tokens"]


def test_names_tell_tokens_apart():
    assert len(set(NAMES)) == len(NAMES) == TOKENIZER.vocab_size
    assert not any("\ufffd" in name for name in NAMES)
    assert NAMES[TOKENIZER.encode("😀")[0]] == r"bytes:\xf0"
    assert NAMES[TOKENIZER.encode("龘")[1]] == r"bytes:\xbe"
    assert NAMES[TOKENIZER.encode("小明")[0]] == TOKENIZER.decode(TOKENIZER.encode("小明")[:1])
    assert NAMES[TOKENIZER.eos_id] == "<|endoftext|>"


class Ambiguous:
    """A vocabulary in which several tokens are spelt alike, or as another's name is."""

    SPELLINGS = [b"a", b"a", b"a#1", rb"bytes:\xe4", b"\xe4", b"token_id:7", b"a"]
    vocab_size = len(SPELLINGS)

    def decode_bytes(self, ids) -> bytes:
        return b"".join(self.SPELLINGS[token] for token in ids)


def test_equal_spellings_get_the_number_of_their_token():
    names = token_names(Ambiguous(), 9)  # type: ignore[arg-type]
    assert names == [
        "a",
        "a#1",
        "a#1#2",
        r"bytes:\xe4",
        r"bytes:\xe4#4",
        "token_id:7",
        "a#6",
        "token_id:7#7",
        "token_id:8",
    ]


def test_the_likeliest_tokens_keep_their_number(live):
    (choice,) = complete(live, prompt=PROMPT, max_tokens=2, echo=True, logprobs=20, temperature=0)
    for entry, name, value in zip(
        choice["logprobs"]["top_logprobs"][1:],
        choice["logprobs"]["tokens"][1:],
        choice["logprobs"]["token_logprobs"][1:],
        strict=True,
    ):
        assert len(entry) == 20
        assert entry.get(name, value) == value


def test_offsets_point_at_the_character_a_token_belongs_to(live):
    prompt = [*PROMPT, TOKENIZER.im_end_id, *TOKENIZER.encode("😀好")]
    (choice,) = complete(live, prompt=prompt, max_tokens=12, echo=True, logprobs=0, seed=1)
    shown = TOKENIZER.decode(prompt)
    assert choice["text"].startswith(shown)
    offsets = choice["logprobs"]["text_offset"]
    for index, token in enumerate(prompt):
        before = TOKENIZER.decode_bytes(prompt[:index]).decode("utf-8", "ignore")
        assert offsets[index] == len(before), (index, token)
    emoji = TEXT.index("😀")
    assert offsets.count(emoji) == 4 and offsets.count(TEXT.index("龘")) == 3
    assert offsets == sorted(offsets) and offsets[len(prompt)] == len(shown)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size + 3), max_size=40), st.integers(0, 40))
def test_offsets_of_any_tokens(ids, echoed):
    """Whatever the bytes: an offset is the number of characters before it that can no longer change; in
    chunks as in one piece."""
    prompt, reply = ids[:echoed], ids[echoed:]
    choice = Choice(0, TOKENIZER, [], chat=False, echo=prompt)
    places = range(len(prompt) - 1)
    opening = choice.opening(
        PromptScores([-1.0 for _ in places], [[] for _ in places], [[] for _ in places]) if prompt else None
    )
    deltas = [opening, *(choice.feed(TokenEvent(0, token=token, logprob=-1.0)) for token in reply)]
    deltas.append(choice.feed(TokenEvent(0, finish_reason="length")))
    in_text = [t for t in prompt if t < TOKENIZER.vocab_size]
    in_text += [t for t in reply if t < TOKENIZER.vocab_size and t not in CONTROL_IDS]
    text = "".join(delta.content for delta in deltas)
    assert text == TOKENIZER.decode(in_text)
    names = token_names(TOKENIZER, TOKENIZER.vocab_size + 4)
    writer = TextLogprobs(TOKENIZER, names)
    chunked = [writer(delta.tokens) for delta in deltas]
    whole = TextLogprobs(TOKENIZER, names)([token for delta in deltas for token in delta.tokens])
    offsets = [offset for chunk in chunked for offset in chunk["text_offset"]]
    assert offsets == whole["text_offset"] and len(offsets) == len(ids)
    spelt = b""
    for index, (token, offset) in enumerate(zip(ids, offsets, strict=True)):
        assert offset == settled(spelt)
        if token < TOKENIZER.vocab_size and (index < len(prompt) or token not in CONTROL_IDS):
            spelt += TOKENIZER.decode_bytes([token])


def settled(spelt: bytes) -> int:
    """Characters that are the same whatever bytes follow. (A surrogate's first two bytes can be no character
    either, but Python's decoder waits for the third.)"""
    spelt = re.sub(rb"\xed[\xa0-\xbf]$", b"", spelt)
    following = [b"a", *(head + b"\x80" * n for head in (b"\x80", b"\x90", b"\xa0") for n in range(3))]
    return len(os.path.commonprefix([(spelt + more).decode("utf-8", "replace") for more in following]))


def test_rows_beyond_the_tokenizer_have_entries_too(serve_with):
    """An embedding padded to a round number of rows: its last ids have no text, and can be drawn all the
    same."""
    size = TOKENIZER.vocab_size + 12
    with serve_with(Settings(model_id="tiny"), vocab_size=size) as live:
        prompt = [*PROMPT[:5], size - 1, *PROMPT[5:]]
        (choice,) = complete(
            live,
            prompt=prompt,
            max_tokens=2,
            echo=True,
            logprobs=1,
            temperature=0,
            logit_bias={str(size - 2): 100},
        )
        logprobs = choice["logprobs"]
        assert choice["text"] == TEXT and len(logprobs["tokens"]) == len(prompt) + 2
        assert logprobs["tokens"][5] == f"token_id:{size - 1}"
        assert logprobs["tokens"][-2:] == [f"token_id:{size - 2}"] * 2
        assert all(len(entry) == 1 for entry in logprobs["top_logprobs"][1:])
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=20)
        body = {
            "messages": [{"role": "user", "content": "你好"}],
            "max_tokens": 2,
            "logprobs": True,
            "top_logprobs": 2,
            "logit_bias": {str(size - 2): 100},
        }
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
        )
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        assert response.status == 200 and answer["choices"][0]["message"]["content"] == ""


def test_a_character_begun_by_the_prompt_is_finished_by_the_reply(live):
    emoji = TOKENIZER.encode("😀")
    for stream in (False, True):
        (choice,) = complete(
            live,
            prompt=[*PROMPT, *emoji[:-1]],
            max_tokens=1,
            echo=True,
            logprobs=0,
            temperature=0,
            logit_bias={str(emoji[-1]): 100},
            stream=stream,
        )
        assert choice["text"] == f"{TEXT}😀"
        assert choice["logprobs"]["text_offset"][-4:] == [len(TEXT)] * 4
