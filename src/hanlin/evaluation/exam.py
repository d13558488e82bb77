"""An exam: several tasks judged in one go, and what all their answers together say of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hanlin.evaluation.statistics import Metric
from hanlin.evaluation.tasks.base import Task, TaskScope, TurnsTask, make_task, task_entries
from hanlin.evaluation.tasks.generation import evaluate_generation, evaluate_turns
from hanlin.inference import Engine
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer

# What all answers of an exam together say; it depends on which tasks were asked.
ENDS, CLOSES, ANSWERS = "ends_by_itself", "thinking_closes", "inside_answered"
OVERALL = (ENDS, CLOSES, ANSWERS)

CANDIDATES, DRAWS = 12, 5


class Exam:
    """Judges models on registered tasks.

    Attributes:
        answers: of the exam taken last, by task.
    """

    def __init__(self, scope: TaskScope, tokenizer: Tokenizer):
        self.scope = scope
        self.tokenizer = tokenizer
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self._tasks: dict[str, Task | TurnsTask] = {}

    def task(self, name: str) -> Task | TurnsTask:
        """A task by its name, its items made once."""
        if name not in self._tasks:
            self._tasks[name] = make_task(name, self.scope)
        return self._tasks[name]

    def __call__(
        self, model: CausalLM, names: Sequence[str], *, chat: bool = True, **sampling: Any
    ) -> dict[str, Metric]:
        """Metrics of the named tasks, and over all their answers:

        `ends_by_itself`, `thinking_closes` (of the answers that opened a thought) and `inside_answered` (of
        the questions that can be answered, those that were not declined).

        Args:
            chat: the model has been taught to answer; one that has not is asked in bare text where a task
                has that form.
            sampling: `temperature` and `top_p`, in place of the tasks' own.
        """
        engine = Engine(model, self.tokenizer)
        metrics: dict[str, Metric] = {}
        said: list[dict[str, Any]] = []
        inside: list[dict[str, Any]] = []
        for name in names:
            task = self.task(name)
            metrics[name], samples = self._judge(engine, task, chat, sampling)
            self.answers[name] = samples
            forced = isinstance(task, Task) and task.thinking is True
            for sample in samples:
                text = sample["output"]
                answer = {key: f"{name}/{sample[key]}" for key in ("id", "cluster")} | {
                    "ended": sample["ended"],
                    "thought": forced or "<think>" in text,
                    "closed": "</think>" in text,
                }
                said.append(answer)
                if isinstance(task, Task) and task.declines is not None:
                    inside.append(answer | {"answered": not task.declines(text)})
        if said:
            metrics[ENDS] = _share(said, "ended")
        if any(answer["thought"] for answer in said):
            metrics[CLOSES] = _share(said, "closed", counted="thought")
        if inside:
            metrics[ANSWERS] = _share(inside, "answered")
        return metrics

    def _judge(
        self, model: CausalLM | Engine, task: Task | TurnsTask, chat: bool, sampling: dict[str, Any]
    ) -> tuple[Metric, list[dict[str, Any]]]:
        """One task's metric and its answers."""
        common: dict[str, Any] = {
            "max_new_tokens": self.scope.evaluation.max_new_tokens,
            "seed": self.scope.seed,
        }
        if isinstance(task, TurnsTask):
            return evaluate_turns(
                model, self.tokenizer, task.conversations, task.checks, **common, **sampling
            )
        records = task.records if chat or task.plain is None else task.plain
        settings: dict[str, Any] = {"temperature": task.temperature} | sampling
        return evaluate_generation(
            model, self.tokenizer, records, task.check, thinking=task.thinking, **common, **settings
        )

    def cards(self, model: CausalLM, **sampling: Any) -> list[dict[str, Any]]:
        """Suggestions for whoever talks to the model: of each task with a card the first held-out item that
        it answers rightly in the exam taken last and `DRAWS` times of `DRAWS` as it is used by default. A
        task without such an item among the first has no card.

        Returns:
            {"title": {"zh", "en"}, "text", "answer", "task"} each; the answer is that of the exam.
        """
        engine = Engine(model, self.tokenizer)
        cards = []
        for name, entry in task_entries().items():
            if entry.card is None or name not in self.answers:
                continue
            task = self.task(name)
            assert isinstance(task, Task)
            pairs = zip(task.records, self.answers[name], strict=False)
            right = [(record, answer) for record, answer in pairs if answer["correct"]]
            for record, answer in right[:CANDIDATES]:
                again = dataclasses.replace(task, records=[record] * DRAWS, thinking=None)
                # each draw has a random stream of its own
                if self._judge(engine, again, True, sampling)[0].value == 1.0:
                    cards.append(
                        {
                            "title": entry.card.to_dict(),
                            "text": answer["prompt"],
                            "answer": answer["output"],
                            "task": name,
                        }
                    )
                    break
        return cards


def _share(answers: Sequence[dict[str, Any]], hit: str, counted: str = "") -> Metric:
    """Share of the answers that have a mark, or of those that have another; the turns of a conversation are a
    cluster."""
    return Metric.share(
        [answer[hit] for answer in answers],
        counted=[answer[counted] for answer in answers] if counted else None,
        ids=[answer["id"] for answer in answers],
        clusters=[answer["cluster"] for answer in answers],
    )
