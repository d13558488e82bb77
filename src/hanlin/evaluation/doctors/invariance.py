"""Whether a text's likelihood depends on how it is read: alone, padded in a batch, or token by token with the
cache."""

from __future__ import annotations

import numpy as np
import torch

from hanlin.common.messages import Text
from hanlin.evaluation.batches import padded
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, exactly, register_doctor
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.doctors.prompts import BEGINNINGS, QUESTIONS
from hanlin.model import CausalLM
from hanlin.model.kv_cache import KVCache

EXACT, HALF = 1e-4, 2e-2  # largest difference of a log likelihood, float32 and half precision (ours)
RED = 100  # times as much is red: no rounding, a fault
_TEXTS, _TOKENS, _BATCH = 16, 64, 8


@register_doctor
class InvarianceDoctor(Doctor):
    """Largest difference of a text's log likelihood between ways of reading it."""

    name = "invariance"
    title = Text("Batch and cache")
    order = 80
    labels = {
        "batch": Text("largest difference of a log likelihood in a padded batch"),
        "cache": Text("largest difference of a log likelihood with the cache"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        rows = [row[:_TOKENS] for row in context.rows[:_TEXTS] if len(row) > 3]
        if len(rows) < _BATCH:
            encoded = context.tokenizer.encode_batch(list(BEGINNINGS + QUESTIONS))
            rows = [np.array([context.tokenizer.eos_id, *ids], dtype=np.int64) for ids in encoded][:_TEXTS]
        alone = np.concatenate([_read(context.model, [row]) for row in rows])
        together = np.concatenate(
            [_read(context.model, rows[at : at + _BATCH]) for at in range(0, len(rows), _BATCH)]
        )
        cached = np.array([_cached(context.model, row) for row in rows])
        limit = EXACT if context.model.dtype in (torch.float32, torch.float64) else HALF
        metrics, signs = {}, []
        for name, values, meaning in (
            ("batch", together, Text("A text's likelihood depends on what is beside it in the batch.")),
            ("cache", cached, Text("With the cache of keys and values a text gets another likelihood.")),
        ):
            difference = float(np.abs(values - alone).max())
            metrics[name] = exactly(difference, len(rows))
            if not difference <= limit:
                signs.append(
                    Sign(
                        "red" if not difference <= RED * limit else "yellow",
                        meaning,
                        Text(
                            "Check masks, positions and the cache of this model's layers; scores and replies "
                            "cannot be trusted before."
                        ),
                    )
                )
        return Finding.of(metrics, signs, Text("A text is as likely alone, in a batch and with the cache."))


@torch.inference_mode()
def _read(model: CausalLM, rows: list[np.ndarray]) -> np.ndarray:
    """Log likelihood of each row's tokens but the first, in one padded pass, (rows,)."""
    hidden = model.hidden(padded([row[:-1] for row in rows], model.device))
    return np.array([_sum(model, hidden[place, : len(row) - 1], row) for place, row in enumerate(rows)])


@torch.inference_mode()
def _cached(model: CausalLM, row: np.ndarray) -> float:
    """The same, half of it read into a cache, the rest token by token."""
    cache = KVCache(model.config, 1, len(row), model.device, model.dtype)
    half = len(row) // 2
    states = []
    for begin, end in [(0, half), *((at, at + 1) for at in range(half, len(row) - 1))]:
        states.append(model.hidden(padded([row[begin:end]], model.device), cache=cache)[0])
        cache.advance(end - begin)
    return _sum(model, torch.cat(states), row)


def _sum(model: CausalLM, states: torch.Tensor, row: np.ndarray) -> float:
    logs = model.logits(states).float().log_softmax(-1)
    labels = torch.from_numpy(row[1:]).to(logs.device)
    return float(logs.gather(1, labels[:, None]).double().sum())
