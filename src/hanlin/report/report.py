"""`report.json` and `report.html`: what a run proves. The schema is checked before a byte is written. No
torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanlin.common.atomic import atomic_write, read_json, write_json
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, verbatim
from hanlin.evaluation.statistics import Metric
from hanlin.report.format import FORMAT, as_current
from hanlin.report.page import render_report

_REPORT: dict[str, type | tuple[type, ...]] = {
    "recipe": str,
    "seed": int,
    "machine": (str, dict),
    "seconds": (int, float),
    "peak_rss_mb": (int, float),
    "model": str,
    "stages": list,
}
_STAGE: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "kind": str,
    "seconds": (int, float),
    "peak_rss_mb": (int, float),
    "kept": bool,
    "metrics": dict,
    "samples": list,
}
_FINDING: dict[str, type | tuple[type, ...]] = {
    "level": str,
    "title": dict,
    "meaning": dict,
    "advice": dict,
    "labels": dict,
    "metrics": dict,
}


def write_report(
    run_dir: Path | str, report: Mapping[str, Any], extras: Mapping[str, Any] | None = None
) -> Path:
    """Write `report.json` and, from it, one self-contained `report.html`; both appear whole or not at all.

    Args:
        report: of the schema in docs/en/report.md; its `about` may be absent.
        extras: what only the page shows; every part may be absent. `recipe_resolved` and `versions`:
            mappings.
            `artifacts`: {name: {"kind", "hash", "parents", "path"}}. `curves`: {stage: its metrics.jsonl};
                `stage-1`, `stage-2` …
            are further seeds. `drops`: {rule: {"count", "samples"}}, or the whole of a corpus' report.json.
            `samples`: {stage: [{"prompt", "before", "after"}]}. `notes`: {stage: {"gate": {"verdict",
                "zh", "en", "judged"}, "before": {metric: its
            form}, "control", "sampled", figures …}}. `tokens`: a sentence in tokens. `examples`: {stage:
            [{"label", "parts": [[text, is it learned], …]}]}. `corpus_page`: where the corpus' own page is.

    Returns:
        The path of the page.

    Raises:
        HanlinError: the report is not of the schema; a metric without n or interval is such a mistake.
    """
    validate_report(report)
    run_dir = Path(run_dir)
    write_json(run_dir / "report.json", report)
    page = run_dir / "report.html"
    atomic_write(page, render_report(report, extras or {}))
    return page


def read_report(file: Path) -> dict[str, Any]:
    """A run's report.json, one of an older format in today's names.

    Raises:
        HanlinError: it is not there, or not of the schema.
    """
    report = as_current(read_json(file))
    validate_report(report)
    return report


def validate_report(report: Any) -> None:
    """Raise `HanlinError`, naming the place, unless `report` is of the schema."""
    if not isinstance(report, Mapping) or report.get("format") != FORMAT:
        found = report.get("format") if isinstance(report, Mapping) else type(report).__name__
        raise _wrong("report", Text("format should be {format}, not {found!r}", format=FORMAT, found=found))
    _check_fields(report, _REPORT, "report")
    names = set()
    for index, stage in enumerate(report["stages"]):
        where = f"stages[{index}]"
        if not isinstance(stage, Mapping):
            raise _wrong(where, Text("should be a mapping"))
        _check_fields(stage, _STAGE, where)
        if stage["id"] in names:
            raise _wrong(where, Text("stage {name!r} occurs twice", name=stage["id"]))
        names.add(stage["id"])
        for name, raw in stage["metrics"].items():
            _check_metric(raw, f"{where} ({stage['id']}).metrics.{name}")
        for doctor, finding in (stage.get("doctors") or {}).items():
            _check_fields(finding, _FINDING, f"{where}.doctors.{doctor}")
            for name, raw in finding["metrics"].items():
                _check_metric(raw, f"{where} ({stage['id']}).doctors.{doctor}.{name}")


def _check_fields(
    values: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]], where: str
) -> None:
    for name, kinds in fields.items():
        if name not in values:
            raise _wrong(where, Text("{name} is missing", name=name))
        value = values[name]
        numeric = kinds in (int, (int, float))
        if not isinstance(value, kinds) or (numeric and isinstance(value, bool)):
            raise _wrong(f"{where}.{name}", Text("of the wrong type: {type}", type=type(value).__name__))


def _check_metric(raw: Any, where: str) -> None:
    if not isinstance(raw, Mapping):
        raise _wrong(where, Text("should be a mapping"))
    ends_unknown = all(end in raw and raw[end] is None for end in ("low", "high"))  # of a mean of one item
    wanted = (
        ("value", "n", "higher_is_better")
        if ends_unknown
        else ("value", "low", "high", "n", "higher_is_better")
    )
    missing = [name for name in wanted if raw.get(name) is None]
    if missing:
        raise _wrong(
            where,
            Text("{missing} is missing; a figure without n or interval is not a metric", missing=missing[0]),
        )
    try:
        metric = Metric.from_dict(raw)
        if metric.control is not None:
            metric.control_metric()
    except (TypeError, ValueError, KeyError) as error:
        raise _wrong(where, verbatim(error)) from None


def _wrong(where: str, fault: Text) -> HanlinError:
    return HanlinError("report.json breaks its schema ({where}): {fault}.", where=where, fault=fault)
