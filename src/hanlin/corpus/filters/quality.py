"""A quality score for documents: the probability that one belongs with the good examples rather than the bad
ones.

A linear model on hashed character n-grams (Joulin et al. 2016, arXiv:1607.01759, is the kin: n-grams,
hashing, one linear layer). Applying it needs numpy alone and no Python per character: weights are 16-bit
integers whose sums are exact, so a score depends on the document and on nothing else, neither on the batch
nor on the machine. `score_fit.py` trains it.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.messages import tr
from hanlin.common.terminal import table, width

KIND = "quality_scorer"
WEIGHTS, SCORER, REPORT = "weights.npy", "scorer.json", "report.json"
_CHUNK = 1 << 16  # characters at a time: what is made of them stays in the cache
# Multilinear hashing: the high bits of a sum of odd multiples of the characters, with multipliers of their
# own for each n.
_MULTIPLIERS = np.random.Generator(np.random.PCG64(20_260_101)).integers(
    0, 1 << 63, (6, 6), np.uint64
) * np.uint64(2) + np.uint64(1)


@dataclass(frozen=True)
class ScoreConfig:
    """How documents become features, and how many are read to learn from.

    Attributes:
        orders: lengths of the character n-grams, 1 to 6.
        bits: the table has 2^bits weights of two bytes.
        max_chars: so many first characters of a document count.
        max_class_chars: a class is thinned to about so many characters, by hash.
        test_fraction: documents of each class that are kept out of training and calibration.
        folds: parts of the training documents for calibration.
        strength: inverse regularisation of the logistic regression.
    """

    orders: tuple[int, ...] = (1, 2, 3)
    bits: int = 20
    max_chars: int = 10_000
    max_class_chars: int = 8_000_000
    test_fraction: float = 0.2
    folds: int = 4
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", tuple(self.orders))
        if (
            not self.orders
            or len(set(self.orders)) != len(self.orders)
            or not all(1 <= n <= 6 for n in self.orders)
        ):
            raise HanlinError(
                "Lengths of n-grams are distinct integers from 1 to 6, not {orders}.", orders=self.orders
            )
        if not 8 <= self.bits <= 28:
            raise HanlinError("bits is from 8 to 28, not {bits}.", bits=self.bits)
        if not (
            0 < self.test_fraction < 1
            and self.folds >= 2
            and self.max_chars > 0
            and self.max_class_chars > 0
            and self.strength > 0
        ):
            raise HanlinError(
                "Unreasonable configuration of the scorer: a fraction is within 0 and 1, there are 2 folds "
                "or more, the rest is positive."
            )


@functools.cache
def _folded() -> np.ndarray:
    """What a character counts as: letters in lower case, all digits as one, all white space as one;
    (0x110000,) uint32."""
    points = np.arange(0x110000, dtype=np.uint32)
    for point in range(0x3000):
        character = chr(point)
        lower = character.lower()
        if character.isspace():
            points[point] = ord(" ")
        elif unicodedata.category(character) == "Nd":
            points[point] = ord("0")
        elif len(lower) == 1:
            points[point] = ord(lower)
    points[0x3000] = ord(" ")
    points[0xFF10:0xFF1A] = ord("0")  # full width
    points[0xFF21:0xFF3B] = points[0xFF41:0xFF5B] = np.arange(ord("a"), ord("z") + 1)
    return points


def slots(texts: Sequence[str], config: ScoreConfig) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For every order n the slot of each n-gram of all texts behind one another, and which belong to which
    text.

    Yields:
        slots (M,) int64 below 2^bits; where each text's begin (N,) and how many it has (N,). Those between,
        across two texts, count for none.
    """
    cut = [text[: config.max_chars] for text in texts]
    lengths = np.fromiter(map(len, cut), np.int64, len(cut))
    starts = np.cumsum(lengths) - lengths
    points = _folded()[np.frombuffer("".join(cut).encode("utf-32-le", "surrogatepass"), np.uint32)].astype(
        np.uint64
    )
    for n in config.orders:
        size = max(0, len(points) - n + 1)
        hashes = points[:size] * _MULTIPLIERS[n - 1, 0]
        for k in range(1, n):
            hashes += points[k : k + size] * _MULTIPLIERS[n - 1, k]
        hashes >>= np.uint64(64 - config.bits)
        yield hashes.view(np.int64), starts, np.maximum(0, lengths - n + 1)


@dataclass(frozen=True)
class Scorer:
    """A trained score; see `load`.

    Attributes:
        config: as trained.
        weights: (2^bits,) int16; times `scale` they are those of the regression.
        intercept: of the regression.
        slope, offset: of the calibration: logit of the probability = slope · margin + offset.
    """

    config: ScoreConfig
    weights: np.ndarray
    scale: float
    intercept: float
    slope: float = 1.0
    offset: float = 0.0

    @classmethod
    def load(cls, path: Path | str) -> Scorer:
        """Open what `hanlin corpus score --good … --bad …` wrote.

        Raises:
            HanlinError: no scorer there, or damaged.
        """
        from hanlin.common.atomic import read_json

        read_manifest(path, KIND)
        fields = read_json(Path(path) / SCORER)
        weights = np.load(Path(path) / WEIGHTS, allow_pickle=False)
        config = ScoreConfig(**fields.pop("config"))
        if weights.shape != (1 << config.bits,) or weights.dtype != np.int16:
            raise HanlinError(
                "The weights in {path} do not fit its configuration. Train it again.", path=path
            )
        return cls(config, weights, **fields)

    def fields(self) -> dict[str, Any]:
        """Everything but the weights, as JSON."""
        return {
            name: dataclasses.asdict(self)[name]
            for name in ("config", "scale", "intercept", "slope", "offset")
        }

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The probability of each text, (N,) float64 within 0 and 1, as if good and bad were equally
        frequent; NaN for an empty one."""
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-(self.slope * self.margins(texts) + self.offset)))

    def margins(self, texts: Sequence[str]) -> np.ndarray:
        """The regression's values before calibration, (N,) float64."""
        found, first, size = [], 0, 0
        for index, text in enumerate(texts):
            size += min(len(text), self.config.max_chars)
            if size >= _CHUNK:
                found.append(self._margins(texts[first : index + 1]))
                first, size = index + 1, 0
        found.append(self._margins(texts[first:]))
        return np.concatenate(found)

    def _margins(self, texts: Sequence[str]) -> np.ndarray:
        totals, grams = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
        for places, starts, counts in slots(texts, self.config):
            has = np.flatnonzero(counts)
            if len(has):
                values = np.append(self.weights.take(places), np.int16(0))
                bounds = np.stack([starts[has], starts[has] + counts[has]], axis=1).ravel()
                totals[has] += np.add.reduceat(values, bounds, dtype=np.int64)[::2]
            grams += counts
        return np.where(grams > 0, totals * self.scale / norm(grams) + self.intercept, np.nan)


def norm(grams: np.ndarray) -> np.ndarray:
    """What the counts of a document with so many n-grams are divided by: its Euclidean length, were all of
    them different."""
    return np.sqrt(np.maximum(1, grams))


def batched(documents: Iterable[Any], chars: int = 1 << 20) -> Iterator[list[Any]]:
    """Documents in lists of about so many characters."""
    held, size = [], 0
    for document in documents:
        held.append(document)
        size += len(document["text"])
        if size >= chars:
            yield held
            held, size = [], 0
    if held:
        yield held


def score_files(scorer: Scorer, files: Sequence[str | Path], samples: int = 2) -> dict[str, Any]:
    """Scores of all documents of `files`, by source: how many, the deciles, documents at each.

    Args:
        samples: beginnings of documents to show per decile.

    Raises:
        HanlinError: see `read_documents`.
    """
    from hanlin.corpus.readers.read import read_documents

    scores: dict[str, list[np.ndarray]] = {}
    shown: dict[str, list[tuple[float, str]]] = {}
    for batch in batched(read_documents(list(files), source="file")):
        for source in dict.fromkeys(item["source"] for item in batch):
            texts = [item["text"] for item in batch if item["source"] == source]
            found = scorer(texts)
            scores.setdefault(source, []).append(found)
            held = shown.setdefault(source, [])
            held += [(float(score), beginning(text)) for score, text in zip(found, texts, strict=True)]
            if len(held) > 4000:  # every other one, whatever their number
                del held[::2]
    return {
        source: _summary(np.concatenate(found), shown[source], samples) for source, found in scores.items()
    }


def _summary(scores: np.ndarray, shown: list[tuple[float, str]], samples: int) -> dict[str, Any]:
    scores = scores[~np.isnan(scores)]
    return {
        "documents": len(scores),
        "mean": float(scores.mean()) if len(scores) else None,
        "at_least_half": float((scores >= 0.5).mean()) if len(scores) else None,
        "deciles": deciles(scores, shown, samples),
    }


def deciles(scores: np.ndarray, shown: Sequence[tuple[float, str]], samples: int = 2) -> list[dict[str, Any]]:
    """Ten groups of equal size from the lowest score up: their bounds, and documents nearest to the middle
    of each."""
    if not len(scores):
        return []
    edges = np.quantile(scores, np.linspace(0, 1, 11))
    middles = np.quantile(scores, np.linspace(0.05, 0.95, 10))
    found = []
    for low, middle, high in zip(edges, middles, edges[1:], strict=False):
        near = sorted(
            (item for item in shown if low <= item[0] <= high),
            key=lambda item: (abs(item[0] - middle), item[1]),
        )[:samples]
        found.append(
            {
                "low": float(low),
                "high": float(high),
                "samples": [{"score": score, "text": text} for score, text in near],
            }
        )
    return found


def beginning(text: str, columns: int = 76) -> str:
    """The first words of a text on one line that fits a terminal."""
    line = " ".join(text[:200].split())
    while width(line) > columns:
        line = line[:-1]
    return line


def deciles_text(groups: Sequence[dict[str, Any]]) -> str:
    """Deciles for a terminal."""
    rows = [[tr("decile"), tr("score"), tr("sample")]]
    for number, group in enumerate(groups, 1):
        for index, sample in enumerate(group["samples"] or [{"text": ""}]):
            label = [f"{number}", f"{group['low']:.3f}–{group['high']:.3f}"] if not index else ["", ""]
            rows.append([*label, sample["text"]])
    return "\n".join(table(rows))
