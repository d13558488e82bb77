"""Decontamination: documents that hold passages of a benchmark's questions are found before a model can learn
them by heart.

Compared are comparison keys (`fingerprints.comparison_key`), in runs of 13 characters, the length GPT-3 used
for words (Brown et al., 2020, appendix C). One such run may be a saying or a title; two that do not overlap
and lie near one another, or fifty characters on end, are not chance. Near means within twice the length of
the item: years of speeches hold any two set phrases somewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hanlin._native import OverlapFinder, TextBatch
from hanlin.common.atomic import atomic_write
from hanlin.common.errors import HanlinError
from hanlin.corpus.dedup.fingerprints import comparison_keys
from hanlin.corpus.download.catalogue import DATASETS
from hanlin.corpus.readers.files import DEFAULT_LIMITS, expand, stem
from hanlin.corpus.readers.read import Quarantine
from hanlin.corpus.readers.records import records

PASSAGE = 50  # characters on end that are enough


@dataclass(frozen=True)
class Hit:
    """A benchmark item that a document holds passages of.

    Attributes:
        benchmark: name of its file.
        item: its number there, from 1.
        passage: the longest one, in the comparison key.
    """

    benchmark: str
    item: int
    passage: str


class Benchmarks:
    """Items of benchmarks, to be looked for in documents.

    Attributes:
        items: (name of the file, number of the record from 1) of each.
        short: records too short to be told from chance.
        can_be_found: of each item, whether it is not.
    """

    def __init__(self, texts: Sequence[tuple[str, int, str]], overlap: int) -> None:
        self._finder = OverlapFinder(overlap)
        self._texts = list(texts)
        self._overlap = overlap
        self.items = [(name, number) for name, number, _ in texts]
        batch = comparison_keys([text for _, _, text in texts])
        self.can_be_found = [self._finder.add(batch[index]) for index in range(len(batch))]
        self.short = self.can_be_found.count(False)

    @classmethod
    def read(cls, paths: Sequence[str | Path], overlap: int = 13) -> Benchmarks:
        """All records of files of any layout: question, options, context and whatever else is text.

        Args:
            paths: see `benchmark_files`.

        Raises:
            HanlinError: a file is missing, unreadable, or holds no text.
        """
        texts: list[tuple[str, int, str]] = []
        for path in benchmark_files(paths):
            before = len(texts)
            for number, raw in enumerate(records(path, "documents", Quarantine(), DEFAULT_LIMITS), 1):
                text = "\n".join(_strings(getattr(raw, "value", raw)))
                if text:
                    texts.append((stem(path), number, text))
            if len(texts) == before:
                raise HanlinError("The benchmark {path} holds no text.", path=path)
        return cls(texts, overlap)

    def save(self, path: Path) -> None:
        """Write them, for `load` in other processes."""
        atomic_write(path, orjson.dumps({"overlap": self._overlap, "texts": self._texts}))

    @classmethod
    def load(cls, path: Path) -> Benchmarks:
        """Read what `save` wrote."""
        saved = orjson.loads(path.read_bytes())
        return cls([tuple(item) for item in saved["texts"]], saved["overlap"])

    def find(self, texts: Sequence[str], hits: int) -> dict[int, Hit]:
        """For each text that holds `hits` runs of one item near one another, 50 characters on end, or a
        whole item: the first such item."""
        keys: TextBatch = comparison_keys(texts)
        found = {}
        for text, item, _, _, begin, end in self._finder.find(keys, hits, PASSAGE):
            name, number = self.items[item]
            found[text] = Hit(name, number, keys[text][begin:end].decode("utf-8", "replace"))
        return found

    def find_every(self, keys: TextBatch, hits: int) -> list[tuple[int, int, int, int]]:
        """All items of which a text holds as much as `find` asks for: (text, place in `items`, first byte of
        the longest passage in the text's comparison key, its end)."""
        return [
            (text, item, begin, end)
            for text, item, _, _, begin, end in self._finder.find(keys, hits, PASSAGE, True)
        ]


def benchmark_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files behind paths, directories, globs, and names of evaluation sets that `hanlin data fetch`
    knows and has fetched to data/NAME.

    Raises:
        HanlinError: there are none, or a set is not fetched.
    """
    return expand([_fetched(path) for path in paths])


def _fetched(path: str | Path) -> str | Path:
    """Where an evaluation set that is named instead of a path lies."""
    if os.path.lexists(path) or not any(
        data.name == str(path) and data.stage == "evaluation" for data in DATASETS
    ):
        return path
    folder = Path("data") / path
    if not folder.is_dir():
        raise HanlinError(
            "The evaluation set {path} is not at {folder} yet. Run hanlin data fetch {path} first, or name "
            "files instead.",
            path=path,
            folder=folder,
        )
    return folder


def _strings(value: Any) -> Iterator[str]:
    """Every text in a record, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
