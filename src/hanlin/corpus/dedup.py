"""Exact and near duplicates: a hash of the bare text, and MinHash-LSH over character 5-grams with every pair verified.

The bare text (`skeleton`) is what is compared: NFKC, lower case, without punctuation and white space, so that a document
re-typed with other commas is the same document. Signs that carry meaning (+ = < % ¥ and the point in 3.5) stay.

MinHash: Broder, On the resemblance and containment of documents, 1997. Banding: with b bands of r rows two documents of
Jaccard similarity J become candidates with probability 1 − (1 − Jʳ)ᵇ: 0.99996 at 0.9, 0.92 at 0.8, 0.56 at 0.7, 0.05 at 0.5 for 14 × 8.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 1 << 18  # shingles hashed at once: permutation rows of 1 MiB stay in the cache
_WIDE_BUCKET = 512  # documents that stay, of one bucket, with which a newcomer is compared
_PRIME = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class DedupConfig:
    """Near-duplicate search.

    Attributes:
        exact: drop documents whose bare text was seen before.
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
            raise ValueError(f"shingle {self.shingle}, bands {self.bands}, rows {self.rows}: ≥ 1")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold = {self.threshold}: 0 < … ≤ 1")


@functools.cache
def _bare() -> re.Pattern[str]:
    """Punctuation, separators and controls, except a sign between digits."""
    dropped = [chr(point) for point in range(1 << 16) if unicodedata.category(chr(point))[0] in "PZC" and chr(point) not in "%-./:"]
    return re.compile("[" + "".join(map(re.escape, dropped)) + r"]+|[-./:](?!\d)|(?<!\d)[-./:]")


def skeleton(text: str) -> str:
    """The bare text two documents are compared by."""
    return _bare().sub("", unicodedata.normalize("NFKC", text).lower())


def digest(bare: str) -> bytes:
    """128-bit hash of a bare text."""
    return hashlib.blake2b(bare.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shingle_hashes(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of every `size`-gram of every text, (S,) uint64, and where each text's begin, (N + 1,).

    A text shorter than `size` is one shingle.
    """
    padded = [text if len(text) >= size else text + "\0" * (size - len(text)) for text in texts]
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    ends = np.cumsum(np.fromiter(map(len, padded), np.int64, len(padded)))
    rolled = np.zeros(max(len(points) - size + 1, 0), np.uint64)
    for offset in range(size):
        rolled = (rolled + points[offset : offset + len(rolled)]) * _PRIME
        rolled ^= rolled >> np.uint64(32)
    inside = np.ones(len(points), bool)  # the last size − 1 positions of a text begin no shingle of it
    for back in range(1, size):
        inside[ends - back] = False
    counts = np.diff(ends, prepend=0) - (size - 1)
    return rolled[inside[: len(rolled)]], np.concatenate([[0], np.cumsum(counts)])


class MinHasher:
    """Signatures of bands × rows minima of random affine hashes (a odd, mod 2³²) over mixed shingle hashes."""

    def __init__(self, config: DedupConfig, seed: int = 1) -> None:
        generator = np.random.Generator(np.random.PCG64(seed))
        count = config.bands * config.rows
        self.config = config
        self._a = generator.integers(0, 1 << 32, count, np.uint32) | np.uint32(1)
        self._b = generator.integers(0, 1 << 32, count, np.uint32)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Signatures of bare texts, (N, bands × rows) uint32."""
        signatures = np.empty((len(texts), len(self._a)), np.uint32)
        start = 0
        while start < len(texts):  # as many texts as fill a block, at least one
            stop, size = start, 0
            while stop < len(texts) and (stop == start or size + len(texts[stop]) <= _BLOCK):
                size += len(texts[stop])
                stop += 1
            hashes, bounds = shingle_hashes(texts[start:stop], self.config.shingle)
            folded = (hashes >> np.uint64(32)).astype(np.uint32)
            for row, (a, b) in enumerate(zip(self._a, self._b, strict=True)):
                signatures[start:stop, row] = np.minimum.reduceat(folded * a + b, bounds[:-1])
            start = stop
        return signatures


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Similarity of two sets given as sorted arrays without repeats."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / max(1, len(left) + len(right) - common)


def near_duplicates(signatures: np.ndarray, bare: Callable[[int], str], config: DedupConfig) -> np.ndarray:
    """For each document the earliest kept one it duplicates, itself if it is kept; (N,) int64.

    A document goes only when a verified pair ties it to an earlier one that stays, so every dropped text has a kept twin of
    Jaccard ≥ threshold, and no chain of small changes can pull unlike documents into one cluster.

    Args:
        signatures: (N, bands × rows) from `MinHasher`, in the order in which documents have precedence.
        bare: the bare text of a document, fetched only for candidates.
    """
    keeper = np.arange(len(signatures))
    if not len(signatures):
        return keeper
    cache: dict[int, np.ndarray] = {}

    def shingles(index: int) -> np.ndarray:
        found = cache.get(index)
        if found is None:
            if len(cache) > 4096:
                cache.clear()
            found = cache[index] = np.unique(shingle_hashes([bare(index)], config.shingle)[0])
        return found

    # An estimate from k values is off by √(J(1−J)/k); five such below the threshold, a pair is not worth fetching.
    floor = config.threshold - 5 * (config.threshold * (1 - config.threshold) / signatures.shape[1]) ** 0.5
    members, groups = _shared_bands(signatures, config)
    kept_of: dict[int, list[int]] = {}  # a crowd of copies costs little: only documents that stay are compared with
    for document, group in zip(members, groups, strict=True):
        early = np.array(sorted({index for name in group for index in kept_of.get(name, ())}), np.int64)
        if len(early):
            early = early[(signatures[early] == signatures[document]).mean(axis=1) >= floor]
        twin = next((int(index) for index in early if jaccard(shingles(int(index)), shingles(document)) >= config.threshold), document)
        keeper[document] = twin
        if twin == document:
            for name in group:
                kept = kept_of.setdefault(name, [])
                if len(kept) < _WIDE_BUCKET:
                    kept.append(document)
    return keeper


def _shared_bands(signatures: np.ndarray, config: DedupConfig) -> tuple[list[int], list[list[int]]]:
    """Documents that share a band with another, in order, and for each the numbers of the (band, value) groups it is in."""
    documents: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    numbered = 0
    for band in range(config.bands):
        keys = np.zeros(len(signatures), np.uint64)
        for column in signatures[:, band * config.rows : (band + 1) * config.rows].T:
            keys = (keys ^ column) * _PRIME
            keys ^= keys >> np.uint64(31)
        order = np.argsort(keys)
        ordered = keys[order]
        same = ordered[1:] == ordered[:-1]
        shared = np.concatenate([same, [False]]) | np.concatenate([[False], same])
        first = np.concatenate([[True], ~same])
        documents.append(order[shared])
        groups.append(numbered + np.cumsum(first)[shared])
        numbered += len(keys)
    document, group = np.concatenate(documents), np.concatenate(groups)
    order = np.argsort(document, kind="stable")
    members, starts = np.unique(document[order], return_index=True)
    return members.tolist(), [part.tolist() for part in np.split(group[order], starts[1:])] if len(members) else []
