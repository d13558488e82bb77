"""The bytes behind each token: what bits per byte divide by. Needs torch, as the rest of the room does
not."""

from __future__ import annotations

import torch

from hanlin.tokenizer.tokenizer import Tokenizer


def token_bytes(tokenizer: Tokenizer) -> torch.Tensor:
    """UTF-8 bytes behind each token id, (V,) int64; zero for control tokens."""
    ordinary = [len(token) for token in tokenizer.vocabulary.tokens]
    return torch.tensor(ordinary + [0] * (tokenizer.vocab_size - len(ordinary)), dtype=torch.int64)
