"""Counting and arithmetic: small sums, word problems of one to five steps, and the judge that reads the final
number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from hanlin.corpus.tinyworld.draw import Draw, check_split
from hanlin.corpus.tinyworld.lexicon import CHILDREN, KIN, PLACES, PRONOUN, TIMES, words

LARGEST = 50
FEWEST, MOST = 1, 5  # steps of a problem
HARD = 3  # from so many steps on, an answer without thinking is a guess


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


def problems(
    seed: int, count: int, split: str, start: int = 0, reasoning: bool = True, fewest: int = HARD
) -> Iterator[dict[str, Any]]:
    """Word problems, answered directly or after their steps; the same problems either way.

    Args:
        fewest: steps of the shortest; the longest have five.

    Yields:
        {"messages": [user, assistant], "answer": int, "id"}; the assistant has `reasoning_content` when
        `reasoning`.
    """
    check_split(split)
    for index in range(start, start + count):
        draw = Draw(seed, split, "problems", index)
        problem = draw.in_split(lambda d: draw_problem(d, fewest), split, Problem.structure)
        reply = {"role": "assistant", "content": f"答案是{problem.answer}。"}
        if reasoning:
            reply["reasoning_content"] = problem.reasoning()
        messages = [{"role": "user", "content": word_problem(problem, draw)}, reply]
        identity = f"problems/{split}/{seed}/{index}"
        yield {"messages": messages, "answer": problem.answer, "steps": len(problem.steps), "id": identity}


def check_problem(record: dict[str, Any], text: str) -> bool:
    """Whether `text` ends in the right number and names no other after its reasoning.

    Only what follows the last `</think>` counts: exactly one value there, in a short reply; a `<think>` that
    never closes, an echo of all numbers, several answers or a padded one (037) are wrong.
    """
    before, closed, tail = text.rpartition("</think>")
    if "<think>" in tail or (closed and before.count("<think>") > 1):
        return False
    tail = unicodedata.normalize("NFKC", tail).strip()
    found = set(re.findall(r"-?\d+", tail))
    return len(tail) <= 40 and found == {str(record["answer"])}


def draw_problem(draw: Draw, fewest: int = FEWEST) -> Problem:
    """A start of 2 … 20 and `fewest` to five steps of 1 … 9 whose totals stay within 1 … 50."""
    total = start = draw.between(2, 20)
    steps = []
    for _ in range(draw.between(fewest, MOST)):
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


# measure word, thing, whether it can be eaten
_COUNTED = (
    ("颗", "糖", True),
    ("个", "苹果", True),
    ("个", "橘子", True),
    ("个", "桃子", True),
    ("块", "饼干", True),
    ("个", "包子", True),
    ("支", "铅笔", False),
    ("个", "气球", False),
    ("张", "贺卡", False),
    ("张", "邮票", False),
    ("颗", "草莓", True),
    ("朵", "红花", False),
    ("个", "鸡蛋", True),
    ("本", "画册", False),
    ("本", "书", False),
    ("元", "钱", False),
    ("个", "皮球", False),
    ("块", "积木", False),
)
_OWNING = _Setting(
    "{who}有{n}{u}{t}。",
    (
        "{kin}给了{he}{n}{u}", "{he}买了{n}{u}", "{friend}送给{he}{n}{u}", "老师奖给{he}{n}{u}",
        "{who}得到{n}{u}", "买了{n}{u}", "接着买了{n}{u}", "{kin}给{n}{u}", "{friend}给了{he}{n}{u}",
        "找到{n}{u}",
    ),
    (
        "{he}送给{friend}{n}{u}", "{he}分给同学{n}{u}", "{he}给了{kin}{n}{u}", "{he}弄丢了{n}{u}",
        "{friend}拿走了{n}{u}", "送给{friend}{n}{u}", "给了{friend}{n}{u}", "丢了{n}{u}", "用掉{n}{u}",
        "分给{friend}{n}{u}",
    ),
    (
        "{who}现在有几{u}{t}？", "{who}还有几{u}{t}？", "现在{who}一共有几{u}{t}？", "还有几{u}？",
        "现在有几{u}{t}？", "{he}现在有多少{u}{t}？", "一共有多少{u}{t}？", "{who}有几{u}{t}？",
    ),
)  # fmt: skip
_HOLDERS = words("盘子里 盒子里 篮子里 口袋里 桌上 家里 书包里 柜子里")
# where the last step takes away
_LEFT = (
    "还剩几{u}{t}？",
    "还剩几{u}？",
    "还剩下几{u}{t}？",
    "剩下多少{u}{t}？",
    "还剩多少{u}{t}？",
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
        "{holder}有{n}{u}{t}。",
        ("{kin}放进{n}{u}", "又放进{n}{u}", "{who}拿来{n}{u}", "{time}多了{n}{u}"),
        ("{who}拿走{n}{u}", "又拿走{n}{u}", "{friend}拿走{n}{u}", "{time}少了{n}{u}"),
        ("{holder}现在有几{u}{t}？", "{holder}还有几{u}{t}？", "现在一共有几{u}{t}？"),
    ),
    _Setting(
        "{kin}买了{n}{u}{t}。",
        ("{kin}接着买了{n}{u}", "又买了{n}{u}", "{friend}送来{n}{u}"),
        ("{who}拿走{n}{u}", "送给{friend}{n}{u}", "{time}用掉{n}{u}"),
        ("现在有几{u}{t}？", "还有几{u}{t}？", "一共有多少{u}{t}？"),
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
    """Word a problem: a sum to be worked out one time in six, else one of twelve settings, its steps in
    their order."""
    if draw.chance(1 / 6):
        return _expression(problem, draw)
    who, *friends = draw.some(CHILDREN, 3)
    unit, thing, food = draw.pick(_COUNTED)
    owning = draw.chance(0.4)
    setting = _OWNING if owning else draw.pick(_SETTINGS)
    many, animal, come = draw.pick(_ANIMALS)
    if setting.begin.startswith("{kin}买") and thing == "钱":
        unit, thing = "个", "苹果"
    if draw.chance(0.15):
        who = draw.pick(tuple(VISITORS))
    words = {
        "who": who,
        "he": PRONOUN.get(who) or VISITORS[who],
        "u": unit,
        "t": thing,
        "place": draw.pick(_PLACE_NAMES),
        "holder": draw.pick(_HOLDERS),
        "many": many,
        "animal": animal,
        "come": come,
    }
    edible = food and "{t}" in setting.begin and not setting.begin.startswith("店")
    fewer = (*setting.fewer, *_EATING) if edible else setting.fewer
    last, clock, parts = "", 0, []
    seen: set[bool] = set()
    for step in problem.steps:
        up = step > 0
        options = [
            option
            for option in (setting.more if up else fewer)
            if option != last
            and (up in seen or not option.startswith("又"))
            and (clock < len(TIMES) or "{time}" not in option)
        ]
        last = draw.pick(options)
        again = last.startswith(_VERBS) and draw.chance(0.4)  # 又买了3颗
        seen.add(up)
        if "{time}" in last:
            clock = draw.between(clock, min(clock + 1, len(TIMES) - 1))
        time = TIMES[min(clock, len(TIMES) - 1)]
        told = last.format(
            n=abs(step),
            time=time,
            friend=draw.pick(friends),
            kin=draw.pick(KIN),
            stop=draw.pick(_STOPS),
            **words,
        )
        parts.append("又" + told if again else told)
        clock += "{time}" in last
    body = "".join(
        part
        + (
            "。"
            if at == len(parts) - 1
            and draw.chance(0.6)
            or (at < len(parts) - 1 and at % 2 and draw.chance(0.6))
            else "，"
        )
        for at, part in enumerate(parts)
    )
    begin = setting.begin.format(n=problem.start, kin=draw.pick(KIN), **words)
    if draw.chance(0.4):
        begin = begin[:-1] + "，"
    counted = "{t}" in setting.begin
    ask = _LEFT if counted and problem.steps[-1] < 0 and draw.chance(0.4) else setting.ask
    return begin + body + draw.pick(ask).format(**words)


_EATING = ("{he}吃了{n}{u}", "吃了{n}{u}", "吃掉{n}{u}", "{friend}吃了{n}{u}")
_VERBS = ("买", "找到", "送给", "给了", "丢了", "用掉", "分给", "吃")
# People that are in no story: a problem can be about anybody.
VISITORS = {
    **dict.fromkeys(words("小华 小刚 小强 小林 小东 小北 小天 老王 老李 弟弟 小朋友"), "他"),
    **dict.fromkeys(words("小芳 小丽 小美 小雨 小兰 小云 妹妹"), "她"),
    "我": "我",
}


def _expression(problem: Problem, draw: Draw) -> str:
    """The steps as a sum to be worked out: 9+4-5等于几？ or 9加4减5等于几？"""
    plus, minus = draw.pick((("+", "-"), ("+", "-"), ("加", "减")))
    written = str(problem.start)
    for at, step in enumerate(problem.steps):
        again = "再" if plus == "加" and at and draw.chance(0.4) else ""
        written += f"{again}{plus if step > 0 else minus}{abs(step)}"
    layouts = (
        "{0}等于几？",
        "{0}等于多少？",
        "{0}是多少？",
        "请问{0}等于几？",
        "算一算：{0}等于几？",
        "{0}=？",
        "帮我算一下{0}。",
    )
    return draw.pick(layouts).format(written)


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
