"""Several tokenizers on the same text: how much one token carries, and how much of a vocabulary is idle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError

from .tokenizer import Tokenizer

_BATCH = 256


def compare(tokenizers: Sequence[Tokenizer], files: Iterable[Path | str], max_bytes: int | None = None) -> dict[str, Any]:
    """Measure tokenizers on the documents of some files.

    Args:
        max_bytes: stop after about this much text of each file.

    Returns:
        `bytes`, `characters`, `documents` of the text, and for each tokenizer (in order, under `tokenizers`): `path`, `vocab_size`,
        `tokens`, `bytes_per_token`, `chars_per_token`, `unused` (ordinary ids that did not occur), and `files`: the ratios by file.

    Raises:
        HanlinError: unreadable files, or no text in them.
    """
    totals = [_Tally(tokenizer) for tokenizer in tokenizers]
    size = characters = documents = 0
    by_file: list[dict[str, Any]] = [{} for _ in tokenizers]
    for path in map(Path, files):
        before = [tally.tokens for tally in totals]
        file_bytes = file_characters = 0
        for batch in _batches(path, max_bytes):
            for tally in totals:
                tally.add(batch)
            file_bytes += sum(map(len, batch))
            file_characters += sum(len(text.decode("utf-8", "replace")) for text in batch)
            documents += len(batch)
        for tally, earlier, measured in zip(totals, before, by_file, strict=True):
            measured[str(path)] = _ratios(tally.tokens - earlier, file_bytes, file_characters)
        size += file_bytes
        characters += file_characters
    if size == 0:
        raise HanlinError("这些文件里没有文本，无法比较。", "There is no text in these files to compare on.")
    return {
        "bytes": size,
        "characters": characters,
        "documents": documents,
        "tokenizers": [
            {
                "path": str(tally.tokenizer.path),
                "vocab_size": tally.tokenizer.vocab_size,
                "tokens": tally.tokens,
                **_ratios(tally.tokens, size, characters),
                "unused": int((tally.seen[: len(tally.tokenizer.vocabulary.tokens)] == 0).sum()),
                "files": measured,
            }
            for tally, measured in zip(totals, by_file, strict=True)
        ],
    }


class _Tally:
    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        import numpy  # a tenth of a second that opening a tokenizer does not need

        self.tokens = 0
        self.seen = numpy.zeros(tokenizer.vocab_size, dtype=numpy.int64)

    def add(self, batch: Sequence[bytes]) -> None:
        import numpy

        ids, _ = self.tokenizer.encode_arrays(batch)
        self.tokens += len(ids)
        self.seen += numpy.bincount(ids, minlength=len(self.seen))


def _batches(path: Path, max_bytes: int | None) -> Iterable[list[bytes]]:
    from hanlin.corpus.readers import read_documents  # not needed to open a tokenizer

    batch: list[bytes] = []
    size = 0
    for document in read_documents(path):
        batch.append(document.get("text", "").encode("utf-8", "surrogatepass"))
        size += len(batch[-1])
        if max_bytes is not None and size >= max_bytes:
            break
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _ratios(tokens: int, size: int, characters: int) -> dict[str, float]:
    return {"bytes_per_token": size / max(tokens, 1), "chars_per_token": characters / max(tokens, 1)}
