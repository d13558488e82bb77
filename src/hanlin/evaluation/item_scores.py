"""What a metric is made of, item by item, so that two models can be compared on the same items (`paired`).
`kept_items` has the files. No torch here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from hanlin.evaluation.intervals import cluster_numbers, cluster_sums


@dataclasses.dataclass(frozen=True, eq=False)
class ItemScores:
    """The items of one metric of one model. The metric is Σ values / Σ weights.

    Attributes:
        values, weights: (items,) float64: 1 or 0 and 1 of an answer, bits and bytes of a text.
        ids: of the items, in order; none where it is not known what was asked, and nothing can be paired.
        data: digest of what was asked; that of the ids when it isn't given, for ids made of the content
            (`item_ids`).
        clusters: name of the cluster of each item: those of one cluster depend on each other. Each item is
            its own when absent.
    """

    values: np.ndarray
    weights: np.ndarray
    ids: tuple[str, ...] = ()
    data: str = ""
    clusters: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.ids and not self.data:
            object.__setattr__(self, "data", digest(self.ids))
        for part in (self.weights, self.ids or self.values, self.clusters or self.values):
            if len(part) != len(self.values):
                raise ValueError(f"{len(self.values)} items have {len(part)} weights, ids or clusters")

    def __len__(self) -> int:
        return len(self.values)

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and weights of each cluster, (clusters,) each."""
        numbers = cluster_numbers(self.clusters)
        return cluster_sums(self.values, numbers), cluster_sums(self.weights, numbers)

    def are_of(self, other: ItemScores) -> bool:
        """Whether the same items were asked, in the same order."""
        return bool(self.ids) and self.data == other.data and self.ids == other.ids


def item_ids(contents: Iterable[Any]) -> tuple[str, ...]:
    """Ids of items that have none of their own: beginnings of the SHA-256 of what they hold."""
    return tuple(
        hashlib.sha256(
            json.dumps(content, ensure_ascii=False, sort_keys=True, default=repr).encode("utf-8", "replace")
        ).hexdigest()[:16]
        for content in contents
    )


def digest(ids: Iterable[str], *more: str) -> str:
    """Digest of what was asked, from ids that are made of the content.

    Args:
        more: what else decides whether two scores can be compared.
    """
    return hashlib.sha256("\n".join([*ids, *more]).encode()).hexdigest()[:16]
