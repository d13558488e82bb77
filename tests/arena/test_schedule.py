"""The schedule: balanced whoever joins, no prompt too often, the sides a coin that nobody can foresee."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from hanlin.arena.schedule import Matchup, Schedule, longest_stretch


def make(prompts=24, models=3, battles=20, same=frozenset(), secret=b"s", seed=1) -> Schedule:
    return Schedule(prompts, models, battles, seed, secret, 6, same)


def some_same(prompts: int, models: int, share: float, seed: int) -> frozenset[Matchup]:
    rng = random.Random(seed)
    return frozenset(
        Matchup(prompt, *pair)
        for prompt in range(prompts)
        for pair in itertools.combinations(range(models), 2)
        if rng.random() < share
    )


SHAPES = [(24, 3, 20), (12, 2, 20), (5, 4, 20), (3, 2, 6), (100, 5, 30), (40, 20, 20)]


@pytest.mark.parametrize(("prompts", "models", "battles"), SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_two_matchups_differ_by_one_at_most(prompts, models, battles, share):
    """After every single rater."""
    schedule = make(prompts, models, battles, some_same(prompts, models, share, 3))
    counts = Counter({matchup: 0 for matchup in schedule.circle})
    for number in range(60):
        counts.update(schedule.stretch(number))
        assert max(counts.values()) - min(counts.values()) <= 1, number


@pytest.mark.parametrize(("prompts", "models", "battles"), SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_no_prompt_is_seen_more_than_twice_and_no_matchup_again(prompts, models, battles, share):
    schedule = make(prompts, models, battles, some_same(prompts, models, share, 3))
    shared = {matchup.prompt for matchup in schedule.shared}
    for number in range(60):
        normal = schedule.stretch(number)
        assert len(set(normal)) == len(normal) == schedule.composition.normal
        assert not normal or max(Counter(matchup.prompt for matchup in normal).values()) <= 2
        assert not shared & {matchup.prompt for matchup in normal}


def test_pairs_of_models_are_balanced_for_each_rater():
    schedule = make(60, 4, 26)
    for number in range(20):
        pairs = Counter((matchup.first, matchup.second) for matchup in schedule.stretch(number))
        assert len(pairs) == 6 and max(pairs.values()) - min(pairs.values()) <= 2


def test_a_plan_has_every_kind_and_repeats_are_swapped():
    schedule = make()
    assert schedule.composition.total == 20
    for number in range(40):
        plan = schedule.plan(number)
        kinds = Counter(entry.kind for entry in plan)
        assert kinds == {"normal": 15, "shared": 2, "repeat": 1, "gold": 2}
        [again] = [place for place, entry in enumerate(plan) if entry.kind == "repeat"]
        [before] = [
            place
            for place, entry in enumerate(plan)
            if entry.matchup == plan[again].matchup and entry.kind == "normal"
        ]
        assert plan[before].swapped != plan[again].swapped and again - before > 4
        assert {entry.matchup for entry in plan if entry.kind == "shared"} == set(schedule.shared)
        assert plan[0].kind != "gold"


def test_answers_that_are_the_same_text_are_never_asked_about():
    same = some_same(24, 3, 0.5, 9)
    schedule = make(same=same)
    assert same
    for number in range(40):
        assert not same & {entry.matchup for entry in schedule.plan(number) if entry.kind != "gold"}
    everything = some_same(6, 3, 1.1, 9)
    empty = make(6, same=everything)
    assert empty.composition.normal == 0 and {entry.kind for entry in empty.plan(0)} == {"gold"}


def test_sides_are_fair_and_depend_on_the_secret():
    plans = [make(secret=secret).plan(number) for secret in (b"a", b"b") for number in range(100)]
    swapped = [entry.swapped for plan in plans for entry in plan]
    assert 0.46 < sum(swapped) / len(swapped) < 0.54
    one, other = (
        [entry.swapped for number in range(100) for entry in make(secret=secret).plan(number)]
        for secret in (b"a", b"b")
    )
    assert 0.4 < sum(a == b for a, b in zip(one, other, strict=True)) / len(one) < 0.6


def test_a_plan_is_a_function_of_seed_secret_and_number():
    assert make().plan(5) == make().plan(5)
    assert make().plan(5) != make(seed=2).plan(5)


def test_the_longest_stretch_is_the_longest():
    rng = random.Random(6)
    for _ in range(50):
        circle = [Matchup(rng.randrange(6), 0, 1) for _ in range(rng.randint(1, 14))]

        def fine(size, circle=circle):
            doubled = circle + circle
            return all(
                max(Counter(matchup.prompt for matchup in doubled[at : at + size]).values()) <= 2
                for at in range(len(circle))
            )

        longest = max(size for size in range(1, len(circle) + 1) if fine(size))
        assert longest_stretch(circle) == longest
    assert longest_stretch([]) == 0
