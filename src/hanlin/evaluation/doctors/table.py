"""Findings of doctors as a person reads them in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hanlin.common import terminal
from hanlin.common.messages import Text, tr
from hanlin.evaluation.doctors.base import Doctor, Finding
from hanlin.evaluation.levels import LEVEL_NAMES, LEVELS
from hanlin.evaluation.statistics import Metric

_CONTROLS: dict[str, Text] = {"people": Text("people's text"), "previous": Text("model before")}


def findings_text(findings: Sequence[tuple[Doctor, Finding]]) -> str:
    """A line for each doctor with its level and its first number, then what each says and all its numbers,
    and how many of each level there are."""
    rows = [
        [
            str(LEVEL_NAMES[finding.level]),
            doctor.name,
            str(doctor.title),
            *(_cells(doctor, *next(iter(finding.metrics.items()))) if finding.metrics else ("", "", "", "")),
        ]
        for doctor, finding in findings
    ]
    lines = [*terminal.table(rows, right=(3,)), ""]
    for doctor, finding in findings:
        lines.append(f"{LEVEL_NAMES[finding.level]} · {doctor.title} ({doctor.name})")
        lines.append(f"  {finding.meaning}")
        if finding.advice:
            lines.append("  → " + str(finding.advice))
        numbers = [list(_cells(doctor, name, metric)) for name, metric in finding.metrics.items()]
        lines += [f"    {line}" for line in terminal.table(numbers, right=(0,))] if numbers else []
        lines.append("")
    counts = [
        tr(
            "{level} {count}",
            level=LEVEL_NAMES[level],
            count=sum(finding.level == level for _, finding in findings),
        )
        for level in reversed(LEVELS)
    ]
    return "\n".join([*lines, " · ".join(counts)])


def _cells(doctor: Doctor, name: str, metric: Metric) -> tuple[str, str, str, str]:
    control = metric.control
    beside = f"{_CONTROLS.get(control.name, control.name)} {_number(control.value)}" if control else ""
    label = str(doctor.label(name))
    if metric.low == metric.high == metric.value:
        span = ""
    elif math.isinf(metric.low):
        span = "[?]"
    else:
        span = f"[{_number(metric.low)}, {_number(metric.high)}]"
    return _number(metric.value), span, f"n={metric.n}", f"{label} ({beside})" if beside else label


def _number(value: float) -> str:
    """Three digits that count; small ones as a power of ten."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:.1e}"
