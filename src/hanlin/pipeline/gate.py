"""The gate: a stage's model replaces the previous one only if it is better at what the stage is for, and worse at nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hanlin.evaluation import Metric
from hanlin.evaluation.statistics import FEWEST

# What a later stage may cost an earlier one, in the metric's own unit. Two points of answers are promised; a chain of thought
# multiplies the noise of its steps, and tasks of 150 items move by three points by chance: these get five.
TOLERANCES = {
    "story_answers": 0.02,
    "preferred_manner": 0.05,
    "problems_solved": 0.05,
    "word_problems": 0.05,
    "greetings": 0.05,
    "story_requests": 0.05,
    "outside_declined": 0.05,
    "later_turns": 0.05,
    "ends_by_itself": 0.02,
    "thinking_closes": 0.02,
    "inside_answered": 0.02,
    "answer_bits_per_byte": 0.05,
    "pairs_preferred": 0.05,
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a model is kept, and why, in both languages."""

    kept: bool
    zh: str
    en: str


def tolerance(name: str) -> float | None:
    """What a stage may lose at the metric; None where it is no guard. `answer_bits_per_byte/sft` has that of its first part."""
    return TOLERANCES.get(name.partition("/")[0])


def judge(
    stage: str, aim: tuple[str, Metric, Metric], guards: Mapping[str, tuple[Metric, Metric, float]]
) -> Verdict:
    """Decide on a stage's model.

    Args:
        aim: name, new and previous value of what the stage is for; the new one must not be lower (or higher, where lower is better).
        guards: new and previous values of what earlier stages taught, and the drop that is tolerated.
    """
    name, new, old = aim
    sign = 1.0 if new.higher_is_better else -1.0
    if min(new.n, old.n) < FEWEST:
        return Verdict(
            True,
            f"{stage} 已采用，但未经评判：{name} 只有 {min(new.n, old.n)} 条留出，至少要 {FEWEST} 条才能下结论"
            f"（{old.value:.3f} → {new.value:.3f}）。",
            f"{stage} was kept, but not judged: {name} has {min(new.n, old.n)} held-out items, and {FEWEST} are needed to tell "
            f"({old.value:.3f} → {new.value:.3f}).",
        )
    if sign * (new.value - old.value) < 0:
        return Verdict(
            False,
            f"{stage} 未被采用：{name} 从 {old.value:.3f} 变为 {new.value:.3f}，变差了；继续使用上一阶段的模型。",
            f"{stage} was not kept: {name} went from {old.value:.3f} to {new.value:.3f}, for the worse; the previous model stays.",
        )
    for guard, (after, before, allowed) in guards.items():
        sign = 1.0 if after.higher_is_better else -1.0
        if min(after.n, before.n) >= FEWEST and sign * (after.value - before.value) < -allowed:
            return Verdict(
                False,
                f"{stage} 未被采用：它使 {guard} 从 {before.value:.3f} 变为 {after.value:.3f}（容许 {allowed:.2f}）；"
                "继续使用上一阶段的模型。",
                f"{stage} was not kept: it took {guard} from {before.value:.3f} to {after.value:.3f} (allowed: {allowed:.2f}); "
                "the previous model stays.",
            )
    return Verdict(
        True,
        f"{stage} 已采用：{name} {old.value:.3f} → {new.value:.3f}。",
        f"{stage} was kept: {name} {old.value:.3f} → {new.value:.3f}.",
    )
