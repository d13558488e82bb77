"""Known dirt, injected so that cleaning can be checked against the truth (`cleaning`)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hanlin.common.errors import ConfigError
from hanlin.corpus.tinyworld.draw import Draw

KINDS = ("exact_duplicate", "near_duplicate", "spam", "mojibake", "html")
NEAR_JACCARD = 0.85
SHORTEST_NEAR = 80

Record = dict[str, Any]


@dataclass(frozen=True)
class Dirt:
    """How much dirt: `rate` of all records, shared evenly by `kinds`."""

    rate: float = 0.1
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ConfigError("rate is {rate}, should be at least 0 and below 1", rate=self.rate)
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise ConfigError("kinds should be among {kinds}", kinds=", ".join(KINDS))


def spoil(dirt: Dirt, seed: int, split: str, index: int, clean: Callable[[int], Record]) -> Record:
    """Record `index` of a dirty corpus: the clean document, or dirt of a random kind in its place."""
    kind = _dirt_at(dirt, seed, split, index)
    if not kind:
        return clean(index)
    draw = Draw(seed, split, "spoil", index)
    record = clean(index)
    record["dirt"] = kind
    if kind in ("exact_duplicate", "near_duplicate"):
        original = _original(
            dirt, seed, split, index, clean, draw, SHORTEST_NEAR if kind == "near_duplicate" else 1
        )
        if original is None:  # nothing suitable came before
            record["dirt"] = "html"
            record["text"] = _html(record["text"], draw)
        else:
            record["original"], record["source"] = original["id"], original["source"]
            record["text"] = (
                original["text"] if kind == "exact_duplicate" else near_duplicate(original["text"], draw)
            )
    else:
        record["text"] = {"spam": _spam, "mojibake": _mojibake, "html": _html}[kind](record["text"], draw)
    return record


def near_duplicate(text: str, draw: Draw) -> str:
    """`text` with one to three small edits, at least one of them in a word; character 5-gram Jaccard stays
    >= 0.85."""
    best = text
    for _ in range(draw.between(1, 3)):
        edited = _EDITS[draw.below(len(_EDITS))](best, draw)
        if shingle_jaccard(text, edited) >= NEAR_JACCARD and compared(edited) != compared(text):
            best = edited
    return best if best != text else text + BOILERPLATE[0]


def shingle_jaccard(left: str, right: str, size: int = 5) -> float:
    """Jaccard similarity of the sets of character n-grams of two texts."""
    a, b = ({text[at : at + size] for at in range(max(1, len(text) - size + 1))} for text in (left, right))
    return len(a & b) / len(a | b)


def _dirt_at(dirt: Dirt, seed: int, split: str, index: int) -> str:
    draw = Draw(seed, split, "dirt", index)
    return draw.pick(dirt.kinds) if draw.chance(dirt.rate) else ""


def _original(
    dirt: Dirt, seed: int, split: str, index: int, clean: Callable[[int], Record], draw: Draw, shortest: int
) -> Record | None:
    for _ in range(40 if index else 0):
        at = draw.below(index)
        if not _dirt_at(dirt, seed, split, at):
            record = clean(at)
            if len(record["text"]) >= shortest:
                return record
    return None


BOILERPLATE = ("（全文完）", "（未完待续）", "（本文有删改）", "（来自网络）")


def _substitute(text: str, draw: Draw) -> str:
    at = draw.between(len(text) // 2, len(text) - 2)
    return text[:at] + draw.pick("的了是在又就也都很") + text[at + 1 :]


def _delete(text: str, draw: Draw) -> str:
    at = draw.between(1, len(text) - 2)
    return text[:at] + text[at + 1 :]


def _append(text: str, draw: Draw) -> str:
    return text + draw.pick(BOILERPLATE)


def _punctuate(text: str, draw: Draw) -> str:
    at = text.rfind("。", 0, len(text) - 1)
    return text if at < 0 else text[:at] + "！" + text[at + 1 :]


_EDITS = (
    _substitute,
    _delete,
    _append,
    lambda text, draw: _append(_punctuate(text, draw), draw),
    _substitute,
)

SPAM_MARKS = (
    "加微信",
    "点击链接",
    "限时优惠",
    "代开发票",
    "免费领取",
    "扫码关注",
    "客服热线",
    "低息贷款",
    "日赚千元",
    "最新网址",
)
_SPAM_LINES = (
    "加微信{w}，每天领红包，名额有限先到先得！",
    "点击链接www.{w}.com，马上注册送{n}元现金！",
    "限时优惠！原价{n}元，现在下单立减一半，电话1{n}{n}{d}！",
    "专业代开发票，价格便宜，联系QQ：{n}{n}。",
    "免费领取学习资料，请联系客服QQ{n}{d}{n}。",
    "扫码关注公众号{w}，天天抽大奖！",
    "客服热线400-{n}-{n}，二十四小时在线，欢迎来电咨询。",
    "低息贷款，无抵押，当天放款，电话1{n}{d}{n}，非诚勿扰。",
    "在家兼职刷单，日赚千元不是梦，速加QQ群{n}{n}！",
    "本站最新网址：http://{w}{d}.net，请收藏本页，防止丢失。",
)


def _spam_line(draw: Draw) -> str:
    word = "".join(draw.pick("abcdefghkmnpqrstuvwxyz") for _ in range(draw.between(4, 7)))
    return draw.pick(_SPAM_LINES).format(
        w=f"{word}{draw.between(10, 999)}", n=draw.between(1000, 9999), d=draw.between(10, 99)
    )


def _spam(text: str, draw: Draw) -> str:
    """A whole spam document, or a good one with a spam line put in."""
    if draw.chance(0.5):
        return "\n".join(_spam_line(draw) for _ in range(draw.between(2, 5)))
    lines = text.split("\n")
    lines.insert(draw.between(0, len(lines)), _spam_line(draw))
    return "\n".join(lines)


def _mojibake(text: str, draw: Draw) -> str:
    """The bytes of UTF-8 read as Latin-1 or GBK: the whole text, or its second half."""
    keep = 0 if draw.chance(0.7) else len(text) // 2
    garbled = text[keep:].encode()
    return text[:keep] + (
        garbled.decode("latin-1") if draw.chance(0.5) else garbled.decode("gbk", errors="replace")
    )


def _html(text: str, draw: Draw) -> str:
    """Tags, entities or script left around and within good text."""
    number = draw.between(1, 9999)
    paragraphs = "".join(f"<p>{line}</p>" for line in text.split("\n"))
    return draw.pick(
        (
            f'<div class="post" id="p{number}">{paragraphs}</div>',
            (
                f"<html><body>{paragraphs}"
                f"<script>var id={number};function go(){{location.href='/';}}</script></body></html>"
            ),
            text.replace("。", "。<br/>&nbsp;&nbsp;").replace("\n", "<br/>"),
            f'{text}\n<a href="/list/{number}.html">下一页</a>&nbsp;|&nbsp;<a href="/">首页</a>',
            (
                f"<style>.a{number}{{color:#333;margin:0}}</style>\n"
                f"{text.replace('“', '&ldquo;').replace('”', '&rdquo;')}"
            ),
        )
    )


def compared(text: str) -> str:
    """What texts are compared by: their letters and digits after NFKC."""
    return "".join(c for c in unicodedata.normalize("NFKC", text) if c.isalnum())
