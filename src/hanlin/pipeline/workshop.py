"""What the stages of a life share: training once, encoding once, judging, the gate, samples, publishing."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hanlin.common.atomic import atomic_directory
from hanlin.common.config import to_dict
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, Manifest, hash_json, read_manifest
from hanlin.common.progress import Progress
from hanlin.corpus import tinyworld
from hanlin.corpus.builder.build import read_corpus
from hanlin.dataset import TokenDataset, build_conversation_dataset, permutation, too_long_warning
from hanlin.evaluation import Metric, answer_bits_per_byte, bits_per_byte, evaluate_generation
from hanlin.evaluation.likelihood import pairs_preferred
from hanlin.inference import generate_text
from hanlin.model import CausalLM, load_model
from hanlin.pipeline.exam import OVERALL, TAUGHT, Exam
from hanlin.pipeline.gate import judge, tolerance
from hanlin.pipeline.runner import Runner, StepRecord
from hanlin.pipeline.sources import TURNS, FileSource, TinyworldSource, make_source
from hanlin.recipe.recipe import ConversationSection, Recipe
from hanlin.rl.rewards.numeric import numeric_answer
from hanlin.stages.base import Job
from hanlin.stages.pairs import build_pair_dataset
from hanlin.tokenizer import Tokenizer, load_tokenizer
from hanlin.training.spikes import keep_spikes

BITS = "bits_per_byte"


class Workshop:
    """The state of one run: `current` is the directory of the best model so far, `scores` what it scored."""

    def __init__(self, recipe: Recipe, out: Path, progress: Progress):
        self.recipe, self.out, self.progress = recipe, out, progress
        self.source = make_source(recipe)
        self.runner = Runner(out, recipe.stages(), progress)
        self.current = out / "models" / "pretrain"
        self._words: tuple[str, Tokenizer] | None = None
        self.scores: dict[str, Metric] = {}  # of the current model
        self.pretrained: Metric | None = None  # bits per byte of bare text, beside its 5-gram

    # ---------------------------------------------------------------- judging

    def measures(self, stage: str) -> list[str]:
        """Names of all that a stage's model is measured by: what it and the accepted stages before it teach, and bare text."""
        taught = [name for name in ("sft", "distill", "dpo", "grpo") if name == stage or self._was_kept(name)]
        if isinstance(self.source, TinyworldSource):
            return [*(task for name in taught for task in TAUGHT[name]), "preferred_manner", BITS]
        metric = {
            "sft": "answer_bits_per_byte/sft",
            "distill": "answer_bits_per_byte/distill",
            "dpo": "pairs_preferred",
        }
        return [*(metric[name] for name in taught if name in metric), BITS]

    def measure(
        self, model: CausalLM, names: Sequence[str], with_problems: bool = False
    ) -> dict[str, Metric]:
        """The named metrics of a model; of tinyworld's exam also what all answers together say.

        Args:
            with_problems: word problems are among the turns of mixed conversations.
        """
        metrics: dict[str, Metric] = {}
        if isinstance(self.source, TinyworldSource):
            exam = Exam(self.recipe, self.source, self._tokenizer())
            asked = [name for name in names if name != BITS]
            metrics = exam(model, asked, with_problems)
        for name in names:
            kind, _, stage = name.partition("/")
            if kind == "answer_bits_per_byte":
                metrics[name] = answer_bits_per_byte(
                    model, self._tokenizer(), self._heldout_conversations(stage)
                )
            elif kind == "pairs_preferred":
                metrics[name] = pairs_preferred(
                    model, self._tokenizer(), self._pairs("dpo", self._section("dpo").seq_len, heldout=True)
                )
            elif name == BITS:
                heldout = list(read_corpus(self.out / "corpus", "heldout"))
                scores = bits_per_byte(
                    model, self._tokenizer(), heldout, context=self.recipe.pretrain.seq_len
                )
                metrics[BITS] = self._beside_ngram(scores["all"])
        return metrics

    def judge(
        self, stage: str, record: StepRecord, out: Path, aim: str, aimed: tuple[Metric, Metric] | None = None
    ) -> dict[str, Metric]:
        """Measure a stage's model and its parent on the same items, and decide by the gate; returns the new model's metrics.

        Args:
            aim: name of the metric that the stage is for.
            aimed: its new and previous value, where the stage measures them itself.
        """
        names = [name for name in self.measures(stage) if aimed is None or name != aim]
        # Whether to think is the model's choice until GRPO teaches it, so problems come among mixed turns only then.
        problems = stage == "grpo" and "word_problems" in names
        metrics = self.measure(self._model(out), names, problems)
        # more is asked than before
        anew = {"distill": set(OVERALL), "grpo": {TURNS, *OVERALL}}.get(stage, set())
        known = {name: self.scores[name] for name in metrics if name in self.scores and name not in anew}
        missing = [name for name in names if name not in known]
        measured = self.measure(self._model(self.current), missing, problems) if missing else {}
        before = {name: metric for name, metric in measured.items() if name not in OVERALL} | known
        if aimed is not None:
            metrics[aim], before[aim] = aimed
        guards = {}
        for name, metric in metrics.items():
            allowed = tolerance(name)
            if name != aim and name in before and allowed is not None:
                guards[name] = (metric, before[name], allowed)
        if self.pretrained is not None and BITS in metrics and stage != "pretrain":
            allowed = self.recipe.evaluation.bits_per_byte_tolerance * self.pretrained.value
            guards[BITS] = (metrics[BITS], self.pretrained, allowed)
        verdict = judge(stage, (aim, metrics[aim], before[aim]), guards)
        record.metrics |= {name: metric.to_dict() for name, metric in metrics.items()}
        record.kept = verdict.kept
        record.notes["gate"] = verdict.why.to_dict()
        record.notes["before"] = {name: before[name].to_dict() for name in metrics if name in before}
        (self.progress.note if verdict.kept else self.progress.warn)(verdict.why)
        return metrics

    def _was_kept(self, stage: str) -> bool:
        record = self.runner.records.get(stage)
        return record is not None and record.kept

    def _adopt(self, record: StepRecord, out: Path, stage: str) -> None:
        """Take an accepted model as the current one; it is published unless an earlier run did all this already."""
        if record.kept:
            self.current = out
            self.scores |= {name: Metric.from_dict(metric) for name, metric in record.metrics.items()}
            if stage not in self.runner.reused:
                publish(out, self.out / "model")

    def _beside_ngram(self, metric: Metric) -> Metric:
        control = self.pretrained.control if self.pretrained is not None else None
        return dataclasses.replace(metric, control=control) if control is not None else metric

    def _reward(self, path: Path, seed: int) -> Metric:
        section = self.recipe.grpo
        assert section is not None
        records, opened = self.source.problems(heldout=True), section.thinking is True
        check = tinyworld.check_problem
        if isinstance(self.source, FileSource):
            records = [record for record in records if numeric_answer.can_judge(record)]
            check = lambda record, text: numeric_answer(record, text, opened) == 1.0  # noqa: E731
        return evaluate_generation(
            self._model(path),
            self._tokenizer(),
            records,
            check,
            thinking=section.thinking,
            temperature=section.temperature,
            max_new_tokens=section.max_new_tokens,
            seed=seed,
        )[0]

    # ---------------------------------------------------------------- data

    def _section(self, stage: str) -> Any:
        section = getattr(self.recipe, stage)
        assert section is not None
        return section

    def _holds(self, path: Path, wanted: Callable[[Manifest], bool]) -> bool:
        """Whether a whole artefact is there that is the wanted one; a damaged one is reported and made again."""
        try:
            return (path / MANIFEST).is_file() and wanted(read_manifest(path))
        except HanlinError as error:
            self.progress.warn("must be done again: {error}", error=error)
            return False

    def _conversations(self, name: str, section: ConversationSection, direct: bool = False) -> Path:
        stage = "distill" if name == "direct" else name
        out = self.out / "data" / name
        inputs = self._data_inputs(stage, section)
        if not self._holds(out, lambda manifest: manifest.config.get("inputs") == inputs):
            self._say_counts(stage)
            build_conversation_dataset(
                self.source.conversations(stage, direct=direct),
                self._tokenizer(),
                out,
                max_length=section.seq_len,
                inputs=inputs,
                text=self._texts(),
                text_share=section.text_share,
            )
            self._say_left_out(out)
        return out

    def _say_left_out(self, data: Path) -> None:
        left_out = too_long_warning(TokenDataset(data, verify=False))
        if left_out is not None:
            self.progress.warn(left_out)

    def _texts(self) -> Iterator[np.ndarray]:
        """Documents of the pretraining text without end, in a seeded order."""
        data, epoch = TokenDataset(self.out / "dataset", verify=False), 0
        while True:
            for index in permutation(len(data), self.recipe.seed, epoch):
                document = data.document(int(index))
                if len(document) > 1:
                    yield document
            epoch += 1

    def _say_counts(self, stage: str) -> None:
        if isinstance(self.source, FileSource):
            train, held = self.source.counts(stage)
            self.progress.note(
                "{stage}: {train:,} records to train on, {held:,} held out",
                stage=stage,
                train=train,
                held=held,
            )

    def _heldout_conversations(self, stage: str) -> TokenDataset:
        assert isinstance(self.source, FileSource)
        records = self.source.conversations(stage, heldout=True)
        out = self.out / "data" / f"{stage}-heldout"
        data = build_conversation_dataset(
            records, self._tokenizer(), out, max_length=self._section(stage).seq_len
        )
        self._say_left_out(out)
        return data

    def _pairs(self, stage: str, seq_len: int, heldout: bool = False) -> TokenDataset:
        out = self.out / "data" / (f"{stage}-heldout" if heldout else stage)
        if not heldout:
            self._say_counts(stage)
        data = build_pair_dataset(
            self.source.preferences(stage, heldout=heldout), self._tokenizer(), out, max_length=seq_len
        )
        self._say_left_out(out)
        return data

    def _data_inputs(self, stage: str, section: ConversationSection) -> list[Any]:
        return [
            to_dict(section),
            self.source.fingerprint(stage),
            self._hash("tokenizer"),
            self._hash("dataset"),
        ]

    def control_config(self) -> ConversationSection:
        """GRPO's control: distillation's own data at a constant rate without warm-up, for as long as GRPO took.

        Compiling would cost it part of its time.
        """
        section, grpo = self.recipe.distill, self.recipe.grpo
        assert section is not None and grpo is not None
        train = dataclasses.replace(
            section.train,
            steps=100_000,
            schedule="constant",
            warmup_ratio=0.0,
            decay_ratio=0.0,
            learning_rate=grpo.control_learning_rate,
            compile=False,
        )
        return dataclasses.replace(section, train=train)

    # ---------------------------------------------------------------- models

    def _samples(self, before: Path | None, after: CausalLM, answers: bool = True) -> list[dict[str, Any]]:
        """The model's own words on the fixed prompts, beside its predecessor's; two are shown to whoever watches.

        A model that was never taught to answer goes on with bare text.
        """
        kind = "messages" if answers else "text"
        prompts = [prompt for prompt in self.source.sample_prompts() if kind in prompt]

        def speak(model: CausalLM) -> list[str]:
            asked = [prompt[kind] for prompt in prompts]
            return generate_text(
                model,
                self._tokenizer(),
                asked,
                max_new_tokens=self.recipe.evaluation.max_new_tokens,
                temperature=0.7,
                seed=self.recipe.seed,
            )

        new = speak(after)
        old = speak(self._model(before)) if before is not None else [""] * len(prompts)
        shown = [prompt["messages"][-1]["content"] if answers else prompt["text"] for prompt in prompts]
        for at in (0, -1):
            self.progress.sample(shown[at], new[at])
        return [{"prompt": p, "before": b, "after": a} for p, b, a in zip(shown, old, new, strict=True)]

    def _model(self, path: Path) -> CausalLM:
        return load_model(path, device=self.recipe.device)

    def _tokenizer(self) -> Tokenizer:
        wanted = self._hash("tokenizer")
        if self._words is None or self._words[0] != wanted:
            self._words = wanted, load_tokenizer(self.out / "tokenizer")
        return self._words[1]

    def _once(
        self,
        name: str,
        out: Path,
        inputs: str,
        train: Callable[[Job], Any],
        *,
        seed: int | None = None,
        max_seconds: float | None = None,
    ) -> float:
        """Train unless `out` holds this very result already; returns the training seconds.

        A run killed while a finished model was being judged goes on with the judging, one killed before the curve was moved to its
        place moves it then. Checkpoints lie apart from those of another configuration.
        """
        key = hash_json([inputs, name])
        work = self.out / "work" / f"{name}-{key[:10]}"
        if not self._holds(out, lambda manifest: manifest.key == key):
            seed = self.recipe.seed if seed is None else seed
            train(
                Job(out, work, self.progress, seed, key, self.recipe.device, self.recipe.track, max_seconds)
            )
        if (work / "metrics.jsonl").is_file():
            curves = self.out / "curves" / f"{name}.jsonl"
            curves.parent.mkdir(exist_ok=True)
            os.replace(work / "metrics.jsonl", curves)
            keep_spikes(work, self.out / "spikes" / name)
        shutil.rmtree(work, ignore_errors=True)
        return float(read_manifest(out, verify=False).metrics["seconds"])

    def _curve(self, name: str) -> dict[str, float]:
        """Steps of a training and its mean learning rate, for the report."""
        file = self.out / "curves" / f"{name}.jsonl"
        rates = (
            [line["lr"] for line in map(orjson.loads, file.read_bytes().splitlines()) if "lr" in line]
            if file.is_file()
            else []
        )
        return {"steps": len(rates), "mean_learning_rate": float(np.mean(rates)) if rates else 0.0}

    def _hash(self, name: str) -> str:
        return read_manifest(self.out / name, verify=False).content_hash

    def _model_hash(self) -> str:
        return read_manifest(self.current, verify=False).content_hash

    def _inputs(self, stage: str, section: Any) -> str:
        """Hash of what a stage's training depends on; how it is judged is apart, so new questions retrain nothing."""
        mixed = [self._hash("dataset")] if getattr(section, "text_share", 0) else []
        return hash_json(
            [
                stage,
                to_dict(section),
                self._model_hash(),
                self.source.fingerprint(stage),
                self.recipe.seed,
                *mixed,
            ]
        )

    def _judging(self) -> Any:
        return to_dict(self.recipe.evaluation)


def publish(model: Path, target: Path) -> None:
    """Make `target` the given model, atomically; files are hard links where the file system has them."""
    if (target / MANIFEST).is_file() and read_manifest(target, verify=False).content_hash == read_manifest(
        model, verify=False
    ).content_hash:
        return
    with atomic_directory(target) as temporary:
        for file in model.iterdir():
            try:
                os.link(file, temporary / file.name)
            except OSError:
                shutil.copyfile(file, temporary / file.name)
