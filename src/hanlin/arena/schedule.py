"""Who judges which pair on which prompt: a schedule, not dice. No torch here.

A matchup is a pair of models on a prompt. The matchups lie on a circle, prompt after prompt, turn after turn
with another pair; each rater who joins takes the next stretch of it. However many join, two matchups differ
by one at most in how often they were given out, and a stretch no longer than two turns shows no prompt more
than twice, each time with another pair.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import itertools
import random
from collections import Counter
from collections.abc import Sequence, Set
from typing import Literal

Kind = Literal["normal", "shared", "repeat", "gold"]

REPEAT_SHARE = 0.05  # shown a second time with the sides swapped
SHARED_SHARE = 0.10  # shown to every rater
GOLD = 2
_APART = 4  # battles between a repeated one and its repetition, where there is room
_FIRST_GOLD = 2  # battles before the first attention check, where there is room


@dataclasses.dataclass(frozen=True)
class Matchup:
    """Two models, `first` < `second`, on a prompt; for gold the number of the check in `prompt`."""

    prompt: int
    first: int
    second: int


@dataclasses.dataclass(frozen=True)
class Planned:
    """One battle of a rater's plan.

    Attributes:
        swapped: the matchup's second model is on the left.
    """

    kind: Kind
    matchup: Matchup
    swapped: bool


@dataclasses.dataclass(frozen=True)
class Composition:
    """How many battles of each kind a rater gets.

    Attributes:
        normal: from the circle.
        shared: the same for every rater.
        repeats, gold: see `GOLD`.
    """

    normal: int
    shared: int
    repeats: int
    gold: int

    @property
    def total(self) -> int:
        """Battles of a rater."""
        return self.normal + self.shared + self.repeats + self.gold


class Schedule:
    """The plan of every rater, a function of the seed, the secret and the rater's number.

    Args:
        prompts, models: how many there are.
        battles: each rater gets, as long as the prompts last.
        secret: decides the sides.
        checks: how many attention checks there are to choose from.
        same: matchups whose two answers are the same text; nobody is asked about them.
    """

    def __init__(
        self,
        prompts: int,
        models: int,
        battles: int,
        seed: int,
        secret: bytes,
        checks: int,
        same: Set[Matchup] = frozenset(),
    ):
        self.secret, self.seed, self.checks, self.same = secret, seed, checks, same
        pairs = list(itertools.combinations(range(models), 2))
        rng = random.Random(f"{seed} schedule")
        order = rng.sample(range(prompts), prompts)
        rng.shuffle(pairs)
        repeats, shared = max(1, round(REPEAT_SHARE * battles)), max(1, round(SHARED_SHARE * battles))
        askable = [prompt for prompt in order if any(Matchup(prompt, *pair) not in same for pair in pairs)]
        apart = askable[: min(shared, len(askable) // 3)]
        self.shared = [
            next(
                matchup
                for turn in range(len(pairs))
                if (matchup := Matchup(prompt, *pairs[(i + turn) % len(pairs)])) not in same
            )
            for i, prompt in enumerate(apart)
        ]
        rest = [prompt for prompt in order if prompt not in set(apart)]
        circle = (
            Matchup(prompt, *pairs[(turn + place) % len(pairs)])
            for turn in range(len(pairs))
            for place, prompt in enumerate(rest)
        )
        self.circle = [matchup for matchup in circle if matchup not in same]
        wanted = max(1, battles - repeats - len(apart) - GOLD)
        self.composition = Composition(min(wanted, longest_stretch(self.circle)), len(apart), repeats, GOLD)

    def stretch(self, number: int) -> list[Matchup]:
        """The normal matchups of the rater who joined as the `number`-th, from 0."""
        size = self.composition.normal
        return [self.circle[(number * size + i) % len(self.circle)] for i in range(size)] if size else []

    def plan(self, number: int) -> list[Planned]:
        """The battles of a rater in the order in which they are shown."""
        rng = random.Random(f"{self.seed} rater {number}")
        planned = [
            Planned("normal", matchup, self._side(number, "normal", matchup))
            for matchup in self.stretch(number)
        ]
        planned += [
            Planned("shared", matchup, self._side(number, "shared", matchup)) for matchup in self.shared
        ]
        rng.shuffle(planned)
        once = [entry for entry in planned[: max(1, len(planned) // 2)] if entry.kind == "normal"]
        for entry in rng.sample(once, min(self.composition.repeats, len(once))):
            earliest = min(planned.index(entry) + 1 + _APART, len(planned))
            again = Planned("repeat", entry.matchup, not entry.swapped)
            planned.insert(rng.randint(earliest, len(planned)), again)
        for check in rng.sample(range(self.checks), min(self.composition.gold, self.checks)):
            matchup = Matchup(check, 0, 1)
            at = rng.randint(min(_FIRST_GOLD, len(planned)), len(planned))
            planned.insert(at, Planned("gold", matchup, self._side(number, "gold", matchup)))
        return planned

    def _side(self, number: int, kind: Kind, matchup: Matchup) -> bool:
        """The lowest bit of a keyed hash: nobody without the secret can tell it beforehand."""
        message = f"side {number} {kind} {matchup.prompt} {matchup.first} {matchup.second}".encode()
        return bool(hmac.digest(self.secret, message, hashlib.sha256)[-1] & 1)


def longest_stretch(circle: Sequence[Matchup]) -> int:
    """The longest stretch, wherever it begins, that shows no prompt more than twice and no matchup again."""
    longest = len(circle)
    seen: Counter[int] = Counter()
    begin = 0
    for end in range(2 * len(circle)):
        prompt = circle[end % len(circle)].prompt
        seen[prompt] += 1
        while seen[prompt] > 2:  # the stretch from begin to end, end included, is too long
            longest = min(longest, end - begin)
            seen[circle[begin % len(circle)].prompt] -= 1
            begin += 1
    return longest
