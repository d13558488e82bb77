"""The gate: a stage's model replaces the previous one unless it is shown to be worse at what the stage is
for, or to have lost too much of what was taught before. What is not shown either way is said."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from hanlin.common.messages import Text, joined, sentences
from hanlin.evaluation import Metric
from hanlin.evaluation.benchmarks.base import BENCHMARKS
from hanlin.evaluation.paired import Difference, NonInferiority, Outcome, non_inferiority
from hanlin.evaluation.statistics import FEWEST, difference
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

Finding = Literal["better", "worse", "unclear", "held", "lost", "undecided"]
_FINDINGS: dict[Outcome, Finding] = {"accepted": "held", "refused": "lost", "undecided": "undecided"}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One metric's part in a verdict.

    Attributes:
        finding: of the target better, worse or unclear; of a guard held, lost or undecided.
        low, high: ends of the difference that decide, in the direction in which more is better: of the target
            the 95 % interval, of a guard the two one-sided 95 % ends.
        allowed: loss that is tolerated; None of the target.
        further: items more that would decide a guard, if the difference is what was measured.
    """

    name: str
    finding: Finding
    difference: Difference
    low: float
    high: float
    allowed: float | None = None
    further: int | None = None

    @classmethod
    def of_target(cls, name: str, apart: Difference) -> Judgement:
        """Of what the stage is for."""
        finding = "better" if apart.low > 0 else "worse" if apart.high < 0 else "unclear"
        return cls(name, finding, apart, apart.low, apart.high)

    @classmethod
    def of_guard(cls, name: str, found: NonInferiority) -> Judgement:
        """Of what was taught before."""
        apart = found.difference
        ends = apart.lower(), apart.upper()
        return cls(name, _FINDINGS[found.outcome], apart, *ends, found.margin, found.further)

    def to_dict(self) -> dict[str, Any]:
        """For the report; ends that are not known are null."""
        known = math.isfinite(self.low)
        return {
            "metric": self.name,
            "finding": self.finding,
            "difference": self.difference.value,
            "low": self.low if known else None,
            "high": self.high if known else None,
            "allowed": self.allowed,
            "paired": self.difference.paired,
            "n": self.difference.n,
            "further": self.further,
        }


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of a model, and why.

    Attributes:
        outcome: accepted: shown better at its target, and shown not to have lost more than is tolerated of
            anything else. refused: shown worse, or to have lost too much. undecided: neither; it is kept, and
            the text says what was not shown.
        judged: the target first; without what has too few items.
    """

    outcome: Outcome
    text: Text
    judged: tuple[Judgement, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the model replaces the previous one."""
        return self.outcome != "refused"

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        said = {"verdict": self.outcome, "zh": self.text.zh, "en": self.text.en}
        return said | {"judged": [judgement.to_dict() for judgement in self.judged]}


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
    (`statistics.difference`).

    A model is refused for what is shown, never for a point value: of stages that change nothing, half have a
    lower one. It is refused where

    * the whole 95 % interval of its target's difference lies below 0 (2.5 % of stages that change nothing);
    * a guard has lost more than is tolerated, one-sided at 5 % over all guards together (Holm).

    It is accepted where the target's interval lies above 0, and of each guard the one-sided 95 % end excludes
    a loss of more than is tolerated. Everything between is undecided. With 150 items a loss of five points
    can mostly not be excluded, nor a gain of less than ten be shown, and a gate that refused for it would
    refuse nearly every stage; so what is undecided is kept, and said, with the items that would decide.

    Args:
        target: name, new and previous value of what the stage is for.
        regressions: new and previous values of what earlier stages taught, and the loss that is tolerated.
    """
    name, new, old = target
    values = {"stage": stage, "name": name, "old": old.value, "new": new.value}
    few = min(new.n, old.n) < FEWEST
    aim = None if few else Judgement.of_target(name, difference(new, old))
    guards = _guards(regressions)
    judged = (*([] if aim is None else [aim]), *guards)
    if aim is not None and aim.finding == "worse":
        return Verdict(
            "refused",
            Text(
                "{stage} was not kept: {name} went from {old:.3f} to {new:.3f}, for the worse ({apart}); the "
                "previous model stays.",
                apart=_apart(aim),
                **values,
            ),
            judged,
        )
    lost = [guard for guard in guards if guard.finding == "lost"]
    if lost:
        losses = [_loss(guard, *regressions[guard.name][:2]) for guard in lost]
        return Verdict(
            "refused",
            Text(
                "{stage} was not kept: it lost more than is allowed of {losses}; the previous model stays.",
                stage=stage,
                losses=joined(losses, _SEMICOLON),
            ),
            judged,
        )
    said = [_not_judged(min(new.n, old.n), values) if aim is None else _about_target(aim, values)]
    undecided = [guard for guard in guards if guard.finding == "undecided"]
    if undecided:
        said.append(
            Text(
                "A loss of more than is allowed is neither shown nor excluded of {guards}.",
                guards=joined([_undecided(guard) for guard in undecided], _SEMICOLON),
            )
        )
    shown = aim is not None and aim.finding == "better" and not undecided
    return Verdict("accepted" if shown else "undecided", sentences(said), judged)


def veto(stage: str, verdict: Verdict, harm: Mapping[str, tuple[Metric, Metric, float]]) -> Verdict:
    """The verdict, or a refusal where the model is shown to have lost more than is allowed of what its kind
    of stage is apt to spoil (`Stage.harm`); these are tested apart from the guards, at 5 % over all of them.

    Args:
        harm: by metric its value after and before, and the loss that is allowed.
    """
    lost = [guard for guard in _guards(harm) if guard.finding == "lost"]
    if not verdict.accepted or not lost:
        return verdict
    losses = [_loss(guard, *harm[guard.name][:2]) for guard in lost]
    text = Text(
        "{stage} was not kept: it does harm that its target does not show: {losses}; the previous model "
        "stays.",
        stage=stage,
        losses=joined(losses, _SEMICOLON),
    )
    return Verdict("refused", text, (*verdict.judged, *lost))


_SEMICOLON = Text.in_context("between clauses", "; ")


def _guards(regressions: Mapping[str, tuple[Metric, Metric, float]]) -> list[Judgement]:
    """Judge what earlier stages taught, where there are items enough."""
    asked = {
        name: (difference(after, before), allowed)
        for name, (after, before, allowed) in regressions.items()
        if min(after.n, before.n) >= FEWEST
    }
    found = non_inferiority(list(asked.values()))
    return [Judgement.of_guard(name, guard) for name, guard in zip(asked, found, strict=True)]


def _not_judged(count: int, values: Mapping[str, Any]) -> Text:
    """Why nothing is said of the target."""
    return Text(
        "{stage} was kept, but not judged: {name} has {count} held-out items, and {fewest} are "
        "needed to tell ({old:.3f} → {new:.3f}).",
        count=count,
        fewest=FEWEST,
        **values,
    )


def _about_target(aim: Judgement, values: Mapping[str, Any]) -> Text:
    """What became of the target of a model that is kept."""
    if aim.finding == "better":
        return Text(
            "{stage} was kept: {name} {old:.3f} → {new:.3f}, shown better ({apart}).",
            apart=_apart(aim),
            **values,
        )
    return Text(
        "{stage} was kept, but that {name} got better is not shown: {old:.3f} → {new:.3f} ({apart}); with so "
        "many items a difference of {least:.3f} is found four times in five.",
        apart=_apart(aim),
        least=aim.difference.detectable,
        **values,
    )


def _apart(judgement: Judgement) -> Text:
    """A difference in words."""
    apart = judgement.difference
    known = {"value": apart.value, "low": judgement.low, "high": judgement.high, "n": apart.n}
    if not apart.paired:
        return Text(
            "gain {value:+.3f}, 95% interval {low:+.3f} … {high:+.3f}, not item by item, {n} items",
            **known,
        )
    return Text("gain {value:+.3f}, 95% interval {low:+.3f} … {high:+.3f}, {n} items in pairs", **known)


def _loss(guard: Judgement, after: Metric, before: Metric) -> Text:
    return Text(
        "{name}: {old:.3f} → {new:.3f} (allowed: {allowed:.2f})",
        name=guard.name,
        old=before.value,
        new=after.value,
        allowed=guard.allowed,
    )


def _undecided(guard: Judgement) -> Text:
    """What a guard does not show, and how many items would."""
    if guard.further is None:
        return Text("{name} (allowed: {allowed:.2f})", name=guard.name, allowed=guard.allowed)
    return Text(
        "{name} (allowed: {allowed:.2f}; about {further:,} more items would decide)",
        name=guard.name,
        allowed=guard.allowed,
        further=_rounded(guard.further),
    )


def _rounded(count: int) -> int:
    """A number of items to two figures, upwards: it rests on an estimate."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit
