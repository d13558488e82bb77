"""Byte-level BPE: train, encode, decode, inspect, compare; control tokens and the chat template. The work is
done by the C++ core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hanlin.tokenizer.chat import CHAT_TEMPLATE, Piece, pieces, render
from hanlin.tokenizer.compare import compare
from hanlin.tokenizer.files import resolve_tokenizer_dir
from hanlin.tokenizer.inspect import inspect
from hanlin.tokenizer.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from hanlin.tokenizer.train import TokenizerConfig, train_tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "Piece",
    "Tokenizer",
    "TokenizerConfig",
    "compare",
    "inspect",
    "load_tokenizer",
    "pieces",
    "render",
    "resolve_tokenizer_dir",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    """Training waits until it is asked for: opening a tokenizer should be instant."""
    if name in ("TokenizerConfig", "train_tokenizer"):
        from hanlin.tokenizer import train

        return getattr(train, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
