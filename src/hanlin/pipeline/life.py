"""The life of a model, stage by stage: raw text in, a judged, exported, explained model out. Read from top to bottom."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from hanlin.common.atomic import read_json, write_json
from hanlin.common.config import to_dict
from hanlin.common.manifest import hash_json, read_manifest
from hanlin.common.messages import Text
from hanlin.corpus import tinyworld
from hanlin.corpus.builder.build import build_corpus, read_corpus
from hanlin.dataset import TokenDataset, build_text_dataset
from hanlin.evaluation import (
    Metric,
    bits_per_byte,
    length_control,
    ngram_bits_per_byte,
    ngram_name,
    pair_accuracy,
    pooled,
)
from hanlin.export import check_export, export_gguf
from hanlin.inference.generate import sampling_defaults
from hanlin.model import CausalLM, load_reward_model
from hanlin.pipeline.exam import Exam
from hanlin.pipeline.runner import StepRecord
from hanlin.pipeline.sources import FileSource, TinyworldSource, plain_questions
from hanlin.pipeline.workshop import BITS, Workshop, publish
from hanlin.recipe.recipe import ConversationSection
from hanlin.report.corpus_page import render_corpus
from hanlin.rl.rewards.numeric import numeric_answer
from hanlin.stages.dpo import dpo
from hanlin.stages.grpo import GRPOConfig, grpo
from hanlin.stages.pretrain import pretrain
from hanlin.stages.reward_model import reward, score_pairs
from hanlin.stages.supervised import finetune
from hanlin.tokenizer import train_tokenizer

MOST_PASSES = 4  # over the same text that are worth nearly as much as new text (Muennighoff et al. 2023)
SUGGESTIONS = "suggestions.json"  # what the chat page offers to ask; beside the model, no part of it


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
                documents,
                self.out / "corpus",
                section,
                seed=self.recipe.seed,
                key=key,
                progress=self.progress,
                page=render_corpus,
                in_recipe=True,
            )
            manifest = read_manifest(self.out / "corpus", verify=False)
            record.notes |= manifest.metrics
            if isinstance(self.source, TinyworldSource):
                cleaned = (
                    d["text"]
                    for part in ("documents", "heldout")
                    for d in read_corpus(self.out / "corpus", part)
                )
                score = tinyworld.check_cleaning(documents, cleaned)
                record.metrics["dirt_removed"] = Metric.proportion(
                    score.dirt_removed, score.dirt_total
                ).to_dict()
                record.metrics["good_lost"] = Metric.proportion(
                    score.good_lost, score.good_total, higher_is_better=False
                ).to_dict()
                record.notes["by_kind"] = score.by_kind

        self.runner.run(
            "corpus",
            [section.identity(), self.source.fingerprint("corpus"), self.recipe.seed],
            body,
            (self.out / "corpus",),
        )

    def tokenizer(self) -> None:
        """Learn the vocabulary from the cleaned text."""
        section, corpus = self.recipe.tokenizer, self.out / "corpus"

        def body(key: str, record: StepRecord) -> None:
            train_tokenizer(
                corpus / "documents.jsonl.zst",
                vocab_size=section.vocab_size,
                out=self.out / "tokenizer",
                max_token_chars=section.max_token_chars,
                num_special=section.num_special,
                threads=os.cpu_count() or 1,
                parents={"corpus": self._hash("corpus")},
                key=key,
            )
            record.notes |= read_manifest(self.out / "tokenizer", verify=False).metrics

        self.runner.run(
            "tokenizer", [to_dict(section), self._hash("corpus")], body, (self.out / "tokenizer",)
        )

    def dataset(self) -> None:
        """Encode the text once; check, before a step is taken, that the model to come can be exported."""
        tokenizer = self._tokenizer()
        shape = self.recipe.model.config(tokenizer.vocab_size, tokenizer.eos_id)
        check_export(shape, tokenizer)

        def body(key: str, record: StepRecord) -> None:
            documents = read_corpus(self.out / "corpus", "documents")
            parents = {"corpus": self._hash("corpus"), "tokenizer": self._hash("tokenizer")}
            build_text_dataset(
                documents,
                tokenizer,
                self.out / "dataset",
                threads=os.cpu_count() or 1,
                parents=parents,
                key=key,
            )
            record.notes |= read_manifest(self.out / "dataset", verify=False).metrics

        self.runner.run(
            "dataset", [self._hash("corpus"), self._hash("tokenizer")], body, (self.out / "dataset",)
        )

    # ---------------------------------------------------------------- models

    def pretrain(self) -> None:
        """A model from nothing; its bits per byte on held-out text beside a 5-gram model of the same tokens."""
        tokenizer, section = self._tokenizer(), self.recipe.pretrain
        shape = self.recipe.model.config(tokenizer.vocab_size, tokenizer.eos_id)
        out = self.out / "models" / "pretrain"
        trained = hash_json([to_dict(section), to_dict(shape), self._hash("dataset"), self.recipe.seed])

        def body(key: str, record: StepRecord) -> None:
            self._warn_of_repetition(section.train.steps * section.batch_tokens)
            record.notes["training_seconds"] = self._once(
                "pretrain",
                out,
                trained,
                lambda job: pretrain(self.out / "dataset", self.out / "tokenizer", shape, section, job),
            )
            model = self._model(out)
            heldout = list(read_corpus(self.out / "corpus", "heldout"))
            scores = bits_per_byte(model, tokenizer, heldout, context=section.seq_len)
            data = TokenDataset(self.out / "dataset", verify=False)
            control = ngram_bits_per_byte(data, tokenizer, heldout)
            record.metrics["bits_per_byte"] = scores["all"].with_control(ngram_name(data), control).to_dict()
            if len(scores) > 2:
                record.metrics |= {
                    f"bits_per_byte/{name}": metric.to_dict()
                    for name, metric in scores.items()
                    if name != "all"
                }
            record.samples = self._samples(None, model, answers=False)

        record = self.runner.run("pretrain", [trained, self._hash("corpus")], body, (out,))
        self.pretrained = Metric.from_dict(record.metrics["bits_per_byte"])
        self.scores = {"bits_per_byte": self.pretrained}
        if "pretrain" not in self.runner.reused:
            publish(out, self.out / "model")

    def _warn_of_repetition(self, tokens: int) -> None:
        """Say when the data will be read so often that it is learnt by heart."""
        there = int(TokenDataset(self.out / "dataset", verify=False).lengths.sum())
        passes = tokens / there
        if passes > MOST_PASSES:
            enough = int(MOST_PASSES * there / self.recipe.pretrain.batch_tokens)
            self.progress.warn(
                "the corpus has {there:.2f}M tokens and will be read {passes:.0f} times; beyond "
                "{most_passes} it is mostly learnt by heart. Add text, or lower pretrain.train.steps to "
                "{value}",
                there=there / 1e6,
                passes=passes,
                most_passes=MOST_PASSES,
                value=max(1, enough),
            )

    def sft(self) -> None:
        """Teach it to answer. The control is the model before: of story questions, asked in the layout that it knows."""
        section = self._section("sft")

        def aimed(model: CausalLM, record: StepRecord) -> tuple[Metric, Metric] | None:
            if isinstance(self.source, FileSource):
                return None
            exam = Exam(self.recipe, self.source, self._tokenizer())
            task = self.source.task("story_answers")
            return exam.task(model, task)[0], exam.task(self._model(self.current), plain_questions(task))[0]

        self._supervised(
            "sft", section, "story_answers" if self.recipe.tinyworld else "answer_bits_per_byte/sft", aimed
        )

    def distill(self) -> None:
        """Teach it to think before it answers; the control sees as many tokens of the same problems without the thinking."""
        section = self._section("distill")
        aim = "problems_solved" if self.recipe.tinyworld else "answer_bits_per_byte/distill"

        def control(model: CausalLM, record: StepRecord) -> None:
            out = self.out / "controls" / "direct"
            data = self._conversations("direct", section, direct=True)
            self.progress.part(Text("control: no thinking shown"), 2, 2)
            self._once(
                "direct",
                out,
                self._inputs("distill", section),
                lambda job: finetune(self.current, data, section, job),
            )
            direct = self._model(out)
            if isinstance(self.source, TinyworldSource):
                metric = Exam(self.recipe, self.source, self._tokenizer()).task(direct, "direct")[0]
            else:
                metric = self.measure(direct, [aim])[aim]
            record.metrics[aim] = (
                Metric.from_dict(record.metrics[aim]).with_control("direct", metric).to_dict()
            )

        self._supervised("distill", section, aim, then=control)

    def _supervised(
        self,
        name: str,
        section: ConversationSection,
        aim: str,
        aimed: Callable[[CausalLM, StepRecord], tuple[Metric, Metric] | None] | None = None,
        then: Callable[[CausalLM, StepRecord], None] | None = None,
    ) -> None:
        """A stage of conversations.

        Args:
            aim: what it is judged by; its control is the model before, unless `then` sets another.
            aimed: new and previous value of the aim, where they are not measured alike.
            then: what else is measured of the finished model.
        """
        out = self.out / "models" / name
        inputs = self._inputs(name, section)

        def body(key: str, record: StepRecord) -> None:
            data = self._conversations(name, section)
            trained = self._once(name, out, inputs, lambda job: finetune(self.current, data, section, job))
            record.notes |= {"training_seconds": trained} | read_manifest(data, verify=False).metrics
            model = self._model(out)
            metrics = self.judge(name, record, out, aim, aimed(model, record) if aimed else None)
            before = Metric.from_dict(record.notes["before"][aim])
            record.metrics[aim] = (
                metrics[aim].with_control("base" if name == "sft" else "before", before).to_dict()
            )
            if then is not None:
                then(model, record)
            record.samples = self._samples(self.current, model)

        self._adopt(self.runner.run(name, [inputs, self._judging()], body, (out,)), out, name)

    def dpo(self) -> None:
        """Teach it which of two answers people prefer."""
        section = self._section("dpo")
        out = self.out / "models" / "dpo"
        inputs = self._inputs("dpo", section)
        aim = "preferred_manner" if self.recipe.tinyworld else "pairs_preferred"

        def body(key: str, record: StepRecord) -> None:
            data = self._pairs("dpo", section.seq_len).path
            record.notes["training_seconds"] = self._once(
                "dpo", out, inputs, lambda job: dpo(self.current, data, section, job)
            )
            metrics = self.judge("dpo", record, out, aim)
            before = Metric.from_dict(record.notes["before"][aim])
            record.metrics[aim] = metrics[aim].with_control("before", before).to_dict()
            record.samples = self._samples(self.current, self._model(out))

        self._adopt(self.runner.run("dpo", [inputs, self._judging()], body, (out,)), out, "dpo")

    def reward(self) -> None:
        """A model of the preference itself, against the length of the answers alone."""
        section = self.recipe.reward
        assert section is not None
        out = self.out / "models" / "reward"
        inputs = self._inputs("reward", section)

        def body(key: str, record: StepRecord) -> None:
            data = self._pairs("reward", section.seq_len)
            record.notes["training_seconds"] = self._once(
                "reward", out, inputs, lambda job: reward(self.current, data.path, section, job)
            )
            heldout = self._pairs("reward", section.seq_len, heldout=True)
            chosen, rejected = score_pairs(load_reward_model(out), heldout, section)
            lengths = heldout.lengths
            control = length_control(_pair_lengths(data), np.stack([lengths[0::2], lengths[1::2]], axis=1))
            record.metrics["pair_accuracy"] = (
                pair_accuracy(chosen, rejected).with_control("length", control).to_dict()
            )
            record.notes["side"] = True  # a reward model never becomes the model people talk to

        self.runner.run("reward", [inputs, self._judging()], body, (out,))

    def grpo(self) -> None:
        """Let it find out by trying when thinking pays; the controls go on with demonstrations for the same time.

        The published run, the first, is judged by its own score; all runs together are compared with their controls.
        """
        section = self._section("grpo")
        out = self.out / "models" / "grpo"
        inputs = self._inputs("grpo", section)
        config = GRPOConfig(**{f.name: getattr(section, f.name) for f in dataclasses.fields(GRPOConfig)})

        def body(key: str, record: StepRecord) -> None:
            problems = self.source.problems()
            self._say_counts("grpo")
            arms: dict[str, list[Metric]] = {"grpo": [], "sft": []}
            seconds: dict[str, list[float]] = {"grpo": [], "sft": []}
            controls: list[dict[str, float]] = []
            for seed in range(section.seeds):
                name, target = (
                    ("grpo", out) if seed == 0 else (f"grpo-{seed}", self.out / "controls" / f"grpo-{seed}")
                )
                seed_of_run = self.recipe.seed + seed
                parts = section.seeds * (1 if self.recipe.distill is None else 2)
                done = seed * parts // section.seeds
                self.progress.part(Text("run {seed}", seed=seed + 1), done + 1, parts)
                learn = functools.partial(grpo, self.current, problems, numeric_answer, config)
                seconds["grpo"].append(self._once(name, target, inputs, learn, seed=seed_of_run))
                arms["grpo"].append(self._reward(target, seed))
                if self.recipe.distill is not None:
                    self.progress.part(Text("control of run {seed}", seed=seed + 1), done + 2, parts)
                    name, control = f"sft-control-{seed}", self.out / "controls" / f"sft-{seed}"
                    data = self._conversations("distill", self.recipe.distill)
                    more = functools.partial(finetune, self.current, data, self.control_config())
                    limit = seconds["grpo"][-1]
                    seconds["sft"].append(
                        self._once(name, control, inputs, more, seed=seed_of_run + 100, max_seconds=limit)
                    )
                    arms["sft"].append(self._reward(control, seed))
                    controls.append(self._curve(name))
            record.notes |= {
                "seconds": seconds,
                "by_seed": {arm: [m.value for m in metrics] for arm, metrics in arms.items()},
            }
            record.notes["control"] = controls
            published, before = arms["grpo"][0], self._reward(self.current, 0)
            self.judge("grpo", record, out, "task_reward", (published, before))
            every = pooled(arms["grpo"])
            record.metrics["task_reward"] = (
                every.with_control("sft", pooled(arms["sft"])) if arms["sft"] else every
            ).to_dict()
            record.metrics["task_reward/published"] = published.with_control("before", before).to_dict()
            record.samples = self._samples(self.current, self._model(out))

        self._adopt(self.runner.run("grpo", [inputs, self._judging()], body, (out,)), out, "grpo")

    # ---------------------------------------------------------------- the result

    def evaluation(self) -> None:
        """The published model on everything that was promised, greedily and as it is used by default."""

        def body(key: str, record: StepRecord) -> None:
            model, tokenizer = self._model(self.current), self._tokenizer()
            scores = bits_per_byte(
                model,
                tokenizer,
                list(read_corpus(self.out / "corpus", "heldout")),
                context=self.recipe.pretrain.seq_len,
            )
            record.metrics |= {
                ("bits_per_byte" if n == "all" else f"bits_per_byte/{n}"): m.to_dict()
                for n, m in scores.items()
            }
            record.metrics["bits_per_byte"] = self._beside_ngram(scores["all"]).to_dict()
            if self.pretrained is not None:
                record.notes["pretrained_bits_per_byte"] = self.pretrained.value
            if isinstance(self.source, TinyworldSource) and self.recipe.sft is not None:
                names = [name for name in self.measures("evaluation") if name != BITS]
                problems = "problems_solved" in names or "word_problems" in names
                names += ["word_problems"] if problems and "word_problems" not in names else []
                exam = Exam(self.recipe, self.source, tokenizer)
                record.metrics |= {
                    name: metric.to_dict() for name, metric in exam(model, names, problems).items()
                }
                usual = sampling_defaults(self.current)
                sampling = {"temperature": usual.get("temperature", 1.0), "top_p": usual.get("top_p", 1.0)}
                record.notes |= {"sampled": sampling, "cards": exam.cards(model, **sampling)}
                sampled = exam(
                    model, [name for name in names if name != "preferred_manner"], problems, **sampling
                )
                record.metrics |= {f"{name}/sampled": metric.to_dict() for name, metric in sampled.items()}
            if self.recipe.grpo is not None:
                record.metrics["task_reward"] = self._reward(self.current, 0).to_dict()
            record.samples = self._samples(None, model, answers=self.recipe.sft is not None)

        inputs = [
            to_dict(self.recipe.evaluation),
            self._model_hash(),
            self._hash("corpus"),
            self.source.fingerprint("sft"),
        ]
        record = self.runner.run("evaluation", inputs, body)
        publish(self.current, self.out / "model")
        cards = record.notes.get("cards") or [{"text": prompt} for prompt in self.recipe.evaluation.prompts]
        file = self.out / "model" / SUGGESTIONS
        if not file.is_file() or read_json(file) != cards:
            write_json(file, cards)

    def gguf(self) -> None:
        """One file for llama.cpp, Ollama and their kin."""
        file = self.out / "model.gguf"

        def body(key: str, record: StepRecord) -> None:
            export_gguf(self.current, file)
            record.notes |= {"file": file.name, "bytes": file.stat().st_size}

        self.runner.run("gguf", [self._model_hash()], body, files=(file,))


def _pair_lengths(dataset: TokenDataset) -> np.ndarray:
    """Tokens of each pair's sides, (pairs, 2)."""
    return np.stack([dataset.lengths[0::2], dataset.lengths[1::2]], axis=1)
