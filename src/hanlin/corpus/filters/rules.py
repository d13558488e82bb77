"""What a document must be like to stay: named rules, their thresholds, and presets of them for kinds of text.

Every rule names the published pipeline that its idea or its threshold comes from. Characters, not segmented
words, are counted throughout, so a threshold published for words is taken over only where it means the same
for characters.

FineWeb-2: huggingface/fineweb-2, configs/cmn_Hani.yml. Matrix: MAP-NEO Matrix, chinese_data_clean_pipeline;
without its three faults (n-grams from 5 on counted as characters, one subtracted from the count of the top
n-gram, full-width punctuation made ASCII). ChineseWebText: CASIA-LM/ChineseWebText, preprocess.py.
Data-Juicer: alpaca-cot-zh-refine. Gopher: arXiv 2112.11446, table A1. CodeParrot: the filters of
codeparrot-clean, also used by The Stack. Here: set by looking at real text.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanlin.common import config as configs
from hanlin.common.errors import ConfigError, HanlinError
from hanlin.common.messages import Text, listing
from hanlin.corpus.filters.signals import Signals


@dataclass(frozen=True)
class CleanConfig:
    """Thresholds of every rule; a document at the threshold is kept. Shares are of characters that are not
    white space.

    Attributes:
        normalize: repair, compose and tidy the text (False hands it on byte for byte).
        simplify: put simplified characters for traditional ones (`simplify.Simplifier`), before any rule
            looks.
        drop_lines: take out promotional lines and page furniture.
        ignore_code: rules look at a text without its code (`clean.outside_code`): an article is judged by
            its prose. What stays is whole.
        disabled: names of rules that drop nothing.
        min_chars, max_chars: length of a document.
        promotion_points: a line with more is promotional (`advertising.promotional_points`).
        vice_spacing: a document that advertises betting and its like (`advertising.vices`) at least twice,
            and every so many characters, goes as a whole.
        max_removed_share: of a document in removed lines; beyond it the document goes.
        max_mojibake_share: of a document in lines beyond repair.
        max_replacement_share: U+FFFD; fewer are removed from the text.
        min_common_share: ideographs among the most common ones; looked at from 8 ideographs on.
        min_han_share: ideographs of all ideographs and letters.
        max_foreign_share: letters of neither Chinese nor Latin script, of the same.
        max_traditional_share: ideographs that only traditional Chinese has, of all ideographs.
        min_alphanumeric_share: letters, digits and ideographs.
        max_digit_share, max_symbol_share, max_number_sign_share, max_bracket_share: digits; symbols (#, ★,
            =, emoji); #; 【】.
        max_ellipsis_share: the characters … and ⋯.
        min_mean_line: characters per line, unless most lines end a sentence, as verse does.
        max_mean_line, max_longest_line: characters.
        min_terminal_share: lines that end in terminal punctuation, unless there are 4 or more of
            `sentence_line` characters on average, as in lists of whole sentences.
        max_bullet_share, max_ellipsis_line_share, max_more_share: lines that begin with a bullet, end in an
            ellipsis, end in 展开, 更多, 下一页 and the like; the second is looked at from 4 lines on.
        max_duplicate_line_share: lines seen before in the same document; looked at from 4 lines on.
        min_punctuation_share: punctuation; looked at from 100 characters on.
        min_entropy: nats per character, for documents long enough to have it (below 200 characters it scales
            with ln n).
        max_top_2gram_share, max_top_3gram_share, max_top_4gram_share: characters in the most frequent n-gram.
        min_repeats: occurrences of that n-gram below which it proves nothing.
        max_duplicate_5gram_share … max_duplicate_10gram_share: n-grams seen before in the same document.
        max_duplicate_share: the same of 13-grams.
        score_model: directory of a trained quality score (`score.Scorer`); "" for none.
        min_score: its probability below which a document that breaks no other rule goes.
    """

    normalize: bool = True
    simplify: bool = False
    drop_lines: bool = True
    ignore_code: bool = True
    disabled: tuple[str, ...] = ()
    min_chars: int = 50
    max_chars: int = 4_000_000
    promotion_points: float = 3.0
    vice_spacing: int = 600
    max_removed_share: float = 0.3
    max_mojibake_share: float = 0.1
    max_replacement_share: float = 0.005
    min_common_share: float = 0.15
    min_han_share: float = 0.3
    max_foreign_share: float = 0.2
    max_traditional_share: float = 1.0
    min_alphanumeric_share: float = 0.1
    max_digit_share: float = 0.3
    max_symbol_share: float = 0.1
    max_number_sign_share: float = 0.1
    max_bracket_share: float = 0.1
    max_ellipsis_share: float = 0.1
    min_mean_line: float = 8.0
    max_mean_line: float = 1e9
    max_longest_line: int = 1 << 62
    min_terminal_share: float = 0.1
    sentence_line: float = 30.0
    max_bullet_share: float = 0.9
    max_ellipsis_line_share: float = 0.3
    max_more_share: float = 0.3
    max_duplicate_line_share: float = 0.287
    min_punctuation_share: float = 0.005
    min_entropy: float = 3.0
    max_top_2gram_share: float = 0.2
    max_top_3gram_share: float = 0.18
    max_top_4gram_share: float = 0.16
    min_repeats: int = 8
    max_duplicate_5gram_share: float = 0.6
    max_duplicate_6gram_share: float = 0.6
    max_duplicate_7gram_share: float = 0.6
    max_duplicate_8gram_share: float = 0.6
    max_duplicate_9gram_share: float = 0.6
    max_duplicate_10gram_share: float = 0.6
    max_duplicate_share: float = 0.5
    score_model: str = ""
    min_score: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if ("share" in name or name == "min_score") and not 0 <= value <= 1:
                raise ConfigError("{name} is {value}, should lie between 0 and 1", name=name, value=value)
            if name.startswith(("min_", "max_", "promotion_", "sentence_")) and value < 0:
                raise ConfigError("{name} is {value}, should be at least 0", name=name, value=value)
        if self.min_chars > self.max_chars:
            raise ConfigError(
                "min_chars {min_chars} is above max_chars {max_chars}",
                min_chars=self.min_chars,
                max_chars=self.max_chars,
            )
        if bool(self.score_model) != (self.min_score > 0):
            raise HanlinError(
                "score_model and a min_score above 0 go together; here they are {score_model!r} and "
                "{min_score:g}. The scorer's report.json has samples at each decile to choose a threshold "
                "by.",
                score_model=self.score_model,
                min_score=self.min_score,
            )
        for name in self.disabled:
            if name not in RULE_NAMES:
                close = difflib.get_close_matches(name, RULE_NAMES, 1)
                hint = Text("there are: {names}", names=listing(RULE_NAMES))
                if close:
                    hint = Text("did you mean {name}?", name=close[0])
                raise ConfigError("disabled: there is no rule {name!r}; {hint}", name=name, hint=hint)


@dataclass(frozen=True)
class Rule:
    """A named reason to drop a document: `broken(signals, config)` is a mask over the batch, (N,) bool.

    Attributes:
        key: the field of `CleanConfig` that holds its threshold.
        source: the published pipeline it follows.
    """

    name: str
    key: str
    source: str
    broken: Callable[[Signals, CleanConfig], np.ndarray]


Extra = Callable[[Signals, CleanConfig], np.ndarray]


def _most(
    name: str, signal: str, source: str, also: Extra | None = None, row: int | None = None, key: str = ""
) -> Rule:
    """At most `max_<signal>` of a signal, or of one row of it; where `also` is given, it must hold too for a
    document to go."""
    key = key or f"max_{signal}"

    def broken(signals: Signals, config: CleanConfig) -> np.ndarray:
        values = getattr(signals, signal)
        above = (values if row is None else values[row]) > getattr(config, key)
        return above & also(signals, config) if also else above

    return Rule(name, key, source, broken)


def _least(name: str, signal: str, source: str, also: Extra | None = None) -> Rule:
    """At least `min_<signal>` of a signal."""
    key = f"min_{signal}"

    def broken(signals: Signals, config: CleanConfig) -> np.ndarray:
        below = getattr(signals, signal) < getattr(config, key)
        return below & also(signals, config) if also else below

    return Rule(name, key, source, broken)


def _top(n: int) -> Rule:
    def enough(signals: Signals, config: CleanConfig) -> np.ndarray:
        return signals.top_count[n - 2] >= config.min_repeats

    return _most(f"repeated_{n}gram", "top_share", "Matrix; Gopher", enough, n - 2, f"max_top_{n}gram_share")


def _duplicates(n: int) -> Rule:
    return _most(
        f"duplicate_{n}gram",
        "duplicate_ngram_share",
        "Matrix; FineWeb-2",
        None,
        n - 5,
        f"max_duplicate_{n}gram_share",
    )


def _low_entropy(signals: Signals, config: CleanConfig) -> np.ndarray:
    reachable = np.minimum(1.0, np.log(np.maximum(signals.chars, 1)) / np.log(200))
    return signals.entropy < config.min_entropy * reachable


# In this order: the first rule a document breaks is the one it is counted under.
RULES: tuple[Rule, ...] = (
    _least("too_short", "chars", "Matrix"),
    _most("too_long", "chars", "Matrix"),
    _most("replacement_characters", "replacement_share", "here"),
    _least("uncommon_han", "common_share", "here", lambda s, c: s.han >= 8),
    _least("han_share", "han_share", "ChineseWebText"),
    _most("foreign_script", "foreign_share", "here, in place of language identification"),
    _most("traditional", "traditional_share", "ChineseWebText, which allows none"),
    _least("alphanumeric_share", "alphanumeric_share", "Data-Juicer"),
    _most("digit_share", "digit_share", "Matrix"),
    _most("symbol_share", "symbol_share", "Matrix; Gopher"),
    _most("number_signs", "number_sign_share", "Matrix; Gopher"),
    _most("bracket_share", "bracket_share", "Matrix"),
    _most("ellipses", "ellipsis_share", "Matrix; Gopher"),
    _least("short_lines", "mean_line", "ChineseWebText", lambda s, c: s.terminal_share < 0.5),
    _most("long_lines", "mean_line", "CodeParrot"),
    _most("longest_line", "longest_line", "CodeParrot"),
    _least(
        "terminal_punctuation",
        "terminal_share",
        "FineWeb-2; here for lists of sentences",
        lambda s, c: (s.lines < 4) | (s.mean_line < c.sentence_line),
    ),
    _most("bullets", "bullet_share", "Matrix; Gopher"),
    _most("ellipsis_lines", "ellipsis_line_share", "Matrix; Gopher", lambda s, c: s.lines >= 4),
    _most("more_lines", "more_share", "Matrix"),
    _most("duplicate_lines", "duplicate_line_share", "FineWeb-2", lambda s, c: s.lines >= 4),
    _least("no_punctuation", "punctuation_share", "Matrix", lambda s, c: s.chars >= 100),
    Rule("low_entropy", "min_entropy", "Matrix", _low_entropy),
    *(_top(n) for n in (2, 3, 4)),
    *(_duplicates(n) for n in range(5, 11)),
    _most("repeated_13gram", "duplicate_share", "ChineseWebText"),
)
# Those that look at the text itself, before its signals are measured.
TEXT_RULES = ("mojibake", "promotion", "page_furniture")
SCORE_RULE = "quality_score"  # last: only documents that break no other rule are scored
RULE_NAMES = (*TEXT_RULES, *(rule.name for rule in RULES), SCORE_RULE)


def verdicts(signals: Signals, config: CleanConfig) -> np.ndarray:
    """For each document the index in `RULES` of the first rule it breaks, -1 if none; (N,) int64."""
    result = np.full(len(signals.chars), -1)
    for number, rule in enumerate(RULES):
        if rule.name not in config.disabled:
            result[(result < 0) & rule.broken(signals, config)] = number
    return result


_NO_REPEATS: dict[str, Any] = {f"max_duplicate_{n}gram_share": 1.0 for n in range(5, 11)}
_OPEN = CleanConfig(
    normalize=False, drop_lines=False, ignore_code=False, disabled=TEXT_RULES, min_chars=0, max_chars=1 << 62,
    max_mojibake_share=1, max_replacement_share=1, min_common_share=0, min_han_share=0, max_foreign_share=1,
    min_alphanumeric_share=0, max_digit_share=1, max_symbol_share=1, max_number_sign_share=1,
    max_bracket_share=1, max_ellipsis_share=1, min_mean_line=0, min_terminal_share=0, max_bullet_share=1,
    max_ellipsis_line_share=1, max_more_share=1, max_duplicate_line_share=1, min_punctuation_share=0,
    min_entropy=0, max_top_2gram_share=1, max_top_3gram_share=1, max_top_4gram_share=1, max_duplicate_share=1,
    **_NO_REPEATS,
)  # fmt: skip
PRESETS: dict[str, CleanConfig] = {
    "zh-web": CleanConfig(),
    # Short documents (stories, sayings, reviews, questions, sums) are repetitive and terse by nature.
    "zh-short": CleanConfig(
        min_chars=8, min_han_share=0.1, max_digit_share=0.8, max_symbol_share=0.3, min_mean_line=3.0,
        min_terminal_share=0.0, min_entropy=2.0, max_ellipsis_share=0.3, max_ellipsis_line_share=0.6,
        max_top_2gram_share=0.4, max_top_3gram_share=0.4, max_top_4gram_share=0.4,
        max_duplicate_line_share=0.6, max_duplicate_share=0.6, **_NO_REPEATS,
    ),
    # Long texts: verse and drama have short lines, classical prose few punctuation marks, any refrain
    # repeats; nothing is sold.
    "books": CleanConfig(
        min_chars=200, max_chars=1 << 62, promotion_points=4.0, min_common_share=0.1, min_han_share=0.5,
        min_mean_line=2.0, min_terminal_share=0.0, min_punctuation_share=0.0, max_duplicate_line_share=0.5,
    ),
    # Programs and their documentation, with or without Chinese comments.
    "code": CleanConfig(
        drop_lines=False, ignore_code=False, min_chars=20, max_chars=1_000_000, min_common_share=0.0,
        min_han_share=0.0, min_alphanumeric_share=0.25, max_digit_share=0.5, max_symbol_share=0.5,
        max_number_sign_share=0.5, min_mean_line=0.0, max_mean_line=100.0, max_longest_line=1000,
        min_terminal_share=0.0, max_bullet_share=1.0, max_duplicate_line_share=0.6, min_punctuation_share=0.0,
        min_entropy=2.5, max_duplicate_share=0.6, **_NO_REPEATS,
    ),
    # Turns of speech: short, many lines, formulas that come again.
    "dialogue": CleanConfig(
        min_chars=4, min_han_share=0.2, max_digit_share=0.6, max_symbol_share=0.3, max_ellipsis_share=0.3,
        min_mean_line=2.0, min_terminal_share=0.0, max_bullet_share=1.0, max_ellipsis_line_share=0.6,
        max_duplicate_line_share=0.5, min_punctuation_share=0.0, min_entropy=1.0, max_top_2gram_share=0.4,
        max_top_3gram_share=0.4, max_top_4gram_share=0.4, max_duplicate_share=0.6, **_NO_REPEATS,
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
            "No cleaning preset {name!r}. Available: {presets}.", name=name, presets=listing(PRESETS)
        )
    return configs.build(
        CleanConfig, dataclasses.asdict(PRESETS[name]) | dict(rules or {}), f"clean preset {name}"
    )
