"""Texts on their way into the C++ core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def utf8_batches(texts: Iterable[str], size: int) -> Iterator[list[bytes]]:
    """Texts as UTF-8, some `size` bytes at a time; a lone surrogate becomes its three bytes, which are no character to the core."""
    batch: list[bytes] = []
    held = 0
    for text in texts:
        batch.append(text.encode("utf-8", "surrogatepass"))
        held += len(batch[-1])
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
