"""What a run's figures say on a terminal, of a finished run or of one under way. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common import terminal
from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError, tr
from hanlin.common.manifest import hash_json
from hanlin.evaluation.statistics import FEWEST, Metric, ranking
from hanlin.report.report import validate_report
from hanlin.report.stage_tables import SAMPLED, aim_of
from hanlin.report.text import STAGES, control_text, duration, metric_text, show, span, stage_text

OPTIONAL = ("sft", "distill", "dpo", "reward", "grpo")  # sections of a recipe that may be absent

_MARKS = {
    "better": ("胜过对照", "beats it"),
    "worse": ("不如对照", "below it"),
    "overlap": ("分不出高下", "no telling apart"),
    "few": ("样本太少，不下结论", "too few items to tell"),
}


@dataclasses.dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        report: of the run when it was last finished; None where it never was.
        stages: finished ones as report.json has them, from their own records.
        names: all that the recipe has, in order.
        changed: the recipe is no longer the one of the report, or stages were done anew since.
    """

    report: dict[str, Any] | None
    stages: list[dict[str, Any]]
    names: list[str]
    changed: bool

    @property
    def unfinished(self) -> list[str]:
        """Stages without a record."""
        done = {stage["name"] for stage in self.stages}
        return [name for name in self.names if name not in done]


def run_state(run: Path) -> RunState:
    """Read a run's directory, finished or not.

    Raises:
        HanlinError: it is not a run, or its report is not of the schema.
    """
    recipe_file, report_file = run / "recipe.json", run / "report.json"
    if not recipe_file.is_file() and not report_file.is_file():
        raise HanlinError(
            f"{run} 不是一次运行（没有 recipe.json，也没有 report.json）。请给出 hanlin run 的 --out 目录。",
            f"{run} is not a run (neither recipe.json nor report.json). Give the --out directory of hanlin run.",
        )
    report = None
    if report_file.is_file():
        report = read_json(report_file)
        validate_report(report)
    if not recipe_file.is_file():
        assert report is not None
        return RunState(report, report["stages"], [stage["name"] for stage in report["stages"]], False)
    recipe = read_json(recipe_file)
    names = [name for name in STAGES if name not in OPTIONAL or recipe.get(name) is not None]
    stages = [stage for name in names if (stage := _record(run, name)) is not None]
    changed = report is not None and (
        report.get("recipe_hash") not in (None, hash_json(recipe))
        or _other(report["stages"], stages)
        or any(not (run / "steps" / f"{n}.json").is_file() for n in names)
    )
    return RunState(report, stages, names, changed)


def _record(run: Path, name: str) -> dict[str, Any] | None:
    """A finished stage as report.json has it; None where there is none that can be read."""
    try:
        raw = read_json(run / "steps" / f"{name}.json")
        stage = {"name": name} | {
            key: raw[key] for key in ("seconds", "peak_rss_mb", "kept", "metrics", "samples")
        }
        for value in dict(raw["metrics"]).values():
            Metric.from_dict(value)
    except (HanlinError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return stage


def _other(reported: Sequence[Mapping[str, Any]], recorded: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a stage was done anew since it was reported."""
    before = {stage["name"]: stage for stage in reported}
    keys = ("seconds", "metrics", "kept")
    return any(
        stage["name"] in before and any(before[stage["name"]][key] != stage[key] for key in keys)
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
                    "注意：这份报告之后配方改过，或有阶段重新做过、还没有做完。下面是改之前的成绩。",
                    "Note: since this report the recipe was changed, or stages were done anew and not all are finished. The figures are the earlier ones.",
                ),
            )
        return "\n".join(lines)
    left, done = state.unfinished, len(state.stages)
    lines = []
    if left:
        title = stage_text(left[0]).title
        lines.append(
            tr(
                f"还没有做完：{done}/{len(state.names)} 个阶段已完成，现在是“{title.zh}”。用同一条命令（或 hanlin resume {run}）接着做。",
                f"Not finished: {done} of {len(state.names)} stages are done, now at {title.en.lower()}. The same command, or hanlin resume {run}, goes on.",
            )
        )
    else:
        lines.append(
            tr(
                f"各阶段都已完成，报告还没有写：hanlin resume {run}",
                f"All stages are done, the report is not written: hanlin resume {run}",
            )
        )
    table = figures_table(state.stages)
    for stage in state.stages:
        lines.append(f"  {tr(*stage_text(stage['name']).title)}  {tr(*duration(stage['seconds']))}")
    return "\n".join([*lines, *(["", *table] if table else [])])


def summary_text(report: Mapping[str, Any], out: Path) -> str:
    """A finished run's figures, and what to do next."""
    minutes, memory = report["seconds"] / 60, report["peak_rss_mb"] / 1024
    head = tr(
        f"用时 {minutes:.1f} 分钟，内存峰值 {memory:.2f} GiB",
        f"{minutes:.1f} minutes, peak memory {memory:.2f} GiB",
    )
    foot = tr(
        f"报告：{out / 'report.html'}\n聊天：hanlin chat {out}\n服务：hanlin serve {out}",
        f"report: {out / 'report.html'}\nchat:   hanlin chat {out}\nserve:  hanlin serve {out}",
    )
    return "\n".join([head, *figures_table(report["stages"]), foot])


def figures_table(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """What each stage is judged by, and all of the final evaluation but single sources: value, interval, items, and the control."""
    rows = []
    for stage in stages:
        aim = aim_of(stage)
        for name, raw in stage["metrics"].items():
            if (
                stage["name"] not in ("corpus", "evaluation")
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
                    "  " + tr(*stage_text(stage["name"]).title),
                    tr(*text.name),
                    show(metric.value, text.share),
                    tr(*span(metric, text.share)),
                    f"n={metric.n}",
                    _beside(metric, text.share),
                ]
            )
    return terminal.table(rows) if rows else []


def outcome(stage: str, metrics: Mapping[str, Any]) -> tuple[str, str]:
    """What came of a stage in a few words, Chinese and English: the metric it is judged by, and its control."""
    aim = aim_of({"name": stage, "metrics": metrics})
    if aim is None:
        return "", ""
    name, metric = aim
    text = metric_text(name)
    said = [f"{text.name[language]} {show(metric.value, text.share)}" for language in (0, 1)]
    if metric.control is not None:
        control, value = control_text(metric.control.name), show(metric.control.value, text.share)
        verdict = _MARKS[ranking(metric, metric.control, metric.higher_is_better)]
        said = [
            f"{said[0]}（{control.zh} {value}，{verdict[0]}）",
            f"{said[1]} ({control.en} {value}, {verdict[1]})",
        ]
    return said[0], said[1]


def metrics_table(metrics: Mapping[str, Metric]) -> list[str]:
    """Metrics by name, for a terminal."""
    rows = [
        [
            tr(*metric_text(name).name),
            show(metric.value, metric_text(name).share),
            tr(*span(metric, metric_text(name).share)),
            f"n={metric.n}",
            _flag(metric),
        ]
        for name, metric in metrics.items()
    ]
    return terminal.table(rows)


def _flag(metric: Metric) -> str:
    return tr(f"不到 {FEWEST} 条，太少", f"fewer than {FEWEST}: too few") if metric.n < FEWEST else ""


def _beside(metric: Metric, share: bool) -> str:
    if metric.control is None:
        return _flag(metric)
    control = f"{tr(*control_text(metric.control.name))} {show(metric.control.value, share)}"
    return f"{control}{tr('：', ': ')}{tr(*_MARKS[ranking(metric, metric.control, metric.higher_is_better)])}"
