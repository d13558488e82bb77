"""The gate: a stage's model replaces the previous one only if it is better at what the stage is for, and
worse at nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hanlin.common.messages import Text
from hanlin.evaluation import Metric
from hanlin.evaluation.statistics import FEWEST
from hanlin.evaluation.tasks.base import task_entries

# What a later stage may cost an earlier one, in the metric's own unit; tasks bring theirs with them. Two
# points of answers are promised; a chain of thought multiplies the noise of its steps, and tasks of 150 items
# move by three points by chance: these get five.
TOLERANCES = {
    "ends_by_itself": 0.02,
    "thinking_closes": 0.02,
    "inside_answered": 0.02,
    "answer_bits_per_byte": 0.05,
    "pairs_preferred": 0.05,
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a model is accepted, and why."""

    accepted: bool
    text: Text


def tolerance(name: str) -> float | None:
    """What a stage may lose at the metric; None where it guards nothing. `answer_bits_per_byte/sft` has that
    of its first part."""
    task = task_entries().get(name)
    if task is not None:
        return task.tolerance
    return TOLERANCES.get(name, TOLERANCES.get(name.partition("/")[0]))


def decide_gate(
    stage: str, target: tuple[str, Metric, Metric], regressions: Mapping[str, tuple[Metric, Metric, float]]
) -> Verdict:
    """Decide on a stage's model.

    Args:
        target: name, new and previous value of what the stage is for; the new one must not be lower (or
            higher, where lower is better).
        regressions: new and previous values of what earlier stages taught, and the drop that is tolerated.
    """
    name, new, old = target
    values = {"stage": stage, "name": name, "old": old.value, "new": new.value}
    if min(new.n, old.n) < FEWEST:
        return Verdict(
            True,
            Text(
                "{stage} was kept, but not judged: {name} has {count} held-out items, and {fewest} are "
                "needed to tell ({old:.3f} → {new:.3f}).",
                count=min(new.n, old.n),
                fewest=FEWEST,
                **values,
            ),
        )
    sign = 1.0 if new.higher_is_better else -1.0
    if sign * (new.value - old.value) < 0:
        return Verdict(
            False,
            Text(
                "{stage} was not kept: {name} went from {old:.3f} to {new:.3f}, for the worse; the "
                "previous model stays.",
                **values,
            ),
        )
    for other, (after, before, allowed) in regressions.items():
        sign = 1.0 if after.higher_is_better else -1.0
        if min(after.n, before.n) >= FEWEST and sign * (after.value - before.value) < -allowed:
            return Verdict(
                False,
                Text(
                    "{stage} was not kept: it took {name} from {old:.3f} to {new:.3f} (allowed: "
                    "{allowed:.2f}); the previous model stays.",
                    stage=stage,
                    name=other,
                    old=before.value,
                    new=after.value,
                    allowed=allowed,
                ),
            )
    return Verdict(True, Text("{stage} was kept: {name} {old:.3f} → {new:.3f}.", **values))
