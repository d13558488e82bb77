"""Texts held against reference texts: BLEU, chrF and ROUGE-L for Chinese, and how varied and repetitive a
text is. No torch here.

BLEU and chrF are sacrebleu's, called and not copied, with the signature that makes a figure comparable: for
Chinese `tokenize="zh"`, since the usual tokenizer takes a whole sentence for one word. chrF++ adds words,
which unsegmented Chinese has none of, so it is not offered. ROUGE-L is over characters, as in rouge-chinese
with characters for words.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from hanlin.common.errors import HanlinError
from hanlin.evaluation.statistics import Metric

RESAMPLES = 1000  # of the bootstrap of sentences


class Overlap(NamedTuple):
    """A corpus metric with the signature that says how it was computed."""

    metric: Metric
    signature: str


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Overlap:
    """Corpus BLEU, 0 … 100, with the interval of a bootstrap over sentences.

    Args:
        references: of each output one or several; all outputs have as many.

    Raises:
        HanlinError: sacrebleu is missing, or an output has another number of references than the first.
    """
    return _sacrebleu("BLEU", outputs, references, tokenize="zh")


def chrf(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Overlap:
    """Corpus chrF2, 0 … 100: F-score of character n-grams up to six.

    Raises:
        HanlinError: as `bleu`.
    """
    return _sacrebleu("CHRF", outputs, references)


def require_sacrebleu() -> None:
    """Say before a model is asked that its answers could not be scored.

    Raises:
        HanlinError: sacrebleu is not installed.
    """
    if importlib.util.find_spec("sacrebleu") is None:
        raise HanlinError("BLEU and chrF need sacrebleu: pip install 'hanlin[eval]'")


def _sacrebleu(
    name: str, outputs: Sequence[str], references: Sequence[Sequence[str]], **settings: str
) -> Overlap:
    require_sacrebleu()
    from sacrebleu import metrics

    count = len(references[0])
    for place, given in enumerate(references):
        if len(given) != count:
            raise HanlinError(
                "Text {place} has {given} references, and the first has {count}: all should have as many.",
                place=place + 1,
                given=len(given),
                count=count,
            )
    scorer = getattr(metrics, name)(**settings)
    streams = [[given[place] for given in references] for place in range(count)]
    found = scorer.corpus_score(list(outputs), streams, n_bootstrap=RESAMPLES)
    score, mean, half = float(found.score), float(found._mean), float(found._ci)
    metric = Metric(score, min(mean - half, score), max(mean + half, score), len(outputs))
    return Overlap(metric, str(scorer.get_signature()))


def rouge_l(output: str, reference: str) -> float:
    """F-score of the longest common subsequence of characters, blanks left out (Lin 2004); rouge-chinese's
    figure, to the 1e-8 that it adds below the line."""
    mine, theirs = "".join(output.split()), "".join(reference.split())
    if not mine or not theirs:
        return 0.0
    longest = longest_common_subsequence(mine, theirs)
    precision, recall = longest / len(mine), longest / len(theirs)
    return 2 * precision * recall / (precision + recall + 1e-8)


def longest_common_subsequence(first: str, second: str) -> int:
    """Length of the longest common subsequence, a column of the table at a time in the bits of one integer
    (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for at, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << at
    every = (1 << len(first)) - 1
    row = every
    for character in second:
        matches = row & places.get(character, 0)
        row = ((row + matches) | (row - matches)) & every
    return len(first) - row.bit_count()


def distinct(texts: Sequence[str], n: int) -> float:
    """Different character n-grams over all of them (Li et al. 2016); 1 where nothing occurs twice."""
    grams = [text[at : at + n] for text in texts for at in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(text: str, n: int = 4) -> float:
    """Share of character n-grams that occurred before in the text (seq-rep-n, Welleck et al. 2020)."""
    grams = Counter(text[at : at + n] for at in range(len(text) - n + 1))
    total = sum(grams.values())
    return 1 - len(grams) / total if total else 0.0
