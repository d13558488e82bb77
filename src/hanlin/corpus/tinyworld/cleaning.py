"""How a cleaner did on a dirty corpus of known dirt (`dirt`): what it removed of it, and what of the good
documents it lost."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hanlin.corpus.tinyworld.dirt import BOILERPLATE, SPAM_MARKS, Record, compared
from hanlin.corpus.tinyworld.documents import documents


@dataclass(frozen=True)
class CleaningScore:
    """How a cleaner did. `by_kind` holds (total, removed) for each kind of dirt."""

    dirt_total: int
    dirt_removed: int
    good_total: int
    good_lost: int
    by_kind: dict[str, tuple[int, int]]


def check_cleaning(produced: Iterable[Record], cleaned_texts: Iterable[str]) -> CleaningScore:
    """Compare what a cleaner kept with the labels of what it was given.

    Texts are compared by their letters and digits after NFKC, so a cleaner may change spacing and
    punctuation.

    - A good document and its duplicates are one cluster: whichever member is kept, the cluster is alive. A
      dead cluster is one good document lost; each kept member beyond the first is a duplicate not removed.
      Good documents of equal text are one.
    - Spam, mojibake and HTML leave marks that no good document has (phrases of the spam lexicon; letters
      outside the world's characters; Latin letters and markup). Each kept text with such a mark is one
      record not removed; a spoiled document counts as removed when it was dropped and when it was repaired.
    """
    cluster: dict[str, str] = {}  # id of a good document -> key of its text
    repeats: dict[str, list[tuple[str, str]]] = {}  # key of a good document -> (kind, key) of its duplicates
    totals: Counter[str] = Counter()
    waiting: list[Record] = []
    for record in produced:
        if "dirt" not in record:
            cluster[record["id"]] = compared(record["text"])
            continue
        totals[record["dirt"]] += 1
        if "original" in record:
            waiting.append(record)
    for record in waiting:  # a duplicate whose original was not produced forms its own cluster
        original: str = record["original"]
        repeats.setdefault(cluster.get(original, original), []).append(
            (record["dirt"], compared(record["text"]))
        )
    kept: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for text in cleaned_texts:
        mark = mark_of(text)
        if mark:
            left[mark] += 1
        else:
            kept[compared(text)] += 1
    good = set(cluster.values())
    lost = 0
    for key in good | set(repeats):
        copies = Counter(repeats.get(key, ()))
        alive = kept[key]
        spare = alive - 1 if alive else 0  # the first member kept stands for the cluster
        left["exact_duplicate"] += min(spare, copies[("exact_duplicate", key)])
        for (kind, other), _ in copies.items():
            if other != key and kept[other]:
                left[kind] += kept[other] if alive else kept[other] - 1
                alive += kept[other]
        lost += key in good and not alive
    by_kind = {kind: (total, total - min(left[kind], total)) for kind, total in sorted(totals.items())}
    return CleaningScore(
        sum(totals.values()), sum(removed for _, removed in by_kind.values()), len(good), lost, by_kind
    )


def mark_of(text: str) -> str:
    """The kind of dirt a text shows by itself, "" for none: "spam", "mojibake" or "html"."""
    if any(mark in text for mark in SPAM_MARKS):
        return "spam"
    if re.search("[A-Za-z<>{}]|&#", text):
        return "html"
    letters = [c for c in text if ord(c) > 0x7F and unicodedata.category(c)[0] in "LSC"]
    return "mojibake" if len(letters) * 0.15 < sum(c not in _characters() for c in letters) else ""


@functools.cache
def _characters() -> frozenset[str]:
    """Characters of good documents, sampled; a text of the world has almost none outside."""
    return frozenset("".join(record["text"] for record in documents(0, 3000)) + "".join(BOILERPLATE))
