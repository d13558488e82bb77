"""The n-gram control: equal to the textbook formulas in dictionaries, a distribution, and better the more it
sees."""

from __future__ import annotations

import collections
import resource
import time

import numpy as np
import pytest

from hanlin.evaluation import NGramModel


class Textbook:
    """Interpolated modified Kneser-Ney (Chen & Goodman 1999) word by word, in dictionaries, recursion as
    printed."""

    def __init__(self, documents, vocab_size: int, order: int):
        self.vocab_size, self.order = vocab_size, order
        grams = collections.Counter()
        for document in documents:
            line = ("<s>", *document)
            for end in range(1, len(line)):
                for length in range(1, order + 1):
                    if end - length + 1 >= 0:
                        grams[line[end - length + 1 : end + 1]] += 1
        before = collections.Counter(gram[1:] for gram in grams)  # distinct left neighbours
        self.counts = {
            gram: raw if len(gram) == order or gram[0] == "<s>" else before[gram]
            for gram, raw in grams.items()
        }
        self.followers = collections.defaultdict(list)
        for gram, count in self.counts.items():
            self.followers[gram[:-1]].append(count)
        self.discounts = {}
        for length in range(1, order + 1):
            n = collections.Counter(count for gram, count in self.counts.items() if len(gram) == length)
            y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.0
            for k in (1, 2, 3):
                raw = k - (k + 1) * y * n[k + 1] / n[k] if n[k] else k * y
                self.discounts[length, k] = min(max(raw, 0.1), k)

    def discount(self, length: int, count: int) -> float:
        return self.discounts[length, min(count, 3)] if count else 0.0

    def probability(self, context: tuple, token: int) -> float:
        context = context[len(context) - self.order + 1 :] if len(context) >= self.order else context
        length = len(context) + 1
        shorter = self.probability(context[1:], token) if context else 1 / self.vocab_size
        counts = self.followers.get(context)
        if not counts:
            return shorter
        count = self.counts.get((*context, token), 0)
        left_over = sum(self.discount(length, c) for c in counts) / sum(counts)
        return (count - self.discount(length, count)) / sum(counts) + left_over * shorter


def random_documents(rng, count: int, vocab_size: int, longest: int = 14):
    """Documents of a random chain, so that some contexts are frequent and some never occur."""
    table = rng.dirichlet(np.full(vocab_size, 0.3), vocab_size)
    documents = []
    for _ in range(count):
        row = [int(rng.integers(vocab_size))]
        while len(row) < rng.integers(1, longest):
            row.append(int(rng.choice(vocab_size, p=table[row[-1]])))
        documents.append(np.array(row))
    return documents


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_textbook(order, seed):
    rng = np.random.default_rng(seed)
    # ids 6 and 7 never occur in training
    training, unseen = (
        random_documents(rng, 60, 6),
        random_documents(rng, 20, 8),
    )
    model, textbook = NGramModel(8, order).fit(training), Textbook(training, 8, order)
    for skip in (0, 1):
        expected = [
            -sum(
                np.log2(textbook.probability(("<s>", *document[:at]), document[at]))
                for at in range(skip, len(document))
            )
            for document in unseen
        ]
        np.testing.assert_allclose(
            model.bits(unseen, skip), np.array(expected, dtype=float) + 0.0, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("seed", range(3))
def test_is_a_distribution_and_nothing_is_impossible(seed):
    rng = np.random.default_rng(seed)
    model = NGramModel(9).fit(random_documents(rng, 50, 6))
    for length in range(8):
        for _ in range(10):
            probabilities = model.distribution(rng.integers(0, 9, length))
            assert probabilities.sum() == pytest.approx(1, abs=1e-12)
            assert probabilities.min() > 0


def test_the_order_of_documents_does_not_matter():
    rng = np.random.default_rng(5)
    documents, unseen = random_documents(rng, 80, 6), random_documents(rng, 20, 6)
    shuffled = [documents[i] for i in rng.permutation(len(documents))]
    np.testing.assert_allclose(
        NGramModel(6).fit(documents).bits(unseen), NGramModel(6).fit(shuffled).bits(unseen), rtol=1e-12
    )


def test_uses_its_context_and_comes_near_the_truth():
    """On a chain of second order: more context helps, and much data brings the model within 2 % of the
    chain's entropy."""
    rng = np.random.default_rng(6)
    table = rng.dirichlet(np.full(12, 0.2), (12, 12))
    chain = [0, 1]
    for uniform in rng.random(120_000):
        chain.append(int(np.searchsorted(table[chain[-2], chain[-1]].cumsum(), uniform * (1 - 1e-12))))
    pieces = np.array(chain[:120_000]).reshape(-1, 100)
    training, unseen = list(pieces[:1100]), list(pieces[1100:])
    truth = -np.mean([np.log2(table[p[i - 2], p[i - 1], p[i]]) for p in unseen for i in range(2, 100)])
    bits = {
        order: NGramModel(12, order).fit(training).bits(unseen, skip=2).sum() / (98 * len(unseen))
        for order in (1, 2, 3, 5)
    }
    assert bits[1] > bits[2] > bits[3]
    assert truth * 0.99 < bits[3] < truth * 1.02
    assert bits[5] < truth * 1.10


def test_counts_a_million_tokens_in_seconds_and_little_memory():
    """The budget is 4 million in 40 s and 1.5 GB on one core; this quarter has to take a quarter."""
    rng = np.random.default_rng(7)
    weights = 1 / np.arange(1, 6401)
    tokens = rng.choice(6400, 1_000_000, p=weights / weights.sum())
    documents = np.split(tokens, 5000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    NGramModel(6400).fit(documents)
    assert time.process_time() - began < 10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 400


def test_refuses_what_it_cannot_count():
    with pytest.raises(ValueError):
        NGramModel(5).fit([])
    with pytest.raises(ValueError):
        NGramModel(5).fit([np.array([], dtype=np.int64)])
    with pytest.raises(ValueError):
        NGramModel(5).fit([np.array([5])])
    with pytest.raises(ValueError):
        NGramModel(5, order=0)
