"""Pretraining documents: the mixture of kinds, each document a function of (seed, split, index) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hanlin.corpus.tinyworld.arithmetic import Problem, draw_problem, sums, word_problem
from hanlin.corpus.tinyworld.dirt import Dirt, spoil
from hanlin.corpus.tinyworld.draw import Draw, check_split
from hanlin.corpus.tinyworld.lexicon import CHILDREN, PRONOUN
from hanlin.corpus.tinyworld.prose import converse, describe, draw_description, draw_dialogue
from hanlin.corpus.tinyworld.questions import ask
from hanlin.corpus.tinyworld.requests import MANNERS, Request, answer, draw_request, word_request
from hanlin.corpus.tinyworld.telling import tell
from hanlin.corpus.tinyworld.world import Story, plan


def documents(
    seed: int, count: int, split: str = "train", start: int = 0, dirt: Dirt | None = None
) -> Iterator[dict[str, Any]]:
    """Documents `start` … `start + count - 1` of the corpus.

    Args:
        dirt: what to spoil and how often; document i is either the clean document i or a dirty record in its
            place.

    Yields:
        {"text", "source": "tinyworld/<kind>", "id"}; a dirty record also has "dirt", its kind, and a
        duplicate "original", the id of what it repeats (an earlier document of the same seed and split).
    """
    check_split(split)

    def clean(index: int) -> dict[str, Any]:
        return _document(seed, split, index)

    for index in range(start, start + count):
        yield clean(index) if dirt is None else spoil(dirt, seed, split, index, clean)


def _document(seed: int, split: str, index: int) -> dict[str, Any]:
    draw = Draw(seed, split, "documents", index)
    kind = draw.weighted(MIXTURE)
    return {
        "text": _MAKERS[kind](draw, split),
        "source": f"tinyworld/{kind}",
        "id": f"documents/{split}/{seed}/{index}",
    }


MIXTURE = (
    (0.12, "story"),
    (0.50, "questions"),
    (0.06, "description"),
    (0.06, "dialogue"),
    (0.12, "problem"),
    (0.05, "sums"),
    (0.09, "manner"),
)


def _story(draw: Draw, split: str) -> str:
    return tell(draw.in_split(lambda d: plan(d, 5, 8), split, Story.structure), draw)


def _questions(draw: Draw, split: str) -> str:
    story = draw.in_split(lambda d: plan(d, 3, 7), split, Story.structure)
    text = tell(story, draw, ending=False)
    layout = draw.pick(_LAYOUTS)
    asked: list[str] = []
    for _ in range(draw.between(1, 5)):
        question = ask(story, draw)
        if question.answer not in asked:
            asked.append(question.answer)
            text += layout.format(question.text, question.answer)
    return text


_LAYOUTS = ("\n问：{0}\n答：{1}", "\n问：{0}答：{1}", "\n问题：{0}\n回答：{1}", "\n{0}\n{1}")


def _description(draw: Draw, split: str) -> str:
    return describe(draw.in_split(draw_description, split, _itself), draw)


def _dialogue(draw: Draw, split: str) -> str:
    return converse(draw.in_split(draw_dialogue, split, _itself), draw)


def _itself(facts: Any) -> Any:
    return facts


def _problem(draw: Draw, split: str) -> str:
    problem = draw.in_split(draw_problem, split, Problem.structure)
    asked, steps = word_problem(problem, draw), problem.reasoning()
    kind = draw.random()
    if kind < 0.4:
        return f"问：{asked}\n{steps}\n答：答案是{problem.answer}。"
    if kind < 0.7:
        return f"{asked}\n{steps}\n答案是{problem.answer}。"
    first, *rest = steps.split("\n")
    return f"{asked}先算{first}，{'，'.join('再算' + line for line in rest)}。答案是{problem.answer}。"


def _sums(draw: Draw, split: str) -> str:
    who = draw.pick(CHILDREN)
    begin = draw.pick((f"{who}做算术：", f"{who}算得又快又对：", f"老师出题，{who}回答：", ""))
    between = draw.pick(("，", "；", "\n"))
    if between == "\n" and begin:
        begin += "\n"
    return begin + between.join(sums(draw, draw.between(5, 10))) + ("" if between == "\n" else "。")


_TONES = {
    "polite": ("有礼貌地说", "笑着说", "客气地回答"),
    "impolite": ("没好气地说", "不耐烦地说", "头也不抬地说"),
}
_AFTER = {
    "polite": ("{0}很感谢{1}。", "{0}觉得{1}很有礼貌。", "{0}说：“太谢谢了！”"),
    "impolite": ("{0}听了很难过。", "{0}觉得{1}没有礼貌。", "{0}不想再问{2}了。"),
}


def _manner(draw: Draw, split: str) -> str:
    request = draw.in_split(draw_request, split, Request.structure)
    asked, tone = word_request(request, draw), draw.pick(MANNERS)
    who, other = draw.some(CHILDREN, 2)
    if draw.chance(0.5):
        second = draw.in_split(draw_request, split, Request.structure)
        return (
            f"问：{asked}\n答：{answer(request, tone, draw)}\n问：{word_request(second, draw)}\n"
            f"答：{answer(second, tone, draw)}"
        )
    said = f"{who}问：“{asked}”{other}{draw.pick(_TONES[tone])}：“{answer(request, tone, draw)}”"
    return said + draw.pick(_AFTER[tone]).format(who, other, PRONOUN[other])


_MAKERS: dict[str, Callable[[Draw, str], str]] = {
    "story": _story,
    "questions": _questions,
    "description": _description,
    "dialogue": _dialogue,
    "problem": _problem,
    "sums": _sums,
    "manner": _manner,
}
