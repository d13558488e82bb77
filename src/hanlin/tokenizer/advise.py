"""How large a vocabulary suits a model."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from hanlin.common.errors import HanlinError

# Widths of usual shapes, (parameters, hidden_size): the demo's, zh-mini's, and those of the scaling law's
# table.
_WIDTHS = ((0.9e6, 128), (3.6e6, 192), (8e6, 384), (25e6, 512), (85e6, 768), (280e6, 1024), (900e6, 1536))
_MORE_THAN_THE_LAW = (
    1.6  # small models are trained on far more text than the law's optimum; 16k at 100M, 32k at 300M in use
)
_CHINESE_FLOOR = (
    6400  # 256 bytes and the 5,000 characters or so that make 99.9 % of running text, with some words
)
_LARGEST_SHARE = 0.35  # of the parameters that the embedding may take, whatever the floor
_STEP = 128


@dataclass(frozen=True)
class Advice:
    """A vocabulary size, and why.

    Attributes:
        vocab_size: the advice.
        embedding_share: share of all parameters that an embedding of that size takes, tied.
        hidden_size: the width it was reckoned with.
        law: what the scaling law alone says.
        why: `law`, `floor` (Chinese characters need room) or `share` (the embedding would take too much of a
            small model).
    """

    vocab_size: int
    embedding_share: float
    hidden_size: int
    law: int
    why: str


def advise(parameters: float | str, hidden_size: int | None = None) -> Advice:
    """Advise on a vocabulary size for a model of so many parameters in all, with tied embeddings.

    The law is N_v = 0.20·C^0.42 against N_nv = 0.08·C^0.50 (Tao et al. 2024, "Scaling Laws with Vocabulary",
    fitted on English from 33M parameters on); eliminating C, N_v = 0.20·(N_nv / 0.08)^0.84, and V = N_v /
    width.

    Args:
        parameters: a number, or text such as `26m` or `0.3b`.
        hidden_size: the model's width; the usual one when absent.

    Raises:
        HanlinError: not a number of parameters between 100 thousand and 100 billion.
    """
    count = parameter_count(parameters)
    width = hidden_size or _usual_width(count)
    rest = count
    for _ in range(60):  # the embedding is part of the count: N_v + N_nv = count
        rest = count - min(0.9 * count, 0.20 * (rest / 0.08) ** 0.84)
    law = 0.20 * (rest / 0.08) ** 0.84 / width
    size, why = max((_MORE_THAN_THE_LAW * law, "law"), (float(_CHINESE_FLOOR), "floor"))
    if size * width > _LARGEST_SHARE * count:
        size, why = _LARGEST_SHARE * count / width, "share"
    vocab_size = max(512, math.floor(size / _STEP) * _STEP)
    return Advice(vocab_size, vocab_size * width / count, width, round(law), why)


def parameter_count(parameters: float | str) -> float:
    """`26m` or `0.3b` as a number; raises HanlinError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmb]?)", str(parameters).strip().lower())
    count = float(match[1]) * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}[match[2]] if match else 0.0
    if not 1e5 <= count <= 1e11:
        raise HanlinError(
            "Not a number of parameters: {parameters!r}. Write it as 26m or 0.3b, between 100k and 100b.",
            parameters=parameters,
        )
    return count


def _usual_width(count: float) -> int:
    points = [(math.log(n), math.log(d)) for n, d in _WIDTHS]
    at = math.log(count)
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if at <= x1 or (x1, y1) == points[-1]:
            return max(64, round(math.exp(y0 + (y1 - y0) * (at - x0) / (x1 - x0)) / 64) * 64)
    raise AssertionError("unreachable")
