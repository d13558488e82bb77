"""Requests for a story, the stories that grant them, and the judge of whether a text is such a story."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from hanlin.corpus.tinyworld.draw import Draw, check_split
from hanlin.corpus.tinyworld.lexicon import PEOPLE, PLACES
from hanlin.corpus.tinyworld.telling import tell
from hanlin.corpus.tinyworld.world import Story, plan, replay

LONGEST_TOLD = 105  # characters: a story fits an answer
_KNOWN_PAIRS = 0.9

_PLAIN = (
    "讲一个故事。",
    "给我讲个故事吧。",
    "讲个小故事。",
    "请讲一个故事。",
    "我想听故事。",
    "能讲个故事吗？",
    "再讲一个故事吧。",
    "讲一个短故事。",
)
_ABOUT = (
    "讲一个{0}的故事。", "给我讲个{0}的故事吧。", "讲一个关于{0}的故事。", "我想听{0}的故事。",
    "请讲一个和{0}有关的故事。", "你知道{0}的故事吗？",
)  # fmt: skip


def story_requests(seed: int, count: int, split: str, start: int = 0) -> Iterator[dict[str, Any]]:
    """Requests for a story: any, one about somebody, one that takes place somewhere.

    Yields:
        {"messages": [user, assistant], "about": what the story must name or "", "kind": "tell", "id"}.
    """
    check_split(split)
    for index in range(start, start + count):
        draw = Draw(seed, split, "story_requests", index)
        story, text = _short_story(draw, split)
        wanted = draw.random()
        if wanted < 0.3:
            about, asked = "", draw.pick(_PLAIN)
        elif wanted < 0.7:
            about = story.people[0]
            asked = draw.pick(_ABOUT).format(about)
        else:
            about = next(iter(replay(story.events[:2]).place.values()))
            asked = draw.pick(_ABOUT).format(draw.pick((about, f"在{about}")))
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": text}]
        yield {
            "messages": messages,
            "about": about,
            "kind": "tell",
            "id": f"story_requests/{split}/{seed}/{index}",
        }


def _short_story(draw: Draw, split: str) -> tuple[Story, str]:
    while True:
        story = draw.in_split(lambda d: plan(d, 4, 5), split, Story.structure)
        text = tell(story, draw)
        if len(text) <= LONGEST_TOLD and is_story({"about": ""}, text):
            return story, text


def is_story(record: dict[str, Any], text: str) -> bool:
    """Whether `text` is a whole story about what was asked for.

    It has 25 … 160 characters, ends a sentence, repeats no clause, names somebody of the world and what was
    asked for, and at least nine in ten of its character pairs occur in told stories.
    """
    said = text.rpartition("</think>")[2].strip()
    if not 25 <= len(said) <= 160 or said[-1] not in "。！”":
        return False
    clauses = [clause for clause in re.split("[，。！：“”]", said) if len(clause) > 5]
    named = [who for who in PEOPLE if who in said]
    known = _story_pairs()
    pairs = _pairs(said)
    told = sum(pair in known for pair in pairs) / len(pairs) >= _KNOWN_PAIRS
    return told and bool(named) and record["about"] in said and len(set(clauses)) == len(clauses)


_NAMED = re.compile("|".join(sorted([*PEOPLE, *(place.name for place in PLACES)], key=len, reverse=True)))


def _pairs(text: str) -> list[str]:
    plain = "〇" + _NAMED.sub("某", text)
    return [plain[at : at + 2] for at in range(len(plain) - 1)]


@functools.cache
def _story_pairs() -> frozenset[str]:
    draw = Draw("storytime")
    return frozenset(pair for _ in range(4000) for pair in _pairs(tell(plan(draw, 3, 8), draw)))
