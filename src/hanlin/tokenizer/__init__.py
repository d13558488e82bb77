"""Byte-level BPE: train, encode, decode, inspect, compare; control tokens and the chat template. The work is done by the C++ core."""

from .chat import CHAT_TEMPLATE, Piece, pieces, render
from .compare import compare
from .inspect import inspect
from .tokenizer import Tokenizer, load_tokenizer
from .train import TokenizerConfig, train_tokenizer

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
    "train_tokenizer",
]
