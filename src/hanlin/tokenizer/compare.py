"""Several tokenizers on the same text: how much one token carries, class by class, and how much of a
vocabulary is idle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError
from hanlin.tokenizer.foreign import ForeignTokenizer
from hanlin.tokenizer.segments import CLASSES, segments
from hanlin.tokenizer.tokenizer import Tokenizer

_BATCH_BYTES = 1 << 20


def compare(
    tokenizers: Sequence[Tokenizer],
    files: Iterable[Path | str],
    max_bytes: int | None = None,
) -> dict[str, Any]:
    """Measure tokenizers on the documents of some files.

    Classes are those of `hanlin.tokenizer.segments`. The segments of a class are encoded apart from their
    neighbours, so that each token belongs to one class; the tokens of the classes add up to
    `segment_tokens`, which is slightly more than `tokens` (the documents encoded whole) where a cut falls
    inside what would have been one token.

    Args:
        tokenizers: of Hanlin's, or others' (`hanlin.tokenizer.foreign.open_any`).
        max_bytes: stop after about this much text of each file.

    Returns:
        `bytes`, `characters`, `documents` of the text; `classes`: {class: {"bytes", "characters"}}, which
        add up to those; and for each
        tokenizer (in order, under `tokenizers`): `path`, `vocab_size`, `tokens`, `bytes_per_token`,
            `chars_per_token`, `unused` (ordinary ids
        that did not occur), `unreachable` (ordinary ids no text yields; None where Hanlin did not write it),
        `segment_tokens`,
        `classes`: {class: {"tokens", "bytes_per_token", "chars_per_token"}}, without ratios for a class of
            which there is no text, and
        `files`: the ratios by file.

    Raises:
        HanlinError: unreadable files, or no text in them.
    """
    tallies = [_Tally(tokenizer) for tokenizer in tokenizers]
    whole, documents = _Size(), 0
    classes = {name: _Size() for name in CLASSES}
    for path in map(Path, files):
        file = _Size()
        for tally in tallies:
            tally.file_tokens = 0
        for batch in read_batches(path, max_bytes):
            by_class: dict[str, list[str]] = {name: [] for name in CLASSES}
            for text in batch:
                file.add(text)
                for name, part in segments(text):
                    by_class[name].append(part)
                    classes[name].add(part)
            for tally in tallies:
                tally.add(batch, by_class)
            documents += len(batch)
        for tally in tallies:
            tally.files[str(path)] = file.per_token(tally.file_tokens)
        whole.bytes += file.bytes
        whole.characters += file.characters
    if whole.bytes == 0:
        raise HanlinError("There is no text in these files to compare on.")
    return {
        "bytes": whole.bytes,
        "characters": whole.characters,
        "documents": documents,
        "classes": {
            name: {"bytes": size.bytes, "characters": size.characters} for name, size in classes.items()
        },
        "tokenizers": [
            {
                "path": str(tally.tokenizer.path),
                "vocab_size": tally.tokenizer.vocab_size,
                "tokens": tally.tokens,
                **whole.per_token(tally.tokens),
                "unused": tally.unused(),
                "unreachable": len(tally.tokenizer.unreachable())
                if not isinstance(tally.tokenizer, ForeignTokenizer)
                else None,
                "segment_tokens": sum(tally.by_class.values()),
                "classes": {
                    name: {"tokens": count, **(classes[name].per_token(count) if count else {})}
                    for name, count in tally.by_class.items()
                },
                "files": tally.files,
            }
            for tally in tallies
        ],
    }


class _Size:
    """How much text there is."""

    def __init__(self) -> None:
        self.bytes = self.characters = 0

    def add(self, text: str) -> None:
        self.bytes += len(_utf8(text))
        self.characters += len(text)

    def per_token(self, tokens: int) -> dict[str, float]:
        return {
            "bytes_per_token": self.bytes / max(tokens, 1),
            "chars_per_token": self.characters / max(tokens, 1),
        }


class _Tally:
    """What one tokenizer made of the text."""

    def __init__(self, tokenizer: Tokenizer):
        import numpy  # a tenth of a second that opening a tokenizer does not need

        self.tokenizer = tokenizer
        self.tokens = self.file_tokens = 0
        self.by_class: dict[str, int] = {name: 0 for name in CLASSES}
        self.seen = numpy.zeros(tokenizer.vocab_size, dtype=numpy.int64)
        self.files: dict[str, dict[str, float]] = {}

    def unused(self) -> int:
        """Ordinary ids that no text produced."""
        ordinary = self.seen == 0
        ordinary[list(self.tokenizer.special.values())] = False
        return int(ordinary.sum())

    def add(self, batch: Sequence[str], by_class: dict[str, list[str]]) -> None:
        import numpy

        ids, _ = self.tokenizer.encode_arrays(batch)
        self.tokens += len(ids)
        self.file_tokens += len(ids)
        self.seen += numpy.bincount(ids, minlength=len(self.seen))
        for name, parts in by_class.items():
            self.by_class[name] += len(self.tokenizer.encode_arrays(parts)[0])


def read_batches(path: Path, max_bytes: int | None = None) -> Iterator[list[str]]:
    """A file's documents, a megabyte or so at a time."""
    from hanlin.corpus.readers.read import read_documents  # not needed to open a tokenizer

    batch: list[str] = []
    held = size = 0
    for document in read_documents(path):
        text = document.get("text", "")
        batch.append(text)
        held += len(_utf8(text))
        if max_bytes is not None and size + held >= max_bytes:
            break
        if held >= _BATCH_BYTES:
            yield batch
            batch, size, held = [], size + held, 0
    if batch:
        yield batch


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
