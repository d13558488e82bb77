"""Cleaning: named rules with thresholds, each counting what it drops and keeping samples.

Order: mojibake repair, normalisation, line rules (promotion, page furniture), then document rules on `signals.measure`.
Thresholds of `zh-web` follow the published Chinese pipelines (FineWeb-2 cmn_Hani, MAP-NEO Matrix, ChineseWebText,
CCNet) where they agree; characters, not segmented words, are counted throughout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common import config as configs
from ..common.errors import HanlinError
from .accounts import Drops
from .messages import Document
from .normalize import collapse, normalize, repair_mojibake
from .promotion import frame_line, promotional_points, vices
from .signals import Signals, measure


@dataclass(frozen=True)
class CleanConfig:
    """Thresholds of every rule; a document at the threshold is kept. Shares are of characters that are not white space.

    Attributes:
        normalize: repair, compose and tidy the text (False hands it on byte for byte).
        drop_lines: take out promotional lines and page furniture.
        min_chars, max_chars: length of a document.
        promotion_points: a line with more is promotional (`promotion.promotional_points`).
        vice_spacing: a document that advertises betting and its like (`promotion.vices`) at least twice, and every so many
            characters, goes as a whole.
        max_removed_share: of a document in removed lines; beyond it the document goes.
        max_mojibake_share: of a document in lines beyond repair.
        max_replacement_share: U+FFFD; fewer are removed from the text.
        min_common_share: ideographs among the most common ones; looked at from 8 ideographs on.
        min_han_share: ideographs of all ideographs and letters.
        max_digit_share, max_symbol_share, max_bracket_share: digits; symbols (#, ★, =, emoji); 【】.
        min_mean_line: characters per line, unless most lines end a sentence, as verse does.
        min_terminal_share: lines that end in terminal punctuation.
        max_bullet_share: lines that begin with a bullet.
        min_punctuation_share: punctuation; looked at from 100 characters on.
        min_entropy: nats per character, for documents long enough to have it (below 200 characters it scales with ln n).
        max_top_2gram_share, max_top_3gram_share, max_top_4gram_share: characters in the most frequent n-gram.
        min_repeats: occurrences of that n-gram below which it proves nothing.
        max_duplicate_share: 13-grams seen before in the same document.
    """

    normalize: bool = True
    drop_lines: bool = True
    min_chars: int = 50
    max_chars: int = 4_000_000
    promotion_points: float = 3.0
    vice_spacing: int = 600
    max_removed_share: float = 0.3
    max_mojibake_share: float = 0.1
    max_replacement_share: float = 0.005
    min_common_share: float = 0.15
    min_han_share: float = 0.3
    max_digit_share: float = 0.3
    max_symbol_share: float = 0.1
    max_bracket_share: float = 0.1
    min_mean_line: float = 8.0
    min_terminal_share: float = 0.1
    max_bullet_share: float = 0.9
    min_punctuation_share: float = 0.005
    min_entropy: float = 3.0
    max_top_2gram_share: float = 0.2
    max_top_3gram_share: float = 0.18
    max_top_4gram_share: float = 0.16
    min_repeats: int = 8
    max_duplicate_share: float = 0.5

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if "share" in name and not 0 <= value <= 1:
                raise ValueError(f"{name} = {value}: 0 … 1")
            if name in ("min_chars", "max_chars", "promotion_points", "min_repeats", "min_mean_line", "min_entropy") and value < 0:
                raise ValueError(f"{name} = {value} < 0")
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} > max_chars {self.max_chars}")


_OPEN = CleanConfig(
    normalize=False, drop_lines=False, min_chars=0, max_chars=1 << 62, max_mojibake_share=1, max_replacement_share=1, min_common_share=0, min_han_share=0,
    max_digit_share=1, max_symbol_share=1, max_bracket_share=1, min_mean_line=0, min_terminal_share=0, max_bullet_share=1, min_punctuation_share=0,
    min_entropy=0, max_top_2gram_share=1, max_top_3gram_share=1, max_top_4gram_share=1, max_duplicate_share=1,
)  # fmt: skip
PRESETS: dict[str, CleanConfig] = {
    "zh-web": CleanConfig(),
    # Short documents (stories, sayings, reviews, questions, sums) are repetitive and terse by nature.
    "zh-short": CleanConfig(
        min_chars=8, min_han_share=0.1, max_digit_share=0.8, max_symbol_share=0.3, min_mean_line=3.0, min_terminal_share=0.0, min_entropy=2.0,
        max_top_2gram_share=0.4, max_top_3gram_share=0.4, max_top_4gram_share=0.4, max_duplicate_share=0.6,
    ),
    "none": _OPEN,
}  # fmt: skip


def preset(name: str, rules: Mapping[str, Any] | None = None) -> CleanConfig:
    """The preset `name` with single thresholds replaced by `rules`.

    Raises:
        HanlinError: no such preset or threshold, or a value out of range.
    """
    if name not in PRESETS:
        raise HanlinError(
            f"没有名为 {name!r} 的清洗预设。可用：{'、'.join(PRESETS)}。", f"No cleaning preset {name!r}. Available: {', '.join(PRESETS)}."
        )
    return configs.build(CleanConfig, dataclasses.asdict(PRESETS[name]) | dict(rules or {}), f"clean preset {name}")


@dataclass(frozen=True)
class Rule:
    """A named reason to drop a document: `broken(signals, config)` is a mask over the batch."""

    name: str
    broken: Callable[[Signals, CleanConfig], np.ndarray]


def _top(n: int) -> Callable[[Signals, CleanConfig], np.ndarray]:
    def broken(signals: Signals, config: CleanConfig) -> np.ndarray:
        limit = getattr(config, f"max_top_{n}gram_share")
        return (signals.top_share[n - 2] > limit) & (signals.top_count[n - 2] >= config.min_repeats)

    return broken


# In this order: the first rule a document breaks is the one it is counted under.
RULES: tuple[Rule, ...] = (
    Rule("too_short", lambda s, c: s.chars < c.min_chars),
    Rule("too_long", lambda s, c: s.chars > c.max_chars),
    Rule("replacement_characters", lambda s, c: s.replacement_share > c.max_replacement_share),
    Rule("uncommon_han", lambda s, c: (s.common_share < c.min_common_share) & (s.han >= 8)),
    Rule("han_share", lambda s, c: s.han_share < c.min_han_share),
    Rule("digit_share", lambda s, c: s.digit_share > c.max_digit_share),
    Rule("symbol_share", lambda s, c: s.symbol_share > c.max_symbol_share),
    Rule("bracket_share", lambda s, c: s.bracket_share > c.max_bracket_share),
    Rule("short_lines", lambda s, c: (s.mean_line < c.min_mean_line) & (s.terminal_share < 0.5)),
    Rule("terminal_punctuation", lambda s, c: s.terminal_share < c.min_terminal_share),
    Rule("bullets", lambda s, c: s.bullet_share > c.max_bullet_share),
    Rule("no_punctuation", lambda s, c: (s.punctuation_share < c.min_punctuation_share) & (s.chars >= 100)),
    Rule("low_entropy", lambda s, c: s.entropy < c.min_entropy * np.minimum(1.0, np.log(np.maximum(s.chars, 1)) / np.log(200))),
    Rule("repeated_2gram", _top(2)),
    Rule("repeated_3gram", _top(3)),
    Rule("repeated_4gram", _top(4)),
    Rule("repeated_13gram", lambda s, c: s.duplicate_share > c.max_duplicate_share),
)
TEXT_RULES = ("mojibake", "promotion", "page_furniture")
LINE_RULES = ("promotional_line", "page_furniture_line")


class Cleaner:
    """Applies a `CleanConfig` to batches and remembers what it dropped, in `drops` (documents) and `lines`."""

    def __init__(self, config: CleanConfig, drops: Drops | None = None, lines: Drops | None = None) -> None:
        self.config = config
        self.drops = drops or Drops()
        self.lines = lines or Drops()

    def __call__(self, batch: Sequence[Document]) -> list[Document | None]:
        """Cleaned documents in the order given, None where one is dropped; keys other than `text` are kept."""
        texts: list[str] = []
        places: list[int] = []
        result: list[Document | None] = [None] * len(batch)
        for place, document in enumerate(batch):
            text, rule = self._text(document["text"])
            if rule:
                self.drops.add(rule, document["text"], source=document.get("source", ""))
            else:
                texts.append(text)
                places.append(place)
        if not texts:
            return result
        signals = measure(texts)
        verdict = np.full(len(texts), -1)
        for number, rule in enumerate(RULES):
            verdict[(verdict < 0) & rule.broken(signals, self.config)] = number
        for place, text, number in zip(places, texts, verdict, strict=True):
            if number >= 0:
                self.drops.add(RULES[number].name, batch[place]["text"], source=batch[place].get("source", ""))
            else:
                kept: Any = dict(batch[place])
                kept["text"] = text.replace("\ufffd", "") if self.config.normalize else text
                result[place] = kept
        return result

    def _text(self, text: str) -> tuple[str, str]:
        """The repaired text, and the rule that drops the document at this point, if any."""
        if self.config.normalize:
            size = len(text)
            text, lost = repair_mojibake(text)
            if lost > self.config.max_mojibake_share * size:
                return text, "mojibake"
            text, _ = normalize(text)
        if self.config.drop_lines:
            return self._without_lines(text)
        return text, ""

    def _without_lines(self, text: str) -> tuple[str, str]:
        named = vices(text)
        if named >= 2 and named * self.config.vice_spacing > len(text):
            return text, "promotion"
        lines = text.split("\n")
        kept: list[str] = []
        removed = {"promotion": 0, "page_furniture": 0}
        fenced = False
        for line in lines:
            fenced ^= line.lstrip().startswith("```")
            if not line or fenced:
                kept.append(line)
            elif promotional_points(line) >= self.config.promotion_points:
                removed["promotion"] += len(line)
                self.lines.add("promotional_line", line)
            elif len(lines) > 1 and frame_line(line):
                removed["page_furniture"] += len(line)
                self.lines.add("page_furniture_line", line)
            else:
                kept.append(line)
        gone = removed["promotion"] + removed["page_furniture"]
        if not gone:
            return text, ""
        if gone > self.config.max_removed_share * len(text):
            return text, max(removed, key=lambda rule: removed[rule])
        return collapse("\n".join(kept)), ""
