"""What k tries are worth, estimated from n of them without bias."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pass_at_k(n: int, right: int, k: int) -> float:
    """Probability that one of k answers is right, 1 - C(n - c, k) / C(n, k), as a product (Chen et al. 2021).

    Args:
        n: answers that were drawn, at least k; right: c, how many of them are right.

    Raises:
        ValueError: k is not between 1 and n, or c not between 0 and n.
    """
    if not 1 <= k <= n or not 0 <= right <= n:
        raise ValueError(f"pass@{k} of {right} right answers among {n}")
    if n - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / at for at in range(n - right + 1, n + 1))


def best_of_k(scores: Sequence[float], k: int) -> float:
    """Expected highest score of k answers, Σ r_(i) · C(i - 1, k - 1) / C(n, k) over the scores in ascending
    order.

    Raises:
        ValueError: k is not between 1 and the number of scores.
    """
    if not 1 <= k <= len(scores):
        raise ValueError(f"the best of {k} among {len(scores)}")
    ways = math.comb(len(scores), k)
    return sum(
        score * math.comb(place, k - 1) / ways for place, score in enumerate(sorted(scores)) if place >= k - 1
    )
