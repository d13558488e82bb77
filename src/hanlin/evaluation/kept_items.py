"""Scores of items on disk: one file of JSON lines for each metric of a step of a run, in `scores/STEP/`. The
step's record and the report name them. No torch here."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hanlin.common.atomic import atomic_write
from hanlin.common.errors import HanlinError
from hanlin.evaluation.item_scores import ItemScores
from hanlin.evaluation.statistics import Metric

FOLDER = "scores"
FORMAT = 1
_LONGEST = 60  # characters of a file's name


def keep_items(run: Path, step: str, metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Write the items of all metrics that have some, in place of what an earlier start of the step wrote.

    Returns:
        The files by metric, relative to the run.
    """
    folder = run / FOLDER / step
    shutil.rmtree(folder, ignore_errors=True)
    files: dict[str, str] = {}
    for name, metric in metrics.items():
        if metric.items is not None and metric.items.ids:
            file = folder / file_name(name, (Path(other).name for other in files.values()))
            write_item_scores(file, name, metric.items)
            files[name] = file.relative_to(run).as_posix()
    return files


def with_items(metrics: Mapping[str, Metric], run: Path, files: Mapping[str, str]) -> dict[str, Metric]:
    """The metrics with their items. One whose file is missing, damaged or of another score stays without: it
    can still be compared by its interval."""
    found = dict(metrics)
    for name, metric in metrics.items():
        if not isinstance(files.get(name), str):
            continue
        try:
            items = read_item_scores(run / files[name])
        except HanlinError:
            continue
        if math.isclose(items.values.sum() / items.weights.sum(), metric.value, rel_tol=1e-9, abs_tol=1e-12):
            found[name] = dataclasses.replace(metric, items=items)
    return found


def write_item_scores(file: Path, name: str, scores: ItemScores) -> None:
    """Write a metric's items, whole or not at all: first a line about them, then one for each item."""
    head = {"format": FORMAT, "metric": name, "data": scores.data, "items": len(scores)}
    lines = [orjson.dumps(head)]
    for at, key in enumerate(scores.ids):
        line: dict[str, Any] = {"id": key, "value": float(scores.values[at])}
        if scores.weights[at] != 1.0:
            line["weight"] = float(scores.weights[at])
        if scores.clusters is not None:
            line["cluster"] = scores.clusters[at]
        lines.append(orjson.dumps(line))
    atomic_write(file, b"\n".join(lines) + b"\n")


def read_item_scores(file: Path) -> ItemScores:
    """Read what `write_item_scores` wrote.

    Raises:
        HanlinError: not there, cut short, or something else.
    """
    try:
        head, *lines = map(orjson.loads, file.read_bytes().splitlines())
        if head["format"] != FORMAT:
            raise HanlinError("{file} is of another version.", file=file)
        if head["items"] != len(lines):
            raise HanlinError("{path} is not whole, or was altered.", path=file)
        clusters = tuple(str(line["cluster"]) for line in lines if "cluster" in line)
        return ItemScores(
            np.array([line["value"] for line in lines], dtype=np.float64),
            np.array([line.get("weight", 1.0) for line in lines], dtype=np.float64),
            tuple(str(line["id"]) for line in lines),
            str(head["data"]),
            clusters or None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HanlinError("{file} holds no scores of items: {error}", file=file, error=error) from None


def file_name(metric: str, taken: Iterable[str] = ()) -> str:
    """Name of a metric's file: `tinyworld.story_qa.jsonl` for `tinyworld/story_qa`. Characters that not every
    file system has become `_`; of two names that then are the same the second gets a number.

    Args:
        taken: names of other metrics' files.
    """
    stem = (
        "".join(
            letter if letter.isalnum() or letter in "._-" else "." if letter == "/" else "_"
            for letter in metric
        ).lstrip(".")[:_LONGEST]
        or "metric"
    )
    known = {name.lower() for name in taken}
    name, number = f"{stem}.jsonl", 1
    while name.lower() in known:
        number += 1
        name = f"{stem}-{number}.jsonl"
    return name
