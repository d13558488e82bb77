"""What documents are compared by: the comparison key, its 128-bit digest, and its MinHash signature over
character 5-grams.

The comparison key is NFKC, lower case, without punctuation and white space, so that a document re-typed with
other commas is the same document. Signs that carry meaning (+ = < % ¥ and the point in 3.5) stay.

MinHash: Broder, On the resemblance and containment of documents, 1997. Banding: with b bands of r rows two
documents of Jaccard similarity J become candidates with probability 1 − (1 − Jʳ)ᵇ: 0.99996 at 0.9, 0.92 at
0.8, 0.56 at 0.7, 0.05 at 0.5 for 14 × 8.

What is done with them is in `sketches` (one task's share, on disk) and `search` (over all of them).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hanlin import _native
from hanlin._native import TextBatch
from hanlin.common.errors import ConfigError

_SEED = 1  # of the signatures: those of two corpora can be compared
_PAGE = 256
_KEPT, _DIGIT, _SIGN, _DROPPED = (kind << 24 for kind in range(4))  # as native/comparison_key.hpp has them


@dataclass(frozen=True)
class DedupConfig:
    """Duplicate search.

    Attributes:
        exact: drop documents whose comparison key was seen before.
        near: drop near duplicates.
        shingle: characters per shingle.
        bands, rows: of the signature, which has bands × rows values.
        threshold: Jaccard similarity of shingle sets from which two documents count as near duplicates.
    """

    exact: bool = True
    near: bool = True
    shingle: int = 5
    bands: int = 14
    rows: int = 8
    threshold: float = 0.8

    def __post_init__(self) -> None:
        if min(self.shingle, self.bands, self.rows) < 1:
            raise ConfigError(
                "shingle {shingle}, bands {bands} and rows {rows} should be at least 1",
                shingle=self.shingle,
                bands=self.bands,
                rows=self.rows,
            )
        if self.shingle > 256:
            raise ConfigError("shingle is {shingle}, should be at most 256", shingle=self.shingle)
        if not 0 < self.threshold <= 1:
            raise ConfigError(
                "threshold is {threshold}, should be above 0 and at most 1", threshold=self.threshold
            )

    def recall(self, similarity: float) -> float:
        """Probability that two documents of this similarity become candidates, 1 − (1 − Jʳ)ᵇ."""
        return 1 - (1 - similarity**self.rows) ** self.bands


def _dropped(character: str) -> bool:
    """Punctuation, separators and controls of the basic plane, but for the sign of per cent and those that
    numbers have."""
    return (
        ord(character) < 1 << 16 and unicodedata.category(character)[0] in "PZC" and character not in "%-./:"
    )


@functools.cache
def _bare() -> re.Pattern[str]:
    """What is dropped, and a sign that is not between digits."""
    dropped = filter(_dropped, map(chr, range(1 << 16)))
    return re.compile("[" + "".join(map(re.escape, dropped)) + r"]+|[-./:](?!\d)|(?<!\d)[-./:]")


def comparison_key(text: str) -> str:
    """What two documents are compared by: NFKC, lower case, no punctuation, no white space.
    `comparison_keys` does the same a hundred times as fast."""
    return _bare().sub("", unicodedata.normalize("NFKC", text).lower())


def comparison_keys(texts: Sequence[str | bytes] | TextBatch) -> TextBatch:
    """The comparison keys of texts, as UTF-8; of bytes, those that are not UTF-8 are dropped."""
    if not isinstance(texts, TextBatch):
        texts = batch_of(texts)
    table, keys = _table(), TextBatch()
    done = 0
    while done < len(texts):
        done, page = table.append(texts, done, keys)
        if page >= 0:
            table.define(page, *_mapping(page))
        elif done < len(texts):
            keys.append(comparison_key(texts[done].decode("utf-8", "ignore")))
            done += 1
    return keys


@functools.cache
def _table() -> _native.ComparisonKeyTable:
    """Filled page by page as pages occur: a page takes a third of a millisecond, all of them a second."""
    return _native.ComparisonKeyTable()


@functools.cache
def _joining() -> frozenset[str]:
    """Characters that canonical composition may join to the one before them, combining classes aside."""
    # not among the ideographs, nor beyond: to ask everywhere takes 0.2 s
    composed = (
        *range(0xC0, 0x3400),
        *range(0xF900, 0x20000),
    )
    parts = (unicodedata.decomposition(chr(point)).split() for point in composed)
    seconds = {chr(int(pair[1], 16)) for pair in parts if len(pair) == 2 and not pair[0].startswith("<")}
    # Hangul is composed by rule
    return frozenset(seconds | {chr(point) for point in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))})


def _mapping(page: int) -> tuple[list[list[int]], list[bool]]:
    """What each code point of a page becomes in comparison keys, and whether that hangs on its neighbours.

    NFKC of a text is that of its characters one by one if none of them begins, decomposed, with a mark or
    with a character that composes with the one before it; lower case is, but for Σ at the end of a word.
    """
    mapped: list[list[int]] = []
    refused: list[bool] = []
    for point in range(page * _PAGE, (page + 1) * _PAGE):
        character = chr(point)
        first = unicodedata.normalize("NFKD", character)[0]
        folded = unicodedata.normalize("NFKC", character)
        refused.append(bool(unicodedata.combining(first)) or first in _joining() or "Σ" in folded)
        mapped.append([_kind(item) | ord(item) for item in folded.lower()])
    return mapped, refused


def _kind(character: str) -> int:
    if _dropped(character):
        return _DROPPED
    if character in "-./:":
        return _SIGN
    return _DIGIT if character.isdecimal() else _KEPT


def digests(keys: TextBatch) -> np.ndarray:
    """128-bit hashes of comparison keys, (N, 2) uint64."""
    return _native.digests(keys)


class MinHasher:
    """Signatures of bands × rows minima: see native/minhash.hpp for the hashes and why the estimate is
    without bias."""

    def __init__(self, config: DedupConfig, seed: int = _SEED) -> None:
        self.config = config
        self._hasher = _native.MinHasher(config.shingle, config.bands * config.rows, seed)

    def __call__(self, keys: TextBatch | Sequence[str | bytes]) -> np.ndarray:
        """Signatures of comparison keys, (N, bands × rows) uint32."""
        return self._hasher(keys if isinstance(keys, TextBatch) else batch_of(keys))


def batch_of(texts: Iterable[str | bytes]) -> TextBatch:
    """Texts as they are, in a batch; halves of surrogate pairs, which UTF-8 has no place for, are dropped."""
    batch = TextBatch()
    for text in texts:
        try:
            batch.append(text)
        except UnicodeEncodeError:
            batch.append(text.encode("utf-8", "ignore"))  # type: ignore[union-attr]
    return batch
