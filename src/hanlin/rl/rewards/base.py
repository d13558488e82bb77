"""What a reward is: a configuration of a kind that scores what a model wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hanlin.common.config import Range, Tagged, require_ranges
from hanlin.common.messages import Text
from hanlin.common.registry import Registry

REWARDS: Registry[Reward] = Registry(Text("kind of reward"))


@dataclasses.dataclass(frozen=True)
class Sample:
    """One answer to be scored.

    Attributes:
        record: the conversation, with whatever stands beside its messages (`answer`).
        prompt, ids: tokens that the model was given and that it wrote, control tokens included.
        text: what it wrote, control tokens included.
        opened: whether the prompt ended inside a block of thought.
    """

    record: Mapping[str, Any]
    prompt: Sequence[int]
    ids: Sequence[int]
    text: str
    opened: bool


@dataclasses.dataclass(frozen=True)
class Reward(Tagged):
    """Scores answers; several rewards of a stage are added, each times its `weight`."""

    kind: str = ""
    weight: float = 1.0

    RANGES: ClassVar[dict[str, Range]] = {}

    def __post_init__(self):
        require_ranges(self)

    @classmethod
    def variant(cls, values: Mapping[str, Any], where: Text) -> type:
        """By `kind`."""
        return REWARDS.get(str(values.get("kind")), where)

    def needs(self) -> str:
        """Id of the stage whose model it uses; empty for none."""
        return ""

    def load(self, models: Callable[[str], Path], device: str | None) -> None:
        """Open what it needs; called in every process before the first step, with the directories of stages'
        models by id."""

    def can_judge(self, record: Mapping[str, Any]) -> bool:
        """Whether answers to this record can be scored; the others are left out, counted, before anything is
        computed."""
        return True

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """A number for each answer, unweighted."""
        raise NotImplementedError


_Reward = TypeVar("_Reward", bound=Reward)


def register_reward(cls: type[_Reward]) -> type[_Reward]:
    """Enter a reward in the table by its `kind`'s default, as a decorator."""
    REWARDS.register(str(cls.__dataclass_fields__["kind"].default), cls)
    return cls


class RewardSum:
    """Several rewards as one."""

    def __init__(self, rewards: Sequence[Reward]):
        self.rewards = tuple(rewards)

    def can_judge(self, record: Mapping[str, Any]) -> bool:
        """Whether all of them can."""
        return all(reward.can_judge(record) for reward in self.rewards)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """Weighted sum of each answer."""
        totals = [0.0] * len(samples)
        for reward in self.rewards:
            for index, value in enumerate(reward.score(samples)):
                totals[index] += reward.weight * value
        return totals


@dataclasses.dataclass(frozen=True)
class FunctionReward(Reward):
    """A plain function (record, text, opened) → number as a reward, for use from Python."""

    kind: str = "function"
    function: Callable[[Mapping[str, Any], str, bool], float] = lambda record, text, opened: 0.0

    def can_judge(self, record: Mapping[str, Any]) -> bool:
        """As the function says, if it has a method of that name."""
        judges = getattr(self.function, "can_judge", None)
        return True if judges is None else judges(record)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """The function of each answer."""
        return [self.function(sample.record, sample.text, sample.opened) for sample in samples]
