"""Byte-pair encoding the slow and obvious way, for comparison."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence


def is_whole(token: bytes) -> bool:
    """Whether a token is whole characters."""
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_within_character(token: bytes) -> bool:
    """Whether a token of valid text is one character or a part of one: it has no character boundary
    inside."""
    return all(0x80 <= byte < 0xC0 for byte in token[1:]) and (
        token[0] < 0xC0 or len(token) <= width(token[0])
    )


def width(lead: int) -> int:
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def characters(token: bytes) -> int:
    return sum(not 0x80 <= byte < 0xC0 for byte in token)


def merge_word(word: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    """Join the pair wherever it stands, from left to right."""
    result, at = [], 0
    while at < len(word):
        if word[at : at + 2] == [left, right]:
            result.append(left + right)
            at += 2
        else:
            result.append(word[at])
            at += 1
    return result


def train(
    words: Mapping[bytes, int],
    new_tokens: int,
    min_frequency: int = 2,
    max_characters: int = 0,
    aligned: bool = True,
):
    """Merges as (left, right, count), counting every pair afresh at every step."""
    state = [([bytes([byte]) for byte in word], count) for word, count in words.items()]
    merges: list[tuple[bytes, bytes, int]] = []

    def allowed(left: bytes, right: bytes) -> bool:
        inside = is_within_character(left + right)
        if aligned and not inside and not (is_whole(left) and is_whole(right)):
            return False
        free = aligned and inside
        return free or not max_characters or characters(left + right) <= max_characters

    while len(merges) < new_tokens:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in state:
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += count
        candidates = [
            (pair, count) for pair, count in counts.items() if count >= min_frequency and allowed(*pair)
        ]
        if not candidates:
            break
        (left, right), count = min(
            candidates,
            key=lambda item: (-item[1], aligned and not is_within_character(b"".join(item[0])), item[0]),
        )
        merges.append((left, right, count))
        state = [(merge_word(word, left, right), weight) for word, weight in state]
    return merges


def encode(word: bytes, ranks: Mapping[tuple[bytes, bytes], int]) -> list[bytes]:
    """Merge the neighbours of the lowest rank, the leftmost first, until there are none."""
    parts = [bytes([byte]) for byte in word]
    while True:
        options = [
            (ranks[pair], at) for at, pair in enumerate(zip(parts, parts[1:], strict=False)) if pair in ranks
        ]
        if not options:
            return parts
        _, at = min(options)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def counts_along(
    words: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]]
) -> Iterable[tuple[int, int]]:
    """Yield, before each given merge, its pair's count and the highest count of any pair: equal where the
    merge is a right choice.

    Keeps counts by difference, so that it is fast enough for real text.
    """
    state = [[bytes([byte]) for byte in word] for word in words]
    weights = list(words.values())
    counts: Counter[tuple[bytes, bytes]] = Counter()
    where: defaultdict[tuple[bytes, bytes], set[int]] = defaultdict(set)
    for index, word in enumerate(state):
        for pair in zip(word, word[1:], strict=False):
            counts[pair] += weights[index]
            where[pair].add(index)
    for left, right in merges:
        yield counts[left, right], max(counts.values())
        for index in where.pop((left, right), ()):
            before, after = state[index], merge_word(state[index], left, right)
            for pair in zip(before, before[1:], strict=False):
                counts[pair] -= weights[index]
            for pair in zip(after, after[1:], strict=False):
                counts[pair] += weights[index]
                where[pair].add(index)
            state[index] = after
