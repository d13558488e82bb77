"""A vocabulary beside the text that a model was trained on, for the doctors that look at tokens."""

from __future__ import annotations

import numpy as np

from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.tokenizer.special import BYTES

COUNTED = 20_000_000  # tokens of the dataset


def usable_ids(context: DoctorContext) -> np.ndarray:
    """Ids that some text can hold, but for single bytes, which are in every vocabulary, whatever it was
    learnt from; (ids,)."""
    tokens = context.tokenizer.vocabulary.tokens
    unreachable = set(context.tokenizer.unreachable())
    return np.array(
        [at for at in range(BYTES, len(tokens)) if at not in unreachable and is_text(tokens[at])],
        dtype=np.int64,
    )


def is_text(token: bytes) -> bool:
    """Whether a token is whole characters."""
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def token_text(context: DoctorContext, at: int) -> str:
    """A token's characters."""
    return context.tokenizer.vocabulary.tokens[at].decode("utf-8", "replace")


def examples(context: DoctorContext, ids: np.ndarray) -> str:
    """The first few tokens, for a sentence."""
    return " ".join(repr(token_text(context, at)) for at in ids[:5].tolist())


def training_tokens(context: DoctorContext) -> list[np.ndarray]:
    """Tokens of the training text, and of a model that chats, of its conversations; without any, those of the
    given texts."""
    trained = (context.dataset, context.labelled if context.chat else None)
    found = [data.tokens[:COUNTED] for data in trained if data is not None]
    return found or ([np.concatenate(context.rows)] if context.rows else [])


def token_counts(context: DoctorContext) -> list[np.ndarray]:
    """How often each id stands in each of `training_tokens`, (V,) each."""
    size = context.model.config.vocab_size
    return [np.bincount(ids, minlength=size) for ids in training_tokens(context)]
