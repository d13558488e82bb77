"""Cleaning: repair and normalisation, then line rules (promotion, page furniture), then the document rules of
`rules.py`, then a trained score.

The core looks at whole batches first; Python works only on the texts and lines that it found a reason for.
Every document and line that goes is counted under the name of its rule, and samples of them are kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from hanlin.corpus.filters.advertising import (
    FRAME,
    PROMOTIONAL,
    VICE,
    frame_line,
    promotional_points,
    suspicious,
    vices,
)
from hanlin.corpus.filters.quality import Scorer
from hanlin.corpus.filters.rules import RULES, SCORE_RULE, CleanConfig, verdicts
from hanlin.corpus.filters.signals import main_scripts, measure
from hanlin.corpus.filters.stats import Drops
from hanlin.corpus.readers.schema_types import Document
from hanlin.corpus.text.characters import with_core
from hanlin.corpus.text.normalize import collapse, needs_normalization, repair_and_normalize
from hanlin.corpus.text.script_conversion import Simplifier

LINE_RULES = ("promotional_line", "page_furniture_line")
# what code and underlines cannot do without, but for a fence at the very beginning
_MARKED = re.compile(r"\n(?: {4}|\t|==|--| {0,3}```|\|)")
_CODE = re.compile(r"(?: {4}|\t)[^\u3400-\u9fff]*|[-=*_~+|: ]{3,}")
_SIGNS = frozenset("\t -=*_~+|:")  # what such a line begins with


class Cleaner:
    """Applies a `CleanConfig` to batches and remembers what it dropped, in `drops` (documents) and `lines`.

    Raises:
        HanlinError: `score_model` is no scorer or is damaged; OpenCC, which `simplify` needs, is not
            installed.
    """

    def __init__(self, config: CleanConfig, drops: Drops | None = None, lines: Drops | None = None) -> None:
        self.config = config
        self.drops = drops or Drops()
        self.lines = lines or Drops()
        self._suspicious = suspicious(config.promotion_points)
        self._simplify = Simplifier() if config.simplify else None
        self._scorer = (
            Scorer.load(config.score_model)
            if config.score_model and SCORE_RULE not in config.disabled
            else None
        )

    def __call__(self, batch: Sequence[Document]) -> list[Document | None]:
        """Cleaned documents in the order given, None where one is dropped; keys other than `text` are
        kept."""
        return self.with_scripts(batch)[0]

    def with_scripts(self, batch: Sequence[Document]) -> tuple[list[Document | None], list[str]]:
        """The same, and each document's main script (`signals.SCRIPTS`), "" where it was dropped
        unmeasured."""
        scripts = [""] * len(batch)
        if not batch:
            return [], scripts
        texts = [document["text"] for document in batch]
        broken = [""] * len(batch)  # the rule each text breaks
        if self.config.normalize:
            self._normalize(texts, broken)
        if self._simplify:
            texts = [text if rule else self._simplify(text) for text, rule in zip(texts, broken, strict=True)]
        if self.config.drop_lines:
            self._drop_lines(texts, batch, broken)
        kept = [index for index, rule in enumerate(broken) if not rule]
        if kept:
            judged = [texts[index] for index in kept]
            signals = measure([*map(outside_code, judged)] if self.config.ignore_code else judged)
            for index, number, script in zip(
                kept, verdicts(signals, self.config).tolist(), main_scripts(signals), strict=True
            ):
                broken[index] = RULES[number].name if number >= 0 else ""
                scripts[index] = script
        scores = self._score(texts, broken) if self._scorer else {}
        return [
            self._result(document, texts[index], broken[index], scores.get(index))
            for index, document in enumerate(batch)
        ], scripts

    def _score(self, texts: list[str], broken: list[str]) -> dict[int, float]:
        """Break the rule where the trained score is too low; those scores by index. A text too short to have
        one is kept."""
        assert self._scorer
        kept = [index for index, rule in enumerate(broken) if not rule]
        scores = self._scorer([texts[index] for index in kept])
        low = {
            index: round(score, 4)
            for index, score in zip(kept, scores.tolist(), strict=True)
            if score < self.config.min_score
        }
        for index in low:
            broken[index] = SCORE_RULE
        return low

    def _result(self, document: Document, text: str, rule: str, score: float | None) -> Document | None:
        if rule:
            about = {} if score is None else {"score": score}
            self.drops.add(rule, document["text"], source=document.get("source", ""), **about)
            return None
        kept: Any = dict(document)
        kept["text"] = text.replace("\ufffd", "") if self.config.normalize else text
        return kept

    def _break(self, broken: list[str], index: int, rule: str) -> None:
        if rule not in self.config.disabled:
            broken[index] = rule

    def _normalize(self, texts: list[str], broken: list[str]) -> None:
        reasons = needs_normalization(texts)
        for index in np.flatnonzero(reasons).tolist():
            size = len(texts[index])
            texts[index], lost = repair_and_normalize(texts[index], int(reasons[index]))
            if lost > self.config.max_mojibake_share * size:
                self._break(broken, index, "mojibake")

    def _drop_lines(self, texts: list[str], batch: Sequence[Document], broken: list[str]) -> None:
        """Take suspicious lines out of texts where a closer look confirms the suspicion."""
        documents, numbers, groups = with_core(self._suspicious.find, texts)
        bounds = np.searchsorted(documents, np.arange(len(texts) + 1))
        for index in np.unique(documents).tolist():
            if broken[index]:
                continue
            members = slice(bounds[index], bounds[index + 1])
            suspects = dict(zip(numbers[members].tolist(), groups[members].tolist(), strict=True))
            texts[index], rule = self._without_lines(texts[index], suspects, batch[index].get("source", ""))
            if rule:
                self._break(broken, index, rule)

    def _without_lines(self, text: str, suspects: dict[int, int], source: str) -> tuple[str, str]:
        """The text without its promotional lines and page furniture, and the rule that drops it for them, if
        any.

        Args:
            suspects: by number of line what it could be (`advertising.suspicious`).
        """
        if "promotion" not in self.config.disabled and any(groups & VICE for groups in suspects.values()):
            named = vices(text)
            if named >= 2 and named * self.config.vice_spacing > len(text):
                return text, "promotion"
        lines = text.split("\n")
        removed: dict[int, str] = {}
        for number, groups in suspects.items():
            line = lines[number]
            if (
                groups & PROMOTIONAL
                and promotional_points(line, bool(groups & VICE)) >= self.config.promotion_points
            ):
                removed[number] = "promotion"
            elif groups & FRAME and len(lines) > 1 and frame_line(line):
                removed[number] = "page_furniture"
        if removed and "```" in text:
            for number in fenced_lines(lines):
                removed.pop(number, None)
        if not removed:
            return text, ""
        gone = Counter[str]()
        for number, rule in removed.items():
            self.lines.add(
                "promotional_line" if rule == "promotion" else "page_furniture_line",
                lines[number],
                source=source,
            )
            gone[rule] += len(lines[number])
        rule = ""
        if gone.total() > self.config.max_removed_share * len(text):
            rule = "promotion" if gone["promotion"] >= gone["page_furniture"] else "page_furniture"
        return collapse("\n".join(line for number, line in enumerate(lines) if number not in removed)), rule


def outside_code(text: str) -> str:
    """A text without what is no prose in Markdown: fenced code, indented lines without a Chinese character,
    lines of signs (underlines)."""
    if not (_MARKED.search(text) or text.startswith("```")):
        return text
    lines = text.split("\n")
    fenced = fenced_lines(lines) if "```" in text else ()
    return "\n".join(
        line
        for number, line in enumerate(lines)
        if number not in fenced and not (line[:1] in _SIGNS and _CODE.fullmatch(line))
    )


def fenced_lines(lines: list[str]) -> set[int]:
    """Numbers of the lines of code fences, from the opening to the closing one; one that is not closed
    encloses nothing."""
    result = set[int]()
    opening = -1
    for number, line in enumerate(lines):
        if "```" in line and line.lstrip().startswith("```"):
            if opening >= 0:
                result.update(range(opening, number + 1))
            opening = -1 if opening >= 0 else number
    return result
