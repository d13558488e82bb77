"""Texts read by the core are those that the full parser reads, from good lines and from bad ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin import _native
from hanlin.common.errors import HanlinError
from hanlin.corpus.readers import files
from hanlin.corpus.readers.files import ReadLimits
from hanlin.corpus.readers.quarantine import Quarantine
from hanlin.corpus.readers.read import read_documents, read_texts
from tests.support import shared

strings = st.text(st.characters(codec="utf-16"), max_size=12) | st.sampled_from(
    [
        "",
        " ",
        "\u3000\x1c",
        "<s>甲</s>",
        " <|im_start|>甲<|im_end|>",
        "< 乙",
        "\ud800",
        "😀",
        '"\\/\b\f\n\r\t',
        "\x00\x7f\x85",
        "中" * 40,
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=6,
)
records = st.dictionaries(st.sampled_from(["text", "source", "标题", "meta", 'a"b']), values, max_size=4)
plain = st.builds(lambda text, source: {"text": text, "source": source}, strings, strings)
odd = st.sampled_from(
    [
        "",
        "  \t",
        "{",
        "[]",
        "null",
        '{"text": "甲"} x',
        '{"text": "甲"},',
        '{"text": "甲"}{"text": "乙"}',
        '{"text": "甲", "text": "乙"}',
    ]
    + [
        '{"text": "甲\t乙"}',
        '{"te\\u0078t": "甲"}',
        '{"text": "\\ud83d\\ude00"}',
        '{"text": "\\ud83d"}',
        '{"text": "甲", "n": 01}',
    ]
    + [
        '{"text": "甲", "n": -0.50, "m": [true, {"a": []}]}',
        '{"text": "甲" "n": 1}',
        '{"text": "甲", "n": 12345678901234567890}',
    ]
    + [
        '{ "text" : "甲" }\r',
        '{"text": "\\x"}',
        '{"text": "甲", "n": 1e5}',
        '{"text": "甲", "n": 1e999}',
        '{"text": "甲", "n": -}',
        "\ufeff{}",
    ]
)
lines = st.one_of(st.builds(json.dumps, records | plain, ensure_ascii=st.booleans()), odd).map(
    lambda line: line.encode("utf-8", "surrogatepass")
)


def insert(line: bytes, at: int, byte: int) -> bytes:
    at %= len(line) + 1
    return line[:at] + bytes([byte]) + line[at:]


damaged = st.builds(insert, lines, st.integers(0, 99), st.integers(0, 255))


def both(path, limits=files.DEFAULT_LIMITS):
    """Texts, and what was quarantined, as the two ways of reading have it."""
    found = []
    for texts in (True, False):
        quarantine = Quarantine()
        try:
            if texts:
                batches = read_texts(path, quarantine=quarantine, limits=limits)
                got = [batch[index] for batch in batches for index in range(len(batch))]
            else:
                got = [
                    document["text"].encode()
                    for document in read_documents(path, quarantine=quarantine, limits=limits)
                ]
        except HanlinError as error:
            got = str(error)
        found.append((got, quarantine.entries))
    return found


@settings(max_examples=1500, deadline=None)
@given(st.lists(lines | damaged, min_size=1, max_size=8), st.booleans(), st.sampled_from([1, 7, 1 << 20]))
def test_the_core_reads_what_the_full_parser_reads(tmp_path_factory, found, ended, block):
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(b'{"text": "first"}\n' + b"\n".join(found) + (b"\n" if ended else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        fast, slow = both(path, ReadLimits(record_bytes=60))
    assert fast == slow


def test_a_line_that_is_not_plain_stops_the_core():
    reader, batch = _native.JsonLines("text", 100), _native.TextBatch()
    block = '{"text": "甲"}\n{"text": "乙", "n": [1, {"a": "\\u4e2d"}]}\n{"n": 1}\n'.encode()
    assert reader.read(block, 0, batch) == (0, 0)  # no keys are known yet
    reader.know(["text"])
    first = block.index(b"\n") + 1
    assert reader.read(block, 0, batch) == (first, 1)
    reader.know(["text", "n"])
    assert reader.read(block, first, batch) == (block.index(b'{"n"'), 1)
    assert [batch[index].decode() for index in range(len(batch))] == ["甲", "乙"] and batch.bytes == 6
    with pytest.raises(IndexError):
        batch[2]


def test_real_files_read_the_same():
    for path in [
        *sorted(shared("data/fixtures").rglob("*.jsonl")),
        shared("data/pretrain_zh/web_crawl_noisy.jsonl.zst"),
    ]:
        fast, slow = both(path)
        assert fast == slow, path
