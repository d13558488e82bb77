"""What the stages of a life share: training once, encoding once, judging, the gate, samples, publishing."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..common.atomic import atomic_directory
from ..common.config import to_dict
from ..common.errors import HanlinError
from ..common.manifest import MANIFEST, Manifest, hash_json, read_manifest
from ..common.progress import Progress
from ..corpus import tinyworld
from ..dataset import TokenDataset, build_conversation_dataset
from ..evaluation import Metric, evaluate_generation
from ..inference import generate_text
from ..model import CausalLM, load_model
from ..stages.job import Job
from ..stages.pairs import build_pair_dataset
from ..stages.rewards import numeric_answer
from ..stages.supervised import finetune
from ..tokenizer import Tokenizer, load_tokenizer
from ..training.spikes import keep_spikes
from .gate import judge
from .recipe import ConversationSection, Recipe
from .runner import Runner, StepRecord
from .sources import FileSource, Task, TinyworldSource, make_source

# What a later stage may cost an earlier one, in the metric's own unit. Two points of answers are promised; a chain of thought
# multiplies the noise of its steps, so it gets five.
_GUARDED = {"story_answers": 0.02, "preferred_manner": 0.05, "problems_solved": 0.05, "answer_bits_per_byte": 0.05}


class Workshop:
    """The state of one run: `current` is the directory of the best model so far, `scores` what it scored."""

    def __init__(self, recipe: Recipe, out: Path, progress: Progress):
        self.recipe, self.out, self.progress = recipe, out, progress
        self.source = make_source(recipe)
        self.runner = Runner(out, recipe.stages(), progress)
        self.current = out / "models" / "pretrain"
        self._words: tuple[str, Tokenizer] | None = None
        self.scores: dict[str, Metric] = {}  # of the current model

    def _supervised(self, name: str, section: ConversationSection, measure: Any, aim: str) -> None:
        out = self.out / "models" / name
        inputs = self._inputs(name, section)

        def body(key: str, record: StepRecord) -> None:
            data = self._conversations(name, section)
            trained = self._once(name, out, inputs, lambda job: finetune(self.current, data, section, job))
            record.notes |= {"training_seconds": trained} | read_manifest(data, verify=False).metrics
            model = self._model(out)
            metrics = measure(model, record)
            before = {n: m for n, m in self.scores.items() if n in metrics}
            if aim not in before:
                control = metrics[aim].control_metric() if aim != "problems_solved" else self._score(self._model(self.current), aim)
                before[aim] = control
            self._gate(name, record, metrics, aim, before)
            record.samples = self._samples(self.current, model)

        self._adopt(self.runner.run(name, [inputs, self._judging()], body, (out,)), out)

    def _holds(self, path: Path, wanted: Callable[[Manifest], bool]) -> bool:
        """Whether a whole artefact is there that is the wanted one; a damaged one is reported and made again."""
        try:
            return (path / MANIFEST).is_file() and wanted(read_manifest(path))
        except HanlinError as error:
            self.progress.warn(f"需要重做：{error.zh}", f"must be done again: {error.en}")
            return False

    def _learned(self) -> list[str]:
        """Tasks that the stages so far have taught."""
        return [task for stage, task in (("sft", "story_answers"), ("distill", "problems_solved")) if stage in self.runner.records]

    def _gate(self, stage: str, record: StepRecord, metrics: dict[str, Metric], aim: str, before: dict[str, Metric]) -> None:
        guards = {name: (metrics[name], before[name], _GUARDED[name]) for name in metrics if name != aim and name in before and name in _GUARDED}
        verdict = judge(stage, (aim, metrics[aim], before[aim]), guards)
        record.metrics |= {name: metric.to_dict() for name, metric in metrics.items()}
        record.kept = verdict.kept
        record.notes["gate"] = {"zh": verdict.zh, "en": verdict.en}
        (self.progress.note if verdict.kept else self.progress.warn)(verdict.zh, verdict.en)

    def _adopt(self, record: StepRecord, out: Path) -> None:
        if record.kept:
            self.current = out
            publish(out, self.out / "model")
            self.scores |= {name: Metric.from_dict(metric) for name, metric in record.metrics.items()}

    def _conversations(self, name: str, section: ConversationSection, direct: bool = False) -> Path:
        stage = "distill" if name == "direct" else name
        out = self.out / "data" / name
        inputs = self._data_inputs(stage, section)
        if not self._holds(out, lambda manifest: manifest.config.get("inputs") == inputs):
            records = self.source.conversations(stage, direct=direct)
            build_conversation_dataset(records, self._tokenizer(), out, max_length=section.seq_len, inputs=inputs)
        return out

    def _heldout_conversations(self, stage: str, section: ConversationSection) -> TokenDataset:
        assert isinstance(self.source, FileSource)
        records = self.source.conversations(stage, heldout=True)
        return build_conversation_dataset(records, self._tokenizer(), self.out / "data" / f"{stage}-heldout", max_length=section.seq_len)

    def _pairs(self, stage: str, seq_len: int, heldout: bool = False) -> TokenDataset:
        out = self.out / "data" / (f"{stage}-heldout" if heldout else stage)
        return build_pair_dataset(self.source.preferences(stage, heldout=heldout), self._tokenizer(), out, max_length=seq_len)

    def _data_inputs(self, stage: str, section: ConversationSection) -> list[Any]:
        return [to_dict(section), self.source.fingerprint(stage), self._hash("tokenizer")]

    def _control_config(self) -> ConversationSection:
        """Distillation's own configuration at a constant, low rate: what one would do with more time and the same data."""
        assert self.recipe.distill is not None
        train = dataclasses.replace(self.recipe.distill.train, steps=100_000, schedule="constant", learning_rate=self.recipe.distill.train.learning_rate * 0.3, compile=False)  # compiling would cost it part of its time
        return dataclasses.replace(self.recipe.distill, train=train)

    def _score(self, model: CausalLM, task: Task | str) -> Metric:
        """Share of a task's held-out items the model gets right."""
        if isinstance(task, str):
            assert isinstance(self.source, TinyworldSource)
            task = self.source.task(task)
        return evaluate_generation(
            model, self._tokenizer(), task.records, task.check, thinking=task.thinking, temperature=task.temperature,
            max_new_tokens=self.recipe.evaluation.max_new_tokens, seed=self.recipe.seed,
        )[0]  # fmt: skip

    def _reward(self, path: Path, seed: int) -> Metric:
        assert self.recipe.grpo is not None
        problems = self.source.problems(heldout=True)
        check = tinyworld.check_problem if isinstance(self.source, TinyworldSource) else lambda record, text: numeric_answer(record, text) == 1.0
        return evaluate_generation(
            self._model(path), self._tokenizer(), problems, check, thinking=self.recipe.grpo.thinking,
            temperature=self.recipe.grpo.temperature, max_new_tokens=self.recipe.grpo.max_new_tokens, seed=seed,
        )[0]  # fmt: skip

    def _samples(self, before: Path | None, after: CausalLM, answers: bool = True) -> list[dict[str, Any]]:
        """The model's own words on the fixed prompts, beside its predecessor's; two are shown to whoever watches.

        A model that was never taught to answer goes on with bare text.
        """
        kind = "messages" if answers else "text"
        prompts = [prompt for prompt in self.source.sample_prompts() if kind in prompt]

        def speak(model: CausalLM) -> list[str]:
            asked = [prompt[kind] for prompt in prompts]
            return generate_text(model, self._tokenizer(), asked, max_new_tokens=self.recipe.evaluation.max_new_tokens, temperature=0.7, seed=self.recipe.seed)

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
        self, name: str, out: Path, inputs: str, train: Callable[[Job], Any], *, seed: int | None = None, max_seconds: float | None = None
    ) -> float:
        """Train unless `out` holds this very result already; returns the training seconds.

        A run killed while a finished model was being judged goes on with the judging. Checkpoints lie apart from those of
        another configuration.
        """
        key = hash_json([inputs, name])
        if not self._holds(out, lambda manifest: manifest.key == key):
            work = self.out / "work" / f"{name}-{key[:10]}"
            seed = self.recipe.seed if seed is None else seed
            train(Job(out, work, self.progress, seed, key, self.recipe.device, self.recipe.track, max_seconds))
            curves = self.out / "curves" / f"{name}.jsonl"
            curves.parent.mkdir(exist_ok=True)
            os.replace(work / "metrics.jsonl", curves)
            keep_spikes(work, self.out / "spikes" / name)
            shutil.rmtree(work, ignore_errors=True)
        return float(read_manifest(out, verify=False).metrics["seconds"])

    def _hash(self, name: str) -> str:
        return read_manifest(self.out / name, verify=False).content_hash

    def _model_hash(self) -> str:
        return read_manifest(self.current, verify=False).content_hash

    def _inputs(self, stage: str, section: Any) -> str:
        """Hash of what a stage's training depends on; how it is judged is apart, so new questions retrain nothing."""
        return hash_json([stage, to_dict(section), self._model_hash(), self.source.fingerprint(stage), self.recipe.seed])

    def _judging(self) -> Any:
        return to_dict(self.recipe.evaluation)


def publish(model: Path, target: Path) -> None:
    """Make `target` the given model, atomically; files are hard links where the file system has them."""
    if (target / MANIFEST).is_file() and read_manifest(target, verify=False).content_hash == read_manifest(model, verify=False).content_hash:
        return
    with atomic_directory(target) as temporary:
        for file in model.iterdir():
            try:
                os.link(file, temporary / file.name)
            except OSError:
                shutil.copyfile(file, temporary / file.name)
