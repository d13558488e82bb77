"""`hanlin eval … --against`: two models on the same items, and what a number of items can show at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, tr
from hanlin.common.progress import Progress
from hanlin.common.terminal import table
from hanlin.evaluation.benchmarks.run import Outcome, Question
from hanlin.evaluation.paired import detectable_against, detectable_difference, mcnemar
from hanlin.evaluation.statistics import Metric, difference
from hanlin.pipeline.benchmarks import Asked, evaluate_benchmarks, read_samples

USUAL_DISCORDANCE = 0.2  # share of items in which two like models differ


def plan_rows(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """What the items of each benchmark can show, before a model is asked: {"name", "items", "clusters",
    "chance", "against_chance", "between_models"}, the last two being differences that are found four times in
    five; without choices no chance is known."""
    rows = []
    for question in questions:
        count = len(question.items)
        shares = [1 / len(item.choices) for item in question.items if item.choices]
        chance = sum(shares) / count if shares else None
        rows.append(
            {
                "name": question.name,
                "items": count,
                "clusters": len({item.cluster or item.id for item in question.items}),
                "chance": chance,
                "against_chance": None if chance is None else detectable_against(count, chance),
                "between_models": detectable_difference(count, USUAL_DISCORDANCE),
            }
        )
    return rows


def plan_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The plan as a person reads it."""
    head = [
        tr("benchmark"),
        tr("items"),
        str(Text.in_context("of items", "clusters")),
        tr("chance"),
        tr("seen against chance"),
        tr("seen between models"),
    ]
    lines = [head]
    for row in rows:
        known = row["chance"] is not None
        lines.append(
            [
                row["name"],
                f"{row['items']:,}",
                f"{row['clusters']:,}",
                f"{row['chance']:.1%}" if known else "",
                f"{100 * row['against_chance']:.1f}" if known else "",
                f"{100 * row['between_models']:.1f}",
            ]
        )
    note = tr(
        "Points that are found four times in five at 5 %, for items that don't depend on each other; between "
        "models that differ in a fifth of the items. Of clusters, less is seen."
    )
    return "\n".join([*table(lines, right=range(1, len(head))), "", note])


def metric_of(samples: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> Metric:
    """The score of records in the order of `ids`, with their clusters."""
    by_id = {_id_of(sample): sample for sample in samples}
    rows = [by_id[name] for name in ids]
    return Metric.share(
        [_score_of(row) for row in rows],
        ids=ids,
        clusters=[str(row.get("cluster") or _id_of(row)) for row in rows],
    )


def _id_of(sample: Mapping[str, Any]) -> str:
    """Ours have an id; those of lm-evaluation-harness a number."""
    return str(sample.get("item_id", sample.get("doc_id")))


def _score_of(sample: Mapping[str, Any]) -> float:
    for key in ("score", "acc", "exact_match"):
        if key in sample:
            return float(sample[key])
    raise HanlinError("A record has none of score, acc and exact_match: what is to be compared?")


def others(
    asked: Asked, against: Path, outcomes: Mapping[str, Outcome], progress: Progress
) -> dict[str, Any]:
    """Records of the other model by name: asked the same if it is one, else read from files.

    Raises:
        HanlinError: neither a model nor records.
    """
    if against.is_dir() and not list(against.glob("samples_*.jsonl")):
        found = evaluate_benchmarks(dataclasses.replace(asked, model=against, ngram=None), None, progress)
        return {name: outcome.samples for name, outcome in found.items()}
    files = sorted(against.glob("samples_*.jsonl")) if against.is_dir() else [against]
    if not files[0].is_file():
        raise HanlinError("{path} is neither a model nor records of items (samples_*.jsonl).", path=against)
    read = {file.stem: read_samples(file) for file in files}
    if len(outcomes) == len(read) == 1:
        return {next(iter(outcomes)): next(iter(read.values()))}
    return {
        name: samples
        for name in outcomes
        for stem, samples in read.items()
        if stem == f"samples_{name.replace('/', '_')}"
    }


def comparisons(outcomes: Mapping[str, Outcome], theirs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Both scores of each benchmark over the items that both have, and their difference: {"name", "items",
    "ours", "theirs", "difference", "low", "high", "p"}; without those where there are no records, or none of
    the same items."""
    found = []
    for name, outcome in outcomes.items():
        known = {_id_of(sample) for sample in theirs.get(name, ())}
        ids = [item for item in map(_id_of, outcome.samples) if item in known]
        entry: dict[str, Any] = {"name": name, "items": len(ids)}
        if ids:
            ours, other = metric_of(outcome.samples, ids), metric_of(theirs[name], ids)
            gap = difference(ours, other)
            assert ours.items is not None and other.items is not None
            entry |= {
                "ours": ours.value,
                "theirs": other.value,
                "difference": gap.value,
                "low": gap.low,
                "high": gap.high,
                "p": mcnemar(ours.items.values, other.items.values),
            }
        found.append(entry)
    return found


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparisons as a person reads them."""
    lines = [
        [
            tr("benchmark"),
            tr("this"),
            tr("the other"),
            tr("difference"),
            tr("interval"),
            "p (McNemar)",
            tr("verdict"),
        ]
    ]
    for row in rows:
        if not row["items"]:
            lines.append([row["name"], "", "", "", "", "", tr("no item in common")])
            continue
        verdict = tr("no telling apart")
        if row["low"] > 0 or row["high"] < 0:
            verdict = tr("better") if row["low"] > 0 else tr("worse")
        lines.append(
            [
                row["name"],
                f"{row['ours']:.1%}",
                f"{row['theirs']:.1%}",
                f"{100 * row['difference']:+.1f}",
                f"{100 * row['low']:+.1f} – {100 * row['high']:+.1f}",
                f"{row['p']:.3g}",
                tr("{verdict} ({items} items in pairs)", verdict=verdict, items=f"{row['items']:,}"),
            ]
        )
    return "\n".join(table(lines, right=(1, 2, 3)))
