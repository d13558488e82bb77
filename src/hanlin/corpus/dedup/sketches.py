"""One task's share of a duplicate search on disk: a directory that appears whole or not at all, with digests
and keys of bands.

Tasks share nothing, so any number of workers can write theirs; the order of the tasks is the order of their
documents.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from hanlin._native import KeyWriter, TextBatch
from hanlin.common.atomic import atomic_directory, read_json, write_json
from hanlin.common.config import to_dict
from hanlin.common.errors import HanlinError
from hanlin.corpus.dedup.fingerprints import DedupConfig, MinHasher, comparison_keys, digests

_MEMORY = 64 << 20
_FIELDS = ("shingle", "bands", "rows")  # of the configuration, that a sketch hangs on


class SketchWriter:
    """Writes a sketch: 16 bytes a document of digests, and 12 a band.

    Args:
        path: of the directory; it exists once the block has ended well.
        memory: bytes for keys that wait to be written.

    Raises:
        HanlinError: the disk is full or the place cannot be written.
    """

    def __init__(self, path: Path | str, config: DedupConfig, memory: int = _MEMORY) -> None:
        self.path, self.config, self.documents = Path(path), config, 0
        self._memory = memory
        self._hasher = MinHasher(config)
        self._content = hashlib.blake2b(digest_size=16)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SketchWriter:
        self._folder = self._stack.enter_context(atomic_directory(self.path))
        self._digests = self._stack.enter_context(open(self._folder / "digests", "wb"))
        self._bands = KeyWriter(str(self._folder / "bands"), self._memory) if self.config.near else None
        return self

    def add(self, texts: Iterable[str | bytes] | TextBatch) -> np.ndarray:
        """Append documents, numbered on from `documents`; the digests of their comparison keys, (N, 2)
        uint64."""
        keys = comparison_keys(texts if isinstance(texts, TextBatch) else list(texts))
        found = digests(keys)
        self._digests.write(found.tobytes())
        self._content.update(found.tobytes())
        if self._bands is not None:
            self._bands.add_bands(self._hasher(keys), self.config.rows, self.documents)
        self.documents += len(keys)
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._bands is not None:
                self._bands.close()
            self._digests.flush()
            about = {
                "documents": self.documents,
                "content": self._content.hexdigest(),
                "config": to_dict(self.config),
            }
            write_json(self._folder / "sketch.json", about)
        self._stack.__exit__(kind, error, trace)


class Sketch:
    """A sketch that was written.

    Attributes:
        documents: how many.
        content: hash of their digests.

    Raises:
        HanlinError: it is not there, or was made with another shingle size, bands or rows than `config` has.
    """

    def __init__(self, path: Path | str, config: DedupConfig) -> None:
        self.path = Path(path)
        about = read_json(self.path / "sketch.json")
        self.documents: int = about["documents"]
        self.content: str = about["content"]
        made, asked = (
            {name: found[name] for name in _FIELDS} for found in (about["config"], to_dict(config))
        )
        if made != asked or (config.near and not (self.path / "bands").is_file()):
            raise HanlinError(
                "The sketch {path} was made with {made}, but {asked} is asked for. Remove it and run again.",
                path=self.path,
                made=made,
                asked=asked,
            )

    def digests(self, rows: int = 1 << 16) -> Iterator[np.ndarray]:
        """Digests in order, (≤ rows, 2) uint64 at a time."""
        with open(self.path / "digests", "rb") as file:
            while data := file.read(rows * 16):
                yield np.frombuffer(data, np.uint64).reshape(-1, 2)


class TextSpill:
    """Texts that wait in a file; only where they begin stays in memory, 8 bytes a text.

    Calling it with ascending numbers gives their texts one after another, as `search.find_duplicates` asks
    for them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ends = [np.zeros(1, np.uint64)]

    def add(self, texts: TextBatch) -> None:
        """Append a batch."""
        data, bounds = texts.buffer()
        self._file.seek(0, os.SEEK_END)
        self._file.write(data.tobytes())
        if len(texts):
            self._ends.append(bounds[1:] + self._ends[-1][-1])

    def __call__(self, numbers: np.ndarray) -> Iterator[bytes]:
        self._file.flush()
        if len(self._ends) > 1:
            self._ends = [np.concatenate(self._ends)]
        begins, ends = (self._ends[0][numbers.astype(np.int64) + one].tolist() for one in (0, 1))
        for begin, end in zip(begins, ends, strict=True):
            self._file.seek(begin)
            yield self._file.read(end - begin)
