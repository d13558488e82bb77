"""Values nested without end, rows without end and files that expand without end: counted, told, and never
more than a machine can bear."""

from __future__ import annotations

import gzip
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from hanlin.common.errors import HanlinError
from hanlin.corpus.readers import schema_types
from hanlin.corpus.readers.files import ReadLimits, blocks
from hanlin.corpus.readers.read import (
    Quarantine,
    read_conversations,
    read_documents,
    read_preferences,
    read_sourced_texts,
    read_texts,
)
from hanlin.corpus.text.structure import MAX_DEPTH, measure

GOOD = '{"text": "小明在学校里看书。"}'
CHAT = '{"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]}'
PAIR = '{"prompt": "你好", "chosen": "你好！", "rejected": "走开。"}'


def nested(depth: int, key: str = "text", opening: str = "[", closing: str = "]") -> str:
    return f'{{"{key}": {opening * depth}1{closing * depth}}}'


DEPTHS = (MAX_DEPTH + 1, 950, 1023, 1025, 1100, 5000, 200_000)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", ["[", '{"a":'])
@pytest.mark.parametrize("layout", ["lines", "array", "pretty", "array over lines"])
def test_a_deep_value_costs_itself(tmp_path, depth, kind, layout):
    deep = nested(depth, opening=kind, closing="]" if kind == "[" else "}")
    texts = {
        "lines": f"{GOOD}\n{deep}\n{GOOD}\n",
        "array": f"[{GOOD}, {deep}, {GOOD}]",
        "array over lines": f"[\n{GOOD},\n{deep},\n{GOOD}\n]\n",
        "pretty": f'{{\n"text": "小明在学校里看书。"\n}}\n{deep}\n{GOOD}\n',
    }
    path = tmp_path / ("a.jsonl" if layout == "lines" else "a.json")
    path.write_text(texts[layout], encoding="utf-8")
    quarantine = Quarantine(io.StringIO())
    assert [item["text"] for item in read_documents(path, quarantine=quarantine)] == [
        "小明在学校里看书。"
    ] * 2
    assert quarantine.count == 1 and "JSON" in quarantine.entries[0].reason
    for reader in (read_texts, read_sourced_texts):
        noted = Quarantine()
        assert sum(map(len, reader(path, quarantine=noted))) == 2 and noted.count == 1


@pytest.mark.parametrize(("reader", "record"), [(read_conversations, CHAT), (read_preferences, PAIR)])
@pytest.mark.parametrize("depth", DEPTHS)
def test_deep_conversations_and_pairs_cost_themselves(tmp_path, reader, record, depth):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{record}\n{nested(depth, 'tools')}\n{record}\n", encoding="utf-8")
    quarantine = Quarantine()
    assert len(list(reader(path, quarantine=quarantine))) == 2 and quarantine.count == 1


def test_values_as_deep_as_allowed_are_read(tmp_path):
    record = json.loads(GOOD) | {"meta": json.loads("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "a.json").write_text(json.dumps([record]))
    for name in ("a.jsonl", "a.json"):
        assert len(list(read_documents(tmp_path / name))) == 1


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 990, 1100, 100_000])
def test_tools_as_deep_text_stay_text(depth):
    text = "[" * depth + "]" * depth
    assert schema_types.unquoted(text) == text and schema_types.unquoted('{"a": [1]}') == {"a": [1]}


def measured(text: str) -> tuple[int, int, int | None]:
    """Values, depth and end as an independent walk over the characters finds them."""
    values = depth = deepest = place = 0
    quoted = False
    while place < len(text):
        character = text[place]
        if character == "\\" and text[place + 1 : place + 2] in ("\\", '"'):
            place += 2
            continue
        quoted ^= character == '"'
        place += 1
        if quoted:
            continue
        values += character in "[{,"
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
        if depth <= 0 and character in "]}":
            return values, deepest, place
    return values, deepest, None


@pytest.mark.parametrize("seed", range(20))
def test_structure_is_measured_outside_strings_whatever_the_pieces(seed):
    draw = random.Random(seed)
    for _ in range(100):
        text = "[" + "".join(draw.choices('[]{},"\\一a', (4, 3, 3, 2, 3, 2, 4, 2, 2), k=draw.randint(0, 60)))
        assert measure(text, piece=draw.randint(1, 9)) == measured(text), text
        raw = text.replace("一", "x").encode()
        assert measure(raw, piece=draw.randint(1, 9)) == measured(text), text


def test_values_without_number_are_not_built(tmp_path):
    limits = ReadLimits(record_values=1000)
    wide = '{"x": [' + ",".join(["[]"] * 2000) + '], "text": "一"}'
    commas = '{"text": "' + "a, b" * 5000 + '"}'  # in a text they cost nothing
    for name, text in (
        ("a.jsonl", f"{GOOD}\n{wide}\n{commas}\n{GOOD}\n"),
        ("a.json", f"[{GOOD},{wide},{commas},{GOOD}]"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        quarantine = Quarantine()
        assert len(list(read_documents(tmp_path / name, quarantine=quarantine, limits=limits))) == 3, name
        assert quarantine.count == 1


def bomb(size: int) -> bytes:
    return b'[{"x":[' + b"[]," * (size // 3)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the peak of this process alone is told by /proc"
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_small_file_cannot_take_half_a_gigabyte(tmp_path, name):
    """7.9 MB of empty lists in 8 kB, below the size at which the ratio is looked at, and the same as it
    stands on the disk."""
    head = b"" if name == "a.json" else GOOD.encode() + b"\n"
    with gzip.open(tmp_path / (name + ".gz"), "wb") as file:
        file.write(head + bomb(7_900_000))
    (tmp_path / name).write_bytes(head + bomb(30_000_000))
    for path in (tmp_path / (name + ".gz"), tmp_path / name):
        assert peak_megabytes(path) < 220


def peak_megabytes(path: Path, **limits: int) -> float:
    """What a process that reads a file's documents takes at most."""
    code = (
        "import sys\n"
        "from hanlin.common.errors import HanlinError\n"
        "from hanlin.corpus.readers.read import *\n"
        "from hanlin.corpus.readers.files import ReadLimits\n"
        "try:\n"
        "    for _ in read_documents(sys.argv[1], quarantine=Quarantine(), "
        f"limits=ReadLimits(**{limits!r})): pass\n"
        "except HanlinError: pass\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def test_the_ratio_counts_from_eight_megabytes_on(tmp_path):
    for size, refused in ((7 << 20, False), (9 << 20, True)):
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress("好".encode() * (size // 3)))
        if refused:
            with pytest.raises(HanlinError, match="bomb|炸弹"):
                list(read_documents(tmp_path / "a.txt.gz"))
        else:
            assert list(read_documents(tmp_path / "a.txt.gz"))


def test_zstandard_blocks_that_expand_late_come_in_bounded_pieces(tmp_path):
    """Real text first, and then blocks of four bytes that stand for 128 KiB each."""
    frame = bytearray(zstandard.ZstdCompressor(write_content_size=False).compress(b""))[:6]
    frame[4:6] = bytes([0, 0x58])  # no checksum, no size, a window of 2 MiB
    noise = random.Random(1).randbytes(100_000)
    raw = b"".join((len(noise) << 3).to_bytes(3, "little") + noise for _ in range(8))
    rle = ((1 << 17) << 3 | 2).to_bytes(3, "little") + b"x"
    (tmp_path / "a.txt.zst").write_bytes(bytes(frame) + raw + rle * 5000)
    largest = 0
    with pytest.raises(HanlinError, match="bomb|炸弹"):
        for block in blocks(tmp_path / "a.txt.zst", ReadLimits()):
            largest = max(largest, len(block))
    assert largest <= 64 << 20


# ------------------------------------------------------------------ tables


def rows_of(count: int, quoted: bool = True) -> list[str]:
    mark = '"' if quoted else ""
    return [f"{mark}第{number}天，小明在学校里看书。{mark},{number}" for number in range(count)]


def read_rows(path: Path, **limits: int) -> tuple[list[str], Quarantine]:
    quarantine = Quarantine(io.StringIO())
    return [
        item["text"] for item in read_documents(path, quarantine=quarantine, limits=ReadLimits(**limits))
    ], quarantine


@pytest.mark.parametrize("place", [0, 1, 500, 998, 999])
def test_a_quote_without_end_costs_its_row(tmp_path, place):
    rows = rows_of(1000, quoted=False)
    rows[place] = '"' + rows[place]
    path = tmp_path / "a.csv"
    path.write_text("text,n\n" + "\n".join(rows) + "\n", encoding="utf-8")
    texts, quarantine = read_rows(path)
    assert texts == [row.split(",")[0] for index, row in enumerate(rows) if index != place]
    assert [(entry.line, entry.reason) for entry in quarantine.entries] == [
        (place + 2, quarantine.entries[0].reason)
    ]
    assert f"第{place}天" in quarantine.entries[0].excerpt


def test_a_row_above_the_limit_costs_its_first_line(tmp_path):
    rows = rows_of(5000, quoted=False)
    rows[10] = '"' + rows[10]
    rows[4000] = '"' + rows[4000]  # where it would have ended
    (tmp_path / "a.csv").write_text("text,n\n" + "\n".join(rows) + "\n", encoding="utf-8")
    texts, quarantine = read_rows(tmp_path / "a.csv", record_bytes=20_000)
    assert len(texts) == 4998 and [entry.line for entry in quarantine.entries] == [12, 4002]


def test_rows_without_end_again_and_again_are_counted_and_end(tmp_path):
    """Each quote opens what the next one, farther than the limit, would close."""
    lines = ['"' + "一" * 100 if not number % 500 else "一" * 100 for number in range(40_000)]
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(lines), encoding="utf-8")
    texts, quarantine = read_rows(tmp_path / "a.csv", record_bytes=100_000)
    assert 16 * 499 <= len(texts) < 40_000 and quarantine.count >= 17
    lost = sum(int("".join(filter(str.isdigit, entry.excerpt)) or 0) for entry in quarantine.entries)
    assert len(texts) + quarantine.count + lost == 40_000


def test_quoted_lines_columns_and_lines_without_end(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        'text,n\n"第一行\n第二行，""引文""",1\n\n短,2\n' + "甲" * 900 + ",3\n" + "," * 900 + "\n末,4",
        encoding="utf-8",
    )
    texts, quarantine = read_rows(path, record_bytes=2000, record_values=500)
    assert texts == ['第一行\n第二行，"引文"', "短", "末"] and [
        entry.line for entry in quarantine.entries
    ] == [6, 7]
    path = tmp_path / "a.tsv"
    path.write_text('text\tn\n"一\t1\n' + "甲" * 900 + "\t2\n二\t3\n", encoding="utf-8")
    texts, quarantine = read_rows(path, record_bytes=2000)
    assert texts == ['"一', "二"] and [entry.line for entry in quarantine.entries] == [3]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the peak of this process alone is told by /proc"
)
@pytest.mark.parametrize(
    "content",
    [
        'text,b\n"' + ("甲乙丙丁" * 9 + ",1\n") * 200_000,
        "text," + "," * 20_000_000,
        "text\n" + "x" * 40_000_000,
        '"' * 20_000_000,
    ],
)
def test_a_table_cannot_take_half_a_gigabyte(tmp_path, content):
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    assert peak_megabytes(tmp_path / "a.csv", record_bytes=4 << 20) < 160
