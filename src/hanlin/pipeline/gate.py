"""The gate: a stage's model replaces the previous one only if it is better at what the stage is for, and worse at nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..evaluation import Metric


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a model is kept, and why, in both languages."""

    kept: bool
    zh: str
    en: str


def judge(stage: str, aim: tuple[str, Metric, Metric], guards: Mapping[str, tuple[Metric, Metric, float]]) -> Verdict:
    """Decide on a stage's model.

    Args:
        aim: name, new and previous value of what the stage is for; the new one must not be lower (or higher, where lower is better).
        guards: new and previous values of what earlier stages taught, and the drop that is tolerated.
    """
    name, new, old = aim
    sign = 1.0 if new.higher_is_better else -1.0
    if sign * (new.value - old.value) < 0:
        return Verdict(
            False,
            f"{stage} 未被采用：{name} 从 {old.value:.3f} 变为 {new.value:.3f}，变差了；继续使用上一阶段的模型。",
            f"{stage} was not kept: {name} went from {old.value:.3f} to {new.value:.3f}, for the worse; the previous model stays.",
        )
    for guard, (after, before, tolerance) in guards.items():
        sign = 1.0 if after.higher_is_better else -1.0
        if sign * (after.value - before.value) < -tolerance:
            return Verdict(
                False,
                f"{stage} 未被采用：它使 {guard} 从 {before.value:.3f} 变为 {after.value:.3f}（容许 {tolerance:.2f}）；继续使用上一阶段的模型。",
                f"{stage} was not kept: it took {guard} from {before.value:.3f} to {after.value:.3f} (allowed: {tolerance:.2f}); the previous model stays.",
            )
    return Verdict(True, f"{stage} 已采用：{name} {old.value:.3f} → {new.value:.3f}。", f"{stage} was kept: {name} {old.value:.3f} → {new.value:.3f}.")
