"""Known dirt, injected so that cleaning can be checked against the truth, and the check itself."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

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
            raise ValueError(f"rate={self.rate} 应在 0 与 1 之间 / should be in [0, 1)")
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise ValueError(f"kinds 只能取自 / must be among {', '.join(KINDS)}")


@dataclass(frozen=True)
class CleaningScore:
    """How a cleaner did. `by_kind` holds (total, removed) for each kind of dirt."""

    dirt_total: int
    dirt_removed: int
    good_total: int
    good_lost: int
    by_kind: dict[str, tuple[int, int]]


def check_cleaning(produced: Iterable[Record], cleaned_texts: Iterable[str]) -> CleaningScore:
    """Compare what a cleaner kept with the labels of what it was given.

    Texts are compared by their letters and digits after NFKC, so a cleaner may change spacing and punctuation.

    - A good document and its duplicates are one cluster: whichever member is kept, the cluster is alive. A dead cluster is one
      good document lost; each kept member beyond the first is a duplicate not removed. Good documents of equal text are one.
    - Spam, mojibake and HTML leave marks that no good document has (phrases of the spam lexicon; letters outside the world's
      characters; Latin letters and markup). Each kept text with such a mark is one record not removed; a spoiled document
      counts as removed when it was dropped and when it was repaired.
    """
    cluster: dict[str, str] = {}  # id of a good document -> key of its text
    repeats: dict[str, list[tuple[str, str]]] = {}  # key of a good document -> (kind, key) of its duplicates
    totals: Counter[str] = Counter()
    waiting: list[Record] = []
    for record in produced:
        if "dirt" not in record:
            cluster[record["id"]] = _key(record["text"])
            continue
        totals[record["dirt"]] += 1
        if "original" in record:
            waiting.append(record)
    for record in waiting:  # a duplicate whose original was not produced forms its own cluster
        original: str = record["original"]
        repeats.setdefault(cluster.get(original, original), []).append((record["dirt"], _key(record["text"])))
    kept: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for text in cleaned_texts:
        mark = mark_of(text)
        if mark:
            left[mark] += 1
        else:
            kept[_key(text)] += 1
    good = set(cluster.values())
    lost = 0
    for key in good | set(repeats):
        copies = Counter(repeats.get(key, ()))
        alive = kept[key]
        spare = alive - 1 if alive else 0  # the first member kept stands for the cluster
        left["exact_duplicate"] += min(spare, copies[("exact_duplicate", key)])
        for (kind, other), _ in copies.items():
            if other != key and kept[other]:
                left[kind] += kept[other] if alive else kept[other] - 1
                alive += kept[other]
        lost += key in good and not alive
    by_kind = {kind: (total, total - min(left[kind], total)) for kind, total in sorted(totals.items())}
    return CleaningScore(
        sum(totals.values()), sum(removed for _, removed in by_kind.values()), len(good), lost, by_kind
    )


def mark_of(text: str) -> str:
    """The kind of dirt a text shows by itself, "" for none: "spam", "mojibake" or "html"."""
    if any(mark in text for mark in SPAM_MARKS):
        return "spam"
    if re.search("[A-Za-z<>{}]|&#", text):
        return "html"
    letters = [c for c in text if ord(c) > 0x7F and unicodedata.category(c)[0] in "LSC"]
    return "mojibake" if len(letters) * 0.15 < sum(c not in _characters() for c in letters) else ""


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
    """`text` with one to three small edits, at least one of them in a word; character 5-gram Jaccard stays >= 0.85."""
    best = text
    for _ in range(draw.between(1, 3)):
        edited = _EDITS[draw.below(len(_EDITS))](best, draw)
        if shingle_jaccard(text, edited) >= NEAR_JACCARD and _key(edited) != _key(text):
            best = edited
    return best if best != text else text + _BOILERPLATE[0]


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


_BOILERPLATE = ("（全文完）", "（未完待续）", "（本文有删改）", "（来自网络）")


def _substitute(text: str, draw: Draw) -> str:
    at = draw.between(len(text) // 2, len(text) - 2)
    return text[:at] + draw.pick("的了是在又就也都很") + text[at + 1 :]


def _delete(text: str, draw: Draw) -> str:
    at = draw.between(1, len(text) - 2)
    return text[:at] + text[at + 1 :]


def _append(text: str, draw: Draw) -> str:
    return text + draw.pick(_BOILERPLATE)


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
            f"<html><body>{paragraphs}<script>var id={number};function go(){{location.href='/';}}</script></body></html>",
            text.replace("。", "。<br/>&nbsp;&nbsp;").replace("\n", "<br/>"),
            f'{text}\n<a href="/list/{number}.html">下一页</a>&nbsp;|&nbsp;<a href="/">首页</a>',
            f"<style>.a{number}{{color:#333;margin:0}}</style>\n{text.replace('“', '&ldquo;').replace('”', '&rdquo;')}",
        )
    )


def _key(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text) if c.isalnum())


@functools.cache
def _characters() -> frozenset[str]:
    """Characters of good documents, sampled; a text of the world has almost none outside."""
    from hanlin.corpus.tinyworld.documents import documents

    return frozenset("".join(record["text"] for record in documents(0, 3000)) + "".join(_BOILERPLATE))
