"""Counting and arithmetic: small sums, word problems of three to five steps, and the judge that reads the final number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from .draw import Draw, check_split
from .lexicon import CHILDREN, KIN, PLACES, PRONOUN, TIMES, words

LARGEST = 50
_FEWEST, _MOST = 3, 5


class Problem(NamedTuple):
    """A start and signed steps; every running total lies in 1 … 50."""

    start: int
    steps: tuple[int, ...]

    def structure(self) -> Any:
        """What decides the split: the operands."""
        return ("problem", self.start, self.steps)

    @property
    def answer(self) -> int:
        return self.start + sum(self.steps)

    def reasoning(self) -> str:
        """One line a step, each a fact of one table: `17-8=9`."""
        lines, total = [], self.start
        for step in self.steps:
            lines.append(f"{total}{step:+d}={total + step}")
            total += step
        return "\n".join(lines)


def problems(seed: int, count: int, split: str, start: int = 0, reasoning: bool = True) -> Iterator[dict[str, Any]]:
    """Word problems, answered directly or after their steps; the same problems either way.

    Yields:
        {"messages": [user, assistant], "answer": int, "id"}; the assistant has `reasoning_content` when `reasoning`.
    """
    check_split(split)
    for index in range(start, start + count):
        draw = Draw(seed, split, "problems", index)
        problem = draw.in_split(draw_problem, split, Problem.structure)
        reply = {"role": "assistant", "content": f"答案是{problem.answer}。"}
        if reasoning:
            reply["reasoning_content"] = problem.reasoning()
        messages = [{"role": "user", "content": word_problem(problem, draw)}, reply]
        yield {"messages": messages, "answer": problem.answer, "id": f"problems/{split}/{seed}/{index}"}


def check_problem(record: dict[str, Any], text: str) -> bool:
    """Whether `text` ends in the right number and names no other after its reasoning.

    Only what follows the last `</think>` counts: exactly one value there, in a short reply; a `<think>` that never closes,
    an echo of all numbers, several answers or a padded one (037) are wrong.
    """
    before, closed, tail = text.rpartition("</think>")
    if "<think>" in tail or (closed and before.count("<think>") > 1):
        return False
    tail = unicodedata.normalize("NFKC", tail).strip()
    found = set(re.findall(r"-?\d+", tail))
    return len(tail) <= 40 and found == {str(record["answer"])}


def draw_problem(draw: Draw) -> Problem:
    """A start of 2 … 20 and three to five steps of 1 … 9 whose totals stay within 1 … 50."""
    total = start = draw.between(2, 20)
    steps = []
    for _ in range(draw.between(_FEWEST, _MOST)):
        size = draw.between(1, 9)
        if size < total and (total + size > LARGEST or draw.chance(0.5)):
            size = -size
        steps.append(size)
        total += size
    return Problem(start, tuple(steps))


class _Setting(NamedTuple):
    begin: str
    more: tuple[str, ...]
    fewer: tuple[str, ...]
    ask: tuple[str, ...]


_COUNTED = (
    ("颗", "糖", True),
    ("个", "苹果", True),
    ("个", "橘子", True),
    ("块", "饼干", True),
    ("支", "铅笔", False),
    ("个", "气球", False),
    ("张", "贺卡", False),
    ("张", "邮票", False),
    ("颗", "草莓", True),
    ("朵", "红花", False),
    ("个", "鸡蛋", True),
    ("本", "画册", False),
)
_OWNING = _Setting(
    "{who}有{n}{u}{t}。",
    ("{kin}给了{he}{n}{u}", "{he}买了{n}{u}", "{friend}送给{he}{n}{u}", "老师奖给{he}{n}{u}", "{who}得到{n}{u}"),
    ("{he}送给{friend}{n}{u}", "{he}分给同学{n}{u}", "{he}给了{kin}{n}{u}", "{he}弄丢了{n}{u}", "{friend}拿走了{n}{u}"),
    ("{who}现在有几{u}{t}？", "{who}还有几{u}{t}？", "现在{who}一共有几{u}{t}？"),
)
_SETTINGS = (
    _Setting(
        "车上有{n}个人。",
        ("到了{stop}站，上来{n}个人", "又上来{n}个人", "在{stop}站上来{n}个人"),
        ("到了{stop}站，下去{n}个人", "又下去{n}个人", "在{stop}站下去{n}个人"),
        ("现在车上有几个人？", "车上还有几个人？"),
    ),
    _Setting(
        "{many}{n}只{animal}。",
        ("{come}来{n}只", "又{come}来{n}只", "{time}{come}来{n}只"),
        ("{come}走{n}只", "又{come}走{n}只", "{time}{come}走{n}只"),
        ("现在{many}几只{animal}？", "现在还有几只{animal}？"),
    ),
    _Setting(
        "{place}有{n}个人。",
        ("来了{n}个人", "又来了{n}个人", "{time}来了{n}个人"),
        ("走了{n}个人", "又走了{n}个人", "{time}走了{n}个人"),
        ("现在{place}有几个人？", "{place}还有几个人？"),
    ),
    _Setting(
        "架子上有{n}本书。",
        ("{who}放上去{n}本", "又放上去{n}本", "{friend}还了{n}本"),
        ("{who}拿走{n}本", "又拿走{n}本", "{friend}借走{n}本"),
        ("现在架子上有几本书？", "架子上还有几本书？"),
    ),
    _Setting(
        "店里有{n}{u}{t}。",
        ("又运来{n}{u}", "{time}运来{n}{u}", "{who}送来{n}{u}"),
        ("卖出{n}{u}", "{time}卖出{n}{u}", "{who}买走{n}{u}"),
        ("店里现在有几{u}{t}？", "店里还有几{u}{t}？"),
    ),
)
_ANIMALS = (
    ("树上有", "小鸟", "飞"),
    ("池塘里有", "鸭子", "游"),
    ("草地上有", "小羊", "跑"),
    ("广场上有", "白鸽", "飞"),
    ("院子里有", "小鸡", "跑"),
)
_STOPS = words("学校 图书馆 公园 超市 商场 医院 邮局 银行 动物园 影院 剧院 球场 广场 书店 海边 花店")
_PLACE_NAMES = tuple(place.name for place in PLACES)


def word_problem(problem: Problem, draw: Draw) -> str:
    """Word a problem in one of ten settings; the steps come in their order, and so do the times of the day."""
    who, *friends = draw.some(CHILDREN, 3)
    unit, thing, food = draw.pick(_COUNTED)
    owning = draw.chance(0.4)
    setting = _OWNING if owning else draw.pick(_SETTINGS)
    many, animal, come = draw.pick(_ANIMALS)
    words = {
        "who": who,
        "he": PRONOUN[who],
        "u": unit,
        "t": thing,
        "place": draw.pick(_PLACE_NAMES),
        "many": many,
        "animal": animal,
        "come": come,
    }
    fewer = (*setting.fewer, "{he}吃了{n}{u}") if owning and food else setting.fewer
    last, clock, parts = "", 0, []
    seen: set[bool] = set()
    for step in problem.steps:
        up = step > 0
        options = [
            option
            for option in (setting.more if up else fewer)
            if option != last and (up in seen or not option.startswith("又")) and (clock < len(TIMES) or "{time}" not in option)
        ]
        last = draw.pick(options)
        seen.add(up)
        if "{time}" in last:
            clock = draw.between(clock, min(clock + 1, len(TIMES) - 1))
        time = TIMES[min(clock, len(TIMES) - 1)]
        parts.append(last.format(n=abs(step), time=time, friend=draw.pick(friends), kin=draw.pick(KIN), stop=draw.pick(_STOPS), **words))
        clock += "{time}" in last
    body = "".join(part + ("。" if at == len(parts) - 1 or (at % 2 and draw.chance(0.6)) else "，") for at, part in enumerate(parts))
    return setting.begin.format(n=problem.start, **words) + body + draw.pick(setting.ask).format(**words)


def sums(draw: Draw, count: int) -> list[str]:
    """`count` small facts, as 7+8=15 or as 7加8等于15."""
    lines = []
    for _ in range(count):
        left, right = draw.between(0, LARGEST - 9), draw.between(1, 9)
        if left >= right and draw.chance(0.5):
            lines.append(draw.pick((f"{left}-{right}={left - right}", f"{left}减{right}等于{left - right}")))
        else:
            lines.append(draw.pick((f"{left}+{right}={left + right}", f"{left}加{right}等于{left + right}")))
    return lines
