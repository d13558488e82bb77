"""What the models of a run are measured by: every metric that a stage's data bring with them, by its name.

The same items measure every model, so that what a stage gained and what it cost are differences on the same
questions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing
from hanlin.corpus.builder.build import read_corpus
from hanlin.evaluation import Metric, bits_per_byte
from hanlin.evaluation.benchmarks.run import Question, ask
from hanlin.evaluation.doctors.base import DOCTORS
from hanlin.evaluation.exam import OVERALL, Exam
from hanlin.evaluation.tasks.base import TaskScope, is_task, task_entries
from hanlin.model import CausalLM, load_model
from hanlin.pipeline.benchmarks import Asked, questions_of
from hanlin.pipeline.gate import tolerance
from hanlin.recipe.recipe import Recipe
from hanlin.stages.data.base import METRIC_OF_SCHEMA
from hanlin.stages.stage import Stage, StageConfig

BITS = "bits_per_byte"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a model scored, and what it was asked: scores over all answers are comparable between equal exams
    alone."""

    metrics: dict[str, Metric]
    asked: frozenset[str]
    with_reasoning: bool


class Suite:
    """Measures models of one run.

    Args:
        stage_of: the stage of an id, with its inputs, for its held-out records.
        corpus: directory of the corpus, whose held-out documents measure bare text; None for a recipe
            without one.
        context: tokens that a model sees of a document at once.
    """

    def __init__(self, recipe: Recipe, stage_of: Callable[[str], Stage], corpus: Path | None, context: int):
        self.recipe = recipe
        self.stage_of = stage_of
        self.corpus = corpus
        self.context = context

    # ---------------------------------------------------------------- names

    def target(self, config: StageConfig) -> str:
        """What a stage is judged by."""
        if config.evaluate.target:
            return config.evaluate.target
        stage = self.stage_of(config.id)
        if stage.own_metric:
            return stage.own_metric
        return BITS if config.data is None else config.data.target(stage.inputs.scope)

    def names(self, stages: Sequence[StageConfig]) -> list[str]:
        """All that a model is measured by that went through these stages: what they taught, and bare text."""
        found: list[str] = []
        for config in stages:
            if config.data is not None and config.stage.produces == "model":
                found += config.data.teaches(self.stage_of(config.id).inputs.scope)
                found.append(self.target(config))
        found += self.recipe.evaluation.tasks
        found += self.questions
        if self.corpus is not None:
            found.append(BITS)
        return list(dict.fromkeys(found))

    def check(self) -> None:
        """Refuse before anything runs a metric that nothing can measure.

        Raises:
            HanlinError: names it, and those there are.
        """
        for config in self.recipe.stages:
            for name in (config.evaluate.target, *(config.evaluate.regressions or ())):
                if name and not self.can_measure(name):
                    raise HanlinError(
                        "{stage}.evaluate names {name!r}, which nothing measures. There are: {known}.",
                        stage=config.id,
                        name=name,
                        known=listing(self._known()),
                    )
            for name in config.evaluate.regressions or ():
                if name != BITS and tolerance(name) is None:
                    raise HanlinError(
                        "{stage}.evaluate.regressions names {name!r}, of which no loss is set that a stage "
                        "may cause, so that it would guard nothing. Leave it out.",
                        stage=config.id,
                        name=name,
                    )
        _ = self.questions  # refused here, before anything runs, where the files are not there
        for name in self.recipe.evaluation.doctors:
            DOCTORS.get(name, "evaluation.doctors")
        for name in self.recipe.evaluation.tasks:
            if not is_task(name):
                raise HanlinError(
                    "evaluation.tasks names {name!r}, which is no task. There are: {known}.",
                    name=name,
                    known=listing(task_entries()),
                )

    @functools.cached_property
    def questions(self) -> dict[str, Question]:
        """Public benchmarks that every model is asked, by the name of their score; read once."""
        asked = self.recipe.evaluation
        if not asked.benchmarks:
            return {}
        progress = self._any_stage().inputs.progress
        found = questions_of(Asked(Path(), Path(asked.benchmarks), suite=asked.suite), progress)
        return {question.name: question for question in found}

    def can_measure(self, name: str) -> bool:
        """Whether there is a measure of that name."""
        return name in self._known()

    def _known(self) -> list[str]:
        stages = self.recipe.stages
        heldout = [f"{METRIC_OF_SCHEMA[s.stage.schema]}/{s.id}" for s in stages if s.stage.schema is not None]
        own = dict.fromkeys(s.stage.own_metric for s in stages if s.stage.own_metric)
        return [
            *task_entries(),
            *self.questions,
            *([BITS] if self.corpus is not None else []),
            *heldout,
            *own,
        ]

    # ---------------------------------------------------------------- measuring

    def scope(self, with_reasoning: bool) -> TaskScope:
        """What the tasks' items depend on."""
        return TaskScope(self.recipe.seed, self.recipe.evaluation, with_reasoning)

    def measure(
        self,
        model_dir: Path,
        names: Sequence[str],
        *,
        chat: bool = True,
        with_reasoning: bool = False,
        seed: int = 0,
    ) -> Measured:
        """The named metrics of a model, and what all its answers together say.

        Args:
            chat: it has been taught to answer.
            with_reasoning: reinforcement has taught it whether to think.
            seed: of sampled rewards.
        """
        model = self.open(model_dir)
        tokenizer = self._any_stage().tokenizer()
        tasks = [name for name in names if is_task(name)]
        metrics: dict[str, Metric] = {}
        if tasks:
            metrics = Exam(self.scope(with_reasoning), tokenizer)(model, tasks, chat=chat)
        for name in names:
            if name == BITS:
                metrics[name] = self.text(model)["all"]
            elif name in self.questions:
                metrics[name] = ask(self.questions[name], model, tokenizer).metrics[name]
            elif not is_task(name):
                metrics[name] = self._of_stage(name, model, model_dir, seed)
        return Measured(metrics, frozenset(tasks), with_reasoning)

    def text(self, model: CausalLM) -> dict[str, Metric]:
        """Bits per byte of the held-out documents, by source and of `all`."""
        assert self.corpus is not None
        heldout = list(read_corpus(self.corpus, "heldout"))
        return bits_per_byte(model, self._any_stage().tokenizer(), heldout, context=self.context)

    def open(self, path: Path) -> CausalLM:
        """A model of the run on its device."""
        return load_model(path, device=self.recipe.device)

    def _of_stage(self, name: str, model: CausalLM, model_dir: Path, seed: int) -> Metric:
        own = [s.id for s in self.recipe.stages if s.stage.own_metric == name]
        if own:
            return self.stage_of(own[0]).evaluate(model_dir)[name]
        return self.stage_of(name.partition("/")[2]).heldout_metric(model, seed)

    def _any_stage(self) -> Stage:
        return self.stage_of(self.recipe.stages[0].id)


def comparable(before: Measured, now: Measured) -> dict[str, Metric]:
    """Of an earlier measurement what may be held against a new one: scores over all answers only after the
    same exam, those of mixed conversations only with the same subjects."""
    apart: set[str] = set()
    if before.asked != now.asked or before.with_reasoning != now.with_reasoning:
        apart |= set(OVERALL)
    if before.with_reasoning != now.with_reasoning:
        apart |= {name for name, entry in task_entries().items() if entry.mixes_problems}
    return {name: metric for name, metric in before.metrics.items() if name not in apart}
