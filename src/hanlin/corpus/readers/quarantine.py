"""Records as they are read, and what becomes of those that cannot be used: counted, and kept with place and
reason."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any, NamedTuple

from hanlin.common.messages import tr
from hanlin.corpus.readers.files import Source, readable_name


class Entry(NamedTuple):
    """A record that could not be used: where it is, why, and its beginning."""

    file: str
    line: int
    offset: int
    reason: str
    excerpt: str


class Quarantine:
    """Counts every bad record, and keeps it: all of them in `sink` when there is one, the first 1,000 in
    memory.

    Args:
        sink: an open text file for JSON lines.
    """

    def __init__(self, sink: io.TextIOBase | None = None):
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self._first: dict[str, str] = {}  # where each reason was met first
        self.entries: list[Entry] = []
        self._sink = sink

    def add(self, file: Source | str, line: int, offset: int, reason: str, record: Any = "") -> None:
        """Count one record; `line` is its number from 1, `offset` its first byte (after decompression), or
        -1."""
        if isinstance(record, bytes):
            record = record[:800].decode("utf-8", "replace")
        text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=str)
        file = readable_name(str(file))
        entry = Entry(file, line, offset, reason, text[:200].encode("utf-8", "replace").decode())
        self.count += 1
        self.reasons[reason] += 1
        if reason not in self._first:
            self._first[reason] = f"{file}:{line}" if line else file
        if len(self.entries) < 1000:
            self.entries.append(entry)
        if self._sink is not None:
            self._sink.write(json.dumps(entry._asdict(), ensure_ascii=False) + "\n")

    def summary(self) -> str:
        """The reasons, their counts and where each was met first (file:line), most frequent first, on one
        line."""
        return tr("; ").join(
            tr("{reason} × {count} (first: {first})", reason=reason, count=count, first=self._first[reason])
            for reason, count in self.reasons.most_common(5)
        )


class Raw(NamedTuple):
    """A record as the file has it, and where: line (or element) from 1, first byte or -1."""

    line: int
    offset: int
    value: Any
