"""The phases of a build that take out line boilerplate: count lines, find the common ones, write the shards again without them.

They stand between cleaning and the search for duplicates, so that pages are compared without what their site adds to each. Copies of a
document are counted once; or else a text that was reprinted often enough would be boilerplate from its first line to its last.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hanlin.common.atomic import read_json
from hanlin.corpus.builder.boilerplate import Boilerplate, LineCounter, common_lines
from hanlin.corpus.builder.ingest import ACCOUNTS, CHANGED, QUARANTINE, TEXTS, TIMES, Kept, Shelf, Taken
from hanlin.corpus.builder.job import CorpusConfig
from hanlin.corpus.builder.writer import duplicates_of
from hanlin.corpus.filters.clean import Cleaner
from hanlin.corpus.filters.signals import SCRIPTS
from hanlin.corpus.filters.stats import Accounts

COUNTED, COMMON = "counted", "common.npy"


@dataclass(frozen=True)
class Strip:
    """What these phases share.

    Attributes:
        taken: folders that `Intake` filled.
        copies: file of the exact duplicates among them.
        counted: folders that `count` filled.
        common: folder that `find` filled.
        memory: bytes for counting.
    """

    config: CorpusConfig
    taken: tuple[Path, ...]
    copies: Path
    counted: tuple[Path, ...]
    common: Path
    memory: int

    def count(self, task: int, folder: Path) -> None:
        """Keys of the lines of a shard's documents, of equal ones only the first one's."""
        taken = Taken(self.taken[task])
        copies, first = duplicates_of(self.copies, self.taken, task)
        numbers = np.setdiff1d(
            np.arange(len(taken)), copies["document"].astype(np.int64) - first, assume_unique=True
        )
        with LineCounter(folder / COUNTED, self.config.boilerplate) as counter:
            for part, texts in taken.batches(numbers):
                counter.add(texts, _sources(taken, part))

    def find(self, _: int, folder: Path) -> None:
        """The lines that enough documents have."""
        np.save(
            folder / COMMON,
            common_lines([path / COUNTED for path in self.counted], self.config.boilerplate, self.memory),
        )

    def strip(self, task: int, folder: Path) -> None:
        """A shard as `Intake` leaves it, without boilerplate; documents that lost lines are held against the rules again."""
        taken, saved = Taken(self.taken[task]), read_json(self.taken[task] / ACCOUNTS)
        accounts = Accounts()
        accounts.merge(saved["accounts"])
        accounts.forget_kept()
        stripping = _Stripping(self.config, np.load(self.common / COMMON), accounts)
        with Shelf(folder, self.config.dedup, accounts) as shelf:
            shelf.seconds.update(read_json(self.taken[task] / TIMES))
            for part, texts in taken.batches(np.arange(len(taken))):
                with shelf.timed("boilerplate"):
                    kept = stripping(texts, _sources(taken, part), taken.kinds[part])
                shelf.add(kept)
        shelf.save(saved["quarantined"], saved["reasons"])
        shutil.copyfile(self.taken[task] / QUARANTINE, folder / QUARANTINE)

    def forget_texts(self, task: int) -> None:
        """Remove the texts that have been written again."""
        (self.taken[task] / TEXTS).unlink(missing_ok=True)


class _Stripping:
    """Boilerplate out of batches of cleaned documents."""

    def __init__(self, config: CorpusConfig, common: np.ndarray, accounts: Accounts) -> None:
        self._accounts = accounts
        self._boilerplate = Boilerplate(common, config.boilerplate, accounts.lines)
        self._cleaner = Cleaner(replace(config.cleaning(), normalize=False, drop_lines=False), accounts.drops)

    def __call__(self, texts: Sequence[str], sources: Sequence[str], kinds: np.ndarray) -> list[Kept]:
        """Those of the batch that stay; `kinds` (N,) uint8 is what the shelf had noted."""
        stripped = self._boilerplate(texts, sources)
        touched = [
            place
            for place, (before, after) in enumerate(zip(texts, stripped, strict=True))
            if before != after
        ]
        cleaned, found = self._cleaner.with_scripts(
            [{"text": stripped[place], "source": sources[place]} for place in touched]
        )
        dropped = {place for place, document in zip(touched, cleaned, strict=True) if document is None}
        scripts = dict(zip(touched, found, strict=True))
        kept = []
        for place, (text, kind) in enumerate(zip(stripped, kinds.tolist(), strict=True)):
            known = bool(kind & CHANGED)
            if place in dropped:
                self._accounts.changed.count -= known
                continue
            before = texts[place] if place in scripts and not known else ""
            script = scripts.get(place) or SCRIPTS[kind & ~CHANGED]
            kept.append(Kept(text, sources[place], script, known or place in scripts, before))
        return kept


def _sources(taken: Taken, numbers: np.ndarray) -> list[str]:
    return [taken.sources[owner] for owner in taken.owners[numbers].tolist()]
