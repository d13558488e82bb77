"""Attention checks: a good answer beside characters drawn at random."""

from __future__ import annotations

import random
from typing import NamedTuple


class Check(NamedTuple):
    """A question, an answer that anyone finds better, and one that is noise."""

    prompt: str
    good: str
    broken: str


_GOOD = (
    ("一年有几个季节？", "一年有四个季节：春天、夏天、秋天和冬天。"),
    ("水烧开了会变成什么？", "水烧开以后会变成水蒸气，飘到空气里。"),
    ("为什么要刷牙？", "刷牙可以清掉牙齿上的食物残渣，防止蛀牙，让口气清新。"),
    ("请用一句话介绍大熊猫。", "大熊猫是生活在中国的一种动物，毛色黑白相间，最爱吃竹子。"),
    ("太阳从哪个方向升起？", "太阳每天早上从东方升起，傍晚在西方落下。"),
    ("过马路要注意什么？", "过马路要走人行横道，看清红绿灯，左右没有车再走。"),
)
_NOISE = (
    "的一是了在有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方"
)


def checks(seed: int) -> list[Check]:
    """All checks; the noise is a function of the seed and as long as the good answer."""
    rng = random.Random(f"{seed} gold")
    return [Check(prompt, good, "".join(rng.choices(_NOISE, k=len(good)))) for prompt, good in _GOOD]
