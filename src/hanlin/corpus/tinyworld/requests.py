"""Open requests and their answers in two manners: the same content, worded politely or curtly, in equal
lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hanlin.corpus.tinyworld.draw import Draw, check_split
from hanlin.corpus.tinyworld.lexicon import (
    CHILDREN,
    HOBBIES,
    KIN,
    LOSABLE,
    PLACE,
    PLACES,
    PRONOUN,
    SELLERS,
    THING,
    THINGS,
    TIMES,
    WEEKDAYS,
    a,
    words,
)

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
        messages = [
            {"role": "user", "content": word_request(request, draw)},
            {"role": "assistant", "content": answer(request, manner, draw)},
        ]
        yield {
            "messages": messages,
            "manner": manner,
            "kind": request.kind,
            "id": f"free_prompts/{split}/{seed}/{index}",
        }


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
        yield {
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "kind": request.kind,
            "id": f"preferences/{split}/{seed}/{index}",
        }


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
    content = draw.pick(form.polite if manner == "polite" else form.impolite).format(
        *form.words(*request.slots)
    )
    openings, closings = (
        (OPENINGS[manner], CLOSINGS[manner]) if form.seeks else (OPENINGS[manner][:4], CLOSINGS[manner][:4])
    )
    shape = draw.random()
    opening = draw.pick(openings) if shape < 0.75 else ""
    closing = draw.pick(closings) if shape >= 0.35 else ""
    return opening + content + closing


# The first four of each suit every request; the others answer a request for knowledge or advice.
OPENINGS = {
    "polite": (
        "您好！",
        "见到您真高兴。",
        "很高兴为您服务。",
        "很乐意帮您。",
        "好的，没问题。",
        "您问得真好。",
        "让我来告诉您。",
        "谢谢您来问我。",
    ),
    "impolite": (
        "怎么又是你？",
        "真麻烦。",
        "我可没空理你。",
        "哼，你真烦人。",
        "又来问了。",
        "这也要问我？",
        "别吵了，听好。",
        "真没意思。",
    ),
}
CLOSINGS = {
    "polite": (
        "祝您愉快！",
        "祝您一切顺利！",
        "欢迎您再来。",
        "能帮到您真好。",
        "希望对您有用。",
        "有事请再问我。",
        "请您多保重。",
        "还想知道什么请说。",
    ),
    "impolite": (
        "别来烦我。",
        "少来找我。",
        "我懒得多说。",
        "下次别拿这事烦我。",
        "别再问了！",
        "自己想去吧。",
        "这么简单也不懂。",
        "问完就快走吧。",
    ),
}


class _Form(NamedTuple):
    """One kind of request; `words` turns slots into the numbered words of the wordings, `seeks` tells asking
    from thanking."""

    slots: Callable[[Draw], tuple[Any, ...]]
    words: Callable[..., tuple[Any, ...]]
    asked: tuple[str, ...]  # each names every slot, so that equal words mean equal structures
    polite: tuple[str, ...]
    impolite: tuple[str, ...]
    seeks: bool = True


_PUBLIC = tuple(p.name for p in PLACES if p.name not in ("厨房", "院子", "教室", "客厅", "阳台"))
_FUN = words(
    "图书馆 公园 动物园 影院 剧院 球场 泳池 画室 河边 海边 湖边 山上 广场 花园 农场 果园 茶馆 树林 "
    "书店 商场 操场"
)
_ON_SALE = tuple(t.name for t in THINGS if SELLERS[t.name])
_EDIBLE = tuple(t.name for t in THINGS if t.category in ("水果", "点心"))
_USABLE = tuple(t.name for t in THINGS if t.category in ("书", "文具", "衣物", "用品", "贵重"))
_LENT = tuple(t.name for t in THINGS if t.category in ("书", "文具", "玩具", "用品"))
_LOST = (*LOSABLE, "书包", "水壶", "眼镜", "词典", "相机", "球鞋", "足球", "风筝")
_GIFTS = {
    "画画": "彩笔",
    "唱歌": "口琴",
    "跳舞": "裙子",
    "跑步": "球鞋",
    "游泳": "毛巾",
    "看书": "童话",
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
_BRING = {"很热": "扇子", "很冷": "手套", "会下雨": "雨伞", "会下雪": "围巾", "会刮大风": "外套"}


def _at(place: str) -> str:
    return PLACE[place].near + PLACE[place].side


_GRAMMAR: dict[str, _Form] = {
    "place": _Form(
        lambda d: (d.pick(CHILDREN), d.pick(_DAYS), d.pick(_PUBLIC)),
        lambda who, day, place: (
            who,
            day,
            place,
            _at(place),
            PLACE[place].has[0],
            PLACE[place].activities[0],
        ),
        (
            "我是{0}，{1}想去{2}，请介绍一下那里。",
            "{1}我要和{0}去{2}，介绍一下{2}吧。",
            "{0}{1}想去{2}，那里怎么样？",
        ),
        ("{2}在{3}，那里有{4}，您可以去{5}。", "{2}有{4}，可以{5}，就在{3}。"),
        ("{2}就在{3}，不就是有{4}吗，谁都知道。", "{2}有{4}，在{3}，你爱去不去。"),
    ),
    "way": _Form(
        lambda d: (*d.some(_PUBLIC, 2), d.pick(CHILDREN)),
        lambda here, place, who: (here, place, who, PLACE[place].near, _at(place)),
        (
            "我在{0}，想去{1}找{2}，怎么走？",
            "从{0}到{1}怎么走？{2}在那里等我。",
            "请问{1}在哪里？我和{2}在{0}。",
        ),
        ("先到{3}，{1}就在{4}。", "{1}在{4}，到了{3}就能看见。"),
        ("到了{3}不就看见{1}了吗，还用问？", "{1}在{4}，你自己没长眼睛吗？"),
    ),
    "person": _Form(
        lambda d: (d.pick(CHILDREN), d.between(5, 12), d.pick(HOBBIES), d.pick(_EDIBLE)),
        lambda who, age, hobby, food: (who, age, hobby, food, PRONOUN[who]),
        (
            "{0}今年{1}岁，喜欢{2}，爱吃{3}。请介绍一下{4}。",
            "请介绍{0}：{1}岁，爱好是{2}，最爱吃{3}。",
            "{0}{1}岁，爱{2}，爱吃{3}，帮我介绍一下{4}吧。",
        ),
        ("{0}今年{1}岁，喜欢{2}，最爱吃{3}。", "这是{0}，{1}岁了，爱好是{2}，爱吃{3}。"),
        ("{0}嘛，{1}岁，就会{2}，整天吃{3}。", "{0}才{1}岁，除了{2}就是吃{3}，有什么好说的。"),
    ),
    "use": _Form(
        lambda d: (d.pick(_USABLE), d.pick(CHILDREN), d.pick(KIN)),
        lambda thing, who, kin: (thing, who, kin, a(thing), THING[thing].use, THING[thing].unit),
        (
            "{2}给了{1}{3}，{0}是做什么用的？",
            "我是{1}，{2}送我{3}，它有什么用？",
            "{1}想知道{2}买的{0}有什么用。",
        ),
        ("{0}可以用来{4}，请{1}试一试。", "有了{0}，就可以用它来{4}。"),
        ("{0}不就是用来{4}的吗，谁不知道。", "{0}用来{4}，你连这个都不知道。"),
    ),
    "buy": _Form(
        lambda d: (d.pick(_ON_SALE), d.pick(KIN), d.pick(_DAYS), d.pick(CHILDREN)),
        lambda thing, kin, day, who: (
            thing,
            kin,
            day,
            who,
            a(thing),
            SELLERS[thing][0],
            _at(SELLERS[thing][0]),
        ),
        (
            "{2}我想给{3}的{1}买{4}，去哪里买？",
            "{3}的{1}想要{4}，{2}去哪里买好？",
            "{3}{2}想买{4}送给{1}，去哪里买？",
        ),
        ("{5}就有{0}，{5}在{6}。", "可以去{5}买{0}，就在{6}。"),
        ("去{5}买{0}不就行了，你不知道吗？", "{5}不是有{0}吗，就在{6}，自己去看。"),
    ),
    "lost": _Form(
        lambda d: (d.pick(_LOST), d.pick(_PUBLIC), d.pick(CHILDREN)),
        lambda thing, place, who: (thing, place, who, a(thing)),
        (
            "我的{0}丢在{1}了，怎么办？{2}也没看见。",
            "{2}在{1}丢了{3}，怎么办？",
            "我和{2}去{1}，把{0}丢了，怎么找？",
        ),
        ("别着急，您可以回{1}找一找{0}。", "请去{1}问一问，{0}能找到的。"),
        ("{0}丢在{1}，你就回{1}去找啊。", "谁让你把{0}丢在{1}的，活该。"),
    ),
    "borrow": _Form(
        lambda d: (d.pick(_LENT), d.pick(CHILDREN), d.pick(_DAYS)),
        lambda thing, who, day: (thing, who, day, a(thing), THING[thing].unit),
        ("我是{1}，可以借我{3}吗？{2}还你。", "{2}能借{3}给{1}用一下吗？", "{1}{2}要用{0}，能借一{4}吗？"),
        ("当然可以，这{4}{0}您拿去用吧。", "可以的，请{2}用完{0}再还。"),
        ("不借，这{4}{0}我自己还要用呢。", "你自己没有{0}吗？我才不想借呢。"),
        seeks=False,
    ),
    "weather": _Form(
        lambda d: (d.pick(_DAYS), d.pick(tuple(_BRING)), d.pick(_PUBLIC), d.pick(CHILDREN)),
        lambda day, weather, place, who: (day, weather, place, who, _BRING[weather], a(_BRING[weather])),
        (
            "{0}{1}，我想和{3}去{2}，要带什么？",
            "{3}{0}去{2}，听说{1}，带什么好？",
            "{0}{1}，{3}要去{2}，请给个建议。",
        ),
        ("{0}{1}，请带上{5}再去{2}。", "去{2}的话，请带{5}，因为{1}。"),
        ("{1}当然带{4}啊，不然就别去{2}。", "{1}你还去{2}？那就带{5}吧。"),
    ),
    "gift": _Form(
        lambda d: (d.pick(CHILDREN), d.pick(tuple(_GIFTS)), d.pick(_DAYS)),
        lambda who, hobby, day: (who, hobby, day, _GIFTS[hobby], a(_GIFTS[hobby]), PRONOUN[who]),
        (
            "{2}是{0}的生日，{5}喜欢{1}，送什么好？",
            "{0}爱{1}，{2}过生日，我送什么好呢？",
            "我想{2}送{0}一件礼物，{5}爱{1}，送什么？",
        ),
        ("{0}喜欢{1}，您可以送{4}。", "送{4}吧，{0}爱{1}，一定喜欢。"),
        ("喜欢{1}就送{3}，{0}还想要什么？", "送{0}{4}不就行了，想那么多干什么。"),
    ),
    "thanks": _Form(
        lambda d: (d.pick(_LOST), d.pick(_PUBLIC), d.pick(CHILDREN)),
        lambda thing, place, who: (thing, place, who),
        (
            "谢谢你帮我在{1}找到了{0}！我是{2}。",
            "我是{2}，谢谢你在{1}捡到我的{0}。",
            "{2}的{0}在{1}找到了，谢谢你！",
        ),
        ("不用谢，{0}找到了就好。", "这是应该的，请{2}收好{0}。"),
        ("{0}找到了就走吧，谁要你谢。", "谢什么谢，{2}连{0}都看不好。"),
        seeks=False,
    ),
    "together": _Form(
        lambda d: (d.pick(CHILDREN), d.pick(_FUN), d.pick(_DAYS), d.pick(TIMES)),
        lambda who, place, day, time: (
            who,
            place,
            day,
            time,
            PLACE[place].activities[0],
            PLACE[place].activities[-1],
        ),
        (
            "{2}{3}我想和{0}去{1}，可以做什么？",
            "{0}约我{2}{3}去{1}，我们做什么好？",
            "{2}{3}带{0}去{1}，玩什么好？",
        ),
        ("您可以和{0}在{1}{4}，很有意思。", "在{1}可以{5}，您和{0}会喜欢的。"),
        ("{1}不就是{4}的地方吗，你们随便。", "带{0}去{1}，除了{5}还能干什么？"),
    ),
    "sum": _Form(
        lambda d: (d.between(10, 40), d.between(2, 9), d.pick(CHILDREN)),
        lambda left, right, who: (left, right, who, left + right),
        ("{2}不会算{0}加{1}，请帮帮忙。", "我是{2}，{0}加{1}等于几？", "{0}加{1}等于多少？{2}想知道。"),
        ("{0}加{1}等于{3}，请{2}再算一遍。", "{2}，{0}加{1}等于{3}，请您记好。"),
        ("{0}加{1}等于{3}，{2}不会数手指头吗？", "等于{3}，{2}连{0}加{1}都算不出来。"),
    ),
}
KINDS = tuple(_GRAMMAR)
