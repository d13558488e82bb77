"""The corpus artefact: read, clean, deduplicate, split off the held-out part, write, and account for every document.

Texts wait in a spill file beside the output while only their signatures stay in memory (about 0.6 kB a document), so a
corpus may be far larger than memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import orjson
import zstandard

from ..common.atomic import write_json
from ..common.config import to_dict
from ..common.errors import HanlinError
from ..common.manifest import artifact, read_manifest
from ..common.progress import Progress
from .clean import Cleaner
from .dedup import DedupConfig, MinHasher, digest, near_duplicates, skeleton
from .files import COMPRESSED, expand
from .messages import Document
from .pii import mask
from .readers import Quarantine, read_documents
from .rules import CleanConfig, preset

_BATCH_CHARACTERS = 1 << 20
Part = Literal["documents", "heldout"]


@dataclass(frozen=True)
class CorpusConfig:
    """How a corpus is made.

    Attributes:
        preset: cleaning preset, a key of `rules.PRESETS`.
        rules: thresholds of `CleanConfig` that differ from the preset.
        dedup: duplicate search.
        mask_pii: replace personal data by typed tags.
        heldout_fraction: of each source's documents, set aside for evaluation; at least one of a source with 20 or more.
        heldout_max: documents set aside per source at most.
        source: `record` names documents by their own `source` field where they have one, `file` by their file.
        max_documents: read no more than so many; 0 reads all.
        sample: share of each source's documents to take, chosen by the hash of their text; the rest is counted, not cleaned.
    """

    preset: str = "zh-web"
    rules: dict[str, Any] = field(default_factory=dict)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    mask_pii: bool = False
    heldout_fraction: float = 0.01
    heldout_max: int = 500
    source: Literal["record", "file"] = "record"
    max_documents: int = 0
    sample: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample = {self.sample}: 0 < … ≤ 1")
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction = {self.heldout_fraction}: 0 ≤ … < 1")
        if min(self.heldout_max, self.max_documents) < 0:
            raise ValueError(f"heldout_max = {self.heldout_max}, max_documents = {self.max_documents}: ≥ 0")
        self.cleaning()

    def cleaning(self) -> CleanConfig:
        """The preset with `rules` applied."""
        return preset(self.preset, self.rules)


DEFAULT = CorpusConfig()


def build_corpus(
    sources: str | Path | Iterable[str | Path] | Iterable[Mapping[str, Any]],
    out: str | Path,
    config: CorpusConfig = DEFAULT,
    *,
    seed: int = 0,
    key: str = "",
    progress: Progress | None = None,
) -> Path:
    """Write the corpus artefact at `out`.

    `documents.jsonl.zst` and `heldout.jsonl.zst` hold `{"text", "source"}`, `quarantine.jsonl` the records that could not be
    read, `drops.json` what each rule dropped with samples, and each source's accounts.

    Args:
        sources: paths, directories and globs, or documents `{"text", "source"?}`.
        seed: decides which documents are held out.
        key: stored in the manifest for a pipeline to compare.

    Raises:
        HanlinError: unreadable input (see `read_documents`), or nothing left after cleaning.
    """
    paths, documents = _documents(sources)
    out = Path(out)
    resolved = to_dict(config) | {"cleaning": dataclasses.asdict(config.cleaning())}
    with artifact(out, "corpus", config=resolved, seed=seed, key=key) as writer:
        with open(writer.path / "quarantine.jsonl", "w", encoding="utf-8") as sink, open(writer.path / ".spill", "w+b") as spill:
            quarantine = Quarantine(cast(io.TextIOBase, sink))
            if paths is not None:
                documents = read_documents(paths, quarantine=quarantine, source=config.source)
            making = _Making(config, spill, progress or Progress(), seed)
            # compressed Chinese is about a third of its text: a guess, good enough for a bar
            making.take(documents, sum(path.stat().st_size * (3 if path.suffix in COMPRESSED else 1) for path in paths or []))
            making.drop_near_duplicates()
            making.split()
            making.write(writer.path)
        os.unlink(writer.path / ".spill")
        writer.metrics = making.metrics() | {"quarantined": quarantine.count, "quarantine_reasons": dict(quarantine.reasons)}
        write_json(writer.path / "drops.json", making.accounts())
    return out


def read_corpus(path: str | Path, part: Part = "documents") -> Iterator[Document]:
    """Stream a corpus artefact's documents, or its held-out ones, in order.

    Raises:
        HanlinError: not a corpus, or damaged.
    """
    path = Path(path)
    read_manifest(path, "corpus")
    return _lines(path / f"{part}.jsonl.zst")


def _lines(path: Path) -> Iterator[Document]:
    with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        for line in io.BufferedReader(cast(Any, stream), 1 << 20):
            yield orjson.loads(line)


def _documents(sources: Any) -> tuple[list[Path] | None, Iterable[Document]]:
    """Paths to read, or the documents themselves; the first item of an iterable tells which."""
    if isinstance(sources, (str, os.PathLike)):
        return expand(sources), ()
    items = iter(sources)
    first = next(items, None)
    if first is None:
        raise HanlinError("没有给出任何语料。", "No corpus was given.")
    if isinstance(first, (str, os.PathLike)):
        return expand([first, *items]), ()

    def chained() -> Iterator[Document]:
        yield cast(Document, first)
        yield from items

    return None, chained()


def _position(text: str) -> float:
    """Where a text falls in [0, 1), evenly and for ever."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, person=b"sample").digest(), "big") / 2**64


class _Making:
    """One build: what has been read, kept and dropped so far."""

    def __init__(self, config: CorpusConfig, spill: io.BufferedRandom, progress: Progress, seed: int) -> None:
        self.config = config
        self.cleaner = Cleaner(config.cleaning())
        self.drops = self.cleaner.drops
        self._spill, self._progress, self._seed = spill, progress, seed
        self._hasher = MinHasher(config.dedup)
        self._seen: dict[bytes, int] = {}
        self._signatures: list[np.ndarray] = []
        self._offsets = [0]
        self._owners: list[int] = []
        self._lengths: list[int] = []
        self._ranks: list[int] = []
        self._names: dict[str, int] = {}
        self._masked: dict[str, int] = defaultdict(int)
        self.unsampled = 0
        self._read = defaultdict(lambda: [0, 0, 0])  # source → documents, characters, bytes

    def take(self, documents: Iterable[Mapping[str, Any]], total: int) -> None:
        """Clean, mask and drop exact duplicates; what stays goes to the spill file."""
        batch: list[Document] = []
        size = read = 0
        for document in documents:
            text = document.get("text")
            if not isinstance(text, str):
                raise HanlinError(
                    f"第 {sum(count for count, _, _ in self._read.values()) + len(batch) + 1} 篇文档没有 text，只有 {sorted(document)}。",
                    f"Document {sum(count for count, _, _ in self._read.values()) + len(batch) + 1} has no text, only {sorted(document)}.",
                )
            if self.config.sample < 1 and _position(text) >= self.config.sample:
                self.unsampled += 1
                continue
            batch.append({"text": text, "source": str(document.get("source") or "corpus")})
            size += len(text)
            read += 1
            if size >= _BATCH_CHARACTERS:
                self._take(batch)
                batch, size = [], 0
                done = sum(byte for _, _, byte in self._read.values())
                self._progress.update(min(done, total - 1) if total else read, total or read + 1, {"documents": float(read)})
            if read == self.config.max_documents:
                break
        self._take(batch)
        self._progress.update(total or read, total or read, {"documents": float(read)})
        if not self._owners:
            self._refuse(read)

    def _take(self, batch: list[Document]) -> None:
        for document in batch:
            account = self._read[document.get("source", "")]
            account[0] += 1
            account[1] += len(document["text"])
            account[2] += len(document["text"].encode("utf-8", "replace"))
        bares: list[str] = []
        for document in self.cleaner(batch):
            if document is None:
                continue
            text, source = document["text"], document.get("source", "")
            if self.config.mask_pii:
                text, counts = mask(text)
                for tag, count in counts.items():
                    self._masked[tag] += count
            bare = skeleton(text)
            fingerprint = digest(bare)
            first = self._seen.setdefault(fingerprint, len(self._owners))
            if self.config.dedup.exact and first != len(self._owners):
                self.drops.add("exact_duplicate", text, source=source, duplicate_of=first)
                continue
            data = text.encode("utf-8", "replace")
            self._spill.write(data)
            self._offsets.append(self._offsets[-1] + len(data))
            self._owners.append(self._names.setdefault(source, len(self._names)))
            self._lengths.append(len(text))
            # which documents are held out hangs on seed and bare text alone, not on order or on the rest of the corpus
            self._ranks.append(
                int.from_bytes(hashlib.blake2b(fingerprint, digest_size=8, salt=self._seed.to_bytes(16, "little")).digest(), "big") >> 1
            )
            bares.append(bare)
        if bares and self.config.dedup.near:
            self._signatures.append(self._hasher(bares))

    def drop_near_duplicates(self) -> None:
        """Decide which spilled documents stay."""
        self._stays = np.ones(len(self._owners), bool)
        if not self.config.dedup.near:
            return
        keeper = near_duplicates(np.concatenate(self._signatures), lambda index: skeleton(self._text(index)), self.config.dedup)
        self._signatures.clear()
        sources = list(self._names)
        for index in np.flatnonzero(keeper != np.arange(len(keeper))):
            self._stays[index] = False
            twin = self._text(int(keeper[index]))[:300]
            self.drops.add("near_duplicate", self._text(int(index)), source=sources[self._owners[index]], duplicate_of=twin)

    def split(self) -> None:
        """Choose the held-out documents: per source, those of the smallest rank."""
        self._heldout = np.zeros(len(self._owners), bool)
        owners, ranks = np.array(self._owners), np.array(self._ranks)
        for owner in range(len(self._names)):
            members = np.flatnonzero((owners == owner) & self._stays)
            count = math.floor(len(members) * self.config.heldout_fraction)
            if not count and len(members) >= 20 and self.config.heldout_fraction:
                count = 1
            chosen = members[np.argsort(ranks[members], kind="stable")[: min(count, self.config.heldout_max)]]
            self._heldout[chosen] = True
        if not (self._stays & ~self._heldout).any():
            self._refuse(len(self._owners))

    def write(self, folder: Path) -> None:
        """Write both parts and count them per source."""
        self._kept = defaultdict(lambda: {"documents": [0, 0, 0], "heldout": [0, 0, 0]})
        sources = list(self._names)
        parts = {name: open(folder / f"{name}.jsonl.zst", "wb") for name in ("documents", "heldout")}  # noqa: SIM115 - closed below
        try:
            writers = {name: zstandard.ZstdCompressor(level=6).stream_writer(file, closefd=False) for name, file in parts.items()}
            for index in np.flatnonzero(self._stays):
                part = "heldout" if self._heldout[index] else "documents"
                source = sources[self._owners[index]]
                writers[part].write(orjson.dumps({"text": self._text(int(index)), "source": source}) + b"\n")
                account = self._kept[source][part]
                account[0] += 1
                account[1] += self._lengths[index]
                account[2] += self._offsets[index + 1] - self._offsets[index]
            for writer in writers.values():
                writer.close()
        finally:
            for file in parts.values():
                file.close()

    def _text(self, index: int) -> str:
        self._spill.seek(self._offsets[index])
        return self._spill.read(self._offsets[index + 1] - self._offsets[index]).decode()

    def metrics(self) -> dict[str, Any]:
        """Headline figures of the manifest."""
        read = np.sum(list(self._read.values()), axis=0)
        parts = {part: np.sum([account[part] for account in self._kept.values()], axis=0) for part in ("documents", "heldout")}
        figures = {"documents_read": read[0], "characters_read": read[1], "bytes_read": read[2]}
        figures |= {"documents_kept": parts["documents"][0], "characters_kept": parts["documents"][1], "bytes_kept": parts["documents"][2]}
        figures |= {"heldout_documents": parts["heldout"][0], "heldout_bytes": parts["heldout"][2]}
        named: dict[str, Any] = {name: int(value) for name, value in figures.items()}
        if self.config.sample < 1:
            named["documents_not_sampled"] = self.unsampled
        named["dropped"] = {rule: about["count"] for rule, about in self.drops.to_dict().items()}
        if self.config.mask_pii:
            named["masked"] = dict(self._masked)
        return named

    def accounts(self) -> dict[str, Any]:
        """What `drops.json` holds: `rules`, `lines`, and per source what was read, kept and held out."""
        names = ("documents", "characters", "bytes")
        sources = {}
        for source, read in sorted(self._read.items()):
            kept = self._kept[source]
            counted = {"read": read, "kept": kept["documents"], "heldout": kept["heldout"]}
            counted["dropped"] = [total - stay - held for total, stay, held in zip(read, kept["documents"], kept["heldout"], strict=True)]
            sources[source] = {what: dict(zip(names, map(int, values), strict=True)) for what, values in counted.items()}
            sources[source]["rules"] = dict(self.drops.by_source[source])
        return {"rules": self.drops.to_dict(), "lines": self.cleaner.lines.to_dict(), "sources": sources, "masked": dict(self._masked)}

    def _refuse(self, read: int) -> None:
        reasons = {rule: about["count"] for rule, about in self.drops.to_dict().items()}
        zh = "、".join(f"{rule} {count}" for rule, count in list(reasons.items())[:6])
        raise HanlinError(
            f"语料清洗后没有剩下训练文档（读入 {read} 篇；丢弃：{zh or '无'}）。请换更宽的预设（--preset zh-short 或 none），或检查输入是不是中文文本。",
            f"No training document is left after cleaning ({read} read; dropped: {', '.join(f'{rule} {count}' for rule, count in list(reasons.items())[:6]) or 'none'}). "
            "Choose a wider preset (--preset zh-short or none), or check that the input is Chinese text.",
        )
