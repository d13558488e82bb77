"""Text as it arrives: joined pieces equal the whole, no half characters, no control tokens, no stop
strings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.inference import IncrementalDecoder, ReplyParser, StopStrings, split_reply
from tests.inference.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ORDINARY = min(TOKENIZER.special.values())
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, ORDINARY - 1), max_size=60))
def test_pieces_joined_are_the_whole_text_for_any_tokens(ids):
    decoder = IncrementalDecoder(TOKENIZER)
    pieces = [decoder.push(token) for token in ids]
    assert "".join([*pieces, decoder.finish()]) == TOKENIZER.decode(ids)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_valid_text_never_shows_a_half_character(text):
    decoder = IncrementalDecoder(TOKENIZER)
    pieces = [decoder.push(token) for token in TOKENIZER.encode(text)]
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + decoder.finish() == text


def test_endless_rubbish_keeps_the_decoder_small():
    decoder = IncrementalDecoder(TOKENIZER)
    byte = TOKENIZER.encode(b"\x80")
    assert len(byte) == 1
    for _ in range(500):
        decoder.push(byte[0])
        assert len(decoder._pending) <= 9


@settings(max_examples=100, deadline=None)
@given(reasoning=texts, content=texts, opened=st.booleans())
def test_reasoning_and_answer_are_what_the_template_wrote(reasoning, content, opened):
    """Parsing the learnt tokens of a rendered conversation gives its fields back."""
    reasoning, content = reasoning.strip("\n"), content.lstrip("\n")
    messages = [{"role": "user", "content": "问"}]
    prompt = TOKENIZER.encode_conversation(
        messages, add_generation_prompt=True, thinking=True if opened else None
    )[0]
    whole = TOKENIZER.encode_conversation(
        [*messages, {"role": "assistant", "content": content, "reasoning_content": reasoning or "想"}]
    )[0]
    assert whole[: len(prompt)] == prompt
    found = split_reply(TOKENIZER, whole[len(prompt) :], reasoning=opened)
    newline = "\n"  # after the closing <|im_end|>
    assert found == (reasoning or "想", content + newline if content else content)


@given(texts)
def test_a_spelt_tag_is_text(text):
    ids = TOKENIZER.encode(f"<think>{text}</think><|im_end|>")
    assert split_reply(TOKENIZER, ids) == ("", f"<think>{text}</think><|im_end|>")


def test_control_tokens_and_ids_beyond_the_tokenizer_never_become_text():
    ids = [
        *TOKENIZER.encode("甲"),
        *TOKENIZER.special.values(),
        TOKENIZER.vocab_size + 3,
        *TOKENIZER.encode("乙"),
    ]
    reasoning, content = split_reply(TOKENIZER, ids)
    assert reasoning + content == "甲乙"


def test_tags_can_be_kept():
    parser = ReplyParser(TOKENIZER, reasoning=True, keep_tags=True)
    ids = [*TOKENIZER.encode("想"), TOKENIZER.end_think_id, *TOKENIZER.encode("答")]
    pieces = [piece for token in ids for piece in parser.push(token)] + parser.finish()
    assert {channel for channel, _ in pieces} == {"content"}
    assert "".join(text for _, text in pieces) == "<think>\n想</think>答"


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("abc", max_size=5), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_exactly_where_the_text_so_far_is_to_be_cut(pieces, stops):
    scanner = StopStrings(stops)
    shown = "".join(scanner.push(piece) for piece in pieces)
    hit = scanner.hit
    shown += scanner.finish()
    # as a stream: the text ends with the first piece that completes a stop string, before the earliest match
    # so far
    whole, expected = "", None
    for piece in pieces:
        whole += piece
        ends = [at for stop in stops if (at := whole.find(stop)) >= 0]
        if ends:
            expected = whole[: min(ends)]
            break
    assert hit == (expected is not None)
    assert shown == (whole if expected is None else expected)


@pytest.mark.parametrize("stops", [[], ["\n\n"], ["结束"]])
def test_nothing_is_lost_without_a_match(stops):
    scanner = StopStrings(stops)
    assert "".join(scanner.push(c) for c in "一二\n三结") + scanner.finish() == "一二\n三结"
