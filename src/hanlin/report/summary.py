"""What a run's figures say on a terminal, of a finished run or of one under way. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common import terminal
from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import hash_json
from hanlin.common.messages import Text, joined, tr
from hanlin.evaluation.statistics import FEWEST, Metric, ranking
from hanlin.report.findings import alarms_line
from hanlin.report.format import export_steps
from hanlin.report.report import read_report
from hanlin.report.stage_tables import SAMPLED, target_of
from hanlin.report.text import control_text, duration, metric_text, show, span, stage_text

_TEXT_STEPS = ("corpus", "tokenizer", "dataset")

_MARKS = {
    "better": Text.in_context("verdict", "beats it"),
    "worse": Text.in_context("verdict", "below it"),
    "overlap": Text.in_context("verdict", "no telling apart"),
    "few": Text("too few items to tell"),
}


@dataclasses.dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        report: of the run when it was last finished; None where it never was.
        stages: finished ones as report.json has them, from their own records.
        names: all that the recipe has, in order.
        kinds: of its stages, by id.
        changed: the recipe is no longer the one of the report, or stages were done anew since.
    """

    report: dict[str, Any] | None
    stages: list[dict[str, Any]]
    names: list[str]
    changed: bool
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def unfinished(self) -> list[str]:
        """Stages without a record."""
        done = {stage["id"] for stage in self.stages}
        return [name for name in self.names if name not in done]


def run_state(run: Path) -> RunState:
    """Read a run's directory, finished or not.

    Raises:
        HanlinError: it is not a run, or its report is not of the schema.
    """
    recipe_file, report_file = run / "recipe.json", run / "report.json"
    if not recipe_file.is_file() and not report_file.is_file():
        raise HanlinError(
            "{run} is not a run (neither recipe.json nor report.json). Give the --out directory of hanlin "
            "run.",
            run=run,
        )
    report = None
    if report_file.is_file():
        report = read_report(report_file)
    if not recipe_file.is_file():
        assert report is not None
        return RunState(report, report["stages"], [stage["id"] for stage in report["stages"]], False)
    recipe = read_json(recipe_file)
    names = step_names(recipe)
    stages = [stage for name in names if (stage := _record(run, name)) is not None]
    changed = report is not None and (
        report.get("recipe_hash") not in (None, hash_json(recipe))
        or _other(report["stages"], stages)
        or any(not (run / "steps" / f"{n}.json").is_file() for n in names)
    )
    kinds = {stage["id"]: stage.get("kind", "") for stage in recipe.get("stages") or ()}
    return RunState(report, stages, names, changed, kinds)


def step_names(recipe: Mapping[str, Any]) -> list[str]:
    """All that a run does, in order, from its recipe.json; of the shape before stages were a list, what it
    names itself."""
    stages = recipe.get("stages")
    if not isinstance(stages, list):
        return [
            name for name in ("corpus", "tokenizer", "dataset", "pretrain") if recipe.get(name) is not None
        ]
    text = list(_TEXT_STEPS) if recipe.get("corpus") is not None else []
    exports = export_steps([str(item["kind"]) for item in recipe.get("export") or ()])
    return [*text, *(stage["id"] for stage in stages), "evaluation", *exports]


def _record(run: Path, name: str) -> dict[str, Any] | None:
    """A finished stage as report.json has it; None where there is none that can be read."""
    try:
        raw = read_json(run / "steps" / f"{name}.json")
        stage = {"id": name, "kind": raw["kind"] or name}
        stage |= {key: raw[key] for key in ("seconds", "peak_rss_mb", "kept", "metrics", "samples")}
        stage |= {key: raw[key] for key in ("target", "title", "does") if raw.get(key)}
        stage |= {"doctors": raw["notes"]["doctors"]} if raw["notes"].get("doctors") else {}
        for value in dict(raw["metrics"]).values():
            Metric.from_dict(value)
    except (HanlinError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return stage


def _other(reported: Sequence[Mapping[str, Any]], recorded: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a stage was done anew since it was reported."""
    before = {stage["id"]: stage for stage in reported}
    keys = ("seconds", "metrics", "kept")
    return any(
        stage["id"] in before and any(before[stage["id"]][key] != stage[key] for key in keys)
        for stage in recorded
    )


def state_text(state: RunState, run: Path) -> str:
    """The state for a terminal: figures, and above them how far it is and whose they are."""
    if state.report is not None:
        lines = [summary_text(state.report, run)]
        if state.changed:
            lines.insert(
                0,
                tr(
                    "Note: since this report the recipe was changed, or stages were done anew and not all "
                    "are finished. The figures are the earlier ones."
                ),
            )
        return "\n".join(lines)
    left, done = state.unfinished, len(state.stages)
    lines = []
    if left:
        title = stage_text({"id": left[0], "kind": state.kinds.get(left[0])}).title
        lines.append(
            tr(
                "Not finished: {done} of {count} stages are done, now at {title}. The same command, or "
                "hanlin resume {run}, goes on.",
                done=done,
                count=len(state.names),
                title=title.lower(),
                run=run,
            )
        )
    else:
        lines.append(tr("All stages are done, the report is not written: hanlin resume {run}", run=run))
    table = figures_table(state.stages)
    for stage in state.stages:
        lines.append(f"  {str(stage_text(stage).title)}  {str(duration(stage['seconds']))}")
    table += findings_lines(state.stages)
    return "\n".join([*lines, *(["", *table] if table else [])])


def summary_text(report: Mapping[str, Any], out: Path) -> str:
    """A finished run's figures, and what to do next."""
    minutes, memory = report["seconds"] / 60, report["peak_rss_mb"] / 1024
    head = tr("{minutes:.1f} minutes, peak memory {memory:.2f} GiB", minutes=minutes, memory=memory)
    foot = tr(
        "report: {out}\nchat:   hanlin chat {out2}\nserve:  hanlin serve {out2}",
        out=out / "report.html",
        out2=out,
    )
    stages = report["stages"]
    return "\n".join([head, *figures_table(stages), *findings_lines(stages), foot])


def figures_table(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """What each stage is judged by, and all of the final evaluation but single sources: value, interval,
    items, and the control."""
    rows = []
    for stage in stages:
        aim = target_of(stage)
        for name, raw in stage["metrics"].items():
            if (
                stage["kind"] not in ("corpus", "evaluation")
                and aim is not None
                and name not in (aim[0], f"{aim[0]}/published")
            ):
                continue
            base, _, part = name.partition("/")
            if name.endswith(SAMPLED) or (part and base == "bits_per_byte"):
                continue
            metric, text = Metric.from_dict(raw), metric_text(name)
            rows.append(
                [
                    "  " + str(stage_text(stage).title),
                    str(text.name),
                    show(metric.value, text.share),
                    str(span(metric, text.share)),
                    f"n={metric.n}",
                    _beside(metric, text.share),
                ]
            )
    return terminal.table(rows) if rows else []


def findings_lines(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each stage of which a doctor found something yellow or red."""
    lines = []
    for stage in stages:
        said = alarms_line(stage.get("doctors") or {})
        if said is not None:
            lines.append("  " + tr("{stage}, doctors: {found}", stage=stage_text(stage).title, found=said))
    return lines


def outcome(target: str, metrics: Mapping[str, Any]) -> Text:
    """What came of a stage in a few words: the metric it is judged by, and its control."""
    aim = target_of({"target": target, "metrics": metrics})
    if aim is None:
        return Text("")
    name, metric = aim
    text = metric_text(name)
    figure = joined([text.name, " ", show(metric.value, text.share)])
    if metric.control is None:
        return figure
    return Text(
        "{figure} ({control} {value}, {verdict})",
        figure=figure,
        control=control_text(metric.control.name),
        value=show(metric.control.value, text.share),
        verdict=_MARKS[ranking(metric, metric.control, metric.higher_is_better)],
    )


def metrics_table(metrics: Mapping[str, Metric]) -> list[str]:
    """Metrics by name, for a terminal."""
    rows = [
        [
            str(metric_text(name).name),
            show(metric.value, metric_text(name).share),
            str(span(metric, metric_text(name).share)),
            f"n={metric.n}",
            _flag(metric),
        ]
        for name, metric in metrics.items()
    ]
    return terminal.table(rows)


def _flag(metric: Metric) -> str:
    return tr("fewer than {fewest}: too few", fewest=FEWEST) if metric.n < FEWEST else ""


def _beside(metric: Metric, share: bool) -> str:
    if metric.control is None:
        return _flag(metric)
    control = f"{str(control_text(metric.control.name))} {show(metric.control.value, share)}"
    return f"{control}{tr(': ')}{str(_MARKS[ranking(metric, metric.control, metric.higher_is_better)])}"
