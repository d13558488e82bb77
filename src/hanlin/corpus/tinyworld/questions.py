"""Questions about a story, their answers from the replayed state, and the exact judge of an answer."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from hanlin.corpus.tinyworld.draw import Draw, check_split
from hanlin.corpus.tinyworld.lexicon import (
    COLOURS,
    EATEN,
    KIN,
    NUMERALS,
    PEOPLE,
    PLACES,
    SPOTS,
    THING,
    THINGS,
    WEEKDAYS,
)
from hanlin.corpus.tinyworld.telling import tell
from hanlin.corpus.tinyworld.world import Event, Item, State, Story, plan, replay

LONGEST_STORY = (
    110  # characters; keeps story, question and answer within a 128-token row at 1.7 characters a token
)


class Question(NamedTuple):
    """A question with its answer sentence; `key` is the word the answer turns on."""

    kind: str
    text: str
    answer: str
    key: str

    @property
    def canonical(self) -> str:
        """The answer in short: the key, or 是 / 不是 for a yes-no question."""
        return ("是" if self.answer.startswith("是") else "不是") if self.kind == "yes_no" else self.key


def story_questions(seed: int, count: int, split: str, start: int = 0) -> Iterator[dict[str, Any]]:
    """Conversations asking one question about a short story.

    Yields:
        {"messages": [user, assistant], "answer": canonical, "kind", "id"}.
    """
    check_split(split)
    for index in range(start, start + count):
        _, text, question, between = story_question(seed, split, index)
        messages = [
            {"role": "user", "content": text + between + question.text},
            {"role": "assistant", "content": question.answer},
        ]
        yield {
            "messages": messages,
            "answer": question.canonical,
            "kind": question.kind,
            "id": f"story_questions/{split}/{seed}/{index}",
        }


def story_question(seed: int, split: str, index: int) -> tuple[Story, str, Question, str]:
    """The structure behind one record: the story, its wording, the question, and what stands between them."""
    draw = Draw(seed, split, "story_questions", index)
    while True:
        story = draw.in_split(_short_plan, split, Story.structure)
        text = tell(story, draw, ending=False)
        if len(text) <= LONGEST_STORY:
            return story, text, ask(story, draw), draw.pick(("\n", "\n", "\n问题：", "\n请问："))


def check_story_answer(record: dict[str, Any], text: str) -> bool:
    """Whether `text` answers: the right key, no other entity, the right polarity, in the roles of the
    reference answer.

    The entities named must be those of the reference answer in their order, or the key alone (yes-no
    questions need the whole); a negation that the reference lacks, an unfinished <think>, or rambling fails.
    """
    if "<think>" in text and "</think>" not in text:
        return False
    said = significant_characters(text.rpartition("</think>")[2])
    reference = significant_characters(record["messages"][-1]["content"])
    if not said or len(said) > len(reference) + 8:
        return False
    if (_polarity(said), _negations(said)) != (_polarity(reference), _negations(reference)):
        return False
    entities, expected = entities_in(said), entities_in(reference)
    return entities == expected or (record["kind"] != "yes_no" and entities == [record["answer"]])


def entities_in(text: str) -> list[str]:
    """The people, places, things, spots, colours, activities and head counts a text names, in order."""
    return _ENTITY.findall(text)


_WORDS = {*PEOPLE, *KIN, *COLOURS, *SPOTS, *WEEKDAYS, *(t.name for t in THINGS), *(p.name for p in PLACES)}
_WORDS |= {activity for place in PLACES for activity in place.activities} | {
    f"{number}个人" for number in NUMERALS
}
_ENTITY = re.compile("|".join(sorted(_WORDS, key=len, reverse=True)))


def significant_characters(text: str, kinds: str = "LN") -> str:
    """The characters of these Unicode categories (letters and numbers), NFKC: what answers are compared
    by."""
    return "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c)[0] in kinds)


def _polarity(text: str) -> str:
    return "是" if text.startswith(("是的", "对")) else "不" if text.startswith(("不", "没")) else ""


def _negations(text: str) -> int:
    return text.count("不") + text.count("没")


def ask(story: Story, draw: Draw) -> Question:
    """One question about the story that its events answer."""
    options = _askable(story, replay(story.events))
    weights = {kind: _WEIGHT[kind] for kind in {option[0] for option in options}}
    kind = draw.weighted([(weights[kind], kind) for kind in _WEIGHT if kind in weights])
    fact = draw.pick([option for option in options if option[0] == kind])
    return _word(fact, draw)


_WEIGHT = {
    "where": 16.0,
    "who_has": 16.0,
    "what_has": 13.0,
    "where_object": 12.0,
    "object_place": 6.0,
    "holder_place": 5.0,
    "who_gave": 9.0,
    "what_given": 6.0,
    "who_met": 6.0,
    "bought": 6.0,
    "colour": 7.0,
    "doing": 5.0,
    "ate": 5.0,
    "yes_no": 5.0,
    "count_people": 2.0,
    "when": 6.0,
}


def _askable(story: Story, state: State) -> list[tuple[Any, ...]]:
    """Every fact with exactly one answer, as (kind, question subject …, key)."""
    return (
        _of_state(story, state)
        + _of_events(story.events)
        + ([("when", story.weekday)] if story.weekday else [])
    )


def _of_state(story: Story, state: State) -> list[tuple[Any, ...]]:
    facts: list[tuple[Any, ...]] = []
    places = sorted(set(state.place.values()) | {e[2] for e in story.events if e[0] in ("go", "be", "come")})
    for who, place in state.place.items():
        facts.append(("where", who, place))
        facts.append(("yes_no", who, place, place))
        facts.extend(("yes_no", who, other, place) for other in places if other != place)
    heads = list(state.place.values())
    facts.extend(
        ("count_people", place, f"{NUMERALS[heads.count(place)]}个人") for place in sorted(set(heads))
    )
    for who, held in state.held.items():
        if len(held) == 1:
            facts.append(("what_has", who, held[0][0]))
        for name, _ in held:
            facts.append(("who_has", name, who))
            facts.append(("object_place", name, state.place[who]))
            facts.append(("holder_place", name, who, state.place[who]))
    facts.extend(("where_object", name, spot) for (name, _), (spot, _) in state.spot.items())
    return facts


def _of_events(events: tuple[Event, ...]) -> list[tuple[Any, ...]]:
    facts: list[tuple[Any, ...]] = []
    holders: dict[Item, list[str]] = {}  # everyone who has held a thing so far
    several: dict[
        tuple[str, ...], list[tuple[Any, ...]]
    ] = {}  # what must be the only one of its sort to be asked
    for event in events:
        verb, who = event[0], event[1]
        if verb in ("give", "handed"):
            giver, taker = (who, event[2]) if verb == "give" else (event[2], who)
            name, returned = event[3][0], taker in holders.get(event[3], ())
            several.setdefault(("who_gave", name, taker), []).append((name, taker, "" if returned else giver))
            several.setdefault(("what_given", giver, taker), []).append(
                (giver, taker, "" if returned else name)
            )
        elif verb == "meet":
            several.setdefault(("who_met", who), []).append((who, event[2]))
        elif verb == "buy":
            several.setdefault(("bought", who), []).append((who, event[2][0]))
        elif verb == "eat":
            facts.append(("ate", event[2][0], who))
        elif verb in ("go", "be") and event[3]:
            several.setdefault(("doing", who, event[2]), []).append((who, event[2], event[3]))
        for item in event[2:]:
            if isinstance(item, tuple):
                if item not in holders and item[1]:
                    facts.append(("colour", *item))
                holders.setdefault(item, []).append(event[2] if verb == "give" else who)
    doing = Counter(
        (e[1], replay(events[: at + 1]).place[e[1]]) for at, e in enumerate(events) if e[0] == "share"
    )
    doing.update(
        (e[2], replay(events[: at + 1]).place[e[1]]) for at, e in enumerate(events) if e[0] == "share"
    )
    for (kind, *_), found in several.items():
        if len(set(found)) == 1 and found[0][-1] and not (kind == "doing" and doing[found[0][:2]]):
            facts.append((kind, *found[0]))
    return facts


def _word(fact: tuple[Any, ...], draw: Draw) -> Question:
    kind, key = fact[0], fact[-1]
    if kind == "yes_no":
        _, who, place, key = fact
        return Question(
            kind,
            f"{who}{draw.pick(('在', '现在在'))}{place}吗？",
            f"{'是的' if place == key else '不'}，{who}在{key}。",
            key,
        )
    if kind == "ate":
        verb = EATEN[THING[fact[1]].category]
        return Question(kind, f"谁{verb}了{fact[1]}？", f"{key}{verb}了{fact[1]}。", key)
    questions, answer = _WORDING[kind]
    return Question(kind, draw.pick(questions).format(*fact[1:]), answer.format(*fact[1:]), key)


_WORDING: dict[str, tuple[tuple[str, ...], str]] = {
    "where": (("{0}在哪里？", "{0}现在在哪里？", "现在{0}在哪里？"), "{0}在{1}。"),
    "who_has": (("{0}在谁手里？", "谁拿着{0}？", "现在{0}在谁手里？"), "{0}在{1}手里。"),
    "what_has": (("{0}手里有什么？", "{0}拿着什么？", "{0}现在拿着什么？"), "{0}拿着{1}。"),
    "where_object": (("{0}放在哪里？", "{0}放在什么地方？"), "{0}放在{1}。"),
    "object_place": (("{0}现在在哪个地方？", "{0}被带到了哪里？"), "{0}在{1}。"),
    "holder_place": (("拿着{0}的人在哪里？", "拿着{0}的人现在在哪里？"), "{1}在{2}。"),
    "who_gave": (("{0}是谁给{1}的？", "谁把{0}给了{1}？"), "{0}是{2}给{1}的。"),
    "what_given": (("{0}给了{1}什么？", "{0}把什么给了{1}？"), "{0}给了{1}{2}。"),
    "who_met": (("{0}遇见了谁？", "{0}遇到了谁？"), "{0}遇见了{1}。"),
    "bought": (("{0}买了什么？", "{0}买的是什么？"), "{0}买了{1}。"),
    "colour": (("{0}是什么颜色的？", "{0}是什么颜色？"), "{0}是{1}的。"),
    "doing": (("{0}在{1}做什么？", "{0}在{1}干什么？"), "{0}在{2}。"),
    "count_people": (("{0}有几个人？", "现在{0}有几个人？"), "{0}有{1}。"),
    "when": (("这是周几的事？", "故事发生在周几？"), "是{0}。"),
}


def _short_plan(draw: Draw) -> Story:
    return plan(draw, 3, 6)
