"""The gate: a stage's model replaces the previous one only if it is better at what the stage is for, and
worse at nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from hanlin.common.messages import Text, joined, sentences
from hanlin.evaluation import Metric
from hanlin.evaluation.benchmarks.base import BENCHMARKS
from hanlin.evaluation.paired import ONE_SIDED, Difference, difference, holm, items_needed
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


Outcome = Literal["accepted", "refused", "undecided"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of a model, and why.

    Attributes:
        outcome: accepted: shown better at its target and no worse, by more than is tolerated, at anything
            else. refused: shown worse. undecided: neither; it is kept, and the text says what was not shown.
    """

    outcome: Outcome
    text: Text

    @property
    def accepted(self) -> bool:
        """Whether the model replaces the previous one."""
        return self.outcome != "refused"


BENCHMARK_TOLERANCE = 0.02


def tolerance(name: str) -> float | None:
    """What a stage may lose at the metric; None where it guards nothing. `answer_bits_per_byte/sft` has that
    of its first part."""
    task = task_entries().get(name)
    if task is not None:
        return task.tolerance
    if name.partition("/")[0] in BENCHMARKS:
        return BENCHMARK_TOLERANCE
    return TOLERANCES.get(name, TOLERANCES.get(name.partition("/")[0]))


def decide_gate(
    stage: str, target: tuple[str, Metric, Metric], regressions: Mapping[str, tuple[Metric, Metric, float]]
) -> Verdict:
    """Decide on a stage's model, from the differences between it and its parent on the same items
    (`paired.difference`).

    The target is judged at 5 %, two-sided. What earlier stages taught is tested for non-inferiority: refused
    is a model that is shown, one-sided at 5 % over all guards together (Holm), to have lost more than is
    tolerated; a guard holds where the contrary is shown. With a hundred items neither can be shown of a guard
    of five points, so that undecided guards do not stop a stage: they are said, with the items that would
    decide. Point values decide nothing: of stages that change nothing they would refuse half.

    Args:
        target: name, new and previous value of what the stage is for.
        regressions: new and previous values of what earlier stages taught, and the loss that is tolerated.
    """
    name, new, old = target
    values = {"stage": stage, "name": name, "old": old.value, "new": new.value}
    if min(new.n, old.n) < FEWEST:
        return Verdict(
            "undecided",
            Text(
                "{stage} was kept, but not judged: {name} has {count} held-out items, and {fewest} are "
                "needed to tell ({old:.3f} → {new:.3f}).",
                count=min(new.n, old.n),
                fewest=FEWEST,
                **values,
            ),
        )
    aim = difference(new, old)
    if aim.high < 0:
        return Verdict(
            "refused",
            Text(
                "{stage} was not kept: {name} went from {old:.3f} to {new:.3f}, for the worse; the "
                "previous model stays.",
                **values,
            ),
        )
    guards = {
        other: (difference(after, before), allowed)
        for other, (after, before, allowed) in regressions.items()
        if min(after.n, before.n) >= FEWEST
    }
    inferior = holm([found.not_below(-allowed) for found, allowed in guards.values()])
    for other, lost in zip(guards, inferior, strict=True):
        if lost:
            after, before, allowed = regressions[other]
            return Verdict(
                "refused",
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
    kept = Text("{stage} was kept: {name} {old:.3f} → {new:.3f}.", **values)
    open_ones = [
        _undecided(other, found, allowed)
        for other, (found, allowed) in guards.items()
        if found.not_above(-allowed) > ONE_SIDED
    ]
    if aim.low <= 0:
        open_ones.insert(0, Text("that {name} got better is not shown", name=name))
    if not open_ones:
        return Verdict("accepted", kept)
    return Verdict(
        "undecided",
        sentences([kept, Text("Undecided: {reasons}.", reasons=joined(open_ones, _SEMICOLON))]),
    )


_SEMICOLON = Text.in_context("between clauses", "; ")


def _undecided(name: str, found: Difference, allowed: float) -> Text:
    """What a guard does not show, and how many items would."""
    distance = max(abs(found.value + allowed), allowed / 4)
    needed = items_needed(found.discordance, distance)
    if needed <= found.units:
        return Text("{name} may have lost more than {allowed:.2f}", name=name, allowed=allowed)
    return Text(
        "{name} may have lost more than {allowed:.2f} ({more} more items would decide)",
        name=name,
        allowed=allowed,
        more=needed - found.units,
    )
