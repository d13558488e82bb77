"""Texts on their way into the C++ core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hanlin._native import TextBatch

BATCH_BYTES = 1 << 20

# Paths of any files the corpus room reads, or the texts themselves.
Source = Path | str | Sequence[Path | str] | Iterable[str]


def paths_of(source: Source) -> list[Path] | None:
    """The files of a source, or None if it is an iterable of texts: a list or tuple is taken for paths,
    anything else for texts."""
    if not isinstance(source, (str, Path, list, tuple)):
        return None
    from hanlin.corpus.readers.files import expand

    return expand(source)


def expected_bytes(source: Source) -> int:
    """About how much text files hold, 0 for other sources."""
    paths = paths_of(source)
    if paths is None:
        return 0
    from hanlin.corpus.readers.files import expected_bytes

    return sum(map(expected_bytes, paths))


def text_batches(source: Source) -> Iterator[TextBatch]:
    """A source's texts as UTF-8, about a MiB at a time; a lone surrogate becomes its three bytes, which are
    no character to the core."""
    if isinstance(source, (str, Path, list, tuple)):
        # not needed to open a tokenizer, which should be instant
        from hanlin.corpus.readers.read import (
            read_texts,
        )

        yield from read_texts(source)
        return
    batch = TextBatch()
    for text in source:
        batch.append(str(text).encode("utf-8", "surrogatepass"))
        if batch.bytes >= BATCH_BYTES:
            yield batch
            batch = TextBatch()
    if len(batch):
        yield batch
