"""The first task of a build: read a shard, clean it, and leave its texts on disk with what the later phases
must know of each."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from hanlin._native import TextBatch
from hanlin.common.atomic import read_json, write_json
from hanlin.common.errors import HanlinError
from hanlin.corpus.builder.job import CorpusConfig
from hanlin.corpus.dedup.decontamination import Benchmarks
from hanlin.corpus.dedup.fingerprints import DedupConfig
from hanlin.corpus.dedup.sketches import SketchWriter
from hanlin.corpus.filters.clean import Cleaner
from hanlin.corpus.filters.pii import mask
from hanlin.corpus.filters.signals import SCRIPTS
from hanlin.corpus.filters.stats import EXCERPT, CorpusStats, add_size, size_of
from hanlin.corpus.readers.read import Quarantine, read_documents
from hanlin.corpus.readers.schema_types import Document

BATCH_CHARACTERS = 1 << 20
_Cleaned = tuple[Document, Document, str]  # as cleaned, as read, main script
SEEN = "seen"  # characters read so far, while a task runs
_BYTES = 3  # of a character, nearly
TEXTS, ENDS, OWNERS, SKETCH, STATS, QUARANTINE, TIMES = (
    "texts",
    "ends.npy",
    "owners.npy",
    "sketch",
    "stats.json",
    "quarantine.jsonl",
    "times.json",
)
KINDS = "kinds.npy"  # one byte a document: index of its main script in SCRIPTS, and CHANGED
CHANGED = 0x80


@dataclass(frozen=True)
class IngestTask:
    """`work(task, folder)` of the phase that reads.

    Attributes:
        shards: files of each task; empty when `documents` are given.
        documents: to read instead, in one task.
        benchmarks: file of `decontamination.Benchmarks`, "" for none.
        watch: told of characters read; only used within this process. Other processes leave what they have
            read in a file, `SEEN`.
    """

    config: CorpusConfig
    shards: tuple[tuple[str, ...], ...]
    documents: Iterable[Mapping[str, Any]] | None = None
    benchmarks: str = ""
    watch: Callable[[int], None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"watch": None}

    def __call__(self, task: int, folder: Path) -> None:
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(open(folder / QUARANTINE, "w", encoding="utf-8"))
            quarantine = Quarantine(cast(io.TextIOBase, sink))
            documents = self.documents
            if documents is None:
                documents = read_documents(
                    self.shards[task],
                    quarantine=quarantine,
                    source=self.config.source,
                    may_be_empty=len(self.shards) > 1,
                    text_key=self.config.text_key,
                    skip_bad=self.config.skip_bad,
                )
            stats = CorpusStats()
            # what comes later is sketched later
            dedup = (
                replace(self.config.dedup, near=False)
                if self.config.boilerplate.documents
                else self.config.dedup
            )
            writer = stack.enter_context(ShardWriter(folder, dedup, stats))
            ingestion = _Ingestion(self, writer)
            characters = 0
            for batch in ingestion.batches(documents):
                ingestion.take(batch)
                characters += sum(len(document["text"]) for document in batch)
                (folder / SEEN).write_text(str(characters))
                if self.watch:
                    self.watch(characters)
        (folder / SEEN).unlink(missing_ok=True)
        writer.save(quarantine.count, dict(quarantine.reasons))


def read_so_far(folders: Sequence[Path], expected: Sequence[int]) -> int:
    """Bytes of text that tasks have read, those that run included, where each is expected to read so many.

    Args:
        folders: of their results, all in one.
    """
    read = sum(size for path, size in zip(folders, expected, strict=True) if path.is_dir())
    for seen in folders[0].parent.glob(f".*.tmp.*/{SEEN}"):
        with contextlib.suppress(OSError, ValueError):  # the task has ended this instant
            read += min(_BYTES * int(seen.read_text()), expected[int(seen.parent.name.split(".")[1])])
    return read


class KeptDocument(NamedTuple):
    """A cleaned document, ready for its shard.

    Attributes:
        script: the main one, of `signals.SCRIPTS`.
        changed: differs from what was read.
        before: what it was, to be shown beside it; "" shows nothing.
    """

    text: str
    source: str
    script: str
    changed: bool
    before: str = ""


class ShardWriter:
    """A shard's texts on disk with what the later phases must know of each; counts them.

    Args:
        folder: that is filled; an empty one.
        dedup: what the sketch is for.
        stats: what is kept is added to them.
    """

    def __init__(self, folder: Path, dedup: DedupConfig, stats: CorpusStats) -> None:
        self.stats = stats
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._folder, self._dedup = folder, dedup
        self._names: dict[str, int] = {}
        self._owners: list[int] = []
        self._sizes: list[int] = []
        self._kinds = bytearray()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ShardWriter:
        self._texts = self._stack.enter_context(open(self._folder / TEXTS, "wb"))
        self._sketch = self._stack.enter_context(SketchWriter(self._folder / SKETCH, self._dedup))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stack.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def timed(self, block: str) -> Iterator[None]:
        """Add the seconds of a `with` block to those of its name."""
        began = time.perf_counter()
        yield
        self.seconds[block] += time.perf_counter() - began

    def add(self, kept: Sequence[KeptDocument]) -> None:
        """Append documents."""
        stats = self.stats
        with self.timed("stats"):
            texts = TextBatch()
            for text, source, script, changed, before in kept:
                texts.append(text.encode("utf-8", "replace"))
                self._owners.append(self._names.setdefault(source, len(self._names)))
                self._kinds.append(SCRIPTS.index(script) | (CHANGED if changed else 0))
                stats.lengths[source][str(max(len(text), 1).bit_length() - 1)] += 1
                stats.scripts[source][script] += 1
                stats.stays.add(text, source=source)
                if before:
                    stats.changed.add(
                        text, source=source, before=before[:EXCERPT].encode("utf-8", "replace").decode()
                    )
        with self.timed("write"):
            data, bounds = texts.buffer()
            self._texts.write(data.data)
            self._sizes.extend(np.diff(bounds).tolist())
            for item, size in zip(kept, np.diff(bounds).tolist(), strict=True):
                add_size(stats.kept, item.source, [1, len(item.text), size])
        with self.timed("sketch"):
            self._sketch.add(texts)

    def save(self, quarantined: int, reasons: Mapping[str, int]) -> None:
        """What the later phases must know, once the block has ended."""
        folder = self._folder
        np.save(
            folder / ENDS, np.cumsum(self._sizes, dtype=np.uint64) if self._sizes else np.zeros(0, np.uint64)
        )
        np.save(folder / OWNERS, np.array(self._owners, np.uint32))
        np.save(folder / KINDS, np.frombuffer(bytes(self._kinds), np.uint8))
        about = {"sources": list(self._names), "quarantined": quarantined, "reasons": dict(reasons)}
        write_json(folder / STATS, about | {"stats": self.stats.save()})
        write_json(folder / TIMES, dict(self.seconds))


class _Ingestion:
    """One shard: what has been read and kept so far."""

    def __init__(self, task: IngestTask, writer: ShardWriter) -> None:
        self._config = task.config
        self._writer = writer
        self._stats = writer.stats
        self._cleaner = Cleaner(task.config.cleaning(), self._stats.drops, self._stats.lines)
        self._benchmarks = Benchmarks.load(Path(task.benchmarks)) if task.benchmarks else None
        self._seconds = writer.seconds
        self._timed = writer.timed
        self._read = 0

    def batches(self, documents: Iterable[Mapping[str, Any]]) -> Iterator[list[Document]]:
        """Documents of about a million characters at a time; counts those that are not sampled."""
        batch: list[Document] = []
        size = 0
        began = time.perf_counter()
        for document in documents:
            text = document.get("text")
            if not isinstance(text, str):
                raise HanlinError(
                    "Document {read} has no text, only {document}.",
                    read=self._read + 1,
                    document=sorted(document),
                )
            if self._config.sample < 1 and _position(text) >= self._config.sample:
                self._stats.counts["documents_not_sampled"] += 1
                continue
            self._read += 1
            batch.append({"text": text, "source": str(document.get("source") or "corpus")})
            size += len(text)
            if size >= BATCH_CHARACTERS:
                self._seconds["read"] += time.perf_counter() - began
                yield batch
                batch, size = [], 0
                began = time.perf_counter()
            if self._read == self._config.max_documents:
                break
        self._seconds["read"] += time.perf_counter() - began
        if batch:
            yield batch

    def take(self, batch: list[Document]) -> None:
        """Clean, mask, compare with benchmarks; what stays goes to the files."""
        stats, config = self._stats, self._config
        with self._timed("count"):
            for document in batch:
                add_size(stats.read, document.get("source", ""), size_of(document["text"]))
        with self._timed("clean"):
            cleaned, scripts = self._cleaner.with_scripts(batch)
        kept = [
            (document, before, script)
            for document, before, script in zip(cleaned, batch, scripts, strict=True)
            if document is not None
        ]
        if config.mask_pii:
            with self._timed("mask"):
                for document, *_ in kept:
                    document["text"], counts = mask(document["text"])
                    stats.counts.update({f"masked {tag}": count for tag, count in counts.items()})
        if self._benchmarks:
            with self._timed("decontaminate"):
                kept = self._without_overlaps(kept)
        self._writer.add([_kept_document(*item) for item in kept])

    def _without_overlaps(self, kept: list[_Cleaned]) -> list[_Cleaned]:
        assert self._benchmarks is not None
        hits = self._benchmarks.find([document["text"] for document, *_ in kept], self._config.overlap_hits)
        for index, hit in hits.items():
            text, source = kept[index][0]["text"], kept[index][0].get("source", "")
            self._stats.drops.add(
                "contaminated",
                text,
                source=source,
                benchmark=hit.benchmark,
                item=hit.item,
                passage=hit.passage,
            )
            self._stats.hits.add(hit.passage, source=source, benchmark=hit.benchmark, item=hit.item)
            self._stats.counts[f"contaminated {hit.benchmark}"] += 1
        return [item for index, item in enumerate(kept) if index not in hits]


def _kept_document(document: Document, before: Document, script: str) -> KeptDocument:
    changed = document["text"] != before["text"]
    return KeptDocument(
        document["text"], document.get("source", ""), script, changed, before["text"] if changed else ""
    )


class ShardReader:
    """Reads what `IngestTask` left of one shard.

    Attributes:
        sources: names; `owners` holds their indices, one a document.
        ends: where each document's text ends in the file of texts, (N,) uint64.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(np.load(self.folder / OWNERS, mmap_mode="r"))

    @cached_property
    def sources(self) -> list[str]:
        return read_json(self.folder / STATS)["sources"]

    @cached_property
    def owners(self) -> np.ndarray:
        return np.load(self.folder / OWNERS)

    @cached_property
    def ends(self) -> np.ndarray:
        return np.load(self.folder / ENDS)

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each text, (N,) int64."""
        return np.diff(self.ends.astype(np.int64), prepend=0)

    @cached_property
    def kinds(self) -> np.ndarray:
        """See `KINDS`, (N,) uint8."""
        return np.load(self.folder / KINDS)

    def digests(self) -> np.ndarray:
        """Of the comparison keys, (N, 2) uint64."""
        return np.fromfile(self.folder / SKETCH / "digests", np.uint64).reshape(-1, 2)

    def batches(self, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Ascending numbers, about a million characters of text at a time, with their texts."""
        ends = np.cumsum(self.sizes[numbers]) // (3 * BATCH_CHARACTERS)  # a character has three bytes, nearly
        for part in np.split(numbers, np.flatnonzero(np.diff(ends)) + 1) if len(numbers) else ():
            yield part, [text.decode("utf-8", "replace") for text in self.texts(part)]

    def texts(self, numbers: np.ndarray) -> Iterator[bytes]:
        """Texts of ascending numbers."""
        ends = self.ends[numbers].tolist()
        sizes = self.sizes[numbers].tolist()
        with open(self.folder / TEXTS, "rb", 1 << 20) as file:
            for end, size in zip(ends, sizes, strict=True):
                if file.tell() != end - size:
                    file.seek(end - size)
                yield file.read(size)


class ShardSet:
    """The shards behind one another, their documents numbered through. Calling it with ascending numbers
    gives texts."""

    def __init__(self, folders: list[Path]) -> None:
        self.shards = [ShardReader(folder) for folder in folders]
        self.firsts = np.cumsum([0, *map(len, self.shards)])

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __call__(self, numbers: np.ndarray) -> Iterator[bytes]:
        numbers = numbers.astype(np.int64)
        cuts = np.searchsorted(numbers, self.firsts)
        for shard, first, begin, end in zip(self.shards, self.firsts, cuts, cuts[1:], strict=False):
            if end > begin:
                yield from shard.texts(numbers[begin:end] - first)

    def source(self, number: int) -> str:
        """A document's source."""
        index = int(np.searchsorted(self.firsts, number, "right")) - 1
        shard = self.shards[index]
        return shard.sources[int(shard.owners[number - int(self.firsts[index])])]


def _position(text: str) -> float:
    """Where a text falls in [0, 1), evenly and for ever."""
    return (
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, person=b"sample").digest(), "big"
        )
        / 2**64
    )
