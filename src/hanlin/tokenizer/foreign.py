"""Tokenizers that Hanlin did not write, opened by Hugging Face's `tokenizers`: to be compared with, never to
train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hanlin.common.errors import HanlinError
from hanlin.tokenizer.files import TOKENIZER_JSON, NotOurs
from hanlin.tokenizer.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import numpy


class ForeignTokenizer:
    """As much of `Tokenizer` as a comparison needs.

    Attributes:
        path: the tokenizer.json it was read from.
        vocab_size: ids are below this number; with the tokens that were added.
        ordinary: tokens of its model, without those.
    """

    def __init__(self, file: Path):
        try:
            import tokenizers
        except ImportError:
            raise HanlinError(
                "{file} was not written by Hanlin; opening it takes the package tokenizers. Run pip "
                "install tokenizers.",
                file=file,
            ) from None
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises this very class
            raise HanlinError(
                "{file} was not written by Hanlin, and the package tokenizers cannot open it ({error}). It "
                "should be a {tokenizer_json} in the format of Hugging Face.",
                file=file,
                error=error,
                tokenizer_json=TOKENIZER_JSON,
            ) from None
        self._tokenizer.encode_special_tokens = True  # control tokens in a text are text
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.path = file
        self.ordinary = self._tokenizer.get_vocab_size(with_added_tokens=False)
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1

    def encode_arrays(self, texts: Sequence[str | bytes]) -> tuple[numpy.ndarray, numpy.ndarray]:
        """As `Tokenizer.encode_arrays`; what is not UTF-8 becomes U+FFFD."""
        import numpy

        plain = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in texts]
        parts = [
            encoding.ids for encoding in self._tokenizer.encode_batch_fast(plain, add_special_tokens=False)
        ]
        ids = numpy.array([token for part in parts for token in part], numpy.uint32)
        return ids, numpy.cumsum([0, *map(len, parts)]).astype(numpy.uint64)


def open_any(path: Path | str) -> Tokenizer | ForeignTokenizer:
    """Open a tokenizer of Hanlin's, or any other `tokenizer.json`.

    Args:
        path: a directory with a tokenizer in it, or a tokenizer.json under whatever name.

    Raises:
        HanlinError: nothing there, damaged, or such as only the package `tokenizers` could open, which is
            not installed.
    """
    path = Path(path)
    if path.is_file() and path.name != TOKENIZER_JSON:
        return ForeignTokenizer(path)
    try:
        return load_tokenizer(path.parent if path.is_file() else path)
    except NotOurs as refusal:
        return ForeignTokenizer(refusal.file)
