"""Questions with choices where the user brings none: those about unseen stories of the embedded tinyworld."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.corpus import tinyworld
from hanlin.evaluation.benchmarks.items import Item

_WRONG = 3  # answers beside the right one
_DRAWN = 6  # records for each item: not every question has a word to put in another's place


def tinyworld_items(seed: int, count: int) -> list[Item]:
    """Held-out story questions with four answers: the right one, and the same sentence with other words of
    its kind, those of the story first, so that what is right cannot be told without reading."""
    records = [
        record
        for record in tinyworld.story_questions(seed, _DRAWN * count, "heldout")
        if record["messages"][-1]["content"].count(record["answer"]) == 1 and record["kind"] != "yes_no"
    ]
    words: dict[str, list[str]] = {}
    for record in records:
        known = words.setdefault(record["kind"], [])
        if record["answer"] not in known:
            known.append(record["answer"])
    made = (_item(record, words[record["kind"]], random.Random(record["id"])) for record in records)
    return [item for item in made if item is not None][:count]


def _item(record: Mapping[str, Any], words: Sequence[str], rng: random.Random) -> Item | None:
    """A record as an item; None where its kind has too few words."""
    story, _, question = record["messages"][0]["content"].rpartition("\n")
    right, said = record["answer"], record["messages"][-1]["content"]
    others = [word for word in words if word not in right and right not in word]
    near = [word for word in others if word in story]
    far = [word for word in others if word not in story]
    wrong = [*rng.sample(near, len(near)), *rng.sample(far, len(far))][:_WRONG]
    if len(wrong) < _WRONG:
        return None
    choices = [right, *wrong]
    rng.shuffle(choices)
    return Item(
        id=record["id"],
        question=question.removeprefix("问题：").removeprefix("请问："),
        choices=tuple(said.replace(right, word) for word in choices),
        gold=choices.index(right),
        passage=story,
    )
