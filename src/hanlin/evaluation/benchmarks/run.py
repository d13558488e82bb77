"""One benchmark asked of one model: metrics, the notes without which a number means nothing, and a record of
every item."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hanlin.common.manifest import hash_json
from hanlin.evaluation.benchmarks.base import Benchmark, Verdict
from hanlin.evaluation.benchmarks.choice import (
    NORMALISATIONS,
    Scored,
    judge_items,
    ngram_scores,
    score_items,
)
from hanlin.evaluation.benchmarks.items import Form, Item, Prompt, data_digest, identity
from hanlin.evaluation.ngram import NGramModel
from hanlin.evaluation.statistics import Metric
from hanlin.evaluation.tasks.generation import Answer, answer_prompts
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Question:
    """A benchmark as it is asked.

    Attributes:
        name: of the metrics: `c3/cloze`, with the protocol behind it where that is another than Hanlin's.
        items: in order.
        shots: shown before each item, with their answers.
        chat: written answers are asked for through the chat template.
    """

    benchmark: Benchmark
    protocol: str
    form: Form
    prompt: Prompt
    split: str
    items: tuple[Item, ...]
    sample: str = ""
    shots: tuple[Item, ...] = ()
    chat: bool = False

    @property
    def name(self) -> str:
        """Name of the score."""
        ending = "" if self.protocol == "hanlin-zh" else f"/{self.protocol}"
        return f"{self.benchmark.name}/{self.form}{ending}"

    def notes(self) -> dict[str, Any]:
        """What decides the number beside the model."""
        return {
            "benchmark": self.benchmark.name,
            "protocol": self.protocol,
            "form": self.form,
            "split": self.split,
            "sample": self.sample or None,
            "shots": len(self.shots),
            "chat": self.chat,
            "main": self.prompt.main,
            "prompt_sha256": self.prompt.digest(),
            "data_sha256": data_digest(self.items),
            "items": len(self.items),
            "licence": self.benchmark.licence,
        }

    def key(self, model_hash: str, ngram: str = "") -> str:
        """What the result depends on."""
        shots = data_digest(self.shots) if self.shots else ""
        return hash_json([self.notes(), shots, model_hash, ngram])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A question's result.

    Attributes:
        metrics: `NAME`, and `NAME/gold_bits_per_byte`, `NAME/margin`, `NAME/lenient` where there are such.
        notes: `Question.notes` with what was found on the way.
        samples: one for each item, see `sample_of`.
    """

    metrics: Mapping[str, Metric]
    notes: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]


def ask(
    question: Question,
    model: CausalLM,
    tokenizer: Tokenizer,
    *,
    ngram: NGramModel | None = None,
    on_items: Callable[[int], None] | None = None,
) -> Outcome:
    """Ask a model a benchmark.

    Args:
        ngram: counted on the model's training text: one more control.
    """
    if question.form == "answer":
        return _written(question, model, tokenizer)
    boundary = "tokens" if question.protocol == "lm-eval" else "bytes"
    scored = score_items(
        model,
        tokenizer,
        question.items,
        question.prompt,
        boundary=boundary,
        shots=question.shots,
        on_items=on_items,
    )
    control = None if ngram is None else ngram_scores(ngram, tokenizer, scored, question.prompt)
    result = judge_items(
        scored,
        question.prompt,
        question.form,
        ngram=control,
        first_of_equals=question.protocol == "lm-eval",
    )
    metrics = {question.name: result.accuracy}
    if result.gold_bits is not None and result.margin is not None:
        metrics[f"{question.name}/gold_bits_per_byte"] = result.gold_bits
        metrics[f"{question.name}/margin"] = result.margin
    notes = question.notes() | {
        "by_normalisation": {name: metric.value for name, metric in result.by_normalisation.items()},
        "controls": dict(result.controls),
        "straddling": result.straddling,
        "cut": result.cut,
        "by_subject": _by_subject(scored, question.prompt),
    }
    return Outcome(metrics, notes, [_choice_sample(at, score, question) for at, score in enumerate(scored)])


def _by_subject(scored: Sequence[Scored], prompt: Prompt) -> dict[str, list[float]]:
    """Subject → right answers and items, where there are subjects."""
    found: dict[str, list[float]] = {}
    for score in scored:
        if score.item.subject:
            count = found.setdefault(score.item.subject, [0, 0])
            count[0] += score.credit(prompt.main)
            count[1] += 1
    return found


def _written(question: Question, model: CausalLM, tokenizer: Tokenizer) -> Outcome:
    """Answers that the model writes, greedily."""
    prompts = [question.prompt.written(item, question.shots) for item in question.items]
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts] if question.chat else prompts
    answers = answer_prompts(model, tokenizer, asked, max_new_tokens=question.prompt.max_new_tokens)
    verdicts, samples = [], []
    for at, (item, prompt, answer) in enumerate(zip(question.items, prompts, answers, strict=True)):
        text = _until(answer.text, question.prompt.stop)
        verdict = question.benchmark.check(item, text)
        verdicts.append(verdict)
        samples.append(_answer_sample(at, item, prompt, answer, text, verdict, question))
    items = identity(question.items)
    metrics = {
        question.name: Metric.share([verdict.strict for verdict in verdicts], **items),
        f"{question.name}/lenient": Metric.share([verdict.lenient for verdict in verdicts], **items),
    }
    ended = sum(answer.ended for answer in answers) / len(answers)
    return Outcome(metrics, question.notes() | {"ended": ended}, samples)


def _until(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of the stops in it."""
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


# ------------------------------------------------------------------ records


def _head(at: int, item: Item, question: Question) -> dict[str, Any]:
    """What every record has: lm-evaluation-harness's keys, then ours."""
    document = {"question": item.question, "passage": item.passage, "choices": list(item.choices)}
    return {
        "doc_id": at,
        "doc": document | {"answer": item.answer} if item.answer else document,
        "doc_hash": _sha(json.dumps(document, ensure_ascii=False)),
        "filter": "none",
        "item_id": item.id,
        "cluster": item.cluster or item.id,
        "subject": item.subject,
        "protocol": question.protocol,
    }


def _choice_sample(at: int, score: Scored, question: Question) -> dict[str, Any]:
    item, requests = score.item, question.prompt.requests(score.item, question.shots)
    hits = {
        name: score.picked(name) == item.gold for name in NORMALISATIONS if score.values(name) is not None
    }
    resps = [[[choice.total, choice.greedy]] for choice in score.choices]
    assert item.gold is not None
    return _head(at, item, question) | {
        "target": item.gold,
        "arguments": {
            f"gen_args_{place}": {"arg_0": request.context, "arg_1": request.continuation}
            for place, request in enumerate(requests)
        },
        "resps": resps,
        "filtered_resps": [resp[0] for resp in resps],
        "prompt_hash": _sha(requests[0].context),
        "target_hash": _sha(str(item.gold)),
        "metrics": ["acc", "acc_norm", "acc_bytes"],
        "acc": float(hits["sum"]),
        "acc_norm": float(hits["char"]),
        "acc_bytes": float(hits["byte"]),
        **({"acc_mutual_info": float(hits["pmi"])} if "pmi" in hits else {}),
        "score": score.credit(question.prompt.main, question.protocol == "lm-eval"),
        "picked": score.picked(question.prompt.main),
        "tokens": [choice.tokens for choice in score.choices],
        "chars": list(score.chars),
        "bytes": list(score.bytes),
        "bare": None if score.bare is None else [choice.total for choice in score.bare],
    }


def _answer_sample(
    at: int, item: Item, prompt: str, answer: Answer, text: str, verdict: Verdict, question: Question
) -> dict[str, Any]:
    return _head(at, item, question) | {
        "target": item.answer,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": list(question.prompt.stop)}}},
        "resps": [[text]],
        "filtered_resps": [text],
        "prompt_hash": _sha(prompt),
        "target_hash": _sha(item.answer),
        "metrics": ["exact_match"],
        "exact_match": float(verdict.strict),
        "lenient": float(verdict.lenient),
        "score": float(verdict.strict),
        "ended": answer.ended,
    }


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def lm_eval_results(outcomes: Mapping[str, Outcome], config: Mapping[str, Any]) -> dict[str, Any]:
    """`results_*.json` in lm-evaluation-harness's layout, by a producer that says its name."""
    results, versions, shots, samples = {}, {}, {}, {}
    for name, outcome in outcomes.items():
        task = name.replace("/", "_")
        entry: dict[str, Any] = {"alias": task}
        for key in outcome.samples[0]["metrics"]:
            values = np.array([sample[key] for sample in outcome.samples])
            error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else "N/A"
            entry |= {f"{key},none": float(values.mean()), f"{key}_stderr,none": error}
        results[task], versions[task] = entry, "Yaml"
        shots[task] = outcome.notes["shots"]
        samples[task] = {"original": len(outcome.samples), "effective": len(outcome.samples)}
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {name.replace("/", "_"): dict(outcome.notes) for name, outcome in outcomes.items()},
        "versions": versions,
        "n-shot": shots,
        "higher_is_better": {
            task: {key.split(",")[0]: True for key in entry if ",none" in key and "_stderr" not in key}
            for task, entry in results.items()
        },
        "n-samples": samples,
        "config": dict(config),
        "lm_eval_version": None,
        "producer": "hanlin",
    }
