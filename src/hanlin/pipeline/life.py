"""The life of a model, stage by stage: raw text in, a judged, exported, explained model out. Read from top to bottom."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
from typing import Any

import numpy as np

from ..common.config import to_dict
from ..common.manifest import hash_json, read_manifest
from ..corpus import tinyworld
from ..corpus.build import build_corpus, read_corpus
from ..dataset import TokenDataset, build_text_dataset
from ..evaluation import (
    Metric,
    answer_bits_per_byte,
    bits_per_byte,
    length_control,
    ngram_bits_per_byte,
    pair_accuracy,
    pooled,
)
from ..evaluation.corpus_page import render_corpus
from ..export import check_export, export_gguf
from ..model import CausalLM, load_reward_model
from ..stages.dpo import dpo
from ..stages.grpo import GRPOConfig, grpo
from ..stages.pretrain import pretrain
from ..stages.reward import reward, score_pairs
from ..stages.rewards import numeric_answer
from ..stages.supervised import finetune
from ..tokenizer import train_tokenizer
from .runner import StepRecord
from .sources import FileSource, TinyworldSource, plain_questions
from .workshop import Workshop, publish


class Life(Workshop):
    """One run of one recipe in one directory."""

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
            build_corpus(
                documents, self.out / "corpus", section, seed=self.recipe.seed, key=key, progress=self.progress, page=render_corpus, in_recipe=True
            )
            manifest = read_manifest(self.out / "corpus", verify=False)
            record.notes |= manifest.metrics
            if isinstance(self.source, TinyworldSource):
                cleaned = (d["text"] for part in ("documents", "heldout") for d in read_corpus(self.out / "corpus", part))
                score = tinyworld.check_cleaning(documents, cleaned)
                record.metrics["dirt_removed"] = Metric.proportion(score.dirt_removed, score.dirt_total).to_dict()
                record.metrics["good_lost"] = Metric.proportion(score.good_lost, score.good_total, higher_is_better=False).to_dict()
                record.notes["by_kind"] = score.by_kind

        self.runner.run("corpus", [section.identity(), self.source.fingerprint("corpus"), self.recipe.seed], body, (self.out / "corpus",))

    def tokenizer(self) -> None:
        """Learn the vocabulary from the cleaned text."""
        section, corpus = self.recipe.tokenizer, self.out / "corpus"

        def body(key: str, record: StepRecord) -> None:
            train_tokenizer(
                corpus / "documents.jsonl.zst", vocab_size=section.vocab_size, out=self.out / "tokenizer", max_token_chars=section.max_token_chars,
                num_special=section.num_special, threads=os.cpu_count() or 1, parents={"corpus": self._hash("corpus")}, key=key,
            )  # fmt: skip
            record.notes |= read_manifest(self.out / "tokenizer", verify=False).metrics

        self.runner.run("tokenizer", [to_dict(section), self._hash("corpus")], body, (self.out / "tokenizer",))

    def dataset(self) -> None:
        """Encode the text once; check, before a step is taken, that the model to come can be exported."""
        tokenizer = self._tokenizer()
        shape = self.recipe.model.config(tokenizer.vocab_size, tokenizer.eos_id)
        check_export(shape, tokenizer)

        def body(key: str, record: StepRecord) -> None:
            documents = read_corpus(self.out / "corpus", "documents")
            parents = {"corpus": self._hash("corpus"), "tokenizer": self._hash("tokenizer")}
            build_text_dataset(documents, tokenizer, self.out / "dataset", threads=os.cpu_count() or 1, parents=parents, key=key)
            record.notes |= read_manifest(self.out / "dataset", verify=False).metrics

        self.runner.run("dataset", [self._hash("corpus"), self._hash("tokenizer")], body, (self.out / "dataset",))

    # ---------------------------------------------------------------- models

    def pretrain(self) -> None:
        """A model from nothing; its bits per byte on held-out text beside a 5-gram model of the same tokens."""
        tokenizer, section = self._tokenizer(), self.recipe.pretrain
        shape = self.recipe.model.config(tokenizer.vocab_size, tokenizer.eos_id)
        out = self.out / "models" / "pretrain"
        trained = hash_json([to_dict(section), to_dict(shape), self._hash("dataset"), self.recipe.seed])

        def body(key: str, record: StepRecord) -> None:
            record.notes["training_seconds"] = self._once(
                "pretrain", out, trained, lambda job: pretrain(self.out / "dataset", self.out / "tokenizer", shape, section, job)
            )
            model = self._model(out)
            heldout = list(read_corpus(self.out / "corpus", "heldout"))
            scores = bits_per_byte(model, tokenizer, heldout, context=section.seq_len)
            control = ngram_bits_per_byte(TokenDataset(self.out / "dataset", verify=False), tokenizer, heldout)
            record.metrics["bits_per_byte"] = scores["all"].with_control("5-gram", control).to_dict()
            if len(scores) > 2:
                record.metrics |= {f"bits_per_byte/{name}": metric.to_dict() for name, metric in scores.items() if name != "all"}
            record.samples = self._samples(None, model, answers=False)

        record = self.runner.run("pretrain", [trained, self._hash("corpus")], body, (out,))
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
            self._once("direct", control, self._inputs("distill", section), lambda job: finetune(self.current, data, section, job))
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
        inputs = self._inputs("dpo", section)

        def body(key: str, record: StepRecord) -> None:
            data = self._pairs("dpo", section.seq_len).path
            record.notes["training_seconds"] = self._once("dpo", out, inputs, lambda job: dpo(self.current, data, section, job))
            model = self._model(out)
            if isinstance(self.source, TinyworldSource):
                metrics = {name: self._score(model, name) for name in ("preferred_manner", *self._learned())}
                before = {name: self.scores.get(name) or self._score(self._model(self.current), name) for name in metrics}
                metrics["preferred_manner"] = metrics["preferred_manner"].with_control("before", before["preferred_manner"])
                self._gate("dpo", record, metrics, "preferred_manner", before)
            record.samples = self._samples(self.current, model)

        self._adopt(self.runner.run("dpo", [inputs, self._judging()], body, (out,)), out)

    def reward(self) -> None:
        """A model of the preference itself, against the length of the answers alone."""
        section = self.recipe.reward
        assert section is not None
        out = self.out / "models" / "reward"
        inputs = self._inputs("reward", section)

        def body(key: str, record: StepRecord) -> None:
            data = self._pairs("reward", section.seq_len)
            record.notes["training_seconds"] = self._once("reward", out, inputs, lambda job: reward(self.current, data.path, section, job))
            heldout = self._pairs("reward", section.seq_len, heldout=True)
            chosen, rejected = score_pairs(load_reward_model(out), heldout, section)
            lengths = heldout.lengths
            control = length_control(_pair_lengths(data), np.stack([lengths[0::2], lengths[1::2]], axis=1))
            record.metrics["pair_accuracy"] = pair_accuracy(chosen, rejected).with_control("length", control).to_dict()
            record.notes["side"] = True  # a reward model never becomes the model people talk to

        self.runner.run("reward", [inputs, self._judging()], body, (out,))

    def grpo(self) -> None:
        """Let it find out by trying when thinking pays; the controls go on with demonstrations for the same time."""
        section = self.recipe.grpo
        assert section is not None
        out = self.out / "models" / "grpo"
        inputs = self._inputs("grpo", section)
        config = GRPOConfig(**{f.name: getattr(section, f.name) for f in dataclasses.fields(GRPOConfig)})

        def body(key: str, record: StepRecord) -> None:
            problems = self.source.problems()
            arms: dict[str, list[Metric]] = {"grpo": [], "sft": []}
            seconds: dict[str, list[float]] = {"grpo": [], "sft": []}
            for seed in range(section.seeds):
                name, target = ("grpo", out) if seed == 0 else (f"grpo-{seed}", self.out / "controls" / f"grpo-{seed}")
                seed_of_run = self.recipe.seed + seed
                seconds["grpo"].append(
                    self._once(name, target, inputs, lambda job: grpo(self.current, problems, numeric_answer, config, job), seed=seed_of_run)
                )
                arms["grpo"].append(self._reward(target, seed))
                if self.recipe.distill is not None:
                    control = self.out / "controls" / f"sft-{seed}"
                    data, longer, limit = self._conversations("distill", self.recipe.distill), self._control_config(), seconds["grpo"][-1]
                    more = functools.partial(finetune, self.current, data, longer)
                    seconds["sft"].append(self._once(f"sft-control-{seed}", control, inputs, more, seed=seed_of_run + 100, max_seconds=limit))
                    arms["sft"].append(self._reward(control, seed))
            record.notes |= {"seconds": seconds, "by_seed": {arm: [m.value for m in metrics] for arm, metrics in arms.items()}}
            metrics = {"task_reward": pooled(arms["grpo"])}
            before = {"task_reward": self._reward(self.current, 0)}
            if arms["sft"]:
                metrics["task_reward"] = metrics["task_reward"].with_control("sft", pooled(arms["sft"]))
            model = self._model(out)
            if isinstance(self.source, TinyworldSource):
                for name in ("preferred_manner", *self._learned()):
                    metrics[name] = self._score(model, name)
                    before[name] = self.scores.get(name) or self._score(self._model(self.current), name)
            self._gate("grpo", record, metrics, "task_reward", before)
            record.samples = self._samples(self.current, model)

        self._adopt(self.runner.run("grpo", [inputs, self._judging()], body, (out,)), out)

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
            record.samples = self._samples(None, model, answers=self.recipe.sft is not None)

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


def _pair_lengths(dataset: TokenDataset) -> np.ndarray:
    """Tokens of each pair's sides, (pairs, 2)."""
    return np.stack([dataset.lengths[0::2], dataset.lengths[1::2]], axis=1)
