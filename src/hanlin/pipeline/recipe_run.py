"""One run of one recipe in one directory: text, stages, final evaluation, exports. Read from top to bottom.

Every process of a run goes through all of it. What is read, encoded, judged and written is done in rank 0,
whose word the others wait for; trainings are done by all of them together.
"""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hanlin.common.atomic import read_json, write_json
from hanlin.common.config import to_dict
from hanlin.common.manifest import read_manifest
from hanlin.corpus.builder.build import build_corpus, read_corpus
from hanlin.dataset import build_text_dataset
from hanlin.evaluation import Metric
from hanlin.evaluation.exam import Exam
from hanlin.evaluation.kept_items import keep_items
from hanlin.evaluation.tasks.base import is_task, task_entries
from hanlin.export.base import Export
from hanlin.inference.generate import sampling_defaults
from hanlin.pipeline.run_context import RunContext
from hanlin.pipeline.runner import StepRecord
from hanlin.pipeline.samples import speak_samples
from hanlin.pipeline.stage_run import StageRun, publish
from hanlin.pipeline.suite import BITS
from hanlin.report.corpus_page import render_corpus
from hanlin.report.format import export_steps
from hanlin.stages.base import content_hash
from hanlin.tokenizer import load_tokenizer, train_tokenizer
from hanlin.tokenizer.foreign import open_any

SUGGESTIONS = "suggestions.json"  # what the chat page offers to ask; beside the model, no part of it


class RecipeRun:
    """All that a recipe says, done in order."""

    def __init__(self, context: RunContext):
        self.context = context

    def run(self) -> None:
        """All of it."""
        if self.context.recipe.begins_from_text:
            self.corpus()
            self.tokenizer()
            self.dataset()
        for config in self.context.recipe.stages:
            StageRun(self.context, config).run()
            gc.collect()
        self.evaluation()
        self.export()

    # ---------------------------------------------------------------- text

    def corpus(self) -> None:
        """Read, clean, deduplicate; where the dirt is known, compare with the truth."""
        section = self.context.recipe.corpus
        assert section is not None
        folder = self.context.out / "corpus"

        def body(key: str, record: StepRecord) -> None:
            documents = section.read(self.context.recipe.seed)
            build_corpus(
                documents,
                folder,
                section,
                seed=self.context.recipe.seed,
                key=key,
                progress=self.context.progress,
                page=render_corpus,
                in_recipe=True,
            )
            record.notes |= read_manifest(folder, verify=False).metrics
            record.target = "cleaning/recall"
            kept = (d["text"] for part in ("documents", "heldout") for d in read_corpus(folder, part))
            metrics, facts = section.judge(documents, kept)
            record.metrics |= {name: metric.to_dict() for name, metric in metrics.items()}
            record.notes |= facts

        def inputs() -> Any:
            return [section.identity(), section.origin(self.context.recipe.seed), self.context.recipe.seed]

        self._on_rank0("corpus", inputs, body, (folder,))

    def tokenizer(self) -> None:
        """Learn the vocabulary from the cleaned text."""
        section, folder = self.context.recipe.tokenizer, self.context.out / "tokenizer"

        def body(key: str, record: StepRecord) -> None:
            train_tokenizer(
                self.context.out / "corpus" / "documents.jsonl.zst",
                vocab_size=section.vocab_size,
                out=folder,
                max_token_chars=section.max_token_chars,
                num_special=section.num_special,
                threads=os.cpu_count() or 1,
                parents={"corpus": self.context.hash_of("corpus")},
                key=key,
            )
            record.notes |= read_manifest(folder, verify=False).metrics

        self._on_rank0(
            "tokenizer", lambda: [to_dict(section), self.context.hash_of("corpus")], body, (folder,)
        )

    def dataset(self) -> None:
        """Encode the text once; check, before a step is taken, that the model to come can be exported."""
        folder = self.context.out / "dataset"

        def check() -> None:
            tokenizer = load_tokenizer(self.context.out / "tokenizer")
            shape = self.context.recipe.model.config(tokenizer.vocab_size, tokenizer.eos_id)
            for export in self.context.recipe.export:
                export.check(shape, tokenizer)

        def body(key: str, record: StepRecord) -> None:
            build_text_dataset(
                read_corpus(self.context.out / "corpus", "documents"),
                load_tokenizer(self.context.out / "tokenizer"),
                folder,
                threads=os.cpu_count() or 1,
                parents={name: self.context.hash_of(name) for name in ("corpus", "tokenizer")},
                key=key,
            )
            record.notes |= read_manifest(folder, verify=False).metrics

        def inputs() -> Any:
            return [self.context.hash_of("corpus"), self.context.hash_of("tokenizer")]

        self.context.group.run_on_rank0(check)
        self._on_rank0("dataset", inputs, body, (folder,))

    # ---------------------------------------------------------------- the result

    def evaluation(self) -> None:
        """The published model on everything that was promised, greedily and as it is used by default."""
        path = self.context.current.path
        assert path is not None

        def body(key: str, record: StepRecord) -> None:
            context, metrics = self.context, self._final_metrics(path, record)
            record.metrics |= {name: metric.to_dict() for name, metric in metrics.items()}
            record.notes["scores"] = keep_items(context.out, "evaluation", metrics)
            record.samples = speak_samples(
                context.recipe, None, path, context.progress, answers=context.current.chat
            )

        def inputs() -> Any:
            corpus = self.context.hash_of("corpus") if self.context.recipe.begins_from_text else None
            return [
                to_dict(dataclasses.replace(self.context.recipe.evaluation, doctors=())),
                content_hash(path),
                corpus,
                list(self.context.current.ids),
            ]

        record = self._on_rank0("evaluation", inputs, body)
        self.context.group.run_on_rank0(lambda: self._publish_suggestions(path, record))

    def _final_metrics(self, path: Path, record: StepRecord) -> dict[str, Metric]:
        """Bare text; what every accepted stage taught; the tasks once more as the model is used by
        default."""
        context, suite = self.context, self.context.suite
        metrics: dict[str, Metric] = {}
        if suite.corpus is not None:
            scores = suite.text(suite.open(path))
            metrics |= {
                (BITS if name == "all" else f"{BITS}/{name}"): metric for name, metric in scores.items()
            }
            first = context.current.first_bits
            metrics[BITS] = context.beside_ngram(metrics[BITS], first)
            if first is not None:
                record.notes["pretrained_bits_per_byte"] = first.value
        if not context.current.chat:
            return metrics | suite.measure(path, list(suite.questions), chat=False).metrics
        names = [name for name in suite.names(context.current.stages) if name != BITS]
        entries = task_entries()
        free_forms = [entries[name].free_form for name in names if is_task(name) and entries[name].free_form]
        names += free_forms
        names += [f"reward_mean/{s.id}" for s in context.recipe.published() if s.stage.schema == "problems"]
        others = [name for name in dict.fromkeys(names) if not is_task(name)]
        metrics |= suite.measure(path, others).metrics
        tasks = [name for name in dict.fromkeys(names) if is_task(name)]
        if tasks:
            exam = Exam(suite.scope(context.current.reasoning or bool(free_forms)), open_any(path))
            model = suite.open(path)
            metrics |= exam(model, tasks)
            usual = sampling_defaults(path)
            sampling: dict[str, Any] = {
                "temperature": usual.get("temperature", 1.0),
                "top_p": usual.get("top_p", 1.0),
            }
            record.notes |= {"sampled": sampling, "cards": exam.cards(model, **sampling)}
            greedy = [name for name in tasks if exam.task(name).temperature == 0.0]
            metrics |= {f"{name}/sampled": metric for name, metric in exam(model, greedy, **sampling).items()}
        return metrics

    def _publish_suggestions(self, path: Path, record: StepRecord) -> None:
        publish(path, self.context.out / "model")
        cards = record.notes.get("cards") or [
            {"text": prompt} for prompt in self.context.recipe.evaluation.prompts
        ]
        file = self.context.out / "model" / SUGGESTIONS
        if not file.is_file() or read_json(file) != cards:
            write_json(file, cards)

    def export(self) -> None:
        """The finished model in files for other programs."""
        path = self.context.current.path
        assert path is not None
        exports = self.context.recipe.export
        steps = export_steps([export.kind for export in exports])
        for step, export in zip(steps, exports, strict=True):
            self._export(step, export, path)

    def _export(self, step: str, export: Export, path: Path) -> None:
        """The model at `path` as one file."""
        file = self.context.out / export.name()

        def body(key: str, record: StepRecord) -> None:
            export.write(path, file)
            record.kind = "export"
            record.title = {"zh": export.title.zh, "en": export.title.en}
            record.does = {"zh": export.does.zh, "en": export.does.en}
            record.notes |= {"file": file.name, "bytes": file.stat().st_size}

        def inputs() -> Any:
            return [content_hash(path), to_dict(export)]

        self._on_rank0(step, inputs, body, files=(file,))

    def _on_rank0(
        self,
        name: str,
        inputs: Callable[[], Any],
        body: Callable[[str, StepRecord], None],
        artifacts: tuple[Path, ...] = (),
        files: tuple[Path, ...] = (),
    ) -> StepRecord:
        """A step that rank 0 does alone."""

        def alone(key: str, record: StepRecord) -> None:
            self.context.group.run_on_rank0(lambda: body(key, record))

        return self.context.runner.run(name, inputs, alone, artifacts, files)
