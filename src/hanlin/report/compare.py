"""Several runs side by side, metric by metric; what cannot be told apart is not ranked. Where runs were
measured on the same items, they are compared item by item. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common import terminal
from hanlin.common.errors import HanlinError
from hanlin.common.messages import tr
from hanlin.evaluation.kept_items import with_items
from hanlin.evaluation.statistics import FEWEST, Metric, beats, can_pair, difference
from hanlin.report.report import read_report
from hanlin.report.text import metric_text, show, show_difference, span, stage_text


def compare_runs(runs: Sequence[Path | str]) -> dict[str, Any]:
    """The metrics of several runs, by stage and name.

    Args:
        runs: run directories, or their report.json.

    Returns:
        `{"runs": [{"path", "recipe", "seed", "seconds"}], "metrics": [{"stage", "name", "values": [metric or
        None, per run], "best": index of the run that beats every other, or None, "rule": "paired", "overlap"
        or None, "difference": None, or of two runs on the same items {"value", "low", "high", "n"}}]}`. The
        rule is `paired` where all runs kept the scores of the same items (the same ids, the same digest):
        then the intervals of the differences decide. Elsewhere it is whether the runs' own intervals overlap;
        whether the items were the same is not known there, so recipes and seeds stand beside the figures. A
        difference is the second run's less the first's, in the direction in which more is better.

    Raises:
        HanlinError: fewer than two runs, or one without a valid report.
    """
    if len(runs) < 2:
        raise HanlinError("A comparison needs two runs at least. Example: hanlin compare runs/a runs/b")
    folders = [Path(run).parent if Path(run).is_file() else Path(run) for run in runs]
    reports = [_read(Path(run)) for run in runs]
    places = dict.fromkeys(
        (stage["id"], name) for report in reports for stage in report["stages"] for name in stage["metrics"]
    )
    entries = {
        stage["id"]: {key: stage[key] for key in ("id", "kind", "title") if key in stage}
        for report in reports
        for stage in report["stages"]
    }
    rows = []
    for stage, name in places:
        values = [_find(report, folder, stage, name) for report, folder in zip(reports, folders, strict=True)]
        rows.append(
            {
                "stage": stage,
                "entry": entries[stage],
                "name": name,
                "values": [value and value.to_dict() for value in values],
                "best": _best(values),
                "rule": _rule(values),
                "difference": _difference(values),
            }
        )
    about = [
        {"path": str(run), "recipe": report["recipe"], "seed": report["seed"], "seconds": report["seconds"]}
        for run, report in zip(runs, reports, strict=True)
    ]
    return {"runs": about, "metrics": rows}


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """The result of `compare_runs` as a text table, in the language of the locale."""
    runs = comparison["runs"]
    names = [str(index) for index in range(1, len(runs) + 1)]
    lines = [
        f"{name}: {run['path']} ({run['recipe']}, seed {run['seed']}, {run['seconds']:.0f} s)"
        for name, run in zip(names, runs, strict=True)
    ]
    head = [tr("stage"), tr("metric"), *names, tr("verdict")]
    table = [head]
    for row in comparison["metrics"]:
        text, title = metric_text(row["name"]), stage_text(row["entry"]).title
        cells = ["—" if raw is None else _cell(Metric.from_dict(raw), text.share) for raw in row["values"]]
        table.append([str(title), str(text.name), *cells, _verdict(row, names)])
    lines += terminal.table(table)
    compared = sum(row["rule"] == "paired" for row in comparison["metrics"])
    if compared:
        lines += ["", _by_chance(compared)]
    return "\n".join(lines)


def _by_chance(compared: int) -> str:
    """How many of so many comparisons would find a difference where there is none."""
    return tr(
        "{count} metrics were compared item by item; of runs that are equally good, about {expected:.1f} of "
        "them would differ by chance.",
        count=compared,
        expected=0.05 * compared,
    )


def _read(run: Path) -> dict[str, Any]:
    file = run if run.is_file() else run / "report.json"
    if not file.is_file():
        raise HanlinError(
            "{run} holds no report.json: it is not a finished run. Check the path, or let it finish with "
            "the same command.",
            run=run,
        )
    report = read_report(file)
    return report


def _find(report: Mapping[str, Any], folder: Path, stage: str, name: str) -> Metric | None:
    """A metric with its items, where the run kept them."""
    found = [entry for entry in report["stages"] if entry["id"] == stage and name in entry["metrics"]]
    if not found:
        return None
    metric = {name: Metric.from_dict(found[0]["metrics"][name])}
    return with_items(metric, folder, found[0].get("scores") or {})[name]


def _rule(values: Sequence[Metric | None]) -> str | None:
    """What decides between the runs that were measured."""
    measured = [value for value in values if value is not None]
    if len(measured) < 2 or min(value.n for value in measured) < FEWEST:
        return None
    return "paired" if all(can_pair(measured[0], other) for other in measured[1:]) else "overlap"


def _difference(values: Sequence[Metric | None]) -> dict[str, Any] | None:
    """Of two runs on the same items, how much better the second is."""
    measured = [value for value in values if value is not None]
    if len(measured) != 2 or not can_pair(*measured):
        return None
    apart = difference(measured[1], measured[0])
    if not math.isfinite(apart.error):
        return None
    return {"value": apart.value, "low": apart.low, "high": apart.high, "n": apart.n}


def _best(values: Sequence[Metric | None]) -> int | None:
    """The run that beats every other (`statistics.ranking`); None where there is no such run."""
    measured = [(index, value) for index, value in enumerate(values) if value is not None]
    if len(measured) < 2:
        return None
    return next(
        (i for i, value in measured if all(beats(value, other) for j, other in measured if j != i)), None
    )


def _verdict(row: Mapping[str, Any], names: Sequence[str]) -> str:
    if sum(value is not None for value in row["values"]) < 2:
        return tr("measured in one run only")
    if min(value["n"] for value in row["values"] if value is not None) < FEWEST:
        return tr("no ranking: fewer than {fewest} items", fewest=FEWEST)
    if row["rule"] == "overlap":
        if row["best"] is None:
            return tr("no ranking: intervals overlap")
        return tr("{names} is best: intervals apart", names=names[row["best"]])
    apart = "" if row["difference"] is None else _span(row)
    if row["best"] is None:
        return tr("no ranking: no difference shown item by item {apart}", apart=apart).rstrip()
    return tr("{names} is best, item by item {apart}", names=names[row["best"]], apart=apart).rstrip()


def _span(row: Mapping[str, Any]) -> str:
    """The difference of two runs with its interval, in points where it is of shares."""
    share, apart = metric_text(row["name"]).share, row["difference"]
    value, low, high = (show_difference(apart[end], share) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _cell(metric: Metric, share: bool) -> str:
    return f"{show(metric.value, share)} {str(span(metric, share))} n={metric.n}"
