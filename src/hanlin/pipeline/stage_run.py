"""One stage of a run: its trainings, what became of the model, and whether it replaces the one before."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hanlin.common.atomic import atomic_directory
from hanlin.common.config import to_dict
from hanlin.common.manifest import MANIFEST, hash_json, read_manifest
from hanlin.common.messages import Text
from hanlin.evaluation import Metric, pooled
from hanlin.evaluation.exam import OVERALL
from hanlin.evaluation.kept_items import keep_items, with_items
from hanlin.evaluation.statistics import can_pair
from hanlin.pipeline.gate import decide_gate, tolerance, veto
from hanlin.pipeline.lineage import Lineage
from hanlin.pipeline.run_context import RunContext
from hanlin.pipeline.runner import StepRecord
from hanlin.pipeline.samples import speak_samples
from hanlin.pipeline.stage_doctors import examine_stage
from hanlin.pipeline.suite import BITS, Measured, comparable
from hanlin.stages.base import Job, content_hash
from hanlin.stages.stage import Stage, StageConfig, is_artifact
from hanlin.training.distributed.launch import strategy_of
from hanlin.training.spikes import keep_spikes


class StageRun:
    """Runs a stage of a recipe: as often as it has seeds, judged on the items that its parent is measured
    on."""

    def __init__(self, context: RunContext, config: StageConfig):
        self.context = context
        self.config = config
        self.parent: Lineage = context.parent_of(config)
        self.stage: Stage = config.stage(config, context.inputs_of(config, self.parent.path))
        self.is_control = config.role == "control"

    def run(self) -> StepRecord:
        """The stage's record: of this run, or of an earlier start where nothing that it depends on has
        changed."""
        context = self.context

        def body(key: str, record: StepRecord) -> None:
            seconds = [self._train(index) for index in range(self.config.seeds)]
            record.notes |= {"training_seconds": seconds[0], "seconds_by_seed": seconds}
            self._describe(record)
            context.group.run_on_rank0(lambda: self._judge(record))

        record = context.runner.run(self.config.id, self._inputs, body, (self.model(0),))
        self._adopt(record)
        return record

    def _describe(self, record: StepRecord) -> None:
        """What a report says of the stage."""
        suite, config, stage = self.context.suite, self.config, self.stage
        subject = self.context.recipe.stage(config.of) if config.of else config
        record.kind = config.kind
        record.target = config.evaluate.target or suite.target(subject)
        title = stage.title
        if self.is_control:
            title = Text("{stage}, as a control of {of}", stage=stage.title, of=config.of)
        elif sum(s.kind == config.kind and s.role == "stage" for s in self.context.recipe.stages) > 1:
            title = Text("{stage}: {id}", stage=stage.title, id=config.id)
        record.title = {"zh": title.zh, "en": title.en}
        record.does = {"zh": stage.does.zh, "en": stage.does.en}

    def model(self, index: int) -> Path:
        """Directory of the model of a seed; the first of a stage is the one that may be published."""
        if index:
            return self.context.out / "controls" / f"{self.config.id}-{index}"
        return self.context.model_of(self.config.id)

    # ---------------------------------------------------------------- training

    def _train(self, index: int) -> float:
        """Train the model of a seed, unless it is there already; returns the training seconds.

        A run killed while a finished model was being judged goes on with the judging, one killed before the
        curve was moved to its place moves it then. Checkpoints lie apart from those of another configuration.
        """
        context, config = self.context, self.config
        name = config.id if index == 0 else f"{config.id}-{index}"
        out = self.model(index)
        key = hash_json([context.group.run_on_rank0(self._training_inputs), index])
        work = context.out / "work" / f"{name}-{key[:10]}"
        if not context.group.run_on_rank0(lambda: is_artifact(out, key, context.progress)):
            if config.seeds > 1:
                context.progress.part(Text("run {number}", number=index + 1), index + 1, config.seeds)
            context.group.run_on_rank0(self.stage.prepare)
            limit = context.seconds[config.of][index] if config.equal_time else None
            job = Job(
                out,
                work,
                context.progress,
                context.recipe.seed + index,
                key,
                context.device,
                context.recipe.track,
                limit,
                strategy_of(config.train.parallel, context.group, context.device),
                config.adapter,
            )
            self.stage.train(job)
        return context.group.run_on_rank0(lambda: self._keep_curve(name, work, out))

    def _keep_curve(self, name: str, work: Path, out: Path) -> float:
        """Move the training's log and the record of its bad steps to where they stay."""
        if (work / "metrics.jsonl").is_file():
            curves = self.context.out / "curves" / f"{name}.jsonl"
            curves.parent.mkdir(exist_ok=True)
            os.replace(work / "metrics.jsonl", curves)
            keep_spikes(work, self.context.out / "spikes" / name)
        shutil.rmtree(work, ignore_errors=True)
        return float(read_manifest(out, verify=False).metrics["seconds"])

    def _training_inputs(self) -> str:
        """Hash of what the training depends on; how it is judged is apart, so new questions retrain
        nothing."""
        context, config = self.context, self.config
        scope = self.stage.inputs.scope
        parts: list[Any] = [
            config.id,
            config.training_identity(),
            context.recipe.seed,
            self.stage.identity(config),
        ]
        parts.append(
            content_hash(self.parent.path) if self.parent.path is not None else to_dict(context.recipe.model)
        )
        if config.data is not None:
            parts += [config.data.identity(scope), scope.held_out.identity()]
        if self.stage.inputs.dataset is not None:
            parts.append(read_manifest(self.stage.inputs.dataset, verify=False).content_hash)
        parts += [content_hash(context.model_of(name)) for name in self.stage.stages_named(config)]
        if config.of:
            parts.append(content_hash(context.model_of(config.of)))
        return hash_json(parts)

    def _inputs(self) -> Any:
        """What the record depends on: the training, and how it is judged."""
        judging = [to_dict(self.context.recipe.evaluation), to_dict(self.config.evaluate), self.config.seeds]
        return [self._training_inputs(), judging, list(self.parent.ids)]

    # ---------------------------------------------------------------- judging

    def _judge(self, record: StepRecord) -> None:
        """Measure the model, and decide by the gate whether it is kept."""
        record.notes |= self.stage.data_facts()
        if self.stage.produces == "reward_model":
            own = self.stage.evaluate(self.model(0))
            self._keep(record, own)
        elif self.is_control:
            self._measure_control(record)
        elif self.parent.path is None:
            self._measure_first(record)
        else:
            self._measure_against_parent(record)
        if not self.is_control and self.stage.produces == "model":
            after = self.parent.after(self.config, self.model(0))
            record.samples = speak_samples(
                self.context.recipe,
                self.parent.path,
                self.model(0),
                self.context.progress,
                answers=after.chat,
            )
            record.notes["doctors"] = examine_stage(self.context, self.parent, after)

    def _measure_first(self, record: StepRecord) -> None:
        """A model from nothing: its bits per byte on held-out text, beside an n-gram model of the same
        tokens."""
        context = self.context
        if context.suite.corpus is None:
            return
        scores = context.suite.text(context.suite.open(self.model(0)))
        metrics = {BITS: scores["all"].with_control(*context.ngram_control())}
        metrics |= context.suite.measure(self.model(0), list(context.suite.questions), chat=False).metrics
        if len(scores) > 2:
            metrics |= {f"{BITS}/{name}": metric for name, metric in scores.items() if name != "all"}
        self._keep(record, metrics)

    def _measure_control(self, record: StepRecord) -> None:
        """A control is measured by what its stage is judged by, unless it names a measure of its own."""
        context = self.context
        target = self.config.evaluate.target or context.suite.target(context.recipe.stage(self.config.of))
        after = self.parent.after(self.config, self.model(0))
        found = [self._target(index, target, after) for index in range(self.config.seeds)]
        self._keep(record, {target: _together(found)})
        record.notes["curves"] = [self._curve(index) for index in range(self.config.seeds)]

    def _measure_against_parent(self, record: StepRecord) -> None:
        """The stage's model and its parent on the same items; the gate decides."""
        context, config, parent = self.context, self.config, self.parent
        assert parent.path is not None
        target = context.suite.target(config)
        after = parent.after(config, self.model(0))
        names = list(dict.fromkeys([target, *context.suite.names(after.stages)]))
        exam = {"with_reasoning": after.reasoning}
        now = context.suite.measure(self.model(0), names, chat=after.chat, **exam)
        known = {} if parent.scores is None else comparable(parent.scores, now)
        missing = [name for name in names if name not in known]
        measured = (
            context.suite.measure(parent.path, missing, chat=parent.chat, **exam).metrics if missing else {}
        )
        before = {name: metric for name, metric in measured.items() if name not in OVERALL} | known
        metrics = dict(now.metrics)
        if BITS in metrics:
            metrics[BITS] = context.beside_ngram(metrics[BITS], parent.first_bits)
        guards = self._regressions(target, metrics, before)
        verdict = decide_gate(config.id, (target, metrics[target], before[target]), guards)
        if verdict.accepted:
            verdict = veto(config.id, verdict, self.stage.harm(parent.path, self.model(0)))
        record.kept = verdict.accepted
        record.notes["gate"] = verdict.to_dict()
        record.notes["before"] = {name: before[name].to_dict() for name in metrics if name in before}
        record.notes["asked"] = [sorted(now.asked), now.with_reasoning]
        (context.progress.note if verdict.outcome == "accepted" else context.progress.warn)(verdict.text)
        self._keep(record, metrics | self._beside(record, target, metrics, before, after))
        undecided = [judged.name for judged in verdict.judged if judged.finding == "undecided"]
        self._keep_references(record, {name: guards[name][1] for name in undecided})

    def _keep_references(self, record: StepRecord, references: dict[str, Metric]) -> None:
        """Write what the next stage is held against where this one decided nothing."""
        files = keep_items(self.context.out, f"{self.config.id}/references", references)
        kept = {name: references[name].to_dict() for name in files}
        record.notes["references"] = {"metrics": kept, "scores": files}

    def _references(self, record: StepRecord) -> dict[str, Metric]:
        """What `_keep_references` wrote."""
        kept = record.notes.get("references") or {"metrics": {}, "scores": {}}
        metrics = {name: Metric.from_dict(metric) for name, metric in kept["metrics"].items()}
        return with_items(metrics, self.context.out, kept["scores"])

    def _regressions(
        self, target: str, metrics: dict[str, Metric], before: dict[str, Metric]
    ) -> dict[str, tuple[Metric, Metric, float]]:
        """New and previous values of all that the stage may not spoil, and what is tolerated. Previous is the
        parent's, or that of the model before which the parent's own loss was not excluded."""
        chosen = self.config.evaluate.regressions
        found = {}
        for name, metric in metrics.items():
            allowed = tolerance(name)
            if name == target or name not in before or allowed is None:
                continue
            if chosen is None or name in chosen:
                earlier = self.parent.references.get(name)
                held = earlier is not None and can_pair(metric, earlier)
                found[name] = (metric, earlier if held else before[name], allowed)
        first = self.parent.first_bits
        if first is not None and BITS in metrics and target != BITS:
            share = self.context.recipe.evaluation.bits_per_byte_tolerance
            found[BITS] = (metrics[BITS], first, share * first.value)
        return found

    def _keep(self, record: StepRecord, metrics: dict[str, Metric]) -> None:
        """Write what the model scored in the record, and its items' scores in files that the record names."""
        record.metrics |= {name: metric.to_dict() for name, metric in metrics.items()}
        record.notes["scores"] = keep_items(self.context.out, self.config.id, metrics)

    def _beside(
        self,
        record: StepRecord,
        target: str,
        metrics: dict[str, Metric],
        before: dict[str, Metric],
        after: Lineage,
    ) -> dict[str, Metric]:
        """The target beside its value before; over all seeds, where there are several, and of the published
        one."""
        name = "before" if self.parent.chat else "base"
        if self.config.seeds == 1:
            return {target: metrics[target].with_control(name, before[target])}
        others = [self._target(index, target, after) for index in range(1, self.config.seeds)]
        every = [metrics[target], *others]
        record.notes["by_seed"] = {self.config.id: [metric.value for metric in every]}
        return {
            target: _together(every).with_control(name, before[target]),
            f"{target}/published": metrics[target].with_control(name, before[target]),
        }

    def _target(self, index: int, target: str, after: Lineage) -> Metric:
        """The target of the model of a seed."""
        found = self.context.suite.measure(
            self.model(index), [target], chat=after.chat, with_reasoning=after.reasoning, seed=index
        )
        return found.metrics[target]

    def _curve(self, index: int) -> dict[str, float]:
        """Steps of a training and its mean learning rate, for the report."""
        name = self.config.id if index == 0 else f"{self.config.id}-{index}"
        file = self.context.out / "curves" / f"{name}.jsonl"
        lines = map(orjson.loads, file.read_bytes().splitlines()) if file.is_file() else ()
        rates = [line["lr"] for line in lines if "lr" in line]
        return {"steps": len(rates), "mean_learning_rate": float(np.mean(rates)) if rates else 0.0}

    # ---------------------------------------------------------------- the result

    def _adopt(self, record: StepRecord) -> None:
        """Remember the model; an accepted one is what the next stage begins with, and is published."""
        context, config = self.context, self.config
        context.seconds[config.id] = record.notes["seconds_by_seed"]
        after = self.parent.after(config, self.model(0))
        asked = record.notes.get("asked")
        metrics = {name: Metric.from_dict(metric) for name, metric in record.metrics.items()}
        metrics = with_items(metrics, context.out, record.notes.get("scores") or {})
        published = metrics.get(f"{record.target}/published")
        if published is not None:  # the model that goes on, not the mean over seeds
            metrics[record.target] = published
        scores = Measured(metrics, frozenset(asked[0]), asked[1]) if asked else None
        first = metrics.get(BITS) if self.parent.path is None else self.parent.first_bits
        references = self._references(record)
        after = dataclasses.replace(after, scores=scores, first_bits=first, references=references)
        context.lineages[config.id] = after
        context.parents[config.id] = self.parent
        if self.is_control or self.stage.produces != "model" or not record.kept:
            return
        context.current = after
        if config.id not in context.runner.reused:
            context.group.run_on_rank0(lambda: publish(self.model(0), context.out / "model"))


def _together(metrics: list[Metric]) -> Metric:
    """One seed's metric as it is; those of several as one."""
    return metrics[0] if len(metrics) == 1 else pooled(metrics)


def publish(model: Path, target: Path) -> None:
    """Make `target` the given model, atomically; files are hard links where the file system has them."""
    if (target / MANIFEST).is_file():
        there = read_manifest(target, verify=False).content_hash
        if there == read_manifest(model, verify=False).content_hash:
            return
    with atomic_directory(target) as temporary:
        for file in model.iterdir():
            try:
                os.link(file, temporary / file.name)
            except OSError:
                shutil.copyfile(file, temporary / file.name)
