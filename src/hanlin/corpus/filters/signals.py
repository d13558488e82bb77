"""Every figure a cleaning rule looks at, counted by the core in one pass over each document
(native/signals.hpp)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hanlin._native import SignalCounter
from hanlin.corpus.text.characters import native_table, with_core

# What a line ends with that hides the rest of it; arrows, dots and brackets may follow.
MORE = ("展开", "更多", "下一页", "全文", "readmore", "read more", "查看详情", "展开全部")


@dataclass(frozen=True)
class Signals:
    """One value per document, each (N,) unless said otherwise.

    Attributes:
        chars: characters that are not white space.
        han: Chinese ideographs.
        han_share, latin_share, kana_share, hangul_share, cyrillic_share: letters of a script, of ideographs
            and letters together (1 for `han_share`, 0 for the others when there are neither).
        foreign_share: letters that are neither ideographs nor Latin, of the same.
        digit_share, symbol_share, bracket_share, replacement_share, ellipsis_share, number_sign_share,
            punctuation_share: of `chars`; brackets are 【】, replacement is U+FFFD, the number sign is #.
        alphanumeric_share: letters, digits and ideographs, of `chars` (1 when there are none).
        common_share: ideographs that are among the most common, of `han` (1 when there are none).
        traditional_share: ideographs that only traditional Chinese has, of `han`.
        lines: lines that are not empty.
        mean_line: `chars` per such line.
        longest_line: characters of the longest.
        terminal_share, bullet_share, ellipsis_line_share, more_share: such lines that end in terminal
            punctuation, begin with a bullet, end in an ellipsis, end in 展开, 更多, 下一页 and the like
            (`MORE`).
        duplicate_line_share: such lines that occurred earlier in the same document and are not mere signs.
        entropy: of single characters, in nats, white space and punctuation left out.
        top_count, top_share: for n = 2, 3, 4 the count of the most frequent n-gram of letters, digits and
            ideographs, and the share of those characters it covers (n × count ÷ their number); (3, N).
        duplicate_ngram_share: for n = 5 … 10 the character n-grams that occurred earlier in the same
            document; (6, N).
        duplicate_share: the same for n = 13.
        line_hashes: of the lines that are not empty, 64 bits, all documents' behind one another; (sum of
            `lines`,).
    """

    chars: np.ndarray
    han: np.ndarray
    han_share: np.ndarray
    latin_share: np.ndarray
    kana_share: np.ndarray
    hangul_share: np.ndarray
    cyrillic_share: np.ndarray
    foreign_share: np.ndarray
    digit_share: np.ndarray
    symbol_share: np.ndarray
    bracket_share: np.ndarray
    replacement_share: np.ndarray
    ellipsis_share: np.ndarray
    number_sign_share: np.ndarray
    punctuation_share: np.ndarray
    alphanumeric_share: np.ndarray
    common_share: np.ndarray
    traditional_share: np.ndarray
    lines: np.ndarray
    mean_line: np.ndarray
    longest_line: np.ndarray
    terminal_share: np.ndarray
    bullet_share: np.ndarray
    ellipsis_line_share: np.ndarray
    more_share: np.ndarray
    duplicate_line_share: np.ndarray
    entropy: np.ndarray
    top_count: np.ndarray
    top_share: np.ndarray
    duplicate_ngram_share: np.ndarray
    duplicate_share: np.ndarray
    line_hashes: np.ndarray


def measure(texts: Sequence[str]) -> Signals:
    """The signals of `texts`; lines must not end in spaces (see `normalize`)."""
    count = with_core(_counter().measure, texts)

    def share(part: np.ndarray, whole: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
        return np.where(whole > 0, part / np.maximum(whole, 1), otherwise)

    solid, han, lines, word = count["solid"], count["han"], count["lines"], count["word"]
    worded = han + count["letter"]
    foreign = count["letter"] - count["latin"]
    top = np.stack([count[f"top_{n}"] for n in (2, 3, 4)])
    lengths = np.array([[2], [3], [4]])

    def duplicates(n: int) -> np.ndarray:
        return share(count[f"repeated_{n}"], word - n + 1)

    return Signals(
        chars=solid,
        han=han,
        han_share=share(han, worded, 1.0),
        latin_share=share(count["latin"], worded),
        kana_share=share(count["kana"], worded),
        hangul_share=share(count["hangul"], worded),
        cyrillic_share=share(count["cyrillic"], worded),
        foreign_share=share(foreign, worded),
        digit_share=share(count["digit"], solid),
        symbol_share=share(count["symbol"], solid),
        bracket_share=share(count["bracket"], solid),
        replacement_share=share(count["replacement"], solid),
        ellipsis_share=share(count["ellipsis"], solid),
        number_sign_share=share(count["number_sign"], solid),
        punctuation_share=share(count["punctuation"], solid),
        alphanumeric_share=share(word, solid, 1.0),
        common_share=share(count["common"], han, 1.0),
        traditional_share=share(count["traditional"], han),
        lines=lines,
        mean_line=solid / np.maximum(lines, 1),
        longest_line=count["longest_line"],
        terminal_share=share(count["terminal_lines"], lines),
        bullet_share=share(count["bullet_lines"], lines),
        ellipsis_line_share=share(count["ellipsis_lines"], lines),
        more_share=share(count["more_lines"], lines),
        duplicate_line_share=share(count["repeated_lines"], lines),
        entropy=count["entropy"],
        top_count=top,
        top_share=np.minimum(1.0, lengths * top / np.maximum(word, 1)),
        duplicate_ngram_share=np.stack([duplicates(n) for n in range(5, 11)]),
        duplicate_share=duplicates(13),
        line_hashes=count["line_hashes"],
    )


# What a document may be written in for the most part; `none` has neither ideographs nor letters.
SCRIPTS = ("simplified", "traditional", "kana", "hangul", "latin", "cyrillic", "other", "none")


def main_scripts(signals: Signals) -> list[str]:
    """Of each document the script of `SCRIPTS` that most of its ideographs and letters belong to.

    Ideographs count as traditional from a tenth on that only traditional Chinese has (about a third of them
    in running text), and as Japanese where a fifth of a text is kana.
    """
    named = (signals.han_share, signals.hangul_share, signals.latin_share, signals.cyrillic_share)
    other = 1 - sum(named) - signals.kana_share
    largest = np.argmax(np.stack([*named, other]), axis=0)
    found = np.array(["simplified", "hangul", "latin", "cyrillic", "other"], "<U11")[largest]
    found[(found == "simplified") & (signals.traditional_share >= 0.1)] = "traditional"
    found[signals.kana_share >= 0.2] = "kana"
    found[(signals.han == 0) & (signals.han_share == 1)] = "none"
    return found.tolist()


@functools.cache
def _counter() -> SignalCounter:
    return SignalCounter(native_table(), list(MORE))
