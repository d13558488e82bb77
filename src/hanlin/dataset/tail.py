"""Whether the end of a source is like the rest of it: dirt gathers at the end of collections, where nobody
looks."""

from __future__ import annotations

import dataclasses

import numpy as np

from hanlin.common.messages import Text, tr
from hanlin.dataset.shards import TokenDataset

_SHARE, _RATIO = 0.01, 2.0
_LEAST_DOCUMENTS, _LEAST_TOKENS = 20, 500  # of a tail; fewer say nothing
# at most: tokens to count, and documents of the head, and of the tail, to judge
_FIT_TOKENS, _JUDGED = (
    2_000_000,
    4000,
)
_BIGRAM = 0.7  # weight of the bigram in the mixture
_DRAWS, _CHANCE = 2000, 0.001


@dataclasses.dataclass(frozen=True)
class Tail:
    """The last documents of one source beside the others.

    Attributes:
        documents: of the tail; `first` is the number of its first one in the dataset.
        perplexity, head_perplexity: per token, under a bigram model of other documents of the source's head.
        suspicious: the tail is more than twice as surprising, or less than half as (one text over and over),
            and as many documents drawn from the head at random would be so in less than one case of a
            thousand.
    """

    source: str
    documents: int
    first: int
    perplexity: float
    head_perplexity: float
    suspicious: bool

    @property
    def ratio(self) -> float:
        """Perplexity of the tail over that of the head."""
        return self.perplexity / self.head_perplexity


def tail_alarm(
    dataset: TokenDataset,
    *,
    share: float = _SHARE,
    ratio: float = _RATIO,
    seed: int = 0,
    most: int | None = None,
) -> list[Tail]:
    """Compare the last documents of each source, in the order of the dataset, with the rest of it; before
    training on them.

    Only the order in which the texts came can show this: a dataset of a shuffled corpus has its tails
    everywhere.

    Args:
        share: of a source's documents that are its tail; at least 20.
        ratio: of perplexities, beyond which (or below whose inverse) a tail is suspicious.
        most: look at so many sources, those with most documents; at all when absent.

    Returns:
        Sources with a tail to judge, the most surprising first; those under 40 documents or 500 tokens of
        tail are left out.
    """
    names = dataset.source_names or [""]
    sources = dataset.sources if dataset.sources is not None else np.zeros(len(dataset), dtype=np.uint16)
    order = np.argsort(sources, kind="stable")
    sizes = np.bincount(sources, minlength=len(names))
    ends = np.cumsum(sizes)
    found = []
    for number in np.argsort(-sizes, kind="stable")[:most].tolist():
        name = names[number]
        members = order[ends[number - 1] if number else 0 : ends[number]]
        tail = max(_LEAST_DOCUMENTS, round(share * len(members)))
        if len(members) >= 2 * tail and dataset.lengths[members[-tail:]].sum() >= _LEAST_TOKENS:
            found.append(
                _judge(
                    dataset,
                    name,
                    members[:-tail],
                    members[-tail:],
                    ratio,
                    np.random.default_rng([seed, number]),
                )
            )
    return sorted(found, key=lambda entry: -abs(np.log(entry.ratio)))


def tail_text(tails: list[Tail]) -> str:
    """The sources whose tails are suspicious, a line each; or that there is none."""
    bad = [tail for tail in tails if tail.suspicious]
    if not bad:
        return tr("The tails of {count} sources are like what comes before them.", count=len(tails))
    return "\n".join(f"{tr('Warning: ')}{tail_warning(tail)}" for tail in bad)


def tail_warning(tail: Tail) -> Text:
    """What to say of a suspicious tail."""
    return Text(
        "the last {documents} documents of {source} (from number {first}) have a perplexity of "
        "{perplexity:.0f}, those before {head_perplexity:.0f} ({ratio:.2f} times). Look at them before "
        "training: dirt may have got in.",
        documents=tail.documents,
        source=tail.source or Text("(no source)"),
        first=tail.first,
        perplexity=tail.perplexity,
        head_perplexity=tail.head_perplexity,
        ratio=tail.ratio,
    )


def _judge(
    dataset: TokenDataset,
    name: str,
    head: np.ndarray,
    tail: np.ndarray,
    ratio: float,
    rng: np.random.Generator,
) -> Tail:
    head = rng.permutation(head)
    # One half is counted, the other judged as strictly as the tail is: neither was seen.
    counted, judged = head[: len(head) // 2], head[len(head) // 2 :][:_JUDGED]
    lengths = np.cumsum(dataset.lengths[counted])
    counted = counted[: max(1, int(np.searchsorted(lengths, _FIT_TOKENS)))]
    first, whole = int(tail.min()), len(tail)
    tail = tail[np.linspace(0, whole - 1, min(whole, _JUDGED)).astype(int)]
    model = _Bigram(
        dataset, counted, 1 + max(int(_stream(dataset, part)[0].max()) for part in (counted, judged, tail))
    )
    nats, tokens = model.nats(judged)
    tail_nats, tail_tokens = model.nats(tail)
    surprise, usual = tail_nats.sum() / tail_tokens.sum(), nats.sum() / tokens.sum()
    drawn = rng.integers(0, len(judged), (_DRAWS, len(tail)))
    chance = nats[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
    low, high = np.quantile(chance, (_CHANCE, 1 - _CHANCE))
    apart = abs(surprise - usual) > np.log(ratio) and not low <= surprise <= high
    return Tail(name, whole, first, float(np.exp(surprise)), float(np.exp(usual)), bool(apart))


class _Bigram:
    """A bigram model of some documents, mixed with a unigram one that gives every id below `size`
    something."""

    def __init__(self, dataset: TokenDataset, documents: np.ndarray, size: int):
        tokens, starts = _stream(dataset, documents)
        self._dataset, self._size = dataset, size
        counts = np.bincount(tokens, minlength=self._size) + 0.1
        self._unigram = counts / counts.sum()
        pairs = (tokens[:-1] * self._size + tokens[1:])[~starts[1:]]
        self._keys, self._counts = np.unique(pairs, return_counts=True)
        self._before = np.bincount(self._keys // self._size, weights=self._counts, minlength=self._size)

    def nats(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """-log probability of each document but its first token, and how many tokens that are, at least one,
        (documents,)."""
        tokens, starts = _stream(self._dataset, documents)
        before, after = tokens[:-1], tokens[1:]
        keys = before * self._size + after
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        seen = np.where(self._keys[place] == keys, self._counts[place], 0)
        following = self._before[before]
        weight = np.where(following > 0, _BIGRAM, 0.0)
        bigram = np.divide(seen, following, out=np.zeros(len(keys)), where=following > 0)
        nats = -np.log(weight * bigram + (1 - weight) * self._unigram[after])
        inside = ~starts[1:]
        owner = (np.cumsum(starts) - 1)[1:]
        totals = np.bincount(owner[inside], weights=nats[inside], minlength=len(documents))
        return totals, np.maximum(np.bincount(owner[inside], minlength=len(documents)), 1)


def _stream(dataset: TokenDataset, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of documents behind one another, int64, and where each begins, bool."""
    lengths = dataset.lengths[documents]
    tokens = np.concatenate([dataset.document(int(index)) for index in documents]).astype(np.int64)
    starts = np.zeros(len(tokens), dtype=bool)
    starts[np.concatenate([[0], np.cumsum(lengths)[:-1]])] = True
    return tokens, starts
