"""CSV and TSV as records, in bounded memory whatever a stray quote does to them."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterator

from hanlin.common.messages import tr
from hanlin.corpus.readers.files import ReadLimits, Source
from hanlin.corpus.readers.quarantine import Quarantine, Raw
from hanlin.corpus.readers.schemas import SCHEMAS, recognise_for


def table(
    path: Source,
    blocks: Iterator[str],
    delimiter: str,
    quarantine: Quarantine,
    limits: ReadLimits,
    text_key: str = "",
) -> Iterator[Raw]:
    """Rows as mappings by the header; two columns without a header (and without `text_key` in it) are
    question and answer."""
    rows = _rows(path, blocks, delimiter, quarantine, limits)
    _, header = next(rows, (0, None))
    if header is None:
        return
    header = [name.strip("\ufeff ") for name in header]
    known = text_key in header or any(recognise_for(dict.fromkeys(header, ""), schema) for schema in SCHEMAS)
    if not known and len(header) == 2:
        yield Raw(1, -1, {"question": header[0], "answer": header[1]})
        header = ["question", "answer"]
    for line, row in rows:
        yield Raw(line, -1, dict(zip(header, row, strict=False)))


def _rows(
    path: Source, blocks: Iterator[str], delimiter: str, quarantine: Quarantine, limits: ReadLimits
) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, each with the number of its last line.

    A quote that is never closed takes in all that follows, and so does one that is closed only megabytes
    later: then the line where its row begins is quarantined alone, and reading goes on with the next one. A
    file that does so again and again costs the rows themselves.
    """
    csv.field_size_limit(min(sys.maxsize, 1 << 30))  # rows are bounded below
    lines_of_row = _RowLines(path, blocks, delimiter, quarantine, limits)
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(lines_of_row, delimiter=delimiter, quoting=quoting)
    while True:
        lines_of_row.begin()
        try:
            row = next(reader, None)
            reason = ""
        except _RowTooLong:
            row, reason = (
                None,
                tr(
                    "a row above {record_bytes} MiB, or of too many columns",
                    record_bytes=limits.record_bytes >> 20,
                ),
            )
        except csv.Error as error:
            row, reason = None, tr("not valid CSV ({error})", error=error)
        if lines_of_row.ended and row is not None:
            row, reason = None, tr("a quote without end")
        if reason:
            first, count = lines_of_row.again()
            also = tr(", with {count} lines after it", count=count - 1) if count > 1 else ""
            quarantine.add(path, first, -1, reason, lines_of_row.beginning + also)
        elif row is None:
            return
        elif row:
            yield lines_of_row.number, row


class _RowTooLong(Exception):
    """The row would take more memory than allowed."""


class _RowLines:
    """The lines of a table for `csv.reader`, held until their row is whole, so that a row without end can be
    given up and read anew.

    Attributes:
        number: of the line given out last, from 1.
        ended: whether the last row reached the end of the file while it still wanted more.
        beginning: of the row's first line.
    """

    _AGAIN = 16  # times that the lines of a row without end are read once more

    def __init__(
        self, path: Source, blocks: Iterator[str], delimiter: str, quarantine: Quarantine, limits: ReadLimits
    ) -> None:
        self._path, self._delimiter, self._quarantine, self._limits = path, delimiter, quarantine, limits
        self._lines = _bounded_lines(blocks, limits.record_bytes)
        self._waiting: deque[str | None] = deque()
        self._row: list[str] = []
        self._retries = self.number = 0
        self._size = self._bytes = self._columns = self._counted = (
            0  # of the row: characters; and of its first `_counted` lines
        )
        # characters that could make a row too long
        self._least = min(limits.record_bytes // 4, limits.record_values)
        self.ended = False

    @property
    def beginning(self) -> str:
        return self._row[0][:150].rstrip("\r\n") if self._row else ""

    def begin(self) -> None:
        """A new row begins."""
        self._row, self.ended = [], False
        self._size = self._bytes = self._columns = self._counted = 0

    def again(self) -> tuple[int, int]:
        """Give the row up; its lines after the first come anew, but not for ever. The first line's number,
        and how many lines are lost."""
        first, count = self.number - len(self._row) + 1, len(self._row)
        if self._retries < self._AGAIN and count > 1:
            self._retries += 1
            self._waiting.extendleft(reversed(self._row[1:]))
            self.number = first
            count = 1
        return first, count

    def __iter__(self) -> _RowLines:
        return self

    def __next__(self) -> str:
        while True:
            try:
                line = self._waiting.popleft() if self._waiting else next(self._lines)
            except StopIteration:
                self.ended = bool(self._row)
                raise
            self.number += 1
            if line is not None:
                break
            why = tr("a line above {record_bytes} MiB", record_bytes=self._limits.record_bytes >> 20)
            self._quarantine.add(self._path, self.number, -1, why)
        self._row.append(line)
        self._size += len(line)
        if self._size > self._least and self._too_long():
            raise _RowTooLong
        return line

    def _too_long(self) -> bool:
        """Reckoned only for rows that could be."""
        columns = sum(line.count(self._delimiter) for line in self._row[self._counted :])
        size = sum(
            len(line) if line.isascii() else len(line.encode("utf-8", "replace"))
            for line in self._row[self._counted :]
        )
        self._counted, self._columns, self._bytes = (
            len(self._row),
            self._columns + columns,
            self._bytes + size,
        )
        return self._bytes > self._limits.record_bytes or self._columns > self._limits.record_values


def _bounded_lines(blocks: Iterator[str], longest: int) -> Iterator[str | None]:
    """Lines with their ends; None in place of one of more than `longest` characters, most of which is never
    held."""
    held: list[str] = []
    size = 0
    for block in blocks:
        *whole, rest = block.split("\n")
        for line in whole:
            size += len(line)
            yield "".join([*held, line, "\n"]) if size <= longest else None
            held, size = [], 0
        size += len(rest)
        if size <= longest:
            held.append(rest)
        else:
            held.clear()
    if size:
        yield "".join(held) if size <= longest else None
