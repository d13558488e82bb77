"""The vocabulary as people read it: what is in it, and what should perhaps not be."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

from .tokenizer import Tokenizer

CLASSES = ("han", "kana", "latin", "digit", "space", "punctuation", "other", "piece", "byte", "control")


def inspect(tokenizer: Tokenizer, limit: int = 50) -> dict[str, Any]:
    """Describe a vocabulary.

    Args:
        limit: entries per list.

    Returns:
        `size`; `classes`: number of tokens by what they are made of; `shares`: the same as fractions; `lengths`: number of tokens by
        characters; `longest`, `longest_han`: entries with the most characters; `newest`: the last learnt, hence the rarest;
        `repeats`: one character three times or more; `pieces`: parts of one character. An entry is {"id", "text", "characters", "class"}.
    """
    entries = [_entry(index, token) for index, token in enumerate(tokenizer.vocabulary.tokens)]
    words = [entry for entry in entries if entry["class"] not in ("piece", "byte")]
    by_length = sorted(words, key=lambda entry: (-entry["characters"], entry["id"]))
    classes = Counter(entry["class"] for entry in entries)
    classes["control"] = len(tokenizer.special)
    size = tokenizer.vocab_size
    return {
        "size": size,
        "classes": {name: classes[name] for name in CLASSES},
        "shares": {name: classes[name] / size for name in CLASSES},
        "lengths": dict(sorted(Counter(entry["characters"] for entry in words).items())),
        "longest": by_length[:limit],
        "longest_han": [entry for entry in by_length if entry["class"] == "han"][:limit],
        "newest": [entry for entry in reversed(words)][:limit],
        "repeats": [entry for entry in by_length if entry["characters"] >= 3 and len(set(entry["text"])) == 1][:limit],
        "pieces": [entry for entry in entries if entry["class"] == "piece"][:limit],
        "control": [{"id": index, "text": name} for name, index in tokenizer.special.items()],
    }


def _entry(index: int, token: bytes) -> dict[str, Any]:
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return {"id": index, "text": token.hex(" "), "characters": 0, "class": "byte" if len(token) == 1 else "piece"}
    return {"id": index, "text": text, "characters": len(text), "class": _class_of(text)}


def _class_of(text: str) -> str:
    """The class most of the characters belong to; white space counts only where there is nothing else."""
    counts = Counter(map(_class_of_character, text.strip() or text))
    return max(CLASSES, key=lambda name: (counts[name], -CLASSES.index(name)))


def _class_of_character(character: str) -> str:
    point = ord(character)
    if 0x3400 <= point <= 0x9FFF or 0xF900 <= point <= 0xFAFF or 0x20000 <= point <= 0x3FFFF or character == "〇":
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
