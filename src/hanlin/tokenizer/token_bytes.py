"""The bytes behind each token: what bits per byte divide by. Needs torch, as the rest of the room does
not."""

from __future__ import annotations

import torch

from hanlin.tokenizer.tokenizer import Tokenizer


def token_bytes(tokenizer: Tokenizer) -> torch.Tensor:
    """UTF-8 bytes behind each token id, (V,) int64; zero for control tokens."""
    return torch.tensor([len(token) for token in tokenizer.spellings], dtype=torch.int64)
