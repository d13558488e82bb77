"""Every figure a cleaning rule looks at, for a batch of documents in a few passes over all their characters at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .characters import BRACKET, BULLET, COMMON, DIGIT, HAN, LETTER, NEWLINE, PUNCTUATION, REPLACEMENT, SPACE, SYMBOL, TERMINAL, flags

_PRIME = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Signals:
    """One value per document, each (N,).

    Attributes:
        chars: characters that are not white space.
        han: Chinese ideographs.
        han_share: ideographs of all ideographs and letters (1 when there are neither).
        digit_share, symbol_share, bracket_share, replacement_share: of `chars`; brackets are 【】, replacement is U+FFFD.
        common_share: ideographs that are among the most common, of `han` (1 when there are none).
        mean_line: `chars` per line that is not empty.
        terminal_share, bullet_share: such lines that end in terminal punctuation, or begin with a bullet.
        punctuation_share: of `chars`.
        entropy: of single characters, in nats, white space and punctuation left out.
        top_count, top_share: for n = 2, 3, 4 the count of the most frequent n-gram of letters, digits and ideographs, and the
            share of those characters it covers (n × count ÷ their number); (3, N).
        duplicate_share: character 13-grams that occurred earlier in the same document.
    """

    chars: np.ndarray
    han: np.ndarray
    han_share: np.ndarray
    digit_share: np.ndarray
    symbol_share: np.ndarray
    bracket_share: np.ndarray
    replacement_share: np.ndarray
    common_share: np.ndarray
    mean_line: np.ndarray
    terminal_share: np.ndarray
    bullet_share: np.ndarray
    punctuation_share: np.ndarray
    entropy: np.ndarray
    top_count: np.ndarray
    top_share: np.ndarray
    duplicate_share: np.ndarray


def measure(texts: Sequence[str]) -> Signals:
    """The signals of `texts`; lines must not end in spaces (see `normalize`)."""
    count = len(texts)
    # Each document gets a closing newline: its last line ends like the others, and no segment is empty.
    points = np.frombuffer("".join(text + "\n" for text in texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    ends = np.cumsum(np.fromiter((len(text) + 1 for text in texts), np.int64, count))
    starts = np.concatenate([[0], ends[:-1]])
    kinds = flags(points)

    def total(mask: np.ndarray) -> np.ndarray:
        return np.add.reduceat(mask, starts, dtype=np.int64)

    def number(flag: int) -> np.ndarray:
        return total((kinds & flag) != 0)

    chars = total((kinds & SPACE) == 0)
    at_least = np.maximum(chars, 1)
    han = number(HAN)
    worded = han + number(LETTER)

    newline = np.flatnonzero(kinds & NEWLINE)
    line_starts = np.concatenate([[0], newline[:-1] + 1])
    filled = newline > line_starts
    first, last = line_starts[filled], newline[filled] - 1
    owner = np.searchsorted(ends, first, "right")
    lines = np.bincount(owner, minlength=count)
    closing = np.bincount(owner, (kinds[last] & TERMINAL) != 0, minlength=count)
    opening = np.bincount(owner, (kinds[first] & BULLET) != 0, minlength=count)
    at_least_one_line = np.maximum(lines, 1)

    word = np.flatnonzero(kinds & (HAN | LETTER | DIGIT))
    owners = np.searchsorted(ends, word, "right").astype(np.uint64)
    top_count, top_share, entropy, duplicate_share = _repetition(points[word].astype(np.uint64), owners, count)
    return Signals(
        chars=chars,
        han=han,
        han_share=np.where(worded > 0, han / np.maximum(worded, 1), 1.0),
        digit_share=total((kinds & DIGIT) != 0) / at_least,
        symbol_share=number(SYMBOL) / at_least,
        bracket_share=number(BRACKET) / at_least,
        replacement_share=number(REPLACEMENT) / at_least,
        common_share=np.where(han > 0, number(COMMON) / np.maximum(han, 1), 1.0),
        mean_line=chars / at_least_one_line,
        terminal_share=closing / at_least_one_line,
        bullet_share=opening / at_least_one_line,
        punctuation_share=number(PUNCTUATION) / at_least,
        entropy=entropy,
        top_count=top_count,
        top_share=top_share,
        duplicate_share=duplicate_share,
    )


def _repetition(points: np.ndarray, owners: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts of n-grams per document by sorting (document, hash) keys: 20 bits of document, 44 of hash."""
    sizes = np.bincount(owners.astype(np.int64), minlength=count)
    top_count, top_share = np.zeros((3, count), np.int64), np.zeros((3, count))
    entropy, duplicates = np.zeros(count), np.zeros(count)
    for n in (1, 2, 3, 4, 13):
        if len(points) < n:
            break
        rolled = np.zeros(len(points) - n + 1, np.uint64)
        for offset in range(n):
            rolled = rolled * _PRIME + points[offset : len(points) - n + 1 + offset]
        rolled ^= rolled >> np.uint64(29)
        rolled *= _PRIME
        inside = owners[: len(rolled)] == owners[n - 1 :]
        keys = np.sort(((owners[: len(rolled)] << np.uint64(44)) | (rolled >> np.uint64(20)))[inside])
        if not len(keys):
            break
        begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        counts = np.diff(np.append(begins, len(keys)))
        owner = (keys[begins] >> np.uint64(44)).astype(np.int64)
        grams = np.maximum(sizes - n + 1, 1)
        if n == 1:
            share = counts / grams[owner]
            entropy = -np.bincount(owner, share * np.log(share), minlength=count)
        elif n < 13:
            present = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
            top_count[n - 2, owner[present]] = np.maximum.reduceat(counts, present)
            top_share[n - 2] = np.minimum(1.0, n * top_count[n - 2] / np.maximum(sizes, 1))
        else:
            unique = np.bincount(owner, minlength=count)
            duplicates = np.where(sizes >= n, 1 - unique / grams, 0.0)
    return top_count, top_share, entropy, duplicates
