"""How good a model is, and how sure of it one may be: intervals, controls, tasks, and the report that shows
them.

Names that need torch are loaded when they are first used, so that reading a report costs no torch import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hanlin.evaluation.intervals import bootstrap_mean, bootstrap_ratio, wilson
from hanlin.evaluation.item_scores import ItemScores
from hanlin.evaluation.ngram import NGramModel
from hanlin.evaluation.paired import paired_difference
from hanlin.evaluation.statistics import FEWEST, Metric, beats, can_pair, difference, pooled, ranking

if TYPE_CHECKING:
    from hanlin.evaluation.likelihood import (
        answer_bits_per_byte,
        bits_per_byte,
        ngram_bits_per_byte,
        ngram_name,
    )
    from hanlin.evaluation.tasks.generation import (
        evaluate_generation,
        evaluate_turns,
        length_control,
        pair_accuracy,
    )

_TORCH = {
    "answer_bits_per_byte": "likelihood",
    "bits_per_byte": "likelihood",
    "ngram_bits_per_byte": "likelihood",
    "ngram_name": "likelihood",
    "evaluate_generation": "tasks.generation",
    "evaluate_turns": "tasks.generation",
    "length_control": "tasks.generation",
    "pair_accuracy": "tasks.generation",
}

__all__ = [
    "FEWEST",
    "ItemScores",
    "Metric",
    "NGramModel",
    "answer_bits_per_byte",
    "beats",
    "bits_per_byte",
    "bootstrap_mean",
    "bootstrap_ratio",
    "can_pair",
    "difference",
    "evaluate_generation",
    "evaluate_turns",
    "length_control",
    "ngram_bits_per_byte",
    "ngram_name",
    "pair_accuracy",
    "paired_difference",
    "pooled",
    "ranking",
    "wilson",
]


def __getattr__(name: str) -> Any:
    if name in _TORCH:
        return getattr(importlib.import_module(f".{_TORCH[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
