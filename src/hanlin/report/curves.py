"""Training curves of several runs over tokens, steps and seconds, and when each reached what all of them
reached. No torch here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hanlin.common import terminal
from hanlin.common.atomic import read_json, read_json_lines
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, tr
from hanlin.common.progress import format_seconds
from hanlin.report.format import as_current
from hanlin.report.svg import Stroke, chart, document, legend, running_mean, thin

METRICS = "metrics.jsonl"
_AXES = ("tokens", "steps", "seconds")


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run's figures, step by step.

    Attributes:
        measure: `bits_per_byte`, or `loss` where a stage logs no bits.
        tokens, steps, seconds: so far, (points,).
        values, smooth: of the measure, and their running mean over 3 % of the run, (points,).
        heldout: held-out bits per byte, where the run has been measured.
    """

    path: str
    file: Path
    measure: str
    tokens: np.ndarray
    steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray
    smooth: np.ndarray
    heldout: float | None = None

    def reached(self, value: float) -> dict[str, float] | None:
        """Tokens, steps and seconds when the smoothed curve first was at or below `value`; None where it
        never was."""
        below = np.flatnonzero(self.smooth <= value)
        if not len(below):
            return None
        return {axis: float(getattr(self, axis)[below[0]]) for axis in _AXES}


def find_metrics(run: Path, stage: str = "pretrain") -> Path | None:
    """The `metrics.jsonl` of a run, finished or not; None where there is none.

    Args:
        run: a run directory, a stage's output directory, a trial of an ablation, a directory of checkpoints,
            or the file itself.
        stage: which one's curve, for a run of several.
    """
    if run.is_file() and run.suffix == ".jsonl":
        return run
    places = [
        run / METRICS,
        run / "curves" / f"{stage}.jsonl",
        run / "work" / METRICS,
        *_newest(run.glob(f"work/{stage}-*/{METRICS}")),
    ]
    places += _newest(run.parent.glob(f".{run.name}.work/*/{METRICS}"))
    return next((place for place in places if place.is_file()), None)


def _newest(files: Any) -> list[Path]:
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


def read_curve(run: Path, stage: str = "pretrain", measure: str | None = None) -> Curve:
    """A run's training curve; `measure` is chosen by what the run logged when absent.

    Raises:
        HanlinError: there is none, or it has not a step in it.
    """
    file = find_metrics(run, stage)
    if file is None:
        raise HanlinError(
            "{run} holds no training curve of {stage} (metrics.jsonl or curves/{stage}.jsonl). Check the "
            "path, or name the stage with --stage.",
            run=run,
            stage=stage,
        )
    lines = read_json_lines(file)
    measure = measure or ("bits_per_byte" if lines and "bits_per_byte" in lines[-1] else "loss")
    kept = [
        line
        for line in lines
        if isinstance(line, dict)
        and {"step", "tokens", "seconds", measure} <= line.keys()
        and math.isfinite(line[measure])
    ]
    if not kept:
        raise HanlinError("{file} holds no step yet.", file=file)
    columns = {
        name: np.array([line[name] for line in kept], dtype=float)
        for name in ("tokens", "step", "seconds", measure)
    }
    return Curve(
        str(run),
        file,
        measure,
        np.cumsum(columns["tokens"]),
        columns["step"],
        columns["seconds"],
        columns[measure],
        running_mean(columns[measure]),
        _heldout(file),
    )


def _heldout(file: Path) -> float | None:
    """Held-out bits per byte of the trial, or of the stage of a run, whose curve this is."""
    folder = file.parent.parent if file.parent.name == "work" else file.parent
    trial, report = folder / "result.json", folder.parent / "report.json"
    if trial.is_file():
        result = read_json(trial)
        return sum(result["bits"]) / sum(result["bytes"]) if "bits" in result else None
    if folder.name == "curves" and report.is_file():
        stages = {stage["id"]: stage["metrics"] for stage in as_current(read_json(report))["stages"]}
        found = stages.get(file.stem, {}).get("bits_per_byte")
        return found and found["value"]
    return None


def compare_curves(runs: Sequence[Path], stage: str = "pretrain") -> dict[str, Any]:
    """Final figures, and what it took each run to reach what all of them reached.

    Returns:
        `{"measure", "stage", "equal": value or None, "runs": [{"path", "tokens", "steps", "seconds", "final",
        "heldout", "tokens_per_second", "reached": {"tokens", "steps", "seconds"} or None}],
        "curves": [Curve]}`.

    Raises:
        HanlinError: a run has no curve, or they log different measures.
    """
    curves = [read_curve(run, stage) for run in runs]
    if len({curve.measure for curve in curves}) > 1:
        curves = [read_curve(run, stage, "loss") for run in runs]
    equal = max(float(curve.smooth.min()) for curve in curves)
    rows = [
        {
            "path": curve.path,
            "file": str(curve.file),
            "tokens": curve.tokens[-1],
            "steps": curve.steps[-1],
            "seconds": curve.seconds[-1],
            "final": curve.smooth[-1],
            "heldout": curve.heldout,
            "tokens_per_second": curve.tokens[-1] / max(curve.seconds[-1], 1e-9),
            "reached": curve.reached(equal),
        }
        for curve in curves
    ]
    return {"measure": curves[0].measure, "stage": stage, "equal": equal, "runs": rows, "curves": curves}


def curves_text(found: Mapping[str, Any]) -> str:
    """The figures as a table, in the language of the locale."""
    measure = measure_name(found["measure"])
    head = [
        tr("run"),
        tr("steps"),
        tr("tokens"),
        str(Text.in_context("taken", "time")),
        tr("tokens/s"),
        tr("final {measure}", measure=measure),
    ]
    held = any(row["heldout"] is not None for row in found["runs"])
    first = found["runs"][0]["reached"]
    rows = [
        head
        + ([tr("held out")] if held else [])
        + [tr("tokens to {equal:.4f}", equal=found["equal"]), tr("time")]
    ]
    for number, row in enumerate(found["runs"], 1):
        cells = [
            str(number),
            f"{row['steps']:,.0f}",
            f"{row['tokens']:,.0f}",
            format_seconds(row["seconds"]),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['final']:.4f}",
        ]
        if held:
            cells.append("—" if row["heldout"] is None else f"{row['heldout']:.4f}")
        rows.append(
            cells
            + [
                _with_ratio(row["reached"], first, "tokens", number),
                _with_ratio(row["reached"], first, "seconds", number),
            ]
        )
    lines = [f"{number}: {row['path']}" for number, row in enumerate(found["runs"], 1)] + terminal.table(rows)
    lines.append(
        tr(
            "The {measure} is that of the training batches, smoothed over 3 % of the run, so runs can be "
            "compared on the same data only; {equal:.4f} is the lowest that all reached. A single run has "
            "no interval: whether a difference counts is for hanlin ablate to say.",
            measure=measure,
            equal=found["equal"],
        )
    )
    return "\n".join(lines)


def _with_ratio(
    reached: Mapping[str, float] | None, first: Mapping[str, float] | None, axis: str, number: int
) -> str:
    if reached is None:
        return "—"
    text = format_seconds(reached[axis]) if axis == "seconds" else f"{reached[axis]:,.0f}"
    return (
        text
        if first is None or number == 1 or not first[axis]
        else f"{text} (×{reached[axis] / first[axis]:.2f})"
    )


def measure_name(measure: str) -> str:
    """What a measure is called."""
    return tr("bits per byte") if measure == "bits_per_byte" else tr("loss")


def curves_picture(found: Mapping[str, Any]) -> str:
    """Three charts, over tokens, steps and seconds, each run in its colour; an SVG that stands by itself."""
    curves: list[Curve] = found["curves"]
    names, top = legend([curve.path for curve in curves], top=78)
    labels = {
        "tokens": tr("tokens"),
        "steps": str(Text.in_context("axis", "steps")),
        "seconds": tr("seconds"),
    }
    body = [names]
    # The first steps fall steeply and would leave the rest flat.
    high = max(float(np.quantile(curve.smooth, 0.97)) for curve in curves)
    for axis in _AXES:
        strokes = []
        for colour, curve in enumerate(curves):
            first = int(np.argmax(curve.smooth <= high))
            x, raw, smooth = (
                thin(values[first:]) for values in (getattr(curve, axis), curve.values, curve.smooth)
            )
            strokes += [Stroke(x, raw, colour, "raw"), Stroke(x, smooth, colour)]
        body.append(chart(strokes, left=70, right=730, top=top + 6, bottom=top + 206, label=labels[axis]))
        top += 256
    title = tr("Training curves: {measure}", measure=measure_name(found["measure"]))
    return document(
        title,
        tr("of the training batches, smoothed; pale: as they were"),
        "".join(body),
        top + 10,
    )
