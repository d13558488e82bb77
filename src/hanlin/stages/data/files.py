"""Records from the user's own files.

What is held out is decided by the first thing that the user says, for all stages alike: a question that one
stage is judged by is in no stage's training data, whatever answer or reasoning stands beside it there.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from hanlin.common.errors import HanlinError
from hanlin.corpus.readers.read import expand, read_conversations, read_preferences
from hanlin.stages.data.base import (
    DataScope,
    DataSource,
    HeldOut,
    Record,
    Schema,
    nothing_left,
    prompt_key,
    register_source,
)

HELD_OUT_SHARE = 0.02  # of a file's prompts
HELD_OUT_FEWEST = 20  # of a small file; a tenth of a very small one
HELD_OUT_MOST = 500  # to be judged by


@register_source
@dataclasses.dataclass(frozen=True)
class FilesData(DataSource):
    """Conversations, preference pairs or problems in files of any layout that the readers know.

    Attributes:
        files: paths, globs or directories.
    """

    kind: str = "files"
    files: tuple[str, ...] = ()

    def train(self, scope: DataScope) -> Iterator[Record]:
        """The records whose prompts are not held out."""
        records = (record for record in self._read(scope.schema) if record not in scope.held_out)
        return islice(self._with_reasoning(records), self.limit or None)

    def heldout(self, scope: DataScope) -> Iterator[Record]:
        """The records whose prompts are held out, a few hundred at most."""
        records = (record for record in self._read(scope.schema) if record in scope.held_out)
        return islice(self._with_reasoning(records), HELD_OUT_MOST)

    def identity(self, scope: DataScope) -> Any:
        """Names, sizes and change times of the files."""
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in expand(self.files)]

    def patterns(self) -> tuple[str, ...]:
        """The files."""
        return self.files

    def counts(self, scope: DataScope) -> tuple[int, int]:
        """Records to train on, and held out.

        Raises:
            HanlinError: nothing is left to train on.
        """
        sides = [record in scope.held_out for record in self._read(scope.schema)]
        if not sides or all(sides):
            raise nothing_left(scope.stage, len(sides))
        return sides.count(False), sides.count(True)

    def keys(self, schema: Schema) -> Iterator[int]:
        """Key of each record's prompt."""
        return (prompt_key(record) for record in self._read(schema))

    def _read(self, schema: Schema) -> Iterator[Any]:
        if schema == "preferences":
            return read_preferences(self.files)
        records = read_conversations(self.files)
        if schema == "problems":
            return (record for record in records if record.get("answer") is not None)
        return records


class HeldOutOfFiles(HeldOut):
    """Of each stage's files the prompts with the smallest hashes: two in a hundred, of small files more."""

    def __init__(self, sources: Sequence[tuple[DataSource, Schema]]):
        self.sources: list[tuple[FilesData, Schema]] = [
            (source, schema) for source, schema in sources if isinstance(source, FilesData)
        ]

    @functools.cached_property
    def keys(self) -> frozenset[int]:
        """64-bit keys of the prompts."""
        held: set[int] = set()
        for source, schema in self.sources:
            distinct = set(source.keys(schema))
            if distinct:
                fewest = max(1, min(HELD_OUT_FEWEST, math.ceil(len(distinct) / 10)))
                held.update(heapq.nsmallest(max(fewest, int(HELD_OUT_SHARE * len(distinct))), distinct))
        return frozenset(held)

    def __contains__(self, record: Record) -> bool:
        return prompt_key(record) in self.keys

    def identity(self) -> Any:
        """JSON-able: what decides which prompts are held out."""
        scope = DataScope("", "messages", 0)
        return [source.identity(scope) for source, _ in self.sources]


def require_problems(records: Sequence[Any], stage: str) -> Sequence[Any]:
    """Refuse data without a single checkable answer.

    Raises:
        HanlinError: there is none.
    """
    if not records:
        raise HanlinError(
            "No conversation in the data of {stage} has an `answer` beside its messages; reinforcement "
            "learning needs answers it can check.",
            stage=stage,
        )
    return records
