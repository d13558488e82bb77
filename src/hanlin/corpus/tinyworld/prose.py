"""Descriptions of people, places and things, and dialogues: a few facts drawn first, then worded, sometimes
asked about."""

from __future__ import annotations

from typing import Any

from hanlin.corpus.tinyworld.draw import Draw
from hanlin.corpus.tinyworld.lexicon import (
    ANIMALS,
    CHILDREN,
    HOBBIES,
    INDOOR_SPOTS,
    KIN,
    LOSABLE,
    PLACE,
    PLACES,
    PRONOUN,
    SCHOOL_PLACES,
    SELLERS,
    THING,
    THINGS,
    TIMES,
    WEEKDAYS,
    a,
    colours_of,
)

Facts = tuple[Any, ...]
_PLACE_NAMES = tuple(place.name for place in PLACES)
_FOODS = tuple(t.name for t in THINGS if t.category in ("水果", "点心"))
_KEPT = tuple(t.name for t in THINGS if t.category in ("书", "文具", "玩具", "衣物", "用品", "贵重"))
_LENT = tuple(t.name for t in THINGS if t.category in ("书", "文具", "玩具", "用品"))
_SOLD = tuple(t.name for t in THINGS if SELLERS[t.name] and t.category != "贵重")


def draw_description(draw: Draw) -> Facts:
    """The facts of a description: of a person, a place or a thing."""
    who, friend = draw.some(CHILDREN, 2)
    place, time, kin = draw.pick(_PLACE_NAMES), draw.pick(TIMES), draw.pick(KIN)
    day = _day(draw, place)
    kind = draw.random()
    if kind < 0.45:
        thing = draw.pick(_KEPT)
        said = (
            ("gift", thing, _colour(draw, thing), kin),
            ("habit", day, place, friend),
            ("pet", draw.pick(ANIMALS[:8])),
        )
        said = said[: draw.between(1, 2)] + said[-1:] if draw.chance(0.6) else said[:2]
        return ("person", who, draw.between(5, 12), draw.pick(HOBBIES), draw.pick(_FOODS), said)
    if kind < 0.7:
        return ("place", place, day, time, who, friend, draw.pick(PLACE[place].activities), draw.pick(_KEPT))
    thing = draw.pick(tuple(t for t in _KEPT if SELLERS[t]))
    return ("thing", thing, _colour(draw, thing), who, kin, draw.pick(SELLERS[thing]), day, place, friend)


def _colour(draw: Draw, thing: str) -> str:
    return draw.pick(colours_of(thing)) if THING[thing].colourful else ""


def _day(draw: Draw, place: str) -> str:
    """A day of the week; school is out at the weekend."""
    return draw.pick(WEEKDAYS[:5] if place in SCHOOL_PLACES else WEEKDAYS)


def describe(facts: Facts, draw: Draw) -> str:
    """Word a description; half of them end with a question and its answer."""
    text, asked = {"person": _person, "place": _place, "thing": _thing}[facts[0]](draw, *facts[1:])
    if draw.chance(0.5):
        return text
    question, answer = draw.pick(asked)
    return text + draw.pick((f"\n问：{question}\n答：{answer}", f"\n问题：{question}\n回答：{answer}"))


def _person(draw: Draw, who: str, age: int, hobby: str, food: str, said: tuple[Facts, ...]):
    he = PRONOUN[who]
    child = "男孩" if he == "他" else "女孩"
    text = draw.pick(
        (f"{who}今年{age}岁，是个{child}。", f"{who}是一个{age}岁的{child}。", f"我的朋友{who}{age}岁了。")
    )
    text += draw.pick(
        (
            f"{he}最喜欢{hobby}，爱吃{food}。",
            f"{he}爱吃{food}，平时喜欢{hobby}。",
            f"{he}的爱好是{hobby}，最爱吃的是{food}。",
        )
    )
    asked = [
        (f"{who}几岁？", f"{who}{age}岁。"),
        (f"{who}喜欢做什么？", f"{who}喜欢{hobby}。"),
        (f"{who}爱吃什么？", f"{who}爱吃{food}。"),
    ]
    for fact in said:
        if fact[0] == "gift":
            _, thing, colour, kin = fact
            owned = a(thing, colour)
            text += draw.pick(
                (
                    f"{kin}送给{he}{owned}，{he}每天都带着。",
                    f"{he}有{owned}，是{kin}送的。",
                    f"生日那天，{kin}给{he}买了{owned}。",
                )
            )
            asked.append((f"{who}的{thing}是谁送的？", f"是{kin}送的。"))
        elif fact[0] == "habit":
            _, day, place, friend = fact
            activity = PLACE[place].activities[0]
            text += draw.pick(
                (
                    f"每到{day}，{he}就和{friend}去{place}{activity}。",
                    f"{day}，{he}常常和{friend}去{place}{activity}。",
                    f"{he}和{friend}是好朋友，{day}总是一起去{place}。",
                )
            )
            asked.append((f"{who}和谁去{place}？", f"{who}和{friend}去{place}。"))
        else:
            pet = fact[1]
            text += (
                f"{who}家里养了一只{pet}。"
                if pet not in ("小鱼", "小马") and draw.chance(0.5)
                else f"{he}还喜欢{pet}。"
            )
    return text, asked


def _place(draw: Draw, place: str, day: str, time: str, who: str, friend: str, activity: str, thing: str):
    known = PLACE[place]
    where = f"{known.near}{known.side}"
    has = list(known.has)
    text = draw.pick(
        (
            f"{place}在{where}。",
            f"{where}有一个地方，那就是{place}。",
            f"从{known.near}出发，很快就能到{place}，它就在{where}。",
        )
    )
    text += draw.pick(
        (
            f"那里有{'，还有'.join(draw.some(has, 2))}。",
            f"在{place}，可以看到{'和'.join(draw.some(has, 2))}。",
        )
    )
    text += draw.pick(
        (
            f"{day}{time}，{who}和{friend}来到这里{activity}，{who}还带了{a(thing)}。",
            f"{who}常常在{day}{time}来这里{activity}，有时{friend}也带着{a(thing)}来。",
            f"{day}{time}，{friend}带着{a(thing)}在这里等{who}，两个人一起{activity}。",
        )
    )
    text += draw.pick((f"大家都喜欢{place}。", f"{who}最喜欢的地方就是{place}。", "这里每天都有很多人。", ""))
    asked = [
        (f"{place}在哪里？", f"{place}在{where}。"),
        (f"谁带了{thing}？", f"{who if '还带了' in text else friend}带了{thing}。"),
    ]
    return text, asked


def _thing(
    draw: Draw, thing: str, colour: str, who: str, kin: str, shop: str, day: str, place: str, friend: str
):
    he, unit = PRONOUN[who], THING[thing].unit
    text = draw.pick(
        (
            f"{who}有{a(thing, colour)}。",
            f"这是{who}的{thing}。" if not colour else f"这{unit}{colour}的{thing}是{who}的。",
        )
    )
    text += draw.pick(
        (
            f"这是{day}{kin}在{shop}买的。",
            f"{day}，{kin}去{shop}给{he}买了这{unit}{thing}。",
            f"它是{kin}从{shop}买来的，那天是{day}。",
        )
    )
    use = THING[thing].use
    if use == "玩":
        text += draw.pick((f"{who}每天都玩它。", f"{he}玩得很开心。", f"{who}一有空就拿着它玩。"))
    else:
        text += draw.pick((f"{thing}可以用来{use}。", f"有了它，{who}就可以{use}了。", f"{he}用它来{use}。"))
    text += draw.pick(
        (
            f"{who}和{friend}去{place}的时候总带着它。",
            f"有一次，{he}在{place}把它借给了{friend}。",
            f"{friend}在{place}见到了，也想要一{unit}。",
        )
    )
    asked = [
        (f"{thing}是谁的？", f"{thing}是{who}的。"),
        (f"{kin}在哪里买的{thing}？", f"{kin}在{shop}买的。"),
        (f"{thing}是周几买的？", f"是{day}买的。"),
    ]
    if colour:
        asked.append((f"{thing}是什么颜色的？", f"{thing}是{colour}的。"))
    return text, asked


def draw_dialogue(draw: Draw) -> Facts:
    """The facts of a dialogue."""
    who, other, friend = draw.some(CHILDREN, 3)
    kind = draw.pick(tuple(_DIALOGUES))
    place = draw.pick(_PLACE_NAMES)
    if kind in ("calling", "finding"):
        there = draw.pick([name for name in _PLACE_NAMES if name != place])
        return (
            kind,
            who,
            other,
            place,
            draw.pick(PLACE[place].activities),
            there,
            draw.pick(PLACE[there].activities),
            friend,
        )
    if kind in ("going", "inviting"):
        return (
            kind,
            who,
            other,
            friend,
            place,
            draw.pick(PLACE[place].activities),
            _day(draw, place),
            draw.pick(TIMES),
        )
    if kind == "borrowing":
        return (kind, who, other, draw.pick(_LENT), draw.pick(WEEKDAYS), place, friend)
    if kind == "searching":
        return (kind, who, other, draw.pick(LOSABLE), *draw.some(INDOOR_SPOTS, 2), friend)
    things = draw.some(_SOLD, 2)
    return (kind, who, *things, draw.between(1, 12), draw.between(1, 9), draw.pick(KIN))


def converse(facts: Facts, draw: Draw) -> str:
    """Word a dialogue, one speaker a line or with quotation marks, and what came of it."""
    lines, outcome = _DIALOGUES[facts[0]](draw, *facts[1:])
    if draw.chance(0.5):
        return "\n".join(f"{speaker}：{said}" for speaker, said in lines) + f"\n{outcome}"
    verbs = draw.pick((("问", "说"), ("问道", "说"), ("问", "说道")))
    return (
        "".join(
            f"{speaker}{verbs[0] if said.endswith('？') else verbs[1]}：“{said}”" for speaker, said in lines
        )
        + outcome
    )


def _going(draw: Draw, who: str, other: str, friend: str, place: str, activity: str, day: str, time: str):
    lines = [
        (
            who,
            draw.pick((f"{other}，你要去哪里？", f"{other}，你去哪儿呀？", f"你好，{other}！你要去哪里？")),
        ),
        (other, draw.pick((f"我去{place}{activity}。", f"我想去{place}{activity}。", f"我要到{place}去。"))),
        (who, draw.pick(("你和谁一起去？", "一个人去吗？"))),
        (other, draw.pick((f"和{friend}一起去。", f"{friend}在那里等我。"))),
        (who, draw.pick(("什么时候回来？", f"{time}能回来吗？"))),
        (other, draw.pick((f"{day}{time}就回来。", f"{day}{time}回来。"))),
    ]
    return lines, draw.pick(
        (
            f"{other}说完就去{place}了。",
            f"于是{other}去了{place}，{friend}正在那里等着。",
            f"{who}向{other}挥挥手，说：“再见！”",
        )
    )


def _inviting(draw: Draw, who: str, other: str, friend: str, place: str, activity: str, day: str, time: str):
    lines = [
        (who, draw.pick((f"{other}，{day}有空吗？", f"{other}，你{day}做什么？"))),
        (other, draw.pick(("有空，有什么事吗？", "没什么事，怎么了？"))),
        (
            who,
            draw.pick(
                (f"我们和{friend}一起去{place}{activity}吧。", f"我和{friend}想去{place}{activity}，你来吗？")
            ),
        ),
    ]
    if draw.chance(0.7):
        lines += [
            (other, draw.pick(("好啊，几点见？", "太好了，什么时候见面？"))),
            (who, draw.pick((f"{day}{time}，在{place}见。", f"{time}在{place}门口见。"))),
        ]
        return lines, draw.pick(
            (
                f"到了{day}{time}，{who}、{other}和{friend}都来到{place}。",
                f"{day}{time}，三个人一起在{place}{activity}。",
            )
        )
    lines += [
        (other, f"真可惜，{day}{time}我要帮妈妈做事，去不了{place}。"),
        (who, draw.pick(("没关系，下次再去。", "那我们下次再约。"))),
    ]
    return lines, f"{day}{time}，只有{who}和{friend}去了{place}。"


def _borrowing(draw: Draw, who: str, other: str, thing: str, day: str, place: str, friend: str):
    unit = THING[thing].unit
    lines = [
        (who, draw.pick((f"{other}，能把{thing}借给我用用吗？", f"{other}，可以借我一{unit}{thing}吗？"))),
        (other, draw.pick(("可以呀，你要用多久？", "好的，你什么时候还？"))),
        (who, draw.pick((f"我要去{place}，{day}还给你。", f"{day}就还你，我和{friend}去{place}要用。"))),
        (other, draw.pick((f"没问题，{thing}给你。", f"好，这{unit}{thing}你拿去吧。"))),
        (who, draw.pick(("谢谢你！", f"太谢谢你了，{other}！"))),
    ]
    return lines, draw.pick(
        (
            f"{who}拿着{thing}去了{place}。",
            f"到了{day}，{who}把{thing}还给了{other}。",
            f"{who}带着{thing}去{place}找{friend}。",
        )
    )


def _searching(draw: Draw, who: str, other: str, thing: str, wrong: str, right: str, friend: str):
    lines = [
        (who, draw.pick((f"{other}，你看见我的{thing}了吗？", f"我的{thing}不见了，{other}，你看见了吗？"))),
        (other, draw.pick((f"是不是放在{wrong}了？", f"你看看{wrong}有没有？"))),
        (who, draw.pick((f"{wrong}没有。", f"我看了，不在{wrong}。"))),
        (other, draw.pick((f"那{right}呢？", f"再看看{right}吧。", f"问问{friend}吧，也许在{right}。"))),
        (who, draw.pick((f"找到了，{thing}就在{right}！", f"在{right}，谢谢你！"))),
    ]
    return lines, draw.pick(
        (
            f"{who}在{right}找到了{thing}。",
            f"原来{who}把{thing}放在{right}了。",
            f"原来是{friend}把{thing}放在{right}的。",
        )
    )


def _buying(draw: Draw, who: str, first: str, second: str, price: int, other: int, kin: str):
    units = THING[first].unit, THING[second].unit
    lines = [
        (who, draw.pick((f"请问，{first}多少钱一{units[0]}？", f"您好，这{units[0]}{first}多少钱？"))),
        ("店员", draw.pick((f"{first}{price}元一{units[0]}。", f"{price}元。"))),
        (who, draw.pick((f"那{second}呢？", f"{second}多少钱一{units[1]}？"))),
        ("店员", draw.pick((f"{second}{other}元一{units[1]}。", f"{second}是{other}元。"))),
        (
            who,
            draw.pick(
                (
                    f"我要一{units[0]}{first}和一{units[1]}{second}，一共多少钱？",
                    f"两样都买，送给{kin}，一共多少钱？",
                )
            ),
        ),
        ("店员", f"{price}加{other}，一共{price + other}元。"),
    ]
    return lines, draw.pick(
        (
            f"{who}给了{price + other}元，高兴地回家了。",
            f"{who}付了{price + other}元，把{first}和{second}带回家给{kin}。",
        )
    )


def _calling(
    draw: Draw, who: str, other: str, place: str, activity: str, there: str, doing: str, friend: str
):
    lines = [
        (who, draw.pick((f"喂，{other}，你在哪里？", f"是{other}吗？你现在在哪儿？"))),
        (other, draw.pick((f"我在{there}{doing}，你呢？", f"我正在{there}{doing}。你在哪里？"))),
        (who, draw.pick((f"我在{place}{activity}。", f"我和{friend}在{place}{activity}。"))),
    ]
    if draw.chance(0.5):
        lines += [
            (other, draw.pick((f"我去{place}找你吧。", "那我来找你。"))),
            (who, draw.pick((f"好，我在{place}等你。", "太好了，快来吧！"))),
        ]
        return lines, draw.pick(
            (f"{other}离开{there}，去{place}找{who}。", f"不久，{other}就来到了{place}。")
        )
    lines += [
        (other, draw.pick((f"你来{there}吧，{friend}也要来。", f"来{there}吧，这里很有意思。"))),
        (who, draw.pick(("好，我马上就来。", f"我这就去{there}。"))),
    ]
    return lines, draw.pick((f"{who}离开{place}，去{there}找{other}。", f"不久，{who}就来到了{there}。"))


def _finding(
    draw: Draw, who: str, other: str, place: str, activity: str, there: str, doing: str, friend: str
):
    near, side = PLACE[place].near, PLACE[place].side
    lines = [
        (who, draw.pick((f"请问，{place}怎么走？", f"{other}，你知道{place}在哪里吗？"))),
        (other, draw.pick((f"{place}在{near}{side}。", f"先到{near}，{place}就在{near}{side}。"))),
        (who, draw.pick((f"从{there}过去远吗？", f"我在{there}，要走多久？"))),
        (other, draw.pick(("不远，一会儿就到。", "有点远，坐车去吧。"))),
        (who, draw.pick((f"谢谢你，{friend}在那里等我{activity}。", f"谢谢！我要去找{friend}。"))),
    ]
    return lines, draw.pick(
        (
            f"{who}在{near}{side}找到了{place}，{friend}已经到了。",
            f"{who}从{there}走到{place}，见到了{friend}。",
        )
    )


_DIALOGUES = {
    "going": _going,
    "inviting": _inviting,
    "borrowing": _borrowing,
    "searching": _searching,
    "buying": _buying,
    "calling": _calling,
    "finding": _finding,
}
