"""What a task is, and the table of those there are. A new task is one file that calls `register_task`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing
from hanlin.evaluation.config import EvaluationConfig

Check = Callable[[dict[str, Any], str], bool]
"""(record, what the model wrote) → whether it is right."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Held-out prompts with an exact judge.

    Attributes:
        name: the metric's name in report.json; its prefix says whose items they are (`tinyworld/story_qa`).
        records: `{"messages"}` whose last assistant turn has to be found, or `{"prompt_text"}` for a base
            model to continue.
        thinking: how the answer begins, see `Tokenizer.render`.
        temperature: 0 for answers that are right or wrong, more for free ones.
        plain: the same records as bare text, for a model that has never seen a conversation; None asks it as
            any other.
        declines: whether a text declines to answer, where that can be told and is wrong for these items.
    """

    name: str
    records: Sequence[dict[str, Any]]
    check: Check
    thinking: bool | None = None
    temperature: float = 0.0
    plain: Sequence[dict[str, Any]] | None = None
    declines: Callable[[str], bool] | None = None


@dataclasses.dataclass(frozen=True)
class TurnsTask:
    """Held-out conversations whose subject changes with every turn; later turns are counted.

    Attributes:
        conversations: turns as records `{"messages": [user, assistant], "kind"}`.
        checks: judge of a turn by its kind.
    """

    name: str
    conversations: Sequence[Sequence[dict[str, Any]]]
    checks: dict[str, Check]
    temperature: ClassVar[float] = 0.0


@dataclasses.dataclass(frozen=True)
class TaskScope:
    """What a task's items depend on.

    Attributes:
        seed: of the recipe.
        evaluation: how many items, how they are sampled.
        with_reasoning: reinforcement has taught whether to think, so problems are among mixed conversations.
    """

    seed: int
    evaluation: EvaluationConfig
    with_reasoning: bool = False


TaskBuilder = Callable[[TaskScope], "Task | TurnsTask"]


@dataclasses.dataclass(frozen=True)
class TaskEntry:
    """What the table knows of a task before its items are made.

    Attributes:
        build: makes it.
        title: how a report calls the metric.
        meaning: what it counts, for the report.
        tolerance: what a stage may cost a model at it, as a share of the items; None guards nothing.
        card: title of the suggestion that the chat page makes of an item; none when absent.
        free_form: for a task that opens the thought itself: the one of the same questions that leaves it to
            the model whether to think. The final evaluation asks both.
        mixes_problems: its items depend on `TaskScope.with_reasoning`, so that scores of two exams which
            differ in that are not comparable.
    """

    build: TaskBuilder
    title: Text
    meaning: Text = dataclasses.field(default_factory=lambda: Text(""))
    tolerance: float | None = 0.05
    card: Text | None = None
    free_form: str = ""
    mixes_problems: bool = False


_TASKS: dict[str, TaskEntry] = {}


def register_task(name: str, title: Text, **entry: Any) -> Callable[[TaskBuilder], TaskBuilder]:
    """Enter a builder of tasks in the table, as a decorator.

    Args:
        title: how a report calls the metric.
        entry: further attributes of `TaskEntry`.
    """

    def enter(builder: TaskBuilder) -> TaskBuilder:
        _TASKS[name] = TaskEntry(builder, title, **entry)
        return builder

    return enter


def task_entries() -> dict[str, TaskEntry]:
    """All registered tasks by their names."""
    return dict(_TASKS)


def is_task(name: str) -> bool:
    """Whether a task of that name is registered."""
    return name in _TASKS


def make_task(name: str, scope: TaskScope) -> Task | TurnsTask:
    """The task behind a metric's name.

    Raises:
        HanlinError: there is none; the message lists them.
    """
    if name not in _TASKS:
        nearest = difflib.get_close_matches(name, _TASKS, n=1)
        hint = Text(" Did you mean {name}?", name=nearest[0]) if nearest else ""
        raise HanlinError(
            "There is no task {name!r}.{hint} There are: {tasks}.",
            name=name,
            hint=hint,
            tasks=listing(_TASKS),
        )
    return _TASKS[name].build(scope)
