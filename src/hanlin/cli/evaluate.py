"""`hanlin eval`: one sort of measurement at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from hanlin.cli.main import Files, Flag, Many, show
from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing

Shown = tuple[dict[str, Any], str]
"""Figures for machines, and what a person reads; empty where the figures are all."""


def evaluate(
    model: Path,
    questions: Path | None = None,
    /,
    *,
    tasks: Many = (),
    suite: str = "",
    data: Path | None = None,
    protocol: str = "",
    split: str = "",
    shots: int = 0,
    chat: Flag = False,
    ngram: Path | None = None,
    corpus: Files = (),
    canary: Path | None = None,
    ordering: Flag = False,
    extensions: Files = (),
    against: Path | None = None,
    plan: Flag = False,
    out: Path | None = None,
    text: Files = (),
    count: int = 500,
    convention: Literal["document", "continuation"] | None = None,
    references: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure a model: on public benchmarks that you downloaded, on the embedded held-out tasks, or its bits
    per byte of text files.

    Parameters
    ----------
    questions
        A table of your own questions (csv, tsv, json, jsonl), with choices or with answers.
    tasks
        Names of benchmarks (c3, cmmlu/letters) or of embedded tasks; all embedded ones when absent.
    suite
        A set of benchmarks: quick, zh, chat or compat.
    data
        Directory of the benchmarks' files as they are published.
    protocol
        Whose prompts: hanlin-zh, lm-eval, official or opencompass-ppl.
    split
        Split of the benchmarks that is asked, where another is wanted than the usual one.
    shots
        Examples shown before each item of a benchmark.
    chat
        Ask for written answers, and plain prompts of --references, through the chat template.
    ngram
        Dataset that the 5-gram control of benchmarks counts; that of the model's run when absent.
    corpus
        Texts that the model was trained on, in which the items of benchmarks are looked up: corpora, token
        datasets, files; those of the model's run when absent, and none with the word none.
    canary
        Record of canaries that were planted in those texts (hanlin corpus canary): shows that what was seen
        would be found.
    ordering
        Also test whether the model knows the order in which the items were published.
    extensions
        Python files that register further benchmarks or tasks.
    against
        Another model, asked the same, or records of its items (samples_*.jsonl): compared item by item.
    plan
        Only say what the items of the benchmarks can show.
    out
        Directory that keeps the record of each item; run again to go on.
    text
        Measure bits per byte of these files instead, by source.
    count
        Items per embedded task; with --text, documents at most.
    convention
        With --text: whether the first token of a document counts (document) or not (continuation); as the
        model was trained when absent.
    references
        JSON lines with prompt and reference: BLEU, chrF, ROUGE-L, repetition and bits per byte instead.
    json
        Also write the figures to this file.
    """
    from hanlin.common.atomic import write_json
    from hanlin.common.registry import load_extension

    for extension in extensions:
        load_extension(str(extension), Path.cwd())
    asked = {"QUESTIONS": questions, "--data": data, "--text": text, "--references": references}
    given = [name for name, value in asked.items() if value]
    if len(given) > 1:
        raise HanlinError("{given}: one of them at a time.", given=listing(given))
    if text and tasks:
        raise HanlinError("Give --text or --tasks, not both.")
    if data is None and (suite or plan and questions is None):
        raise HanlinError(
            "--suite and --plan need --data: the directory of the benchmarks' files as they are published."
        )
    if data is not None and not (tasks or suite):
        raise HanlinError("--data needs --tasks or --suite: which of the benchmarks there?")
    if (corpus or canary or ordering) and (plan or data is None and questions is None):
        raise HanlinError("--corpus, --canary and --ordering look for the items of QUESTIONS or of --data.")
    if text:
        result, shown = _text(model, text, count, convention)
    elif references is not None:
        result, shown = _references(model, references, chat)
    elif data is not None or questions is not None:
        from hanlin.pipeline.benchmarks import Asked

        settings = Asked(model, data, questions, tuple(tasks), suite, protocol, split, shots, chat, ngram)
        result, shown = (
            _plan(settings)
            if plan
            else _benchmarks(settings, out, against, corpus=corpus, canary=canary, ordering=ordering)
        )
    else:
        from hanlin.pipeline.evaluate import evaluate_model

        result, shown = evaluate_model(model, tasks or None, count), ""
    if json is not None:
        write_json(json, result)
    show(result, not shown or not sys.stdout.isatty(), shown)


def _text(model: Path, files: Files, count: int, convention: Any) -> Shown:
    from hanlin.evaluation.likelihood import bits_per_byte_of_files
    from hanlin.report.summary import metrics_table

    metrics = bits_per_byte_of_files(model, files, count, convention=convention)
    return {name: metric.to_dict() for name, metric in metrics.items()}, "\n".join(metrics_table(metrics))


def _references(model: Path, file: Path, chat: bool) -> Shown:
    from hanlin.pipeline.references import evaluate_references
    from hanlin.report.summary import metrics_table

    found = evaluate_references(model, file, chat=chat)
    result = found | {"metrics": {name: metric.to_dict() for name, metric in found["metrics"].items()}}
    signatures = [f"{name}: {value}" for name, value in found["signatures"].items()]
    varied = [f"{name}: {value:.3f}" for name, value in found["distinct"].items()]
    return result, "\n".join([*metrics_table(found["metrics"]), "", *varied, *signatures])


def _plan(asked: Any) -> Shown:
    from hanlin.common.progress import make_progress
    from hanlin.pipeline.against import plan_rows, plan_table
    from hanlin.pipeline.benchmarks import questions_of

    rows = plan_rows(questions_of(asked, make_progress()))
    return {row["name"]: row for row in rows}, plan_table(rows)


def _benchmarks(asked: Any, out: Path | None, against: Path | None, **contamination: Any) -> Shown:
    from hanlin.common.progress import make_progress
    from hanlin.pipeline.against import comparison_table, comparisons, others
    from hanlin.pipeline.benchmarks import evaluate_benchmarks, outcome_table, questions_of
    from hanlin.pipeline.contamination import (
        ContaminationConfig,
        canary_table,
        check_contamination,
        group_dict,
        open_inputs,
    )

    progress = make_progress()
    questions = questions_of(asked, progress)
    inputs = open_inputs(ContaminationConfig(**contamination), asked.model)
    outcomes = evaluate_benchmarks(asked, out, progress, questions)
    outcomes, canaries = check_contamination(inputs, questions, outcomes, out, progress)
    benchmarks = {
        name: {
            "metrics": {metric: value.to_dict() for metric, value in outcome.metrics.items()},
            "notes": dict(outcome.notes),
        }
        for name, outcome in outcomes.items()
    }
    result: dict[str, Any] = {"benchmarks": benchmarks}
    shown = outcome_table(outcomes)
    if canaries:
        result["canaries"] = [group_dict(group) for group in canaries]
        shown += "\n\n" + canary_table(canaries)
    if against is not None:
        compared = comparisons(outcomes, others(asked, against, outcomes, progress))
        result["against"] = {"path": str(against), "benchmarks": compared}
        shown += "\n\n" + comparison_table(compared)
    return result, shown
