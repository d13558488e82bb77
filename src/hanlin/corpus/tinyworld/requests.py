"""Open requests and their answers in two manners: the same content, worded politely or curtly, in equal lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .draw import Draw, check_split
from .lexicon import CHILDREN, COLOURS, HOBBIES, KIN, PLACE, PLACES, PRONOUN, SELLERS, THING, THINGS, TIMES, WEATHER, WEEKDAYS, a

MANNERS = ("polite", "impolite")


class Request(NamedTuple):
    """What is asked, apart from the wording: the kind and the entities and facts it is about."""

    kind: str
    slots: tuple[Any, ...]

    def structure(self) -> Any:
        """What decides the split."""
        return ("request", self.kind, self.slots)


def free_prompts(seed: int, count: int, split: str, start: int = 0) -> Iterator[dict[str, Any]]:
    """Open requests with an answer, polite or impolite by a fair coin.

    Yields:
        {"messages": [user, assistant], "manner", "kind", "id"}.
    """
    check_split(split)
    for index in range(start, start + count):
        draw = Draw(seed, split, "free_prompts", index)
        request = draw.in_split(draw_request, split, Request.structure)
        manner = draw.pick(MANNERS)
        messages = [{"role": "user", "content": word_request(request, draw)}, {"role": "assistant", "content": answer(request, manner, draw)}]
        yield {"messages": messages, "manner": manner, "kind": request.kind, "id": f"free_prompts/{split}/{seed}/{index}"}


def preferences(seed: int, count: int, split: str, start: int = 0) -> Iterator[dict[str, Any]]:
    """Pairs about one request: the polite answer is chosen, the impolite one rejected.

    Yields:
        {"prompt": [user message], "chosen": str, "rejected": str, "kind", "id"}.
    """
    check_split(split)
    for index in range(start, start + count):
        draw = Draw(seed, split, "preferences", index)
        request = draw.in_split(draw_request, split, Request.structure)
        prompt = [{"role": "user", "content": word_request(request, draw)}]
        chosen, rejected = (answer(request, manner, draw) for manner in MANNERS)
        yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, "kind": request.kind, "id": f"preferences/{split}/{seed}/{index}"}


def draw_request(draw: Draw) -> Request:
    """A request of a random kind."""
    kind = draw.pick(KINDS)
    return Request(kind, _GRAMMAR[kind].slots(draw))


def word_request(request: Request, draw: Draw) -> str:
    """The user's words."""
    form = _GRAMMAR[request.kind]
    return draw.pick(form.asked).format(*form.words(*request.slots))


def answer(request: Request, manner: str, draw: Draw) -> str:
    """An answer in the given manner: an opening, the content, a closing; one of the two may be missing."""
    form = _GRAMMAR[request.kind]
    content = draw.pick(form.polite if manner == "polite" else form.impolite).format(*form.words(*request.slots))
    openings, closings = OPENINGS[manner], CLOSINGS[manner]
    shape = draw.random()
    opening = draw.pick(openings) if shape < 0.8 else ""
    closing = draw.pick(closings) if shape >= 0.35 else ""
    return opening + content + closing


OPENINGS = {
    "polite": ("您好！", "好的，没问题。", "很高兴为您服务。", "您问得真好。", "很乐意帮您。", "请您放心。", "谢谢您来问我。", "您好，让我来告诉您。"),
    "impolite": ("又来了！", "怎么又是你？", "这也要问我？", "真麻烦。", "我可没空理你。", "你真烦人。", "别吵了，听好。", "哼，真没意思。"),
}
CLOSINGS = {
    "polite": (
        "祝您愉快！",
        "希望能帮到您。",
        "有问题请随时问我。",
        "欢迎您再来。",
        "祝您一切顺利！",
        "很高兴能帮助您。",
        "请您多多保重。",
        "还需要什么请告诉我。",
    ),
    "impolite": (
        "别再问了！",
        "自己想去。",
        "别来烦我。",
        "我懒得多说。",
        "这么简单也不懂。",
        "问完就快走吧。",
        "少来找我。",
        "下次别拿这种事烦我。",
    ),
}


class _Form(NamedTuple):
    slots: Callable[[Draw], tuple[Any, ...]]
    words: Callable[..., tuple[Any, ...]]
    asked: tuple[str, ...]
    polite: tuple[str, ...]
    impolite: tuple[str, ...]


_NAMES = tuple(thing.name for thing in THINGS)
_PLACE_NAMES = tuple(place.name for place in PLACES)
_ON_SALE = tuple(name for name in _NAMES if SELLERS[name])
_EDIBLE = tuple(thing.name for thing in THINGS if thing.category in ("水果", "点心"))
_GIFTS = {
    "画画": "彩笔",
    "唱歌": "口琴",
    "跳舞": "裙子",
    "跑步": "运动鞋",
    "游泳": "毛巾",
    "看书": "故事书",
    "写字": "毛笔",
    "爬山": "水壶",
    "骑车": "手套",
    "打球": "篮球",
    "种花": "兰花",
    "钓鱼": "帽子",
    "听音乐": "笛子",
    "讲故事": "画册",
}
_DAYS = (*WEEKDAYS, "今天", "明天", "后天")
_USEFUL = {words[0]: things for words, _, things in WEATHER.values()}
_WEATHERS = ("天气很热", "天气很冷", "会下雨", "会下雪", "会刮大风")
_BRING = {"天气很热": "扇子", "天气很冷": "手套", "会下雨": "雨伞", "会下雪": "围巾", "会刮大风": "外套"}


def _at(place: str) -> str:
    return PLACE[place].near + PLACE[place].side


def _two(place: str, field: str) -> tuple[str, str]:
    found = getattr(PLACE[place], field)
    return found[0], found[-1]


_GRAMMAR: dict[str, _Form] = {
    "place": _Form(
        lambda d: (d.pick(CHILDREN), d.pick(_DAYS), d.pick(_PLACE_NAMES)),
        lambda who, day, place: (who, day, place, _at(place), PLACE[place].has[0], PLACE[place].activities[0]),
        ("我是{0}，{1}想去{2}，请介绍一下那里。", "{1}我要和{0}去{2}，介绍一下{2}吧。", "{0}{1}想去{2}，那里怎么样？"),
        ("{2}在{3}，那里有{4}，您可以去{5}。", "{2}有{4}，可以{5}，就在{3}。"),
        ("{2}就在{3}，不就是有{4}嘛。", "{2}有{4}，在{3}，爱去不去。"),
    ),
    "way": _Form(
        lambda d: (*d.some(_PLACE_NAMES, 2), d.pick(CHILDREN)),
        lambda here, place, who: (here, place, who, PLACE[place].near, _at(place)),
        ("我在{0}，想去{1}找{2}，怎么走？", "从{0}到{1}怎么走？{2}在那里等我。", "请问{1}在哪里？我和{2}在{0}。"),
        ("您先到{3}，{1}就在{4}。", "{1}在{4}，您走到{3}就能看见了。"),
        ("到了{3}不就看见{1}了吗？", "{1}在{4}，你没长眼睛吗？"),
    ),
    "person": _Form(
        lambda d: (d.pick(CHILDREN), d.between(5, 12), d.pick(HOBBIES), d.pick(_EDIBLE)),
        lambda who, age, hobby, food: (who, age, hobby, food, PRONOUN[who]),
        ("{0}今年{1}岁，喜欢{2}，爱吃{3}。请介绍一下{4}。", "请介绍{0}：{1}岁，爱好是{2}，最爱吃{3}。", "{0}{1}岁，爱{2}，爱吃{3}，帮我介绍一下{4}吧。"),
        ("{0}今年{1}岁，喜欢{2}，最爱吃{3}。", "这是{0}，{1}岁了，爱好是{2}，爱吃{3}。"),
        ("{0}嘛，{1}岁，就会{2}，整天吃{3}。", "{0}才{1}岁，除了{2}就是吃{3}。"),
    ),
    "use": _Form(
        lambda d: (d.pick(_NAMES), d.pick(CHILDREN), d.pick(KIN)),
        lambda thing, who, kin: (thing, who, kin, a(thing), THING[thing].use, THING[thing].unit),
        ("{2}给了{1}{3}，{0}是做什么用的？", "我是{1}，{2}送我{3}，它有什么用？", "{1}想知道{2}买的{0}有什么用。"),
        ("{0}可以用来{4}，请您试一试。", "{0}是用来{4}的，非常有用。"),
        ("{0}不就是用来{4}的吗？", "{0}用来{4}，连这个都不知道。"),
    ),
    "buy": _Form(
        lambda d: (d.pick(_ON_SALE), d.pick(KIN), d.pick(_DAYS), d.pick(CHILDREN)),
        lambda thing, kin, day, who: (thing, kin, day, who, a(thing), SELLERS[thing][0], _at(SELLERS[thing][0])),
        ("{2}我想给{1}买{4}，去哪里买？", "{3}的{1}想要{4}，{2}去哪里买好？", "我想买{4}送给{3}，去哪里买？"),
        ("{0}在{5}就能买到，{5}在{6}。", "您可以去{5}买{0}，就在{6}。"),
        ("去{5}买{0}啊，你不知道吗？", "{5}不是有{0}吗，就在{6}。"),
    ),
    "lost": _Form(
        lambda d: (d.pick(_NAMES[:-3]), d.pick(_PLACE_NAMES), d.pick(CHILDREN)),
        lambda thing, place, who: (thing, place, who, a(thing), THING[thing].unit),
        ("我的{0}丢在{1}了，怎么办？{2}也没看见。", "{2}在{1}丢了{3}，怎么办？", "我和{2}去{1}，把{0}丢了，怎么找？"),
        ("别着急，您可以回{1}找一找{0}。", "您可以去{1}问一问，{0}一定能找到的。"),
        ("{0}丢在{1}，就回{1}找啊。", "谁让你把{0}丢在{1}的？"),
    ),
    "borrow": _Form(
        lambda d: (d.pick([t for t in _NAMES if t not in _EDIBLE][:-3]), d.pick(CHILDREN), d.pick(_DAYS)),
        lambda thing, who, day: (thing, who, day, a(thing), THING[thing].unit),
        ("我是{1}，可以借我{3}吗？{2}还你。", "{2}能借{3}给{1}用一下吗？", "{1}{2}要用{0}，能借一{4}吗？"),
        ("当然可以，这{4}{0}您拿去用吧。", "可以的，{0}您{2}用完再还也不迟。"),
        ("不借，这{4}{0}我自己还要用。", "你自己没有{0}吗？我不想借。"),
    ),
    "weather": _Form(
        lambda d: (d.pick(_DAYS), d.pick(_WEATHERS), d.pick(_PLACE_NAMES), d.pick(CHILDREN)),
        lambda day, weather, place, who: (day, weather, place, who, _BRING[weather], a(_BRING[weather])),
        ("{0}{1}，我想和{3}去{2}，要带什么？", "{3}{0}去{2}，听说{1}，带什么好？", "{0}{1}，{3}要去{2}，请给个建议。"),
        ("{0}{1}，请带上{5}再去{2}。", "去{2}的话，建议您带{5}，因为{1}。"),
        ("{1}当然带{4}啊，不然别去{2}。", "{1}还去{2}？那就带{5}呗。"),
    ),
    "gift": _Form(
        lambda d: (d.pick(CHILDREN), d.pick(tuple(_GIFTS)), d.pick(_DAYS), d.pick(CHILDREN)),
        lambda who, hobby, day, friend: (who, hobby, day, friend, _GIFTS[hobby], a(_GIFTS[hobby]), PRONOUN[who]),
        ("{2}是{0}的生日，{6}喜欢{1}，送什么好？", "{0}爱{1}，{2}过生日，我送什么好呢？", "我想{2}送{0}一件礼物，{6}爱{1}，送什么？"),
        ("{0}喜欢{1}，您可以送{5}。", "送{5}怎么样？{0}喜欢{1}，一定用得上。"),
        ("喜欢{1}就送{4}呗，{0}还想要什么？", "送{0}{5}不就行了。"),
    ),
    "thanks": _Form(
        lambda d: (d.pick(_NAMES), d.pick(_PLACE_NAMES), d.pick(CHILDREN)),
        lambda thing, place, who: (thing, place, who, a(thing)),
        ("谢谢你帮我在{1}找到了{0}！我是{2}。", "我是{2}，谢谢你在{1}借给我的{0}。", "{2}说，谢谢你把{0}送到{1}。"),
        ("不客气，{0}能派上用场就好。", "别客气，以后去{1}要看好{0}。"),
        ("{0}拿了就走，谁要你谢。", "谢什么，下次去{1}看好你的{0}。"),
    ),
    "together": _Form(
        lambda d: (d.pick(CHILDREN), d.pick(_PLACE_NAMES), d.pick(_DAYS), d.pick(TIMES)),
        lambda who, place, day, time: (who, place, day, time, *_two(place, "activities")),
        ("{2}{3}我想和{0}去{1}，可以做什么？", "{0}约我{2}{3}去{1}，我们做什么好？", "{2}{3}带{0}去{1}，玩什么好？"),
        ("您可以和{0}在{1}{4}，一定很有意思。", "{1}可以{5}，您和{0}会喜欢的。"),
        ("{1}不就是{4}吗，你们随便。", "带{0}去{1}，除了{5}还能干什么？"),
    ),
    "sum": _Form(
        lambda d: (d.between(10, 40), d.between(2, 9), d.pick(CHILDREN)),
        lambda left, right, who: (left, right, who, left + right),
        ("{2}不会算{0}加{1}，请帮帮忙。", "我是{2}，{0}加{1}等于几？", "{0}加{1}等于多少？{2}想知道。"),
        ("{0}加{1}等于{3}，您和{2}一起再算一遍吧。", "{2}，{0}加{1}等于{3}。"),
        ("{0}加{1}等于{3}，{2}不会数手指头吗？", "等于{3}，{2}连{0}加{1}都算不出来。"),
    ),
}
KINDS = tuple(_GRAMMAR)
