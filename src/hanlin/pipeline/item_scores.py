"""Scores of the items behind a stage's metrics, on disk: a run that goes on later pairs as one that was never
interrupted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hanlin.common.atomic import atomic_file
from hanlin.evaluation import Metric
from hanlin.evaluation.statistics import ItemScores

_PARTS = ("values", "weights", "clusters")


def save_items(file: Path, metrics: Mapping[str, Metric]) -> None:
    """Write the items of all metrics that have some, whole or not at all."""
    arrays = {}
    for name, metric in metrics.items():
        if metric.items is not None:
            for part in _PARTS:
                array = getattr(metric.items, part)
                if array is not None:
                    arrays[f"{part}|{name}"] = array
            arrays[f"key|{name}"] = np.array(metric.items.key)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def with_items(metrics: Mapping[str, Metric], file: Path) -> dict[str, Metric]:
    """The metrics with their items as `file` has them; those without stay as they are."""
    if not file.is_file():
        return dict(metrics)
    with np.load(file) as stored:
        found = {}
        for name, metric in metrics.items():
            if f"values|{name}" in stored:
                clusters = stored.get(f"clusters|{name}")
                items = ItemScores(
                    stored[f"values|{name}"], stored[f"weights|{name}"], clusters, str(stored[f"key|{name}"])
                )
                metric = dataclasses.replace(metric, items=items)
            found[name] = metric
        return found
