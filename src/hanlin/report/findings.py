"""What doctors found of a stage's model: lines for a terminal, a table for the page. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hanlin.common.messages import Text, joined, listing
from hanlin.evaluation.levels import LEVEL_NAMES, LEVELS
from hanlin.evaluation.statistics import Metric
from hanlin.report.text import both, esc

ALARMS = ("red", "yellow")
_MARKS = {"ok": "won", "unknown": "none", "yellow": "even", "red": "lost"}

Findings = Mapping[str, Mapping[str, Any]]
"""By the doctor's name its `title`, `level`, `metrics` with `labels`, `meaning` and `advice`."""


def alarms(findings: Findings) -> dict[str, Mapping[str, Any]]:
    """Those that are red or yellow, the red ones first."""
    found = {name: finding for name, finding in findings.items() if finding["level"] in ALARMS}
    return dict(sorted(found.items(), key=lambda item: -LEVELS.index(item[1]["level"])))


def alarms_line(findings: Findings) -> Text | None:
    """The alarms by name, for a summary; None where there are none."""
    found = alarms(findings)
    by_level = {
        level: [name for name, finding in found.items() if finding["level"] == level] for level in ALARMS
    }
    said = [
        Text("{level}: {names}", level=LEVEL_NAMES[level], names=listing(names))
        for level, names in by_level.items()
        if names
    ]
    return joined(said, Text.in_context("between clauses", "; ")) if said else None


def alarms_text(findings: Findings) -> Text | None:
    """What the alarms mean; None where there are none."""
    said = [
        Text(
            "{title} ({name}) {level}: {meaning}",
            title=Text.from_dict(finding["title"]),
            name=name,
            level=LEVEL_NAMES[finding["level"]],
            meaning=Text.from_dict(finding["meaning"]),
        )
        for name, finding in alarms(findings).items()
    ]
    return joined(said, Text.rendered(en=" ", zh="")) if said else None


def findings_of(findings: Findings | None) -> str:
    """A row for each alarm, and a line on the doctors that raised none."""
    if not findings:
        return ""
    found = alarms(findings)
    parts = [f"<h3>{both('What the doctors found')}</h3>"]
    if found:
        rows = "".join(_row(name, finding) for name, finding in found.items())
        parts.append(
            f'<div class="scroll"><table class="compact findings"><tbody>{rows}</tbody></table></div>'
        )
    for level, said in (
        ("ok", Text("No fault was seen by: {titles}.", titles=_titles(findings, "ok"))),
        ("unknown", Text("Nothing could be said by: {titles}.", titles=_titles(findings, "unknown"))),
    ):
        if any(finding["level"] == level for finding in findings.values()):
            parts.append(f'<p class="caption">{both(said)}</p>')
    return "".join(parts)


def _titles(findings: Findings, level: str) -> Text:
    return listing(Text.from_dict(f["title"]).lower() for f in findings.values() if f["level"] == level)


def _row(name: str, finding: Mapping[str, Any]) -> str:
    mark = f'<span class="mark {_MARKS[finding["level"]]}">{both(LEVEL_NAMES[finding["level"]])}</span>'
    advice = f"<small>{both(Text.from_dict(finding['advice']))}</small>" if finding["advice"]["en"] else ""
    title = f"{both(Text.from_dict(finding['title']))}<small><code>{esc(name)}</code></small>"
    return (
        f'<tr><th scope="row">{title}</th><td>{mark}</td>'
        f"<td>{both(Text.from_dict(finding['meaning']))}{advice}{_number(finding)}</td></tr>"
    )


def _number(finding: Mapping[str, Any]) -> str:
    """The metric that matters most, with its interval and its items."""
    name = next(iter(finding["metrics"]), None)
    if name is None:
        return ""
    metric = Metric.from_dict(finding["metrics"][name])
    known = math.isfinite(metric.low) and metric.low < metric.high
    span = f" [{metric.low:.3g}, {metric.high:.3g}]" if known else ""
    label = Text.from_dict(finding["labels"][name])
    said = Text("{label}: {value}, {n} items", label=label, value=f"{metric.value:.3g}{span}", n=metric.n)
    return f"<small>{both(said)}</small>"
