"""`hanlin eval`: a model on registered tasks, apart from any run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError
from hanlin.evaluation.config import EvaluationConfig
from hanlin.evaluation.exam import Exam
from hanlin.evaluation.tasks import tinyworld as world
from hanlin.evaluation.tasks.base import TaskScope, make_task
from hanlin.inference import load_chat_model

DEFAULT_TASKS = (
    world.STORY_QA,
    world.GREETINGS,
    world.STORY_REQUESTS,
    world.OUTSIDE_DECLINED,
    world.MATH_FREE,
    world.MATH,
    world.POLITENESS,
    world.LATER_TURNS,
)


def evaluate_model(
    path: Path | str, tasks: tuple[str, ...] | None = None, count: int = 500
) -> dict[str, Any]:
    """Measure a model on the embedded tinyworld's held-out tasks, or on others that are registered.

    Args:
        tasks: names of tasks; those of tinyworld when absent.
        count: items per task, at least 1.

    Returns:
        Metrics by name, as in report.json; over all answers also `ends_by_itself`, `thinking_closes`,
        `inside_answered`.

    Raises:
        HanlinError: no model there, no such task, or a count that is not positive.
    """
    if count < 1:
        raise HanlinError("count must be at least 1, not {count}.", count=count)
    scope = TaskScope(1, EvaluationConfig(count=count, max_new_tokens=96), with_reasoning=True)
    for name in tasks or ():
        make_task(name, TaskScope(1, EvaluationConfig(count=1, closed_count=1)))
    model, tokenizer = load_chat_model(path)
    exam = Exam(scope, tokenizer)
    return {name: metric.to_dict() for name, metric in exam(model, list(tasks or DEFAULT_TASKS)).items()}
