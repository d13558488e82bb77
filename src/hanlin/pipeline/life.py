"""The life of a model, stage by stage: raw text in, a judged, exported, explained model out. Read from top to bottom."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..common.atomic import atomic_directory
from ..common.config import to_dict
from ..common.manifest import MANIFEST, hash_json, read_manifest
from ..common.progress import Progress
from ..corpus import tinyworld
from ..corpus.build import build_corpus, read_corpus
from ..dataset import TokenDataset, build_conversation_dataset, build_text_dataset
from ..evaluation import (
    Metric,
    answer_bits_per_byte,
    bits_per_byte,
    evaluate_generation,
    length_control,
    ngram_bits_per_byte,
    pair_accuracy,
    pooled,
)
from ..export import check_export, export_gguf
from ..inference import generate_text
from ..model import CausalLM, load_model, load_reward_model
from ..stages.dpo import dpo
from ..stages.grpo import GRPOConfig, grpo
from ..stages.pairs import build_pair_dataset
from ..stages.pretrain import pretrain
from ..stages.reward import reward, score_pairs
from ..stages.rewards import numeric_answer
from ..stages.supervised import finetune
from ..tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from .gate import judge
from .recipe import ConversationSection, Recipe
from .runner import Runner, StepRecord
from .sources import FileSource, Task, TinyworldSource, make_source, plain_questions


class Life:
    """One run of one recipe in one directory. `current` is the directory of the best model so far."""

    def __init__(self, recipe: Recipe, out: Path, progress: Progress):
        self.recipe, self.out, self.progress = recipe, out, progress
        self.source = make_source(recipe)
        self.runner = Runner(out, recipe.stages(), progress)
        self.current = out / "models" / "pretrain"
        self.scores: dict[str, Metric] = {}  # of the current model

    def run(self) -> None:
        """Every stage of the recipe, in order."""
        for name in self.recipe.stages():
            getattr(self, name)()
            gc.collect()

    # ---------------------------------------------------------------- text

    def corpus(self) -> None:
        """Read, clean, deduplicate; where the dirt is known, compare with the truth."""
        section = self.recipe.corpus

        def body(key: str, record: StepRecord) -> None:
            documents: Any = self.source.documents()
            if isinstance(self.source, TinyworldSource):
                documents = list(documents)
            build_corpus(documents, self.out / "corpus", section, seed=self.recipe.seed, key=key, progress=self.progress)
            manifest = read_manifest(self.out / "corpus", verify=False)
            record.notes |= manifest.metrics
            if isinstance(self.source, TinyworldSource):
                cleaned = (d["text"] for part in ("documents", "heldout") for d in read_corpus(self.out / "corpus", part))
                score = tinyworld.check_cleaning(documents, cleaned)
                record.metrics["dirt_removed"] = Metric.proportion(score.dirt_removed, score.dirt_total).to_dict()
                record.metrics["good_lost"] = Metric.proportion(score.good_lost, score.good_total, higher_is_better=False).to_dict()
                record.notes["by_kind"] = score.by_kind

        self.runner.run("corpus", [to_dict(section), self.source.fingerprint("corpus"), self.recipe.seed], body, (self.out / "corpus",))

    def tokenizer(self) -> None:
        """Learn the vocabulary from the cleaned text."""
        section, corpus = self.recipe.tokenizer, self.out / "corpus"

        def body(key: str, record: StepRecord) -> None:
            texts = (document["text"] for document in read_corpus(corpus, "documents"))
            train_tokenizer(
                texts, vocab_size=section.vocab_size, out=self.out / "tokenizer", max_token_chars=section.max_token_chars,
                num_special=section.num_special, parents={"corpus": self._hash("corpus")}, key=key,
            )  # fmt: skip
            record.notes |= read_manifest(self.out / "tokenizer", verify=False).metrics

        self.runner.run("tokenizer", [to_dict(section), self._hash("corpus")], body, (self.out / "tokenizer",))

    def dataset(self) -> None:
        """Encode the text once; check, before a step is taken, that the model to come can be exported."""
        tokenizer = self._tokenizer()
        shape = self.recipe.model.shape(tokenizer.vocab_size, tokenizer.eos_id)
        check_export(shape, tokenizer)

        def body(key: str, record: StepRecord) -> None:
            documents = read_corpus(self.out / "corpus", "documents")
            parents = {"corpus": self._hash("corpus"), "tokenizer": self._hash("tokenizer")}
            build_text_dataset(documents, tokenizer, self.out / "dataset", parents=parents, key=key)
            record.notes |= read_manifest(self.out / "dataset", verify=False).metrics

        self.runner.run("dataset", [self._hash("corpus"), self._hash("tokenizer")], body, (self.out / "dataset",))

    # ---------------------------------------------------------------- models

    def pretrain(self) -> None:
        """A model from nothing; its bits per byte on held-out text beside a 5-gram model of the same tokens."""
        tokenizer, section = self._tokenizer(), self.recipe.pretrain
        shape = self.recipe.model.shape(tokenizer.vocab_size, tokenizer.eos_id)
        out = self.out / "models" / "pretrain"

        def body(key: str, record: StepRecord) -> None:
            def run(work: Path, key: str) -> None:
                pretrain(self.out / "dataset", self.out / "tokenizer", shape, section, out, work, self.progress, key=key, **self._common())

            record.notes["training_seconds"] = self._once("pretrain", out, key, run)
            model = self._model(out)
            heldout = list(read_corpus(self.out / "corpus", "heldout"))
            scores = bits_per_byte(model, tokenizer, heldout, context=section.seq_len)
            control = ngram_bits_per_byte(TokenDataset(self.out / "dataset", verify=False), tokenizer, heldout)
            record.metrics["bits_per_byte"] = scores["all"].with_control("5-gram", control).to_dict()
            if len(scores) > 2:
                record.metrics |= {f"bits_per_byte/{name}": metric.to_dict() for name, metric in scores.items() if name != "all"}
            record.samples = self._samples(None, model)

        record = self.runner.run("pretrain", [to_dict(section), to_dict(shape), self._hash("dataset"), self.recipe.seed], body, (out,))
        self.scores = {"bits_per_byte": Metric.from_dict(record.metrics["bits_per_byte"])}
        publish(out, self.out / "model")

    def sft(self) -> None:
        """Teach it to answer."""
        section = self.recipe.sft
        assert section is not None

        def measure(model: CausalLM, record: StepRecord) -> dict[str, Metric]:
            if isinstance(self.source, FileSource):
                data = self._heldout_conversations("sft", section)
                after, before = (answer_bits_per_byte(m, self._tokenizer(), data) for m in (model, self._model(self.current)))
                return {"answer_bits_per_byte": after.with_control("base", before)}
            task = self.source.task("story_answers")
            before = self._score(self._model(self.current), plain_questions(task))
            return {"story_answers": self._score(model, task).with_control("base", before), "preferred_manner": self._score(model, "preferred_manner")}

        aim = "answer_bits_per_byte" if isinstance(self.source, FileSource) else "story_answers"
        self._supervised("sft", section, measure, aim)

    def distill(self) -> None:
        """Teach it to think before it answers; the control sees as many tokens of the same problems without the thinking."""
        section = self.recipe.distill
        assert section is not None

        def measure(model: CausalLM, record: StepRecord) -> dict[str, Metric]:
            control = self.out / "controls" / "direct"
            data = self._conversations("direct", section, direct=True)
            self._once("direct", control, record.key, lambda work, key: self._finetune(data, section, control, work, key))
            if isinstance(self.source, FileSource):
                heldout = self._heldout_conversations("distill", section)
                after, direct = (answer_bits_per_byte(m, self._tokenizer(), heldout) for m in (model, self._model(control)))
                return {"answer_bits_per_byte": after.with_control("direct", direct)}
            direct = self._score(self._model(control), "direct")
            return {"problems_solved": self._score(model, "problems_solved").with_control("direct", direct), "story_answers": self._score(model, "story_answers")}

        aim = "answer_bits_per_byte" if isinstance(self.source, FileSource) else "problems_solved"
        self._supervised("distill", section, measure, aim)

    def dpo(self) -> None:
        """Teach it which of two manners people prefer."""
        section = self.recipe.dpo
        assert section is not None
        out = self.out / "models" / "dpo"

        def body(key: str, record: StepRecord) -> None:
            data = self._pairs("dpo", section.seq_len).path
            record.notes["training_seconds"] = self._once(
                "dpo", out, key, lambda work, key: dpo(self.current, data, section, out, work, self.progress, key=key, **self._common())
            )
            model = self._model(out)
            if isinstance(self.source, TinyworldSource):
                metrics = {name: self._score(model, name) for name in ("preferred_manner", "story_answers")}
                before = {name: self.scores.get(name) or self._score(self._model(self.current), name) for name in metrics}
                metrics["preferred_manner"] = metrics["preferred_manner"].with_control("before", before["preferred_manner"])
                self._gate("dpo", record, metrics, "preferred_manner", before)
            record.samples = self._samples(self.current, model)

        self._adopt(self.runner.run("dpo", [to_dict(section), self._model_hash(), self.source.fingerprint("dpo"), self._count()], body, (out,)), out)

    def reward(self) -> None:
        """A model of the preference itself, against the length of the answers alone."""
        section = self.recipe.reward
        assert section is not None
        out = self.out / "models" / "reward"

        def body(key: str, record: StepRecord) -> None:
            data = self._pairs("reward", section.seq_len)
            record.notes["training_seconds"] = self._once(
                "reward", out, key, lambda work, key: reward(self.current, data.path, section, out, work, self.progress, key=key, **self._common())
            )
            heldout = self._pairs("reward", section.seq_len, heldout=True)
            chosen, rejected = score_pairs(load_reward_model(out), heldout, section)
            lengths = heldout.lengths
            control = length_control(_pair_lengths(data), np.stack([lengths[0::2], lengths[1::2]], axis=1))
            record.metrics["pair_accuracy"] = pair_accuracy(chosen, rejected).with_control("length", control).to_dict()
            record.notes["side"] = True  # a reward model never becomes the model people talk to

        self.runner.run("reward", [to_dict(section), self._model_hash(), self.source.fingerprint("reward"), self._count()], body, (out,))

    def grpo(self) -> None:
        """Let it find out by trying when thinking pays; the controls go on with demonstrations for the same time."""
        section = self.recipe.grpo
        assert section is not None
        out = self.out / "models" / "grpo"
        config = GRPOConfig(**{f.name: getattr(section, f.name) for f in dataclasses.fields(GRPOConfig)})

        def body(key: str, record: StepRecord) -> None:
            problems = self.source.problems()
            arms: dict[str, list[Metric]] = {"grpo": [], "sft": []}
            seconds: dict[str, list[float]] = {"grpo": [], "sft": []}
            for seed in range(section.seeds):
                name, target = ("grpo", out) if seed == 0 else (f"grpo-{seed}", self.out / "controls" / f"grpo-{seed}")
                options = self._common() | {"seed": self.recipe.seed + seed}

                def policy(work: Path, key: str, target: Path = target, options: dict[str, Any] = options) -> None:
                    grpo(self.current, problems, numeric_answer, config, target, work, self.progress, key=key, **options)

                seconds["grpo"].append(self._once(name, target, key, policy))
                arms["grpo"].append(self._reward(target, seed))
                if self.recipe.distill is not None:
                    control = self.out / "controls" / f"sft-{seed}"
                    data, again, limit = self._conversations("distill", self.recipe.distill), self._control_config(), seconds["grpo"][-1]

                    def longer(work: Path, key: str, control: Path = control, data: Path = data, seed: int = seed, limit: float = limit) -> None:
                        self._finetune(data, again, control, work, key, seed=self.recipe.seed + 100 + seed, max_seconds=limit)

                    seconds["sft"].append(self._once(f"sft-control-{seed}", control, key, longer))
                    arms["sft"].append(self._reward(control, seed))
            record.notes |= {"seconds": seconds, "by_seed": {arm: [m.value for m in metrics] for arm, metrics in arms.items()}}
            metrics = {"task_reward": pooled(arms["grpo"])}
            before = {"task_reward": self._reward(self.current, 0)}
            if arms["sft"]:
                metrics["task_reward"] = metrics["task_reward"].with_control("sft", pooled(arms["sft"]))
            model = self._model(out)
            if isinstance(self.source, TinyworldSource):
                for name in ("story_answers", "preferred_manner"):
                    metrics[name] = self._score(model, name)
                    before[name] = self.scores.get(name) or self._score(self._model(self.current), name)
            self._gate("grpo", record, metrics, "task_reward", before)
            record.samples = self._samples(self.current, model)

        self._adopt(self.runner.run("grpo", [to_dict(section), self._model_hash(), self.source.fingerprint("grpo"), self._count()], body, (out,)), out)

    # ---------------------------------------------------------------- the result

    def evaluation(self) -> None:
        """The published model on everything that was promised."""

        def body(key: str, record: StepRecord) -> None:
            model, tokenizer = self._model(self.current), self._tokenizer()
            scores = bits_per_byte(model, tokenizer, list(read_corpus(self.out / "corpus", "heldout")), context=self.recipe.pretrain.seq_len)
            record.metrics |= {("bits_per_byte" if n == "all" else f"bits_per_byte/{n}"): m.to_dict() for n, m in scores.items()}
            if isinstance(self.source, TinyworldSource):
                names = {"story_answers": self.recipe.sft, "preferred_manner": self.recipe.dpo, "problems_solved": self.recipe.distill, "task_reward": self.recipe.grpo}
                record.metrics |= {name: self._score(model, name).to_dict() for name, section in names.items() if section is not None}
            record.samples = self._samples(None, model)

        self.runner.run("evaluation", [to_dict(self.recipe.evaluation), self._model_hash(), self._hash("corpus")], body)

    def gguf(self) -> None:
        """One file for llama.cpp, Ollama and their kin."""
        file = self.out / "model.gguf"

        def body(key: str, record: StepRecord) -> None:
            export_gguf(self.current, file)
            record.notes |= {"file": file.name, "bytes": file.stat().st_size}

        if not file.is_file():
            (self.out / "steps" / "gguf.json").unlink(missing_ok=True)
        self.runner.run("gguf", [self._model_hash()], body)

    # ---------------------------------------------------------------- what the stages share

    def _supervised(self, name: str, section: ConversationSection, measure: Any, aim: str) -> None:
        out = self.out / "models" / name

        def body(key: str, record: StepRecord) -> None:
            data = self._conversations(name, section)
            trained = self._once(name, out, key, lambda work, key: self._finetune(data, section, out, work, key))
            record.notes |= {"training_seconds": trained} | read_manifest(data, verify=False).metrics
            model = self._model(out)
            metrics = measure(model, record)
            before = {n: m for n, m in self.scores.items() if n in metrics}
            if aim not in before:
                control = metrics[aim].control_metric() if aim != "problems_solved" else self._score(self._model(self.current), aim)
                before[aim] = control
            self._gate(name, record, metrics, aim, before)
            record.samples = self._samples(self.current, model)

        inputs = [to_dict(section), self._model_hash(), self.source.fingerprint(name), self._count()]
        self._adopt(self.runner.run(name, inputs, body, (out,)), out)

    def _finetune(self, data: Path, section: ConversationSection, out: Path, work: Path, key: str, **options: Any) -> None:
        finetune(self.current, data, section, out, work, self.progress, key=key, **(self._common() | options))

    def _common(self) -> dict[str, Any]:
        return {"seed": self.recipe.seed, "device": self.recipe.device, "trackers": self.recipe.track}

    def _gate(self, stage: str, record: StepRecord, metrics: dict[str, Metric], aim: str, before: dict[str, Metric]) -> None:
        guards = {name: (metrics[name], before[name]) for name in metrics if name != aim and name in before and name in _GUARDED}
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
        if not (out / "manifest.json").is_file() or read_manifest(out).config.get("inputs") != self._data_inputs(stage, section):
            build_conversation_dataset(
                self.source.conversations(stage, direct=direct), self._tokenizer(), out, max_length=section.seq_len, inputs=self._data_inputs(stage, section)
            )
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
        train = dataclasses.replace(self.recipe.distill.train, steps=100_000, schedule="constant", learning_rate=self.recipe.distill.train.learning_rate * 0.3)
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

    def _samples(self, before: Path | None, after: CausalLM) -> list[dict[str, Any]]:
        """The model's own words on the fixed prompts, beside its predecessor's; two are shown to whoever watches."""
        prompts = self.source.sample_prompts()
        if "sft" in self.runner.records:  # from here on the model answers; it no longer goes on with bare text
            prompts = [prompt for prompt in prompts if "messages" in prompt]

        def speak(model: CausalLM) -> list[str]:
            asked = [prompt.get("messages") or prompt["text"] for prompt in prompts]
            return generate_text(model, self._tokenizer(), asked, max_new_tokens=self.recipe.evaluation.max_new_tokens, temperature=0.7, seed=self.recipe.seed)

        new = speak(after)
        old = speak(self._model(before)) if before is not None else [""] * len(prompts)
        shown = [prompt.get("text") or prompt["messages"][-1]["content"] for prompt in prompts]
        for at in (0, -1):
            self.progress.sample(shown[at], new[at])
        return [{"prompt": p, "before": b, "after": a} for p, b, a in zip(shown, old, new, strict=True)]

    def _model(self, path: Path) -> CausalLM:
        return load_model(path, device=self.recipe.device)

    def _tokenizer(self) -> Tokenizer:
        if not hasattr(self, "_words") or self._words_hash != self._hash("tokenizer"):
            self._words, self._words_hash = load_tokenizer(self.out / "tokenizer"), self._hash("tokenizer")
        return self._words

    def _work(self, name: str, key: str) -> Path:
        """Checkpoints of one training, apart from those of another configuration."""
        return self.out / "work" / f"{name}-{key[:10]}"

    def _once(self, name: str, path: Path, key: str, train: Callable[[Path, str], Any]) -> float:
        """Train unless `path` holds this very result already; returns the training seconds.

        A run killed while a finished model was being judged goes on with the judging.
        """
        key = hash_json([key, name])
        if not (path / MANIFEST).is_file() or read_manifest(path).key != key:
            work = self._work(name, key)
            train(work, key)
            curves = self.out / "curves" / f"{name}.jsonl"
            curves.parent.mkdir(exist_ok=True)
            os.replace(work / "metrics.jsonl", curves)
            shutil.rmtree(work, ignore_errors=True)
        return float(read_manifest(path, verify=False).metrics["seconds"])

    def _hash(self, name: str) -> str:
        return read_manifest(self.out / name, verify=False).content_hash

    def _model_hash(self) -> str:
        return read_manifest(self.current, verify=False).content_hash

    def _count(self) -> list[Any]:
        return [to_dict(self.recipe.evaluation), self.recipe.seed]


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


_GUARDED = ("story_answers", "preferred_manner", "answer_bits_per_byte")


def _pair_lengths(dataset: TokenDataset) -> np.ndarray:
    """Tokens of each pair's sides, (pairs, 2)."""
    return np.stack([dataset.lengths[0::2], dataset.lengths[1::2]], axis=1)
