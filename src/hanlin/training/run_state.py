"""Where a training is: the counters that a checkpoint holds, the clock, and what is said in the end."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from hanlin.training.guards import BadSteps


@dataclasses.dataclass
class TrainResult:
    """What a finished training says.

    Attributes:
        skipped: steps that the guards left out.
        seconds: of the clock, resumed parts included.
        last: metrics of the last step.
        idle: steps in which there was nothing to learn.
    """

    skipped: int
    seconds: float
    last: dict[str, float]
    idle: int = 0


class RunState:
    """Counters of one training.

    Attributes:
        step: optimiser steps done; `step + data_offset` is the place in the order of samples.
        data_offset: steps whose samples rollbacks have left out.
        skipped: steps that the guards left out.
        idle: steps in which no process had anything to compute.
        bad_steps: the bad ones of late, and where the run has been rolled back to.
        earlier_seconds: of training before an interruption.
    """

    def __init__(self) -> None:
        self.step = 0
        self.data_offset = 0
        self.skipped = 0
        self.idle = 0
        self.bad_steps = BadSteps()
        self.earlier_seconds = 0.0
        self._began = time.monotonic()

    @property
    def data_step(self) -> int:
        """Place of the next step in the order of samples."""
        return self.step + self.data_offset

    def elapsed(self) -> float:
        """Seconds of training, those of interrupted parts included."""
        return self.earlier_seconds + time.monotonic() - self._began

    def expected_steps(self, done: int, steps: int, max_seconds: float | None) -> int:
        """Of `steps`, the number after which the run will probably end, by the time that those `done` have
        taken."""
        if max_seconds is None:
            return steps
        return min(steps, max(done, round(done * max_seconds / self.elapsed())))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, JSON-able; the checkpoint itself knows the step."""
        return {
            "data_offset": self.data_offset,
            "skipped": self.skipped,
            "idle": self.idle,
            "bad_steps": dataclasses.asdict(self.bad_steps),
            "seconds": self.elapsed(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be where the checkpoint was; the clock goes on."""
        self.step = state["step"]
        self.data_offset = state["data_offset"]
        self.skipped = state["skipped"]
        self.idle = state.get("idle", 0)
        self.bad_steps = BadSteps(**state["bad_steps"])
