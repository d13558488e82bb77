"""How the models of a recipe are judged: the section `evaluation`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from hanlin.common.config import Range, at_least, require_ranges


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How models are judged.

    Attributes:
        count: held-out items per task.
        closed_count: of tasks with few kinds of items (greetings, requests for a story, …), and mixed
            conversations.
        max_new_tokens: where answers are cut off.
        temperature: of free answers.
        prompts: to show samples of a model trained on files, and as suggestions on the chat page.
        bits_per_byte_tolerance: how much worse than the pretrained model, as a share, a later stage may be
            at bare text.
        tasks: names of registered tasks (`evaluation.tasks`) to measure besides those that the stages' data
            bring with them.
        benchmarks: directory of public benchmarks as they are published (see `hanlin eval`): every model of
            the run is asked, and no stage may lose much there.
        suite: which of them, see `benchmarks.suites`.
        doctors: who examine the model of each stage, see `evaluation.doctors`; none when empty.
    """

    count: int = 500
    closed_count: int = 150
    max_new_tokens: int = 128
    temperature: float = 0.7
    prompts: tuple[str, ...] = ()
    bits_per_byte_tolerance: float = 0.3
    tasks: tuple[str, ...] = ()
    benchmarks: str = ""
    suite: str = "quick"
    doctors: tuple[str, ...] = ("eos", "loops", "first_token", "positions")

    RANGES: ClassVar[dict[str, Range]] = {
        "count": at_least(1),
        "closed_count": at_least(1),
        "max_new_tokens": at_least(1),
        "temperature": at_least(0),
        "bits_per_byte_tolerance": at_least(0),
    }

    def __post_init__(self):
        require_ranges(self)
