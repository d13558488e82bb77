"""What a model has been through: its stages, what they taught it, and what it scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from hanlin.evaluation import Metric
from hanlin.pipeline.suite import Measured
from hanlin.stages.stage import StageConfig


@dataclasses.dataclass(frozen=True)
class Lineage:
    """A model and the stages that made it.

    Attributes:
        stages: in order; none for a model that came from elsewhere.
        path: its directory; None before there is a model.
        scores: what it was measured by, and when that was.
        first_bits: bits per byte of the pretrained model that it descends from, beside their n-gram control.
        external: it came from elsewhere, and is taken to have been taught to answer.
        references: scores of earlier models, by metric, that a loss which was neither shown nor excluded is
            still held against: else small losses would add up from stage to stage and none be refused.
    """

    stages: tuple[StageConfig, ...] = ()
    path: Path | None = None
    scores: Measured | None = None
    first_bits: Metric | None = None
    external: bool = False
    references: Mapping[str, Metric] = dataclasses.field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the stages."""
        return tuple(stage.id for stage in self.stages)

    @property
    def chat(self) -> bool:
        """Whether it has been taught to answer."""
        return self.external or any(stage.stage.teaches_chat for stage in self.stages)

    @property
    def reasoning(self) -> bool:
        """Whether reinforcement has taught it when to think."""
        return any(stage.stage.schema == "problems" for stage in self.stages)

    def after(self, stage: StageConfig, path: Path) -> Lineage:
        """With one stage more, not measured yet."""
        return dataclasses.replace(self, stages=(*self.stages, stage), path=path, scores=None)
