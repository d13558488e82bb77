"""The phases of a build that take out line boilerplate: count lines, find the common ones, write the shards
again without them.

They stand between cleaning and the search for duplicates, so that pages are compared without what their site
adds to each. Copies of a document are counted once; or else a text that was reprinted often enough would be
boilerplate from its first line to its last.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hanlin.common.atomic import read_json
from hanlin.corpus.builder.boilerplate import Boilerplate, LineCounter, common_lines
from hanlin.corpus.builder.ingest import (
    CHANGED,
    QUARANTINE,
    STATS,
    TEXTS,
    TIMES,
    KeptDocument,
    ShardReader,
    ShardWriter,
)
from hanlin.corpus.builder.job import CorpusConfig
from hanlin.corpus.builder.writer import duplicates_of
from hanlin.corpus.filters.clean import Cleaner
from hanlin.corpus.filters.signals import SCRIPTS
from hanlin.corpus.filters.stats import CorpusStats

COUNTED, COMMON = "counted", "common.npy"


@dataclass(frozen=True)
class BoilerplateRemoval:
    """What these phases share.

    Attributes:
        shards: folders that `IngestTask` filled.
        copies: file of the exact duplicates among them.
        counted: folders that `count` filled.
        common: folder that `find` filled.
        memory: bytes for counting.
    """

    config: CorpusConfig
    shards: tuple[Path, ...]
    copies: Path
    counted: tuple[Path, ...]
    common: Path
    memory: int

    def count(self, task: int, folder: Path) -> None:
        """Keys of the lines of a shard's documents, of equal ones only the first one's."""
        reader = ShardReader(self.shards[task])
        copies, first = duplicates_of(self.copies, self.shards, task)
        numbers = np.setdiff1d(
            np.arange(len(reader)), copies["document"].astype(np.int64) - first, assume_unique=True
        )
        with LineCounter(folder / COUNTED, self.config.boilerplate) as counter:
            for part, texts in reader.batches(numbers):
                counter.add(texts, _sources(reader, part))

    def find(self, _: int, folder: Path) -> None:
        """The lines that enough documents have."""
        np.save(
            folder / COMMON,
            common_lines([path / COUNTED for path in self.counted], self.config.boilerplate, self.memory),
        )

    def remove(self, task: int, folder: Path) -> None:
        """A shard as `IngestTask` leaves it, without boilerplate; documents that lost lines are held against
        the rules again."""
        reader = ShardReader(self.shards[task])
        saved = read_json(self.shards[task] / STATS)
        stats = CorpusStats()
        stats.merge(saved["stats"])
        stats.forget_kept()
        remove = _BoilerplateRemover(self.config, np.load(self.common / COMMON), stats)
        with ShardWriter(folder, self.config.dedup, stats) as writer:
            writer.seconds.update(read_json(self.shards[task] / TIMES))
            for part, texts in reader.batches(np.arange(len(reader))):
                with writer.timed("boilerplate"):
                    kept = remove(texts, _sources(reader, part), reader.kinds[part])
                writer.add(kept)
        writer.save(saved["quarantined"], saved["reasons"])
        shutil.copyfile(self.shards[task] / QUARANTINE, folder / QUARANTINE)

    def forget_texts(self, task: int) -> None:
        """Remove the texts that have been written again."""
        (self.shards[task] / TEXTS).unlink(missing_ok=True)


class _BoilerplateRemover:
    """Boilerplate out of batches of cleaned documents."""

    def __init__(self, config: CorpusConfig, common: np.ndarray, stats: CorpusStats) -> None:
        self._stats = stats
        self._boilerplate = Boilerplate(common, config.boilerplate, stats.lines)
        self._cleaner = Cleaner(replace(config.cleaning(), normalize=False, drop_lines=False), stats.drops)

    def __call__(self, texts: Sequence[str], sources: Sequence[str], kinds: np.ndarray) -> list[KeptDocument]:
        """Those of the batch that stay; `kinds` (N,) uint8 is the shard's."""
        stripped = self._boilerplate(texts, sources)
        touched = [
            index
            for index, (before, after) in enumerate(zip(texts, stripped, strict=True))
            if before != after
        ]
        cleaned, found = self._cleaner.with_scripts(
            [{"text": stripped[index], "source": sources[index]} for index in touched]
        )
        dropped = {index for index, document in zip(touched, cleaned, strict=True) if document is None}
        scripts = dict(zip(touched, found, strict=True))
        kept = []
        for index, (text, kind) in enumerate(zip(stripped, kinds.tolist(), strict=True)):
            known = bool(kind & CHANGED)
            if index in dropped:
                self._stats.changed.count -= known
                continue
            before = texts[index] if index in scripts and not known else ""
            script = scripts.get(index) or SCRIPTS[kind & ~CHANGED]
            kept.append(KeptDocument(text, sources[index], script, known or index in scripts, before))
        return kept


def _sources(reader: ShardReader, numbers: np.ndarray) -> list[str]:
    return [reader.sources[owner] for owner in reader.owners[numbers].tolist()]
