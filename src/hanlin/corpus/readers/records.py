"""The records of one file, whatever it is: JSON lines, arrays, tables, parquet, plain text. Bad ones go to a
`Quarantine`.

Nothing here knows what a record means; `schemas.py` does.
"""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson

from hanlin._native import JsonLines, TextBatch
from hanlin.common.errors import HanlinError
from hanlin.common.messages import tr
from hanlin.corpus.readers.files import (
    DEFAULT_LIMITS,
    ReadLimits,
    Source,
    inner_suffix,
    line_blocks,
    lines,
    utf8_blocks,
)
from hanlin.corpus.readers.quarantine import Quarantine, Raw
from hanlin.corpus.readers.schema_types import is_message
from hanlin.corpus.readers.schemas import is_plain_text
from hanlin.corpus.readers.tables import table
from hanlin.corpus.text.structure import MAX_DEPTH, Structure, measure, too_complex

_SEPARATOR = "<|endoftext|>"
_CHUNK = 1 << 20  # characters of a page or of Markdown that make one document at most
# characters of plain text from which a document ends with a paragraph, twice as many with any line
_CHAPTER = 1 << 17
_DECODER = json.JSONDecoder(strict=False)
_NEXT_OBJECT = re.compile(r"\}\s*,?\s*(?=\{)")


@dataclasses.dataclass(frozen=True)
class Sourced:
    """Texts in a batch and the source that each record names, in their order; none where no record names
    one."""

    texts: TextBatch
    names: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def records(
    path: Source,
    schema: str,
    quarantine: Quarantine,
    limits: ReadLimits,
    *,
    texts: bool = False,
    sources: bool = False,
    text_key: str = "",
) -> Iterator[Raw | TextBatch | Sourced]:
    """Stream the records of `path`; `schema` (a key of `schemas.SCHEMAS`) only tells how to read an array of
    chat messages.

    Args:
        texts: of JSON lines that plainly are documents, give the texts alone, many in one batch.
        sources: with their sources.
        text_key: of the column that holds the text, where it is not to be guessed.

    Raises:
        HanlinError: see `files.utf8_blocks`; an unknown kind of file; parquet without pyarrow.
    """
    suffix = inner_suffix(path)
    if suffix == ".parquet":
        return _parquet(cast(Path, path))  # archives pass parquet over
    encoding, stream = utf8_blocks(path, limits)
    encoding = "utf-8" if encoding.startswith("utf") else encoding
    first = next(stream, b"")
    whole = itertools.chain([first], stream)
    start = first[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if suffix in (".csv", ".tsv"):
        return table(
            path,
            _decoded(whole, encoding, path, quarantine),
            "\t" if suffix == ".tsv" else ",",
            quarantine,
            limits,
            text_key,
        )
    if suffix in (".jsonl", ".ndjson", ".json") or start in (b"{", b"["):
        if start == b"[" and not _one_list_a_line(first):
            return _array(path, _decoded(whole, encoding, path, quarantine), schema, quarantine, limits)
        if start == b"{" and _pretty(first):
            return _values(path, _decoded(whole, encoding, path, quarantine), quarantine, limits)
        if texts and encoding == "utf-8":
            return _text_batches(path, line_blocks(whole, limits), quarantine, limits, sources)
        return _json_lines(path, lines(whole, limits), encoding, quarantine, limits)
    if suffix not in ("", ".txt", ".text", ".md", ".markdown", ".html", ".htm", ".xml"):
        raise HanlinError("{path}: unsupported file type {suffix}.", path=path, suffix=suffix)
    return _text(
        _decoded(whole, encoding, path, quarantine),
        markdown=suffix in (".md", ".markdown"),
        pages=suffix in (".html", ".htm", ".xml"),
    )


def _one_list_a_line(first: bytes) -> bool:
    """JSON lines of lists: the first line is a whole JSON value and another follows."""
    line, newline, rest = first.partition(b"\n")
    if not newline or rest.lstrip()[:1] != b"[":
        return False
    if not too_complex(line, DEFAULT_LIMITS.record_values):
        try:
            return orjson.loads(line) is not None
        except orjson.JSONDecodeError:
            return False
    values, _, end = measure(line)
    return end is not None and not line[end:].strip()


def _pretty(first: bytes) -> bool:
    """One object over several lines, as `json.dump(indent=…)` writes it."""
    line = first.lstrip().split(b"\n", 1)[0].strip()
    return line == b"{" or (line.endswith(b",") and not line.endswith(b"},"))


def _decoded(stream: Iterator[bytes], encoding: str, path: Source, quarantine: Quarantine) -> Iterator[str]:
    """Text blocks; undecodable bytes become U+FFFD, once counted per file."""
    decoder, bad = codecs.getincrementaldecoder(encoding)("replace"), 0
    for block in itertools.chain(stream, [None]):
        text = decoder.decode(block or b"", block is None)
        # U+FFFD written as such in UTF-8 is not an error of this file
        bad += text.count("\ufffd") - ((block or b"").count(b"\xef\xbf\xbd") if encoding == "utf-8" else 0)
        if text:
            yield text
    if bad > 0:
        quarantine.add(
            path,
            0,
            -1,
            tr("undecodable bytes, replaced by U+FFFD"),
            f"{bad} × U+FFFD ({encoding})",
        )


def _json_lines(
    path: Source,
    source: Iterator[tuple[int, int, bytes | None]],
    encoding: str,
    quarantine: Quarantine,
    limits: ReadLimits,
) -> Iterator[Raw]:
    for number, offset, line in source:
        if line is None:
            quarantine.add(
                path,
                number,
                offset,
                tr("a line above {record_bytes} MiB", record_bytes=limits.record_bytes >> 20),
            )
            continue
        if not line or line.isspace():
            continue
        try:
            text = line if encoding == "utf-8" else line.decode(encoding)
        except UnicodeDecodeError:
            quarantine.add(path, number, offset, tr("undecodable bytes"), line)
            continue
        if too_complex(text, limits.record_values):
            quarantine.add(path, number, offset, _too_complex(), line)
            continue
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            try:
                values = list(_mended(text if isinstance(text, str) else text.decode()))
            except (ValueError, RecursionError) as error:
                undecodable = isinstance(error, UnicodeDecodeError)
                reason = tr("undecodable bytes") if undecodable else tr("not valid JSON")
                quarantine.add(path, number, offset, reason, line)
                continue
            for value in values:
                yield Raw(number, offset, value)
            continue
        yield Raw(number, offset, value)


def _too_complex() -> str:
    return tr("JSON nested deeper than {max_depth}, or of too many values", max_depth=MAX_DEPTH)


def _text_batches(
    path: Source,
    blocks: Iterator[tuple[int, int, bytes | None]],
    quarantine: Quarantine,
    limits: ReadLimits,
    sources: bool,
) -> Iterator[Raw | TextBatch | Sourced]:
    """The texts of lines that the core can read, and the other lines' records, in the order of the file."""
    reader, names = JsonLines("text", limits.record_bytes), _SourceReader(limits)
    for number, offset, block in blocks:
        if block is None:
            yield from _json_lines(path, iter([(number, offset, None)]), "utf-8", quarantine, limits)
            continue
        begin = 0
        while True:
            batch = TextBatch()
            before = begin
            begin, passed = reader.read(block, begin, batch)
            number += passed
            if len(batch):
                yield Sourced(batch, names.read(block[before:begin], len(batch))) if sources else batch
            if begin == len(block):
                break
            end = block.find(b"\n", begin) + 1 or len(block)
            [(_, _, line)] = lines(iter([block[begin:end]]), limits)
            for raw in _json_lines(path, iter([(number, offset + begin, line)]), "utf-8", quarantine, limits):
                if isinstance(raw.value, dict) and is_plain_text(raw.value):
                    reader.know(list(raw.value))
                    names.know(list(raw.value))
                yield raw
            number, begin = number + 1, end


class _SourceReader:
    """The sources of plain lines: read by the core once more where every shape seen has one, not at all
    where none has."""

    def __init__(self, limits: ReadLimits):
        self._reader = JsonLines("source", limits.record_bytes)
        self._named = False

    def know(self, keys: list[str]) -> None:
        """Objects of these keys will come."""
        if "source" in keys:
            self._named = True
            self._reader.know(keys)

    def read(self, block: bytes, count: int) -> list[str]:
        """Names of the `count` documents of a block, or none."""
        if not self._named:
            return []
        found = TextBatch()
        end, _ = self._reader.read(block, 0, found)
        if end == len(block) and len(found) == count:
            return [found[index].decode() for index in range(count)]
        # Some lines name no source, or one that is not plain text.
        values = [orjson.loads(line).get("source") for line in block.split(b"\n") if line.strip()]
        return [value if isinstance(value, str) else "" for value in values]


def _mended(line: str) -> Iterator[Any]:
    """Values of a line that strict JSON refuses for a harmless reason: a BOM, a raw tab, a trailing comma,
    two objects."""
    line = line.strip("\ufeff \t\r\n").rstrip(",")
    position = 0
    while position < len(line):
        value, position = _DECODER.raw_decode(line, position)
        yield value
        while position < len(line) and line[position] in " \t,":
            position += 1


def _array(
    path: Source, blocks: Iterator[str], schema: str, quarantine: Quarantine, limits: ReadLimits
) -> Iterator[Raw]:
    """Elements of one JSON array, streamed; an array of chat messages is one conversation."""
    elements = _values(path, blocks, quarantine, limits, opening="[")
    first = next(elements, None)
    if first is None:
        return
    if schema == "conversations" and is_message(first.value):
        yield Raw(first.line, first.offset, [first.value, *(element.value for element in elements)])
        return
    yield first
    yield from elements


def _values(
    path: Source, blocks: Iterator[str], quarantine: Quarantine, limits: ReadLimits, opening: str = ""
) -> Iterator[Raw]:
    """JSON values one after another, separated by commas or space, over any number of lines.

    After a broken one, reading goes on at the next `{` that follows a `}`: one bad record costs itself.
    """
    buffer, position, more, started = "", 0, True, not opening
    line, counted = 1, 0  # of the text before buffer[counted]
    dense = False  # whether the buffer could hold a value of too many values
    while True:
        position = _skip(buffer, position, " \t\r\n,\ufeff" if started else " \t\r\n\ufeff")
        line, counted = line + buffer.count("\n", counted, position), position
        if not started and position < len(buffer):
            position, started = position + 1, True
            continue
        if position < len(buffer) and buffer[position] == "]" and opening:
            return
        error: json.JSONDecodeError | None = None
        if dense and buffer[position : position + 1] in ("[", "{"):
            values, _, stop = measure(buffer, position)
            if values > limits.record_values:
                quarantine.add(path, line, -1, _too_complex(), buffer[position : position + 200])
                if stop is None:
                    rest, lines_before = _after(buffer[position:], blocks)
                    line, buffer, position, counted = line + lines_before, rest, 0, 0
                    dense = _dense(buffer, limits)
                else:
                    position = stop
                continue
        if position < len(buffer):
            try:
                value, end = _DECODER.raw_decode(buffer, position)
                # a number or a word is whole only when something that cannot belong to it follows
                if (
                    buffer[end - 1] in '}]"'
                    or buffer[end : end + 1] in (*" \t\r\n,]",)
                    or (not more and end == len(buffer))
                ):
                    if _too_deep(buffer, position, end):
                        quarantine.add(path, line, -1, _too_complex(), buffer[position : position + 200])
                    else:
                        yield Raw(line, -1, value)
                    position = end
                    continue
            except json.JSONDecodeError as caught:
                error = caught
            except RecursionError:
                error = json.JSONDecodeError("nested too deep", buffer[: position + 1], position)
        deep = error is not None and error.msg == "nested too deep"
        near_end = error is None or (
            not deep and (error.pos >= len(buffer) - 16 or error.msg.startswith("Unterminated"))
        )
        if more and near_end and len(buffer) - position <= limits.record_bytes:
            # doubling the buffer keeps repeated attempts at one long value linear
            buffer, position, counted = buffer[position:], 0, 0
            want = max(len(buffer), 1)
            while want > 0 and more:
                block = next(blocks, None)
                more = block is not None
                buffer += block or ""
                want -= len(block or "")
            dense = _dense(buffer, limits)
            continue
        if position >= len(buffer):
            return
        reason = _too_complex() if deep else tr("not valid JSON")
        quarantine.add(path, line, -1, reason, buffer[position : position + 200])
        following = _NEXT_OBJECT.search(buffer, max(position + 1, error.pos if error else 0))
        while following is None and more:
            block = next(blocks, None)
            more = block is not None
            cut = max(counted, len(buffer) - 64)  # the end of a record may lie across two blocks
            line += buffer.count("\n", counted, cut)
            buffer, counted = buffer[cut:] + (block or ""), 0
            dense = _dense(buffer, limits)
            following = _NEXT_OBJECT.search(buffer)
        if following is None:
            return
        position = following.end()


def _dense(buffer: str, limits: ReadLimits) -> bool:
    return len(buffer) > limits.record_values and sum(map(buffer.count, "[{,")) > limits.record_values


def _too_deep(buffer: str, begin: int, end: int) -> bool:
    opened = buffer.count("[", begin, end) + buffer.count("{", begin, end)
    return opened > MAX_DEPTH and measure(buffer[begin:end], whole=True)[1] > MAX_DEPTH


def _after(begun: str, blocks: Iterator[str]) -> tuple[str, int]:
    """What follows the value that `begun` begins and later blocks end, and the line ends within it."""
    structure, passed = Structure(), 0
    for block in itertools.chain([begun], blocks):
        end = structure.feed(block)
        if end is not None:
            return block[end:], passed + block.count("\n", 0, end)
        passed += block.count("\n")
    return "", passed


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _text_lines(blocks: Iterator[str], longest: int = sys.maxsize) -> Iterator[str]:
    """Lines with their ends; one of more than about `longest` characters comes in parts, so that an endless
    one takes bounded memory."""
    held, size = [], 0
    for block in blocks:
        first, *others = block.split("\n")
        held.append(first)
        size += len(first)
        if others:
            yield "".join(held) + "\n"
            *whole, rest = others
            yield from (line + "\n" for line in whole)
            held, size = [rest], len(rest)
        if size > longest:
            text = "".join(held)
            separator = text.find(_SEPARATOR, len(text) - 2 * len(_SEPARATOR))
            # no separator stands across it, nor half of one before it
            cut = separator if separator > 0 else len(text) - len(_SEPARATOR)
            yield text[:cut]
            held, size = [text[cut:]], len(text) - cut
    if size:
        yield "".join(held)


def _text(blocks: Iterator[str], *, markdown: bool, pages: bool) -> Iterator[Raw]:
    """Documents of a plain file: split at `<|endoftext|>`, or one a line when lines are long, or the file
    itself.

    A book would be kept or dropped as a whole and never be held out: a plain text of more than 131,072
    characters is cut at the next blank line, and where none follows within as many again, at the next line's
    end. Pages and Markdown are cut at blank lines after a million. Where there is nothing to cut at, the end
    comes at four million characters, within a line if need be, so that memory stays bounded.
    """
    first = next(blocks, "")
    if markdown:
        first = re.sub(r"\A\s*---\n.*?\n---\n", "", first, count=1, flags=re.S)  # YAML front matter
    head = first.strip().split("\n")
    filled = [line for line in head if line.strip()]
    separated = _SEPARATOR in first
    by_line = (
        not (separated or markdown or pages)
        and len(head) > 1
        and len(filled) == len(head)
        and sum(map(len, filled)) / len(filled) > 300
    )
    chunk, at_any_line = (_CHUNK, 4 * _CHUNK) if markdown or pages else (_CHAPTER, 2 * _CHAPTER)
    line, start, held, size = 1, 1, [], 0
    for text in _text_lines(itertools.chain([first], blocks), 4 * _CHUNK + 2 * len(_SEPARATOR)):
        if separated and _SEPARATOR in text:
            *ended, text = text.split(_SEPARATOR)
            for piece in ended:
                yield from _joined(start, [*held, piece])
                held, size, start = [], 0, line
        elif by_line or (size > chunk and not text.strip()) or size > at_any_line:
            yield from _joined(start, held)
            held, size, start = [], 0, line
        held.append(text)
        size += len(text)
        line += text.endswith("\n")
    yield from _joined(start, held)


class PlainText(dict[str, str]):
    """A document of a plain file, which has no keys of its own."""


def _joined(line: int, held: list[str]) -> Iterator[Raw]:
    text = "".join(held).replace("\r\n", "\n").strip("\n\ufeff")
    if text.strip():
        yield Raw(line, -1, PlainText(text=text))


def _parquet(path: Path) -> Iterator[Raw]:
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-not-found]
    except ImportError:
        raise HanlinError(
            "Reading {path} needs pyarrow. Run pip install 'hanlin[data]', or convert it to jsonl first.",
            path=path,
        ) from None
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=512):
            for row in batch.to_pylist():
                number += 1
                yield Raw(
                    number, -1, cast(Any, {key: value for key, value in row.items() if value is not None})
                )
    except (OSError, ValueError) as error:
        raise HanlinError("{path} is not a whole parquet file ({error}).", path=path, error=error) from error
