"""Training a quality score: logistic regression on examples, calibrated on folds, judged on documents it
never saw.

Good and bad examples are seldom of one length, and a regression would learn that: with essays against
reviews, four in ten good paragraphs of a review's length scored below 0.5 (measured here). So both classes
are learnt as windows of equally distributed lengths: the length of a document or that of a random one of the
other class, whichever is less.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hanlin.common.atomic import write_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact
from hanlin.common.messages import tr
from hanlin.common.target import refuse_foreign_target
from hanlin.corpus.dedup.fingerprints import comparison_key
from hanlin.corpus.filters.quality import (
    KIND,
    REPORT,
    SCORER,
    WEIGHTS,
    ScoreConfig,
    Scorer,
    batched,
    beginning,
    deciles,
    norm,
    slots,
)
from hanlin.corpus.readers.files import expand
from hanlin.corpus.readers.quarantine import Quarantine
from hanlin.corpus.readers.read import read_documents

_FEWEST = 20  # documents of a class below which nothing can be said
_WINDOWS = 8  # of one document at most


class _Example(NamedTuple):
    # within 0 and 1, from a hash of the text: what is drawn and which part it falls into depends on nothing
    # else
    position: float
    key: bytes
    text: str
    source: str
    weight: float = 1.0


class _Features(NamedTuple):
    matrix: Any  # (N, 2^bits) sparse float32
    rarity: np.ndarray  # (2^bits,) what a slot's counts are multiplied by


def fit_scorer(
    good: Sequence[str | Path],
    bad: Sequence[str | Path],
    out: Path | str,
    config: ScoreConfig | None = None,
    *,
    seed: int = 1,
) -> dict[str, Any]:
    """Train a scorer on good and bad documents and write it as an artefact with `report.json`.

    Texts that occur twice count once, and those in both classes not at all. The test documents are drawn by
    a hash of their text and used for nothing but the report.

    Returns:
        The report.

    Raises:
        HanlinError: no scikit-learn, unreadable files, fewer than 20 documents in a class.
    """
    config = config or ScoreConfig()
    _sklearn()
    refuse_foreign_target(out, KIND, expand([*good, *bad]))
    quarantine = Quarantine()
    examples = [_draw(files, config, seed, quarantine) for files in (good, bad)]
    both = {item.key for item in examples[0]} & {item.key for item in examples[1]}
    examples = [[item for item in drawn if item.key not in both] for drawn in examples]
    tests = [[item for item in drawn if item.position < config.test_fraction] for drawn in examples]
    parts = [[item for item in drawn if item.position >= config.test_fraction] for drawn in examples]
    for name, drawn, test in zip((tr("good"), tr("bad")), parts, tests, strict=True):
        if len(drawn) < _FEWEST or len(test) < 2:
            raise HanlinError(
                "Too few {name} examples: {count} are left without duplicates and those in both classes. "
                "It takes dozens, and thousands to be reliable.",
                name=name,
                count=len(drawn) + len(test),
            )
    scorer = _fit(parts, config)
    report = {
        "documents": {
            "good": len(examples[0]),
            "bad": len(examples[1]),
            "in_both": len(both),
            "unusable": quarantine.count,
        },
        "training": {"good": len(parts[0]), "bad": len(parts[1])},
        **_judge(scorer, tests),
    }
    settings = dataclasses.asdict(config) | {
        "good": [str(file) for file in good],
        "bad": [str(file) for file in bad],
    }
    with artifact(out, KIND, config=settings, seed=seed) as writer:
        np.save(writer.path / WEIGHTS, scorer.weights, allow_pickle=False)
        write_json(writer.path / SCORER, scorer.fields())
        write_json(writer.path / REPORT, report)
        writer.metrics = {name: report[name] for name in ("auc", "auc_same_length", "calibration_error")}
    return report


def _draw(
    files: Sequence[str | Path], config: ScoreConfig, seed: int, quarantine: Quarantine
) -> list[_Example]:
    """The documents of a class with the smallest hashes, about `max_class_chars` characters, without
    repeats."""
    kept: list[tuple[float, bytes, str, str]] = []  # a heap, the largest hash first
    known: set[bytes] = set()
    size = 0
    for item in read_documents(list(files), quarantine=quarantine, source="file"):
        text = item["text"][: config.max_chars]
        key = hashlib.blake2b(
            comparison_key(text).encode("utf-8", "surrogatepass"), digest_size=16, key=str(seed).encode()
        ).digest()
        if key in known:
            continue
        rank = int.from_bytes(key[:8], "big") / 2**64
        if size >= config.max_class_chars and rank >= -kept[0][0]:
            continue
        known.add(key)
        heapq.heappush(kept, (-rank, key, text, item.get("source", "")))
        size += len(text)
        while size - len(kept[0][2]) >= config.max_class_chars:
            dropped = heapq.heappop(kept)
            known.discard(dropped[1])
            size -= len(dropped[2])
    # the rank chose; a second number from the same hash says which part it falls into
    return sorted(
        _Example(int.from_bytes(key[8:], "big") / 2**64, key, text, source) for _, key, text, source in kept
    )


def _windows(parts: Sequence[Sequence[_Example]], most: int = _WINDOWS) -> list[list[_Example]]:
    """Pieces of the documents of both classes whose lengths have one distribution; those of a document share
    its weight."""
    lengths = [np.array([len(item.text) for item in drawn]) for drawn in parts]
    found: list[list[_Example]] = []
    for drawn, others in zip(parts, reversed(lengths), strict=True):
        found.append([])
        for item in drawn:
            draw = np.random.Generator(np.random.PCG64(int.from_bytes(item.key, "big")))
            # fixed before lengths are drawn, or short ones would be favoured
            count = int(np.clip(len(item.text) // others.mean(), 1, most))
            for length in map(int, np.minimum(draw.choice(others, count), len(item.text))):
                start = int(draw.integers(0, len(item.text) - length + 1))
                found[-1].append(item._replace(text=item.text[start : start + length], weight=1 / count))
    return found


def _fit(parts: Sequence[Sequence[_Example]], config: ScoreConfig) -> Scorer:
    classes = _windows(parts)
    windows = [item for drawn in classes for item in drawn]
    labels = np.repeat([1, 0], list(map(len, classes)))
    folds = np.array([int(item.position * 1e9) % config.folds for item in windows])
    # a class counts as much as the other, and a document of it as much as the others
    shares = np.concatenate(
        [
            np.array([item.weight for item in drawn]) / len(part)
            for drawn, part in zip(classes, parts, strict=True)
        ]
    )
    weight = shares * (len(windows) / 2)
    features = _features([item.text for item in windows], config)
    margins = np.empty(len(windows))
    for fold in range(config.folds):
        inside = folds != fold
        model = _regression(features.matrix[inside], labels[inside], weight[inside], config.strength)
        margins[~inside] = model.decision_function(features.matrix[~inside])
    # slope and offset that make probabilities of margins (Platt 1999), from documents that the margins'
    # models did not see
    platt = _regression(margins[:, None], labels, weight, 1e6)
    model = _regression(features.matrix, labels, weight, config.strength)
    weights = model.coef_[0] * features.rarity
    scale = float(np.abs(weights).max()) / 32767 or 1.0
    quantised = np.rint(weights / scale).astype(np.int16)
    return Scorer(
        config,
        quantised,
        scale,
        float(model.intercept_[0]),
        float(platt.coef_[0, 0]),
        float(platt.intercept_[0]),
    )


def _features(texts: Sequence[str], config: ScoreConfig) -> _Features:
    """Counts of slots over the norm, times the slot's rarity: log((N + 1) / (df + 1)) + 1, as in tf-idf."""
    from scipy.sparse import csr_matrix

    columns, counts, rows = [], [], []
    for batch in batched(({"text": text} for text in texts), 1 << 18):
        cut = [item["text"] for item in batch]
        keys, grams = [], np.zeros(len(cut), np.int64)
        for places, starts, numbers in slots(cut, config):
            owner = np.repeat(np.arange(len(cut)), numbers)
            within = np.arange(len(owner)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
            keys.append(owner << config.bits | places[starts[owner] + within])
            grams += numbers
        found, repeats = np.unique(np.concatenate(keys), return_counts=True)
        owner = found >> config.bits
        columns.append((found & ((1 << config.bits) - 1)).astype(np.int32))
        counts.append((repeats / norm(grams)[owner]).astype(np.float32))
        rows.append(np.bincount(owner, minlength=len(cut)))
    column, count = np.concatenate(columns), np.concatenate(counts)
    rarity = np.log((len(texts) + 1) / (np.bincount(column, minlength=1 << config.bits) + 1)) + 1
    count *= rarity[column].astype(np.float32)
    ends = np.concatenate([[0], np.cumsum(np.concatenate(rows))])
    return _Features(csr_matrix((count, column, ends), shape=(len(texts), 1 << config.bits)), rarity)


def _sklearn() -> Any:
    try:
        from sklearn import linear_model
    except ImportError:
        raise HanlinError(
            "Training a scorer needs scikit-learn. Run pip install 'hanlin[data]' (a trained one is used "
            "without it)."
        ) from None
    return linear_model


def _regression(matrix: Any, labels: np.ndarray, weight: np.ndarray, strength: float) -> Any:
    return (
        _sklearn()
        .LogisticRegression(C=strength, solver="lbfgs", max_iter=200, tol=1e-3)
        .fit(matrix, labels, weight)
    )


def _judge(scorer: Scorer, tests: Sequence[Sequence[_Example]]) -> dict[str, Any]:
    """Figures on the test documents: AUC, calibration, each source, documents at each decile."""
    scores = [scorer([item.text for item in drawn]) for drawn in tests]
    same = [scorer([item.text for item in drawn]) for drawn in _windows(tests, 1)]
    everything = np.concatenate(scores)
    shown = [
        (float(score), beginning(item.text))
        for score, item in zip(everything, (item for drawn in tests for item in drawn), strict=True)
    ]
    groups = deciles(everything, shown)
    for group in groups:
        inside = [int(((part >= group["low"]) & (part <= group["high"])).sum()) for part in scores]
        group["good"], group["bad"] = inside
    sources = {}
    for name, drawn, part in zip(("good", "bad"), tests, scores, strict=True):
        for source in sorted({item.source for item in drawn}):
            mine = part[[item.source == source for item in drawn]]
            sources[f"{name}/{source}"] = {
                "documents": len(mine),
                "mean": float(mine.mean()),
                "at_least_half": float((mine >= 0.5).mean()),
            }
    return {
        "test": {"good": len(tests[0]), "bad": len(tests[1])},
        "auc": _metric(*scores),
        "auc_same_length": _metric(*same),
        "calibration_error": _calibration_error(scores[0], scores[1]),
        "sources": sources,
        "deciles": groups,
    }


def _metric(good: np.ndarray, bad: np.ndarray) -> dict[str, Any]:
    value, low, high = auc(good, bad)
    return {
        "value": value,
        "low": low,
        "high": high,
        "n": len(good) + len(bad),
        "chance": 0.5,
        "higher_is_better": True,
    }


def auc(good: np.ndarray, bad: np.ndarray) -> tuple[float, float, float]:
    """Area under the ROC curve with its 95 % interval: the chance that a good document scores above a bad
    one.

    DeLong's variance (DeLong et al. 1988), the interval taken on the logit scale; when not one pair is in
    the wrong order, the lower end is 1 − 3 / the smaller class (rule of three).
    """
    order_bad, order_good = np.sort(bad), np.sort(good)

    def share(
        values: np.ndarray, ordered: np.ndarray
    ) -> np.ndarray:  # of `ordered` below each value, ties half
        return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (
            2 * len(ordered)
        )

    of_good, of_bad = share(good, order_bad), 1 - share(bad, order_good)
    value = float(of_good.mean())
    if value in (0.0, 1.0):
        room = min(1.0, 3 / min(len(good), len(bad)))
        return (1.0, 1.0 - room, 1.0) if value else (0.0, 0.0, room)
    error = math.sqrt(of_good.var(ddof=1) / len(good) + of_bad.var(ddof=1) / len(bad)) / (value * (1 - value))
    middle = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-(middle + sign * 1.96 * error))) for sign in (-1, 1))
    return value, low, high


def _calibration_error(good: np.ndarray, bad: np.ndarray, bins: int = 10) -> float:
    """Mean distance of probability and share of good documents over ten bins, both classes given equal
    weight (ECE)."""
    error = np.zeros(bins)
    for part, right in ((good, 1), (bad, 0)):
        error += np.bincount(
            np.minimum((part * bins).astype(int), bins - 1), (right - part) / (2 * len(part)), minlength=bins
        )
    return float(np.abs(error).sum())


def report_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    from hanlin.common.terminal import table
    from hanlin.corpus.filters.quality import deciles_text

    test = report["test"]
    whole, same = (
        f"{item['value']:.4f} [{item['low']:.4f}, {item['high']:.4f}]"
        for item in (report["auc"], report["auc_same_length"])
    )
    head = tr(
        "{good} good and {bad} bad documents kept out of training and calibration: AUC {whole}; cut to the "
        "same lengths, AUC {same}; calibration error {calibration_error:.3f}",
        good=test["good"],
        bad=test["bad"],
        whole=whole,
        same=same,
        calibration_error=report["calibration_error"],
    )
    rows = [[tr("source"), tr("documents"), tr("mean"), "≥ 0.5"]]
    rows += [
        [name, f"{item['documents']}", f"{item['mean']:.3f}", f"{item['at_least_half']:.1%}"]
        for name, item in report["sources"].items()
    ]
    return "\n".join([head, *table(rows, right=(1, 2, 3)), deciles_text(report["deciles"])])
