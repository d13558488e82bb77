"""The judge of manners, defined by the grammar of `requests`: what was said, whether it is whole, and in
which tone."""

from __future__ import annotations

import functools
import re

from hanlin.corpus.tinyworld.draw import Draw
from hanlin.corpus.tinyworld.lexicon import KIN, PEOPLE, PLACES, THINGS
from hanlin.corpus.tinyworld.requests import CLOSINGS, MANNERS, OPENINGS, answer, draw_request

_SHORTEST, _LONGEST = 10, 90
_KNOWN_PAIRS = 0.9


def manner(text: str) -> str:
    """ "polite", "impolite", or "neither" for what is empty, cut off, garbled, repeated, mixed in tone or
    without content.

    A text has a manner when it is whole (10 … 90 characters, ends a sentence, repeats no clause), at least
    nine in ten of its character pairs occur in the grammar once names are put aside, it has content besides
    the set phrases, and every sign of tone in it points one way.
    """
    text = text.rpartition("</think>")[2].strip() if "</think>" in text else text.strip()
    if not _SHORTEST <= len(text) <= _LONGEST or text[-1] not in "。！？":
        return "neither"
    clauses = [clause for clause in re.split("[，。！？：]", text) if len(clause) > 3]
    if len(set(clauses)) < len(clauses) or _share_known(text) < _KNOWN_PAIRS:
        return "neither"
    rest = _SET_PHRASE.sub("", text)
    if len(rest) < 5:
        return "neither"
    tones = {name for name in MANNERS if _TONE[name].search(text)}
    return tones.pop() if len(tones) == 1 else "neither"


def _phrases(name: str) -> list[str]:
    return [phrase.rstrip("。！？") for phrase in OPENINGS[name] + CLOSINGS[name]]


# Signs inside the content as well: an answer may lack its opening or its closing, never both.
_SIGNS = {"polite": ["您", "请"], "impolite": ["爱去不去", "没长眼睛", "不就", "烦", "活该", "谁要你谢"]}
_TONE = {
    name: re.compile("|".join(map(re.escape, sorted(_phrases(name) + _SIGNS[name], key=len, reverse=True))))
    for name in MANNERS
}
_SET_PHRASE = re.compile(
    "|".join(re.escape(phrase) + "[。！？]" for name in MANNERS for phrase in _phrases(name))
)
_NAMED = re.compile(
    "|".join(
        sorted([*PEOPLE, *KIN, *(p.name for p in PLACES), *(t.name for t in THINGS)], key=len, reverse=True)
    )
)


def _pairs(text: str) -> list[str]:
    plain = "〇" + re.sub(r"\d+", "0", _NAMED.sub("某", text))
    return [plain[at : at + 2] for at in range(len(plain) - 1)]


@functools.cache
def _grammar_pairs() -> frozenset[str]:
    draw = Draw("manner")
    return frozenset(
        pair for _ in range(6000) for pair in _pairs(answer(draw_request(draw), draw.pick(MANNERS), draw))
    )


def _share_known(text: str) -> float:
    known = _grammar_pairs()
    pairs = _pairs(text)
    return sum(pair in known for pair in pairs) / len(pairs)
