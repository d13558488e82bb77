"""What became of the documents: counts, histograms and samples per rule and source, that tasks keep apart and
a build adds up.

Adding up gives the same whatever the order: samples are those with the smallest hashes, counts are sums.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

SAMPLES = 20
HITS = 1000
EXCERPT = 300  # characters
Size = list[int]  # documents, characters, bytes


class Samples:
    """The `limit` items with the smallest hashes: a uniform sample that no order of arrival changes."""

    def __init__(self, limit: int = SAMPLES) -> None:
        self.count = 0
        self._limit = limit
        self._heap: list[tuple[int, str, dict[str, Any]]] = []

    def add(self, text: str, **about: Any) -> None:
        """Count a text and maybe keep its beginning."""
        self.count += 1
        rank = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=7).digest(), "big")
        self._keep((-rank, text[:EXCERPT].encode("utf-8", "replace").decode(), about))

    def merge(self, saved: Mapping[str, Any]) -> None:
        """Add what another sample's `save` gave."""
        self.count += saved["count"]
        for rank, text, about in saved["items"]:
            self._keep((rank, text, about))

    def save(self) -> dict[str, Any]:
        """For `merge`; JSON-able."""
        return {
            "count": self.count,
            "items": [list(item) for item in sorted(self._heap, key=lambda item: item[:2])],
        }

    def notes(self) -> list[dict[str, Any]]:
        """What is noted about each sample; may be added to."""
        return [about for _, _, about in self._heap]

    def items(self) -> list[dict[str, Any]]:
        """The samples, smallest hash first."""
        return [
            {"text": text, **about}
            for _, text, about in sorted(self._heap, key=lambda item: (-item[0], item[1]))
        ]

    def _keep(self, item: tuple[int, str, dict[str, Any]]) -> None:
        if len(self._heap) == self._limit and item[0] <= self._heap[0][0]:
            return
        if any(kept[:2] == item[:2] for kept in self._heap):
            return
        (heapq.heappush if len(self._heap) < self._limit else heapq.heapreplace)(self._heap, _Item(item))  # type: ignore[type-var]


class _Item(tuple):  # type: ignore[type-arg]
    """Compared without its last field, which has no order."""

    __slots__ = ()

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, tuple)
        return self[:2] < other[:2]


class Drops:
    """Per rule: documents, characters and bytes dropped, and samples."""

    def __init__(self) -> None:
        self.samples: dict[str, Samples] = defaultdict(Samples)
        self.characters: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.by_source: dict[str, dict[str, Size]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))

    def add(self, rule: str, text: str, **about: Any) -> None:
        """Count one dropped document (or removed line) under `rule`."""
        size = len(text.encode("utf-8", "replace"))
        self.samples[rule].add(text, **about)
        self.characters[rule] += len(text)
        self.bytes[rule] += size
        _add(self.by_source[about.get("source", "")][rule], [1, len(text), size])

    def merge(self, saved: Mapping[str, Any]) -> None:
        """Add what another's `save` gave."""
        for rule, samples in saved["samples"].items():
            self.samples[rule].merge(samples)
        self.characters.update(saved["characters"])
        self.bytes.update(saved["bytes"])
        for source, rules in saved["by_source"].items():
            for rule, size in rules.items():
                _add(self.by_source[source][rule], size)

    def save(self) -> dict[str, Any]:
        """For `merge`; JSON-able."""
        return {
            "samples": {rule: samples.save() for rule, samples in sorted(self.samples.items())},
            "characters": dict(self.characters),
            "bytes": dict(self.bytes),
            "by_source": {source: dict(rules) for source, rules in self.by_source.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """`{rule: {count, characters, bytes, samples}}`, most frequent first."""
        return {
            rule: {
                "count": kept.count,
                "characters": self.characters[rule],
                "bytes": self.bytes[rule],
                "samples": kept.items(),
            }
            for rule, kept in sorted(self.samples.items(), key=lambda item: (-item[1].count, item[0]))
        }


class CorpusStats:
    """All that a task says of its documents.

    Attributes:
        read, kept: documents, characters and bytes per source; `kept` is what cleaning left, before
            duplicates.
        drops, lines: documents dropped and lines removed, by rule.
        stays, changed: samples of documents that were kept, and of kept ones that differ from what was read
            (`before`).
        hits: passages of benchmarks that documents were dropped for, with `benchmark`, `item` and `source`.
        lengths, scripts: kept documents by length (the power of two below their characters) and by their
            main script, per source.
        counts: by name, such as characters masked per tag.
    """

    def __init__(self) -> None:
        self.read: dict[str, Size] = defaultdict(lambda: [0, 0, 0])
        self.kept: dict[str, Size] = defaultdict(lambda: [0, 0, 0])
        self.drops, self.lines = Drops(), Drops()
        self.stays, self.changed, self.hits = Samples(), Samples(), Samples(HITS)
        self.lengths: dict[str, Counter[str]] = defaultdict(Counter)
        self.scripts: dict[str, Counter[str]] = defaultdict(Counter)
        self.counts: Counter[str] = Counter()

    def merge(self, saved: Mapping[str, Any]) -> None:
        """Add what another's `save` gave."""
        for name in ("read", "kept"):
            for source, size in saved[name].items():
                _add(getattr(self, name)[source], size)
        for name in ("drops", "lines", "stays", "changed", "hits"):
            getattr(self, name).merge(saved[name])
        for name in ("lengths", "scripts"):
            for source, counts in saved[name].items():
                getattr(self, name)[source].update(counts)
        self.counts.update(saved["counts"])

    def forget_kept(self) -> None:
        """Clear all that is said of kept documents, but for samples of the changed ones."""
        for about in (self.kept, self.lengths, self.scripts):
            about.clear()
        self.stays = Samples()

    def save(self) -> dict[str, Any]:
        """For `merge`; JSON-able."""
        plain = {name: dict(getattr(self, name)) for name in ("read", "kept", "lengths", "scripts", "counts")}
        return plain | {
            name: getattr(self, name).save() for name in ("drops", "lines", "stays", "changed", "hits")
        }


def size_of(text: str) -> Size:
    """One document's size."""
    return [1, len(text), len(text.encode("utf-8", "replace"))]


def total(sizes: Iterable[Size]) -> Size:
    """Their sum."""
    result = [0, 0, 0]
    for size in sizes:
        _add(result, size)
    return result


def add_size(sizes: dict[str, Size], source: str, size: Size) -> None:
    """Add to one source's size."""
    _add(sizes.setdefault(source, [0, 0, 0]), size)


def _add(to: Size, size: Iterable[int]) -> None:
    for index, value in enumerate(size):
        to[index] += value
