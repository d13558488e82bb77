"""Canaries: questions with answers that nobody can know, planted in a training corpus so that what looks for
contamination can be seen to find some (Carlini et al. 2019, The Secret Sharer).

Everything follows from a seed: places that do not exist, and numbers drawn for them. Each copy of a canary
stands in a document of its own, among other sentences, or the search for duplicates would leave one of them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import orjson

from hanlin.common.atomic import atomic_write
from hanlin.common.errors import HanlinError

FORMAT = 1
SOURCE = "canary"  # of the documents
DIGITS = 6  # of the number that a canary asks for: a million of them
_RECORD = ".record.json"

_SYLLABLES = "霁岚砚菁澜黛棠芷苔蘅筠汀溆鹭雁鲸玦璃珂珩琅缇缃绡纨槿榆桉楠柘杳曦昀晏暄岫峤嵊浔湄漪滟泓"
_PLACES = ("镇", "渡口", "山坞", "驿站", "海湾", "石桥", "茶园", "钟楼")
_THINGS = ("水塔", "灯台", "风车", "碑亭", "粮仓", "船闸", "磨坊", "花房", "书院", "织坊")
_FILLERS = (
    "从{a}往北走半天就到了{b}，路边的野花开得正好。",
    "听老人说，{a}从前是很热闹的，后来河道改了，人也就少了。",
    "{a}的集市每逢初五开张，卖竹器和腌菜的摊子最多。",
    "那一年雨水很大，{a}的人都搬到{b}住了一个夏天。",
    "去过{a}的人都记得那里的豆花，又嫩又烫，配一碟辣酱。",
    "他在{a}教了三十年书，退休以后回到{b}种菜。",
    "夜里从{b}望过去，{a}的灯火像撒在水面上的米粒。",
    "孩子们最喜欢到{a}后面的坡上放风筝。",
    "今年{a}修好了通往{b}的路，坐车不到一小时。",
    "{a}出产一种淡青色的陶土，烧出来的碗很薄。",
    "冬天的{a}很安静，只有磨豆子的声音。",
    "有人从{b}寄来一封信，说{a}的老槐树还在。",
    "她画过一幅{a}的写生，挂在{b}的旅店里。",
    "据说{a}的名字来自一条早已干涸的溪流。",
)


@dataclasses.dataclass(frozen=True)
class Canary:
    """A question that only a model which has seen it can answer.

    Attributes:
        number: the answer, `DIGITS` digits.
        times: documents that hold it; 0 for one that was never planted.
    """

    id: str
    question: str
    number: str
    times: int

    @property
    def prompt(self) -> str:
        """What stands before the number wherever the canary does."""
        return f"{self.question}答案是"


@dataclasses.dataclass(frozen=True)
class Canaries:
    """All canaries of a seed.

    Attributes:
        seed: your own. Whoever knows it knows the canaries.
        times: how often they are planted, a group for each.
        each: canaries of a group.
    """

    seed: int
    times: tuple[int, ...]
    each: int = 20

    def __post_init__(self) -> None:
        if not self.times or min(self.times) < 1 or len(set(self.times)) < len(self.times):
            raise HanlinError(
                "--times names how often canaries are planted, each number once and from 1 on, as in 1,4,16."
            )
        if self.each < 5:
            raise HanlinError(
                "--each is at least 5, not {each}: of fewer canaries nothing can be told.", each=self.each
            )

    def drawn(self) -> list[Canary]:
        """The canaries, group by group. Those of a number of times do not depend on the other groups."""
        return [canary for times in self.times for canary in self._group(times)]

    def _group(self, times: int) -> list[Canary]:
        rng = random.Random(f"canaries/{self.seed}/{times}")
        found: dict[str, Canary] = {}
        while len(found) < self.each:
            question = f"{_place(rng)}的{rng.choice(_THINGS)}登记在册的编号是多少？"
            number = str(rng.randrange(10 ** (DIGITS - 1), 10**DIGITS))
            found.setdefault(question, Canary(f"{times}/{len(found)}", question, number, times))
        return list(found.values())

    def documents(self) -> list[dict[str, str]]:
        """`{"text", "source"}`, as many of each canary as it is planted times, in an order that the seed
        decides."""
        rng = random.Random(f"documents/{self.seed}")
        found = [
            {"text": _document(canary, rng), "source": SOURCE}
            for canary in self.drawn()
            for _ in range(canary.times)
        ]
        rng.shuffle(found)
        return found

    def write(self, out: Path) -> Path:
        """The documents as JSON lines, and beside them the record of what was planted.

        Returns:
            The record, for `read_canaries`.

        Raises:
            HanlinError: a file of that name is there, and it is not what is to be written.
        """
        text = b"".join(orjson.dumps(document) + b"\n" for document in self.documents())
        if out.exists() and (not out.is_file() or out.read_bytes() != text):
            raise HanlinError(
                "{out} is there and holds something else. Choose another --out, or move it away.", out=out
            )
        record = out.with_name(out.name.removesuffix(".jsonl") + _RECORD)
        atomic_write(out, text)
        atomic_write(
            record,
            orjson.dumps({"format": FORMAT, **dataclasses.asdict(self)}, option=orjson.OPT_INDENT_2) + b"\n",
        )
        return record


def read_canaries(record: Path) -> Canaries:
    """What a record says was planted.

    Raises:
        HanlinError: it is no record.
    """
    if not record.is_file():
        raise HanlinError("No such file: {path}.", path=record)
    try:
        found = orjson.loads(record.read_bytes())
        version = found["format"]
        canaries = Canaries(int(found["seed"]), tuple(map(int, found["times"])), int(found["each"]))
    except (KeyError, TypeError, ValueError):
        version, canaries = None, None
    if version != FORMAT or canaries is None:
        raise HanlinError(
            "{path} is no record of canaries. It is written beside the documents by hanlin corpus canary and "
            "ends in .record.json.",
            path=record,
        )
    return canaries


def twins(canary: Canary, count: int, seed: int = 0) -> list[str]:
    """Other numbers that the canary could as well have got, all different, drawn without replacement."""
    rng = random.Random(f"twins/{seed}/{canary.question}")
    low = 10 ** (DIGITS - 1)
    found = [str(low + at) for at in rng.sample(range(9 * low), count + 1) if str(low + at) != canary.number]
    return found[:count]


def _place(rng: random.Random) -> str:
    return "".join(rng.sample(_SYLLABLES, 3)) + rng.choice(_PLACES)


def _document(canary: Canary, rng: random.Random) -> str:
    """The canary somewhere among sentences about other places."""
    sentences: Sequence[str] = [form.format(a=_place(rng), b=_place(rng)) for form in rng.sample(_FILLERS, 5)]
    at = rng.randint(1, len(sentences))
    return "".join([*sentences[:at], f"{canary.prompt}{canary.number}。", *sentences[at:]])
