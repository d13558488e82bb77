"""Several runs side by side, metric by metric; what cannot be told apart is not ranked. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common import terminal
from hanlin.common.errors import HanlinError
from hanlin.common.messages import tr
from hanlin.evaluation.statistics import FEWEST, Metric, beats
from hanlin.report.report import read_report
from hanlin.report.text import metric_text, show, span, stage_text


def compare_runs(runs: Sequence[Path | str]) -> dict[str, Any]:
    """The metrics of several runs, by stage and name.

    Args:
        runs: run directories, or their report.json.

    Returns:
        `{"runs": [{"path", "recipe", "seed", "seconds"}], "metrics": [{"stage", "name", "values": [metric or
        None, per run], "best": index of the run that beats every other, or None}]}`. Two runs can be compared
        where both measured the same held-out items; the report does not know, so recipes and seeds stand
        beside the figures.

    Raises:
        HanlinError: fewer than two runs, or one without a valid report.
    """
    if len(runs) < 2:
        raise HanlinError("A comparison needs two runs at least. Example: hanlin compare runs/a runs/b")
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
        values = [_find(report, stage, name) for report in reports]
        rows.append(
            {
                "stage": stage,
                "entry": entries[stage],
                "name": name,
                "values": [value and value.to_dict() for value in values],
                "best": _best(values),
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
    return "\n".join(lines)


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


def _find(report: Mapping[str, Any], stage: str, name: str) -> Metric | None:
    found = [s["metrics"][name] for s in report["stages"] if s["id"] == stage and name in s["metrics"]]
    return Metric.from_dict(found[0]) if found else None


def _best(values: Sequence[Metric | None]) -> int | None:
    """The run that beats every other, intervals apart; None where there is no such run."""
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
    if row["best"] is None:
        return tr("no ranking: intervals overlap")
    return tr("{names} is best", names=names[row["best"]])


def _cell(metric: Metric, share: bool) -> str:
    return f"{show(metric.value, share)} {str(span(metric, share))} n={metric.n}"
