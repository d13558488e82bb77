"""Lines that many documents of one source have: menus, notices, signatures of a site.

Counting is exact and on disk, task by task as the sketches of the duplicate search are; a line is compared by
its comparison key. Verse, law and dialogue repeat lines that are no boilerplate, so it is off unless it is
asked for. `strip` makes it a part of a build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hanlin._native import KeyReader, KeyWriter
from hanlin.common.atomic import atomic_directory, read_json, write_json
from hanlin.common.errors import ConfigError
from hanlin.corpus.dedup.fingerprints import batch_of, comparison_keys, digests
from hanlin.corpus.dedup.search import MEMORY, key_ranges
from hanlin.corpus.filters.clean import fenced_lines
from hanlin.corpus.filters.stats import Drops
from hanlin.corpus.text.normalize import collapse

RULE = "boilerplate_line"


@dataclass(frozen=True)
class BoilerplateConfig:
    """Which lines are boilerplate.

    Attributes:
        documents: of one source, that a line is in at least, copies of a document counted once; 0 removes
            nothing.
        min_chars, max_chars: length of the lines that are looked at, without white space around them.
        max_share: of a document's characters; one of which more is boilerplate stays as it is, for it is
            rather a copy of others.
    """

    documents: int = 0
    min_chars: int = 6
    max_chars: int = 200
    max_share: float = 0.5

    def __post_init__(self) -> None:
        if self.documents < 0 or self.documents == 1:
            raise ConfigError(
                "documents is {documents}, should be 0, or at least 2", documents=self.documents
            )
        if not 1 <= self.min_chars <= self.max_chars:
            raise ConfigError(
                "min_chars {min_chars} should be at least 1, and max_chars {max_chars} no less than it",
                min_chars=self.min_chars,
                max_chars=self.max_chars,
            )
        if not 0 < self.max_share <= 1:
            raise ConfigError(
                "max_share is {max_share}, should be above 0 and at most 1", max_share=self.max_share
            )


def line_keys(
    texts: Sequence[str], sources: Sequence[str], config: BoilerplateConfig
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The lines of these documents that could be boilerplate, which those in code fences could not: keys of
    source and of the line's comparison key (L,) uint64, indices of their documents (L,) uint32, and their
    numbers there from 0."""
    owners: list[int] = []
    numbers: list[int] = []
    lines: list[str] = []
    for owner, text in enumerate(texts):
        split = text.split("\n")
        fenced = fenced_lines(split) if "```" in text else ()
        for number, line in enumerate(split):
            if config.min_chars <= len(line.strip()) <= config.max_chars and number not in fenced:
                owners.append(owner)
                numbers.append(number)
                lines.append(line)
    names = list(dict.fromkeys(sources))
    salts = dict(zip(names, digests(batch_of(names))[:, 1], strict=True))
    keys = digests(comparison_keys(lines))[:, 0] ^ np.array(
        [salts[sources[owner]] for owner in owners], np.uint64
    )
    return keys, np.array(owners, np.uint32), numbers


class LineCounter:
    """Writes the keys of one task's lines to a directory, which exists once the block has ended.

    Args:
        memory: bytes for keys that wait to be written.
    """

    def __init__(self, path: Path | str, config: BoilerplateConfig, memory: int = 64 << 20) -> None:
        self.path, self.config, self.documents = Path(path), config, 0
        self._memory = memory

    def __enter__(self) -> LineCounter:
        self._directory = atomic_directory(self.path)
        self._folder = self._directory.__enter__()
        self._writer = KeyWriter(str(self._folder / "keys"), self._memory)
        return self

    def add(self, texts: Sequence[str], sources: Sequence[str]) -> None:
        """Count the lines of a batch of documents."""
        keys, owners, _ = line_keys(texts, sources, self.config)
        self._writer.add(keys, owners + np.uint32(self.documents))
        self.documents += len(texts)

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self._writer.close()
            write_json(self._folder / "lines.json", {"documents": self.documents})
        self._directory.__exit__(kind, error, trace)


def common_lines(counts: Sequence[Path | str], config: BoilerplateConfig, memory: int = MEMORY) -> np.ndarray:
    """Keys of the lines that are boilerplate, ascending, and how many documents have each; (2, K) uint64.

    Args:
        counts: directories of `LineCounter`, of all tasks.
        memory: bytes for counting; 16 bytes a line that is boilerplate come on top.
    """
    documents = [read_json(Path(path) / "lines.json")["documents"] for path in counts]
    firsts = np.cumsum([0, *documents]).tolist()
    reader = KeyReader(
        [(str(Path(path) / "keys"), first) for path, first in zip(counts, firsts, strict=False)]
    )
    found = [reader.common(first, last, config.documents) for first, last in key_ranges(reader.sizes, memory)]
    # ranges ascend, and keys within them
    return np.concatenate([np.empty((2, 0), np.uint64), *map(np.stack, found)], axis=1)


class Boilerplate:
    """Removes the lines that are in many documents, and counts and samples them in `lines`.

    Args:
        common: what `common_lines` found.
    """

    def __init__(self, common: np.ndarray, config: BoilerplateConfig, lines: Drops | None = None) -> None:
        self.config, self.lines = config, lines or Drops()
        self._keys, self._documents = common

    def __call__(self, texts: Sequence[str], sources: Sequence[str]) -> list[str]:
        """The documents without boilerplate; one that has none is handed back as it is."""
        result = list(texts)
        if not len(self._keys):
            return result
        keys, owners, numbers = line_keys(texts, sources, self.config)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        common: dict[int, dict[int, int]] = {}
        for index in np.flatnonzero(self._keys[at] == keys).tolist():
            common.setdefault(int(owners[index]), {})[numbers[index]] = int(self._documents[at[index]])
        for owner, gone in common.items():
            lines = texts[owner].split("\n")
            if sum(len(lines[number]) for number in gone) > self.config.max_share * len(texts[owner]):
                continue
            result[owner] = collapse(
                "\n".join(line for number, line in enumerate(lines) if number not in gone)
            )
            for number, documents in gone.items():
                self.lines.add(RULE, lines[number], source=sources[owner], documents=documents)
        return result
