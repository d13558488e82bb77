"""The vocabulary as people read it: what is in it, and what should perhaps not be."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hanlin.tokenizer.tokenizer import Tokenizer

CLASSES = ("han", "kana", "latin", "digit", "space", "punctuation", "other", "piece", "byte", "control")


def inspect(tokenizer: Tokenizer, limit: int = 50, on: Iterable[Path | str] | None = None) -> dict[str, Any]:
    """Describe a vocabulary.

    Args:
        limit: entries per list.
        on: files on which to count the tokens' use; the corpus that the vocabulary was learnt from says most.

    Returns:
        `size`; `classes`: number of tokens by what they are made of; `shares`: the same as fractions;
        `lengths`: number of tokens by characters; `longest`, `longest_han`: entries with the most
        characters; `newest`: the last learnt; `rarest`: those used least on the files, the same as `newest`
        without any; `unused`: how many never occurred there, None without files; `suspicious`: {criterion:
        {"count", "tokens"}}, see `hanlin.tokenizer.suspicious`, and `suspicious_tokens`: how many meet at
        least one criterion;
        `repeats`: one character three times or more; `pieces`: parts of one character.
        An entry is {"id", "text", "characters", "class"}, with "count" where use was counted, and "found"
        (the part that meets the criterion) among the suspicious.

    Raises:
        HanlinError: unreadable files.
    """
    tokens = tokenizer.vocabulary.tokens
    counts = _counts(tokenizer, on) if on is not None else None
    entries = [_entry(index, token) for index, token in enumerate(tokens)]
    if counts is not None:
        for entry in entries:
            entry["count"] = counts[entry["id"]]
    words = [entry for entry in entries if entry["class"] not in ("piece", "byte")]
    by_length = sorted(words, key=lambda entry: (-entry["characters"], entry["id"]))
    newest = list(reversed(words))
    classes = Counter(entry["class"] for entry in entries)
    classes["control"] = len(tokenizer.special)
    size = tokenizer.vocab_size
    suspicious, suspected = _suspicious(tokens, entries, limit)
    return {
        "size": size,
        "classes": {name: classes[name] for name in CLASSES},
        "shares": {name: classes[name] / size for name in CLASSES},
        "lengths": dict(sorted(Counter(entry["characters"] for entry in words).items())),
        "longest": by_length[:limit],
        "longest_han": [entry for entry in by_length if entry["class"] == "han"][:limit],
        "newest": newest[:limit],
        "rarest": sorted(newest, key=lambda entry: entry.get("count", 0))[:limit],
        "unused": None if counts is None else sum(entry["count"] == 0 for entry in entries),
        "suspicious": suspicious,
        "suspicious_tokens": suspected,
        "repeats": [
            entry for entry in by_length if entry["characters"] >= 3 and len(set(entry["text"])) == 1
        ][:limit],
        "pieces": [entry for entry in entries if entry["class"] == "piece"][:limit],
        "control": [{"id": index, "text": name} for name, index in tokenizer.special.items()],
    }


def _counts(tokenizer: Tokenizer, files: Iterable[Path | str]) -> list[int]:
    """How often each id occurs in the files."""
    import numpy

    from hanlin.tokenizer.compare import read_batches

    counts = numpy.zeros(tokenizer.vocab_size, numpy.int64)
    for path in files:
        for batch in read_batches(Path(path)):
            ids, _ = tokenizer.encode_arrays(batch)
            counts += numpy.bincount(ids, minlength=len(counts))
    return counts.tolist()


def _suspicious(tokens: list[bytes], entries: list[dict[str, Any]], limit: int) -> tuple[dict[str, Any], int]:
    """Entries by criterion, the most used first, the latest learnt first where use was not counted; and how
    many there are in all."""
    from hanlin.tokenizer.suspicious import CRITERIA, reasons

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CRITERIA}
    suspected = 0
    for entry, token in zip(reversed(entries), reversed(tokens), strict=True):
        met = reasons(token)
        suspected += bool(met)
        for name, part in met.items():
            found[name].append({**entry, "found": part})
    for listed in found.values():
        listed.sort(key=lambda entry: -entry.get("count", 0))
    return {
        name: {"count": len(listed), "tokens": listed[:limit]} for name, listed in found.items()
    }, suspected


def _entry(index: int, token: bytes) -> dict[str, Any]:
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return {
            "id": index,
            "text": token.hex(" "),
            "characters": 0,
            "class": "byte" if len(token) == 1 else "piece",
        }
    return {"id": index, "text": text, "characters": len(text), "class": _class_of(text)}


def _class_of(text: str) -> str:
    """The class most of the characters belong to; white space counts only where there is nothing else."""
    counts = Counter(map(_class_of_character, text.strip() or text))
    return max(CLASSES, key=lambda name: (counts[name], -CLASSES.index(name)))


def _class_of_character(character: str) -> str:
    point = ord(character)
    if (
        0x3400 <= point <= 0x9FFF
        or 0xF900 <= point <= 0xFAFF
        or 0x20000 <= point <= 0x3FFFF
        or character == "〇"
    ):
        return "han"
    if 0x3040 <= point <= 0x30FF or 0x31F0 <= point <= 0x31FF:
        return "kana"
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    if category[0] == "N":
        return "digit"
    if category[0] in "PS":
        return "punctuation"
    if category[0] == "L" and "LATIN" in unicodedata.name(character, ""):
        return "latin"
    return "other"
