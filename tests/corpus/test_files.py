"""Compression, encodings and lines: whatever a file went through, the same lines come back, in bounded
memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hanlin.common.errors import HanlinError
from hanlin.corpus.readers.files import ReadLimits, blocks, expand, lines, utf8_blocks

LIMITS = ReadLimits()
TEXT = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？\n这是第二行，Tab\t与 emoji 都没有。\n" * 400
PACK = {
    "plain": bytes,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("members", [1, 3])
def test_decompression_gives_the_bytes_back_also_of_several_members(tmp_path, kind, members):
    parts = [TEXT.encode(), b"", random.Random(1).randbytes(3 << 20)][:members]
    path = tmp_path / "file.whatever"  # recognised by content, not by name
    path.write_bytes(b"".join(PACK[kind](part) for part in parts))
    assert b"".join(blocks(path, LIMITS)) == b"".join(parts)


@pytest.mark.parametrize("kind", [kind for kind in PACK if kind != "plain"])
def test_truncated_or_damaged_data_is_an_error_that_names_the_file(tmp_path, kind):
    whole = PACK[kind](random.Random(0).randbytes(300_000))
    damaged = bytearray(whole)
    damaged[len(whole) // 3 : len(whole) // 3 + 2000] = bytes(2000)
    path = tmp_path / f"x.jsonl.{kind}"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(HanlinError, match="x.jsonl"):
        list(blocks(path, LIMITS))
    if kind != "zst":  # zstd frames carry no check sum by default
        path.write_bytes(bytes(damaged))
        with pytest.raises(HanlinError, match="x.jsonl"):
            list(blocks(path, LIMITS))


@pytest.mark.parametrize("kind", [kind for kind in PACK if kind != "plain"])
def test_a_decompression_bomb_is_stopped_and_comes_in_bounded_pieces(tmp_path, kind):
    path = tmp_path / "bomb"
    path.write_bytes(PACK[kind](bytes(200 << 20)))
    largest, total = 0, 0
    with pytest.raises(HanlinError, match="bomb"):
        for block in blocks(path, LIMITS):
            largest, total = max(largest, len(block)), total + len(block)
    assert largest <= 64 << 20 and total <= 128 << 20
    with pytest.raises(HanlinError, match="1,0|bomb"):
        list(blocks(path, ReadLimits(output_bytes=10 << 20)))


def test_ordinary_ratios_pass(tmp_path):
    path = tmp_path / "repetitive.gz"
    path.write_bytes(gzip.compress(TEXT.encode() * 120))  # 150 : 1, but not enough to hurt
    assert sum(map(len, blocks(path, LIMITS))) == len(TEXT.encode()) * 120


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-32", "gb18030", "big5hkscs"]
)
def test_encodings_are_recognised(tmp_path, encoding):
    text = "這是一個關於圖書館的故事，裡面有許多書。\n" * 30 if encoding.startswith("big5") else TEXT
    data = b"\xff\xfe" + text.encode("utf-16-le") if encoding == "utf-16-le-bom" else text.encode(encoding)
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    name, stream = utf8_blocks(path, LIMITS)
    read = b"".join(stream)
    assert read.decode("utf-8" if name.startswith("utf") else name) == text


def test_real_files_in_gb18030_and_big5(shared):
    folder = shared("fixtures_dirty")
    for path in sorted(folder.iterdir()):
        wanted = {
            "big5": "big5hkscs",
            "gb18": "gb18030",
            "gb23": "gb18030",
            "gbk_": "gb18030",
            "utf1": "utf-16",
        }.get(path.name[:4])
        if path.name.startswith("euc-tw"):
            with pytest.raises(HanlinError, match="iconv"):
                utf8_blocks(path, LIMITS)
        elif wanted:
            assert utf8_blocks(path, LIMITS)[0] == wanted, path.name
        else:
            assert utf8_blocks(path, LIMITS)[0] == "utf-8", path.name


@pytest.mark.parametrize(
    "data",
    [
        b"\x7fELF" + bytes(100),
        b"PK\x03\x04abc",
        b"%PDF-1.7 text",
        b"a\0b\0c" * 50,
        random.Random(0).randbytes(5000),
    ],
)
def test_binary_files_are_refused(tmp_path, data):
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    with pytest.raises(HanlinError, match="x.txt"):
        utf8_blocks(path, LIMITS)


@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"").rstrip(b"\r")), max_size=20),
    st.lists(st.integers(1, 40), min_size=1),
    st.booleans(),
)
def test_lines_do_not_depend_on_block_borders(expected, cuts, last_newline):
    data = b"\n".join(expected) + (b"\n" if last_newline and expected else b"")
    stream = io.BytesIO(data)
    pieces = iter(lambda: stream.read(cuts[stream.tell() % len(cuts)]), b"")
    found = list(lines(pieces, LIMITS))
    oracle = data.split(b"\n")
    oracle = oracle[:-1] if oracle[-1] == b"" else oracle
    assert [line for _, _, line in found] == [line.rstrip(b"\r") for line in oracle]
    assert [number for number, _, _ in found] == list(range(1, len(oracle) + 1))
    assert all(data[offset:].startswith(line) for _, offset, line in found)


def test_a_line_above_the_limit_is_skipped_and_the_next_one_read():
    data = b"ok\n" + b"x" * 1000 + b"\nnext\n"
    for size in (1, 7, 100, 5000):
        pieces = (data[i : i + size] for i in range(0, len(data), size))
        assert list(lines(pieces, ReadLimits(record_bytes=999))) == [
            (1, 0, b"ok"),
            (2, 3, None),
            (3, 1004, b"next"),
        ]


def test_expand_names_what_is_missing(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.jsonl.zst").write_bytes(b"")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "photo.jpg").write_text("x")
    (tmp_path / "empty").mkdir()
    assert [path.name for path in expand(tmp_path)] == ["a.txt", "b.jsonl.zst"]
    assert [path.name for path in expand(f"{tmp_path}/*/*.jsonl.zst")] == ["b.jsonl.zst"]
    assert len(expand([tmp_path, tmp_path / "a.txt"])) == 2  # named twice, read once
    for wrong in (tmp_path / "no.jsonl", f"{tmp_path}/*.csv", tmp_path / "empty"):
        with pytest.raises(HanlinError):
            expand(wrong)
