"""Documents, conversations and preferences from files of every layout people have.

`read_documents`, `read_conversations`, `read_preferences` take paths, directories and quoted globs, recognise each
record's layout, and stream. What cannot be used goes to a `Quarantine` with file, place and reason.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import orjson

from ..common.errors import HanlinError, tr
from .files import ReadLimits, expand, inner_suffix, lines, stem, utf8_blocks
from .layouts import CONVERSATIONS, DOCUMENTS, PREFERENCES, SCHEMAS, BadRecord, Conversation, Document, Preference, is_message, recognise_for

Paths = str | Path | Sequence[str | Path]
_LOOK = 100  # records without one of a known layout, from the start of a file, before it is refused
_SEPARATOR = "<|endoftext|>"
_CHUNK = 1 << 20  # characters of plain text that make one document at most
_SHOW = {"documents": "--corpus", "conversations": "--sft", "preferences": "--preferences"}
_DECODER = json.JSONDecoder(strict=False)
T = TypeVar("T")


class Entry(NamedTuple):
    """A record that could not be used: where it is, why, and its beginning."""

    file: str
    line: int
    offset: int
    reason: str
    excerpt: str


class Quarantine:
    """Counts every bad record, and keeps it: all of them in `sink` when there is one, the first 1,000 in memory.

    Args:
        sink: an open text file for JSON lines.
    """

    def __init__(self, sink: io.TextIOBase | None = None):
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self.entries: list[Entry] = []
        self._sink = sink

    def add(self, file: Path | str, line: int, offset: int, reason: str, record: Any = "") -> None:
        """Count one record; `line` is its number from 1, `offset` its first byte (after decompression), or -1."""
        if isinstance(record, bytes):
            record = record[:800].decode("utf-8", "replace")
        text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=str)
        entry = Entry(str(file), line, offset, reason, text[:200].encode("utf-8", "replace").decode())
        self.count += 1
        self.reasons[reason] += 1
        if len(self.entries) < 1000:
            self.entries.append(entry)
        if self._sink is not None:
            self._sink.write(json.dumps(entry._asdict(), ensure_ascii=False) + "\n")

    def summary(self) -> str:
        """The reasons and their counts, most frequent first, on one line."""
        return "；".join(f"{reason} × {count}" for reason, count in self.reasons.most_common(5))


class _Raw(NamedTuple):
    line: int
    offset: int
    value: Any


def read_documents(paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = ReadLimits(), source: str = "record") -> Iterator[Document]:
    """Stream `{"text", "source"}` from files of any layout, in the order given.

    Args:
        paths: files, directories (searched below) and globs such as `data/*.jsonl.zst`.
        quarantine: receives bad records; without one they are counted and reported in the log.
        source: `record` takes a record's own `source` where it has one, `file` always the file's name.

    Raises:
        HanlinError: nothing there, empty, binary, undecodable, damaged, an unknown layout (with the keys seen), no usable record.
    """
    return _read(paths, "documents", quarantine, limits, source)


def read_conversations(paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = ReadLimits(), source: str = "record") -> Iterator[Conversation]:
    """Stream `{"messages", "tools"?, "source"}`; arguments and errors as `read_documents`."""
    return _read(paths, "conversations", quarantine, limits, source)


def read_preferences(paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = ReadLimits(), source: str = "record") -> Iterator[Preference]:
    """Stream `{"prompt", "chosen", "rejected", "source"}`, all as messages; arguments and errors as `read_documents`."""
    return _read(paths, "preferences", quarantine, limits, source)


def _read(paths: Paths, schema: str, quarantine: Quarantine | None, limits: ReadLimits, source: str) -> Iterator[Any]:
    files = expand(paths)  # here and not in the generator: a wrong path should be heard of at once
    return _stream(files, schema, quarantine or Quarantine(), limits, source, report=quarantine is None)


def _stream(files: list[Path], schema: str, quarantine: Quarantine, limits: ReadLimits, source: str, *, report: bool) -> Iterator[Any]:
    before, total = quarantine.count, 0
    for path in files:
        read = 0
        for item in _convert(path, _records(path, schema, quarantine, limits), schema, quarantine, source):
            read += 1
            yield item
        if not read and quarantine.count == before:
            if len(files) == 1:
                raise HanlinError(f"{path} 是空文件。", f"{path} is empty.")
            quarantine.add(path, 0, -1, tr("空文件", "empty file"))
        total += read
    bad = quarantine.count - before
    if not total:
        raise HanlinError(
            f"{_names(files)} 里没有一条可用的记录；{bad} 条不可用：{quarantine.summary()}。",
            f"No usable record in {_names(files)}; {bad} were not usable: {quarantine.summary()}.",
        )
    if bad and report:
        logging.getLogger("hanlin").warning(tr(f"{bad} 条记录不可用：{quarantine.summary()}", f"{bad} records were not usable: {quarantine.summary()}"))


def _convert(path: Path, records: Iterator[_Raw], schema: str, quarantine: Quarantine, source: str) -> Iterator[Any]:
    """Records into the schema; refuse the file when none of its first records has a known layout."""
    unknown: list[_Raw] = []
    known = False
    for raw in itertools.chain(records, [None]):
        if not known and unknown and (raw is None or len(unknown) >= _LOOK):
            raise _unrecognised(path, [item.value for item in unknown], schema)
        if raw is None:
            return
        layout = recognise_for(raw.value, schema)
        if layout is None:
            reason = tr(f"不认识的布局：{_keys([raw.value])}", f"unrecognised layout: {_keys([raw.value])}")
            if known or not raw.value:
                quarantine.add(path, raw.line, raw.offset, reason, raw.value)
            else:
                unknown.append(raw)
            continue
        known = True
        for early in unknown:
            quarantine.add(path, early.line, early.offset, tr("不认识的布局", "unrecognised layout"), early.value)
        unknown.clear()
        record = raw.value
        try:
            made = layout.convert({"[]": record} if isinstance(record, list) else record)
        except BadRecord as error:
            quarantine.add(path, raw.line, raw.offset, str(error), record)
            continue
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:  # the right keys over values of another shape
            quarantine.add(path, raw.line, raw.offset, tr(f"不符合 {layout.name} 布局（{error!r}）", f"not quite the {layout.name} layout ({error!r})"), record)
            continue
        item = {"text": made} if schema == "documents" else made
        named = record.get("source") if source == "record" and isinstance(record, Mapping) else None
        item["source"] = named if isinstance(named, str) and named else stem(path)
        yield item


def _unrecognised(path: Path, values: list[Any], schema: str) -> HanlinError:
    fitting = [other for other in SCHEMAS if other != schema and any(recognise_for(value, other) for value in values)]
    zh_hint, en_hint = "", ""
    if fitting:
        zh_hint = f"它看起来是 {fitting[0]}，应交给 {_SHOW[fitting[0]]}。"
        en_hint = f"It looks like {fitting[0]}: pass it as {_SHOW[fitting[0]]}. "
    known = ", ".join(" ".join(sorted(layout.keys)) for layout in {"documents": DOCUMENTS, "conversations": CONVERSATIONS, "preferences": PREFERENCES}[schema][:6])
    return HanlinError(
        f"{path}：认不出记录的布局，看到的键是 {_keys(values)}。{zh_hint}请改成已知的键之一（{known} ……）。",
        f"{path}: unrecognised layout, with the keys {_keys(values)}. {en_hint}Rename them to a known set ({known} …).",
    )


def _keys(values: Iterable[Any]) -> str:
    seen: dict[str, None] = {}
    for value in values:
        seen.update(dict.fromkeys(map(str, value)) if isinstance(value, Mapping) else {type(value).__name__: None})
    return "{" + ", ".join(list(seen)[:20]) + "}"


def _names(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} … ({len(files)})"


# --- what is in a file ---------------------------------------------------------------------------------------------------


def _records(path: Path, schema: str, quarantine: Quarantine, limits: ReadLimits) -> Iterator[_Raw]:
    suffix = inner_suffix(path)
    if suffix == ".parquet":
        return _parquet(path)
    encoding, stream = utf8_blocks(path, limits)
    encoding = "utf-8" if encoding.startswith("utf") else encoding
    first = next(stream, b"")
    whole = itertools.chain([first], stream)
    start = first[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if suffix in (".csv", ".tsv"):
        return _table(path, _decoded(whole, encoding, path, quarantine), "\t" if suffix == ".tsv" else ",")
    if suffix in (".jsonl", ".ndjson", ".json") or start in (b"{", b"["):
        if start == b"[" and not _one_list_a_line(first):
            return _array(path, _decoded(whole, encoding, path, quarantine), schema, quarantine, limits)
        if start == b"{" and _pretty(first):
            return _values(path, _decoded(whole, encoding, path, quarantine), quarantine, limits)
        return _json_lines(path, lines(whole, limits), encoding, quarantine, limits)
    if suffix not in ("", ".txt", ".text", ".md", ".markdown", ".html", ".htm", ".xml"):
        raise HanlinError(f"{path}：不支持的文件类型 {suffix}。", f"{path}: unsupported file type {suffix}.")
    return _text(_decoded(whole, encoding, path, quarantine), markdown=suffix in (".md", ".markdown"), pages=suffix in (".html", ".htm", ".xml"))


def _one_list_a_line(first: bytes) -> bool:
    """JSON lines of lists: the first line is a whole JSON value and another follows."""
    line, newline, rest = first.partition(b"\n")
    try:
        return bool(newline and rest.lstrip()[:1] == b"[" and orjson.loads(line) is not None)
    except orjson.JSONDecodeError:
        return False


def _pretty(first: bytes) -> bool:
    """One object over several lines, as `json.dump(indent=…)` writes it."""
    line = first.lstrip().split(b"\n", 1)[0].strip()
    return line == b"{" or (line.endswith(b",") and not line.endswith(b"},"))


def _decoded(stream: Iterator[bytes], encoding: str, path: Path, quarantine: Quarantine) -> Iterator[str]:
    """Text blocks; undecodable bytes become U+FFFD, once counted per file."""
    import codecs

    decoder, bad = codecs.getincrementaldecoder(encoding)("replace"), 0
    for block in itertools.chain(stream, [None]):
        text = decoder.decode(block or b"", block is None)
        # U+FFFD written as such in UTF-8 is not an error of this file
        bad += text.count("\ufffd") - ((block or b"").count(b"\xef\xbf\xbd") if encoding == "utf-8" else 0)
        if text:
            yield text
    if bad > 0:
        quarantine.add(path, 0, -1, tr("有不能解码的字节，已换成 U+FFFD", "undecodable bytes, replaced by U+FFFD"), f"{bad} × U+FFFD ({encoding})")


def _json_lines(path: Path, source: Iterator[tuple[int, int, bytes | None]], encoding: str, quarantine: Quarantine, limits: ReadLimits) -> Iterator[_Raw]:
    for number, offset, line in source:
        if line is None:
            quarantine.add(path, number, offset, tr(f"一行超过 {limits.record_bytes >> 20} MiB", f"a line above {limits.record_bytes >> 20} MiB"))
            continue
        if not line or line.isspace():
            continue
        try:
            value = orjson.loads(line) if encoding == "utf-8" else orjson.loads(line.decode(encoding))
        except (orjson.JSONDecodeError, UnicodeDecodeError):
            try:
                values = list(_mended(line.decode(encoding)))
            except ValueError as error:
                reason = tr("不能解码的字节", "undecodable bytes") if isinstance(error, UnicodeDecodeError) else tr("不是合法的 JSON", "not valid JSON")
                quarantine.add(path, number, offset, reason, line)
                continue
            for value in values:
                yield _Raw(number, offset, value)
            continue
        yield _Raw(number, offset, value)


def _mended(line: str) -> Iterator[Any]:
    """Values of a line that strict JSON refuses for a harmless reason: a BOM, a raw tab, a trailing comma, two objects."""
    line = line.strip("\ufeff \t\r\n").rstrip(",")
    position = 0
    while position < len(line):
        value, position = _DECODER.raw_decode(line, position)
        yield value
        while position < len(line) and line[position] in " \t,":
            position += 1


def _array(path: Path, blocks: Iterator[str], schema: str, quarantine: Quarantine, limits: ReadLimits) -> Iterator[_Raw]:
    """Elements of one JSON array, streamed; an array of chat messages is one conversation."""
    elements = _values(path, blocks, quarantine, limits, opening="[")
    first = next(elements, None)
    if first is None:
        return
    if schema == "conversations" and is_message(first.value):
        yield _Raw(first.line, first.offset, [first.value, *(element.value for element in elements)])
        return
    yield first
    yield from elements


def _values(path: Path, blocks: Iterator[str], quarantine: Quarantine, limits: ReadLimits, opening: str = "") -> Iterator[_Raw]:
    """JSON values one after another, separated by commas or space, over any number of lines.

    After a broken one, reading goes on at the next `{` that follows a `}`: one bad record costs itself.
    """
    buffer, position, line, more = "", 0, 1, True
    started = not opening
    while True:
        position = _skip(buffer, position, " \t\r\n,\ufeff" if started else " \t\r\n\ufeff")
        if not started and position < len(buffer):
            position, started = position + 1, True
            continue
        if position < len(buffer) and buffer[position] == "]" and opening:
            return
        error: json.JSONDecodeError | None = None
        if position < len(buffer):
            try:
                value, end = _DECODER.raw_decode(buffer, position)
                if end < len(buffer) or not more or buffer[end - 1] in "}]\"":
                    yield _Raw(line + buffer.count("\n", 0, position), -1, value)
                    position = end
                    continue
            except json.JSONDecodeError as caught:
                error = caught
        near_end = error is None or error.pos >= len(buffer) - 16 or error.msg.startswith("Unterminated")
        if more and near_end and len(buffer) - position <= limits.record_bytes:
            line += buffer.count("\n", 0, position)
            # doubling the buffer keeps repeated attempts at one long value linear
            buffer, position, want = buffer[position:], 0, max(len(buffer) - position, 1)
            while want > 0 and more:
                block = next(blocks, None)
                more = block is not None
                buffer += block or ""
                want -= len(block or "")
            continue
        if position >= len(buffer):
            return
        following = re.compile(r"\}\s*,?\s*(?=\{)").search(buffer, max(position + 1, error.pos if error else 0))
        quarantine.add(path, line + buffer.count("\n", 0, position), -1, tr("不是合法的 JSON", "not valid JSON"), buffer[position : position + 200])
        while following is None and more:
            line += buffer.count("\n", 0, max(0, len(buffer) - 64))
            block = next(blocks, None)
            more = block is not None
            buffer, position = buffer[-64:] + (block or ""), 0
            following = re.compile(r"\}\s*,?\s*(?=\{)").search(buffer)
        if following is None:
            return
        position = following.end()


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _table(path: Path, blocks: Iterator[str], delimiter: str) -> Iterator[_Raw]:
    """Rows as mappings by the header; two columns without a header are question and answer."""
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    reader = csv.reader(_text_lines(blocks), delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)
    header = next(reader, None)
    if header is None:
        return
    header = [name.strip("\ufeff ") for name in header]
    known = any(recognise_for(dict.fromkeys(header, ""), schema) for schema in SCHEMAS)
    if not known and len(header) == 2:
        yield _Raw(1, -1, {"question": header[0], "answer": header[1]})
        header = ["question", "answer"]
    for row in reader:
        if row:
            yield _Raw(reader.line_num, -1, dict(zip(header, row, strict=False)))


def _text_lines(blocks: Iterator[str]) -> Iterator[str]:
    rest = ""
    for block in blocks:
        pieces = (rest + block).split("\n")
        rest = pieces.pop()
        yield from (piece + "\n" for piece in pieces)
    if rest:
        yield rest


def _text(blocks: Iterator[str], *, markdown: bool, pages: bool) -> Iterator[_Raw]:
    """Documents of a plain file: split at `<|endoftext|>`, or one a line when lines are long, or the file itself.

    A long file is cut at blank lines into documents of at most a MiB, so that memory stays bounded.
    """
    first = next(blocks, "")
    if markdown:
        first = re.sub(r"\A\s*---\n.*?\n---\n", "", first, count=1, flags=re.S)  # YAML front matter
    head = first.strip().split("\n")
    filled = [line for line in head if line.strip()]
    separated = _SEPARATOR in first
    by_line = not (separated or markdown or pages) and len(head) > 1 and len(filled) == len(head) and sum(map(len, filled)) / len(filled) > 300
    line, start, held, size = 0, 1, [], 0
    for line, text in enumerate(_text_lines(itertools.chain([first], blocks)), 1):
        if separated and _SEPARATOR in text:
            *ended, text = text.split(_SEPARATOR)
            for piece in ended:
                yield from _joined(start, [*held, piece])
                held, size, start = [], 0, line
        elif by_line or (size > _CHUNK and not text.strip()) or size > 4 * _CHUNK:
            yield from _joined(start, held)
            held, size, start = [], 0, line
        held.append(text)
        size += len(text)
    yield from _joined(start, held)


def _joined(line: int, held: list[str]) -> Iterator[_Raw]:
    text = "".join(held).replace("\r\n", "\n").strip("\n\ufeff")
    if text.strip():
        yield _Raw(line, -1, {"text": text})


def _parquet(path: Path) -> Iterator[_Raw]:
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-not-found]
    except ImportError:
        raise HanlinError(
            f"读取 {path} 需要 pyarrow。请运行 pip install 'hanlin[data]'，或先把它转成 jsonl。",
            f"Reading {path} needs pyarrow. Run pip install 'hanlin[data]', or convert it to jsonl first.",
        ) from None
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=512):
            for row in batch.to_pylist():
                number += 1
                yield _Raw(number, -1, cast(Any, {key: value for key, value in row.items() if value is not None}))
    except (OSError, ValueError) as error:
        raise HanlinError(f"{path} 不是完整的 parquet 文件（{error}）。", f"{path} is not a whole parquet file ({error}).") from error
