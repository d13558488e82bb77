"""The last phases of a build: which documents stay, which are held out, how often they appear and in what
order, and the files themselves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import zstandard

from hanlin.common.atomic import read_json, write_json
from hanlin.common.random import GOLDEN_GAMMA, MASK64, splitmix64_array
from hanlin.corpus.builder.ingest import QUARANTINE, STATS, TEXTS, TIMES, ShardReader, ShardSet
from hanlin.corpus.builder.job import CorpusConfig
from hanlin.corpus.dedup.search import DUPLICATE
from hanlin.corpus.filters.stats import EXCERPT, CorpusStats, Drops, add_size, total

BUCKET_BYTES = 128 << 20  # of text that is sorted at once
LEVEL = 3  # of zstd: at 6 a twelfth smaller and 2.4 times as slow (measured here)
HELDOUT, STAYS, SELECTION, WRITTEN = "heldout.jsonl", "stays.npy", "selection.json", "written.json"
_WAITING = 4 << 20  # bytes of lines that are held before they are written to their buckets


def mixed(values: np.ndarray, salt: int) -> np.ndarray:
    """64 evenly spread bits for each value, other ones for another salt (the finaliser of SplitMix64); (N,)
    uint64."""
    return splitmix64_array(values + np.uint64((salt * GOLDEN_GAMMA + GOLDEN_GAMMA) & MASK64))


@dataclass(frozen=True)
class Output:
    """What the phases after the search for duplicates share.

    Attributes:
        shards: folders that `IngestTask` filled.
        duplicates: file of the duplicates found, or None where none were looked for.
        selected: folders that `select` filled; all there from the phase after it on.
        written: folders that `write` filled.
    """

    config: CorpusConfig
    seed: int
    shards: tuple[Path, ...]
    duplicates: Path | None
    selected: tuple[Path, ...]
    written: tuple[Path, ...]

    # ------------------------------------------------------------ which stay

    def select(self, task: int, folder: Path) -> None:
        """Which documents of a shard stay, what goes as a duplicate, and the candidates for being held
        out."""
        reader = ShardReader(self.shards[task])
        drops = Drops()
        stays = np.ones(len(reader), bool)
        duplicates, first = duplicates_of(self.duplicates, self.shards, task)
        stays[duplicates["document"].astype(np.int64) - first] = False
        numbers = np.flatnonzero(~stays)
        keepers = dict(
            zip((duplicates["document"].astype(np.int64) - first).tolist(), duplicates, strict=True)
        )
        for number, text in zip(numbers.tolist(), reader.texts(numbers), strict=True):
            about = keepers[number]
            drops.add(
                "exact_duplicate" if about["exact"] else "near_duplicate",
                text.decode("utf-8", "replace"),
                source=reader.sources[reader.owners[number]],
                keeper=int(about["keeper"]),
                similarity=round(float(about["similarity"]), 4),
            )
        self._name_twins([note for samples in drops.samples.values() for note in samples.notes()])
        sizes, ranks = reader.sizes, self._ranks(reader)
        kept, lowest = {}, {}
        for index, source in enumerate(reader.sources):
            members = np.flatnonzero(stays & (reader.owners == index))
            kept[source] = [len(members), int(sizes[members].sum())]
            lowest[source] = np.sort(ranks[members])[: self.config.heldout_max].tolist()
        np.save(folder / STAYS, stays)
        write_json(folder / SELECTION, {"kept": kept, "lowest": lowest, "drops": drops.save()})

    def _name_twins(self, notes: list[dict[str, Any]]) -> None:
        """Add to samples of duplicates the beginning of the document that stays for each."""
        keepers = np.unique([note["keeper"] for note in notes])
        texts = dict(zip(keepers.tolist(), ShardSet(list(self.shards))(keepers), strict=True))
        for note in notes:
            note["duplicate_of"] = texts[note["keeper"]].decode("utf-8", "replace")[:EXCERPT]

    def _ranks(self, reader: ShardReader) -> np.ndarray:
        """Which documents are held out hangs on seed and comparison key alone, not on order or on the rest
        of the corpus; (N,) uint64."""
        return mixed(reader.digests()[:, 0], self.seed)

    @cached_property
    def _selections(self) -> list[dict[str, Any]]:
        return [read_json(folder / SELECTION) for folder in self.selected]

    @cached_property
    def heldout(self) -> dict[str, int]:
        """Per source the rank up to which documents are held out, −1 for none: the smallest ranks, so many
        as the configuration asks for."""
        limits = {}
        for source in {name for selection in self._selections for name in selection["kept"]}:
            count = sum(selection["kept"].get(source, [0])[0] for selection in self._selections)
            wanted = int(count * self.config.heldout_fraction)
            if not wanted and count >= 20 and self.config.heldout_fraction:
                wanted = 1
            wanted = min(wanted, self.config.heldout_max)
            ranks = sorted(
                rank for selection in self._selections for rank in selection["lowest"].get(source, [])
            )
            limits[source] = ranks[wanted - 1] if wanted else -1
        return limits

    # ------------------------------------------------------------ in what order

    def buckets(self) -> int:
        """Parts in which the training documents are put in order, each small enough for memory; a shard is
        one when order stays."""
        if not self.config.shuffle:
            return len(self.shards)
        size = sum(
            size * self.config.weight(source)
            for selection in self._selections
            for source, (_, size) in selection["kept"].items()
        )
        return max(1, -(-int(size) // BUCKET_BYTES))

    def write(self, task: int, folder: Path) -> None:
        """A shard's documents as JSON lines, those held out apart, the others by bucket with the keys to
        sort them by."""
        reader = ShardReader(self.shards[task])
        stays = np.flatnonzero(np.load(self.selected[task] / STAYS))
        ranks, digests = self._ranks(reader), reader.digests()[:, 0]
        owners = reader.owners
        limits = [self.heldout[source] for source in reader.sources]
        held = np.array([limit >= 0 for limit in limits], bool)[owners] & (
            ranks <= np.array([max(limit, 0) for limit in limits], np.uint64)[owners]
        )
        copies = self._copies(reader, digests)
        count = self.buckets()
        sizes: dict[str, dict[str, list[int]]] = {"documents": {}, "heldout": {}}
        with _Buckets(folder) as buckets, open(folder / HELDOUT, "wb") as heldout:
            for number, text in zip(stays.tolist(), reader.texts(stays), strict=True):
                source = reader.sources[owners[number]]
                record = {"text": (decoded := text.decode()), "source": source}
                size = [1, len(decoded), len(text)]
                if held[number]:
                    heldout.write(orjson.dumps(record) + b"\n")
                    add_size(sizes["heldout"], source, size)
                    continue
                if tag := self.config.tag(source):
                    record["tag"] = tag
                line = orjson.dumps(record) + b"\n"
                for copy in range(copies[number]):
                    if self.config.shuffle:
                        key = int(mixed(digests[number : number + 1], self.seed + 1 + copy)[0])
                        buckets.add(key * count >> 64, key, line)
                    else:
                        buckets.add(task, number, line)
                    add_size(sizes["documents"], source, size)
        write_json(folder / WRITTEN, sizes)

    def _copies(self, reader: ShardReader, digests: np.ndarray) -> np.ndarray:
        """How often each document appears: the whole part of its source's weight, and once more by chance;
        (N,) int64."""
        weights = np.array([self.config.weight(source) for source in reader.sources] or [1.0])[reader.owners]
        chance = mixed(digests, self.seed ^ 0x5DEECE66D).astype(np.float64) / 2.0**64
        return (np.floor(weights) + (chance < weights % 1)).astype(np.int64)

    def finalize(self, bucket: int, folder: Path) -> None:
        """One bucket of all shards, in order and compressed."""
        keys, sizes, lines = [], [], []
        for written in self.written:
            found = _Buckets.read(written, bucket)
            if found is not None:
                keys.append(found[0])
                sizes.append(found[1])
                lines.append(found[2])
        with open(folder / "lines.zst", "wb") as file:
            if not keys:
                return
            data, size = b"".join(lines), np.concatenate(sizes).astype(np.int64)
            ends = np.cumsum(size)
            with _compressor().stream_writer(file, closefd=False) as stream:
                for index in np.argsort(np.concatenate(keys), kind="stable"):
                    stream.write(data[ends[index] - size[index] : ends[index]])

    # ------------------------------------------------------------ the whole

    def clusters(self, _: int, folder: Path) -> None:
        """Every document that went as a duplicate beside the one that stays for it, as JSON lines; written
        while the texts are there."""
        documents = ShardSet(list(self.shards))
        with (
            open(folder / "clusters.jsonl.zst", "wb") as file,
            _compressor().stream_writer(file, closefd=False) as stream,
        ):
            if self.duplicates is None or not self.duplicates.stat().st_size:
                return
            found = np.array(np.memmap(self.duplicates, DUPLICATE, "r"))
            found = found[np.argsort(found["keeper"], kind="stable")]
            numbers = np.unique(np.concatenate([found["keeper"], found["document"]]))
            excerpts = dict(
                zip(
                    numbers.tolist(),
                    (text[: 4 * EXCERPT].decode("utf-8", "ignore")[:EXCERPT] for text in documents(numbers)),
                    strict=True,
                )
            )
            begins = np.flatnonzero(np.append(True, found["keeper"][1:] != found["keeper"][:-1]))
            for begin, end in zip(begins, [*begins[1:], len(found)], strict=True):
                keeper = int(found["keeper"][begin])
                members = [
                    {
                        "document": int(one["document"]),
                        "similarity": round(float(one["similarity"]), 4),
                        "exact": bool(one["exact"]),
                        "source": documents.source(int(one["document"])),
                        "text": excerpts[int(one["document"])],
                    }
                    for one in found[begin:end]
                ]
                line = {
                    "cluster": keeper,
                    "source": documents.source(keeper),
                    "text": excerpts[keeper],
                    "members": members,
                }
                stream.write(orjson.dumps(line) + b"\n")

    def finish(self, folder: Path, finalized: list[Path], clusters: Path | None) -> dict[str, Any]:
        """Put the artefact's files together in `folder`.

        Returns:
            `stats` (of the cleaned and the dropped), `documents` and `heldout` (sizes per source),
            `quarantined`, `reasons`, `seconds`.
        """
        with open(folder / "documents.jsonl.zst", "wb") as out:
            for path in finalized:
                _copy(path / "lines.zst", out)
        with (
            open(folder / "heldout.jsonl.zst", "wb") as out,
            _compressor().stream_writer(out, closefd=False) as stream,
        ):
            for path in self.written:
                _copy(path / HELDOUT, stream)
        with open(folder / QUARANTINE, "wb") as out:
            for path in self.shards:
                _copy(path / QUARANTINE, out)
        if clusters is not None:
            shutil.copyfile(clusters / "clusters.jsonl.zst", folder / "clusters.jsonl.zst")
        stats, reasons, quarantined, seconds = add_up_stats(self.shards)
        for selection in self._selections:
            stats.drops.merge(selection["drops"])
        sizes: dict[str, dict[str, list[int]]] = {"documents": {}, "heldout": {}}
        for path in self.written:
            for part, by_source in read_json(path / WRITTEN).items():
                for source, size in by_source.items():
                    add_size(sizes[part], source, size)
        return {
            "stats": stats,
            **sizes,
            "quarantined": quarantined,
            "reasons": reasons,
            "seconds": seconds,
        }

    def forget_texts(self, task: int) -> None:
        """Remove what no later phase asks of a shard that has been written."""
        (self.shards[task] / TEXTS).unlink(missing_ok=True)


def duplicates_of(duplicates: Path | None, shards: tuple[Path, ...], task: int) -> tuple[np.ndarray, int]:
    """What a search found about a shard's documents, (N,) of DUPLICATE, and the number of its first."""
    sizes = [len(ShardReader(folder)) for folder in shards]
    first = sum(sizes[:task])
    if duplicates is None or not duplicates.stat().st_size:
        return np.empty(0, DUPLICATE), first
    found = np.memmap(duplicates, DUPLICATE, "r")
    begin, end = np.searchsorted(found["document"], [first, first + sizes[task]])
    return np.array(found[begin:end]), first


def add_up_stats(folders: tuple[Path, ...]) -> tuple[CorpusStats, dict[str, int], int, dict[str, float]]:
    """The stats of all shards added up, why records were quarantined, how many, and seconds per block of the
    first phase."""
    stats, reasons, quarantined, seconds = CorpusStats(), {}, 0, {}
    for folder in folders:
        about = read_json(folder / STATS)
        stats.merge(about["stats"])
        quarantined += about["quarantined"]
        for reason, count in about["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
        for block, value in read_json(folder / TIMES).items():
            seconds[block] = seconds.get(block, 0.0) + value
    return stats, reasons, quarantined, seconds


def sizes_of(by_source: dict[str, list[int]]) -> list[int]:
    """Documents, characters and bytes of all sources."""
    return total(by_source.values())


def _compressor() -> zstandard.ZstdCompressor:
    """Frames with a checksum: they tell of damage also where no manifest lies beside them."""
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)


class _Buckets:
    """A shard's lines by bucket: a file of lines and one of (key, bytes) each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[int, list[bytes]] = {}
        self._bytes = 0
        self._index: dict[int, tuple[list[int], list[int]]] = {}

    def __enter__(self) -> _Buckets:
        return self

    def add(self, bucket: int, key: int, line: bytes) -> None:
        """Append a line."""
        waiting = self._waiting.setdefault(bucket, [])
        waiting.append(line)
        keys, sizes = self._index.setdefault(bucket, ([], []))
        keys.append(key)
        sizes.append(len(line))
        self._bytes += len(line)
        if self._bytes >= _WAITING:
            self._flush()

    def _flush(self) -> None:
        for bucket, lines in self._waiting.items():
            with open(self._folder / f"{bucket:05d}.lines", "ab") as file:
                file.writelines(lines)
        self._waiting.clear()
        self._bytes = 0

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is not None:
            return
        self._flush()
        for bucket, (keys, sizes) in self._index.items():
            with open(self._folder / f"{bucket:05d}.keys", "wb") as file:
                file.write(np.array(keys, np.uint64).tobytes() + np.array(sizes, np.uint32).tobytes())

    @staticmethod
    def read(folder: Path, bucket: int) -> tuple[np.ndarray, np.ndarray, bytes] | None:
        """Keys, bytes of each line, and the lines."""
        path = folder / f"{bucket:05d}.keys"
        if not path.is_file():
            return None
        data = path.read_bytes()
        count = len(data) // 12
        return (
            np.frombuffer(data, np.uint64, count),
            np.frombuffer(data, np.uint32, count, 8 * count),
            path.with_suffix(".lines").read_bytes(),
        )


def _copy(path: Path, out: Any) -> None:
    with open(path, "rb") as file:
        for block in _blocks(file):
            out.write(block)


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(1 << 20):
        yield block
