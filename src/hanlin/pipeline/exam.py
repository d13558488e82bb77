"""The embedded world's exam: every task a model was taught, judged in one go, and what all its answers together say of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hanlin.common.messages import Text
from hanlin.corpus import tinyworld
from hanlin.evaluation import Metric, evaluate_generation, evaluate_turns
from hanlin.inference import Engine
from hanlin.model import CausalLM
from hanlin.pipeline.sources import CHECKS, TURNS, Task, TinyworldSource
from hanlin.recipe.recipe import Recipe
from hanlin.tokenizer import Tokenizer

# What each stage has taught, and every later one may not unteach. Whether to think is up to the model in `word_problems`: that is
# taught by reinforcement alone, and moves freely before.
TAUGHT = {
    "sft": ("story_answers", "greetings", "story_requests", "outside_declined", TURNS),
    "distill": ("problems_solved",),
    "dpo": (),
    "grpo": ("word_problems",),
}
OVERALL = ("ends_by_itself", "thinking_closes", "inside_answered")  # what all answers of an exam together say


class Exam:
    """Judges models of one recipe on the held-out items of its world."""

    def __init__(self, recipe: Recipe, source: TinyworldSource, tokenizer: Tokenizer):
        self.recipe, self.source, self.tokenizer = recipe, source, tokenizer
        self.answers: dict[str, list[dict[str, Any]]] = {}  # of the exam taken last, by task

    def task(
        self, model: CausalLM | Engine, task: Task | str, **sampling: Any
    ) -> tuple[Metric, list[dict[str, Any]]]:
        """One task's metric and its answers.

        Args:
            sampling: `temperature` and `top_p`, in place of the task's own.
        """
        if isinstance(task, str):
            task = self.source.task(task)
        settings = {"temperature": task.temperature} | sampling
        return evaluate_generation(
            model,
            self.tokenizer,
            task.records,
            task.check,
            thinking=task.thinking,
            max_new_tokens=self.recipe.evaluation.max_new_tokens,
            seed=self.recipe.seed,
            **settings,
        )

    def __call__(
        self, model: CausalLM, names: Sequence[str], with_problems: bool = False, **sampling: Any
    ) -> dict[str, Metric]:
        """Metrics of the named tasks, and over all their answers:

        `ends_by_itself`, `thinking_closes` (of the answers that opened a thought) and `inside_answered` (of the questions from
        inside the world, those that were not declined).

        Args:
            with_problems: word problems are among the turns of mixed conversations.
            sampling: as for `task`.
        """
        engine = Engine(model, self.tokenizer)
        metrics: dict[str, Metric] = {}
        ended = said = thought = closed = inside = answered = 0
        for name in names:
            forced = False
            if name == TURNS:
                conversations = self.source.mixed_conversations(with_problems)
                metrics[name], samples = evaluate_turns(
                    engine,
                    self.tokenizer,
                    conversations,
                    CHECKS,
                    max_new_tokens=self.recipe.evaluation.max_new_tokens,
                    seed=self.recipe.seed,
                    **sampling,
                )
            else:
                task = self.source.task(name)
                forced = task.thinking is True
                metrics[name], samples = self.task(engine, task, **sampling)
            self.answers[name] = samples
            for sample in samples:
                text = sample["output"]
                said, ended = said + 1, ended + sample["ended"]
                if forced or "<think>" in text:
                    thought, closed = thought + 1, closed + ("</think>" in text)
            if name not in ("outside_declined", TURNS):
                inside += len(samples)
                answered += sum(not tinyworld.declines(sample["output"]) for sample in samples)
        for name, right, of in zip(OVERALL, (ended, closed, answered), (said, thought, inside), strict=True):
            if of:
                metrics[name] = Metric.proportion(right, of)
        return metrics

    def cards(self, model: CausalLM, **sampling: Any) -> list[dict[str, Any]]:
        """Suggestions for whoever talks to the model: of each kind the first held-out item that it answers rightly in the exam taken
        last and `DRAWS` times of `DRAWS` as it is used by default. A kind of which it has none among the first items has no card.

        Returns:
            {"title": {"zh", "en"}, "text", "answer", "task"} each; the answer is that of the exam.
        """
        engine, found = Engine(model, self.tokenizer), []
        for name, title in CARDS.items():
            task = self.source.task(name)
            right = [
                (record, a)
                for record, a in zip(task.records, self.answers.get(name, ()), strict=False)
                if a["correct"]
            ]
            for record, sample in right[:CANDIDATES]:
                again = dataclasses.replace(task, records=[record] * DRAWS, thinking=None)
                if (
                    self.task(engine, again, **sampling)[0].value == 1.0
                ):  # each has a random stream of its own
                    found.append(
                        {
                            "title": title.to_dict(),
                            "text": sample["prompt"],
                            "answer": sample["output"],
                            "task": name,
                        }
                    )
                    break
        return found


CARDS = {
    "greetings": Text("Say hello"),
    "story_answers": Text("A question about a story"),
    "word_problems": Text("A word problem"),
    "story_requests": Text("A story"),
}
CANDIDATES, DRAWS = 12, 5
