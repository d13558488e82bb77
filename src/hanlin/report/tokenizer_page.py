"""The comparison of tokenizers as a picture: one SVG file that stands by itself, in light and dark."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from hanlin.common.messages import tr
from hanlin.report.svg import CHART_STYLE, COLOURS, WIDTH, nice_ticks

_STYLE = (
    CHART_STYLE
    + """
.group{font-size:13.5px;font-weight:600}.value{font-variant-numeric:tabular-nums;font-size:12px}
.t0{fill:var(--a)}.t1{fill:var(--b)}.t2{fill:var(--c)}.t3{fill:var(--d)}.t4{fill:var(--e)}.t5{fill:var(--f)}
""".strip().replace("\n", "")
)
_LEFT, _RIGHT, _BAR, _GAP = 150, 690, 15, 16


def comparison_picture(
    comparison: Mapping[str, Any], names: list[str], class_names: Mapping[str, str]
) -> str:
    """What `hanlin.tokenizer.compare` found, as bars of bytes per token: the whole text and each class that
    holds a thousandth of it.

    Args:
        names: what to call each tokenizer.
        class_names: what to call each class, in the reader's language.
    """
    tokenizers = comparison["tokenizers"]
    total = comparison["bytes"]
    groups = [
        (
            tr("all"),
            str(f"{total / 1e6:.2f} MB"),
            [t["bytes_per_token"] for t in tokenizers],
        )
    ]
    for name, size in comparison["classes"].items():
        if size["bytes"] >= total / 1000:
            values = [t["classes"][name].get("bytes_per_token", 0.0) for t in tokenizers]
            groups.append(
                (
                    class_names[name],
                    tr("{bytes:.1%} of it", bytes=size["bytes"] / total),
                    values,
                )
            )
    most = max(value for _, _, values in groups for value in values) * 1.04 or 1.0

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * value / most

    legend, y = _legend(names, tokenizers)
    top = y
    bars = []
    for label, note, values in groups:
        y += _GAP
        middle = y + len(values) * _BAR / 2
        bars.append(
            f'<text class="group" x="{_LEFT - 14}" y="{middle - 1:.1f}" text-anchor="end">{html.escape(label)}</text>'
        )
        bars.append(
            f'<text class="pale" x="{_LEFT - 14}" y="{middle + 14:.1f}" text-anchor="end">{html.escape(note)}</text>'
        )
        for index, value in enumerate(values):
            bars.append(
                f'<rect class="t{index % COLOURS}" x="{_LEFT}" y="{y:.1f}" width="{x(value) - _LEFT:.1f}" height="{_BAR - 2}" rx="2"/>'
            )
            bars.append(
                f'<text class="value" x="{x(value) + 6:.1f}" y="{y + _BAR - 4:.1f}">{value:.2f}</text>'
            )
            y += _BAR
        y += max(0, 34 - len(values) * _BAR)  # room for the label's two lines
    bottom = y + _GAP / 2
    grid = []
    for tick in nice_ticks(0, most, 6):
        grid.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top + 4}" y2="{bottom:.1f}"/>'
        )
        grid.append(
            f'<text class="pale" x="{x(tick):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{tick:g}</text>'
        )
    height = bottom + 30
    title = tr("Bytes per token")
    label = html.escape(tr("Tokenizers compared: {title}", title=title), quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img" '
        f'aria-label="{label}"><style>{_STYLE}</style><text x="20" y="34"><tspan class="title">{title}</tspan>'
        f'<tspan class="pale" dx="16">{tr("longer bars: more text in the same context")}</tspan></text>'
        f"{legend}{''.join(grid)}{''.join(bars)}</svg>\n"
    )


def _legend(names: list[str], tokenizers: list[Mapping[str, Any]]) -> tuple[str, float]:
    """A line for each tokenizer, and where they end."""
    parts = []
    for index, (name, found) in enumerate(zip(names, tokenizers, strict=True)):
        y = 60 + 20 * index
        unreachable = found["unreachable"]
        lost = "" if unreachable is None else tr(", {unreachable:,} unreachable", unreachable=unreachable)
        about = tr(
            "{vocab_size:,} tokens, {unused:,} not used here{lost}",
            vocab_size=found["vocab_size"],
            unused=found["unused"],
            lost=lost,
        )
        parts.append(f'<rect class="t{index % COLOURS}" x="20" y="{y - 10}" width="12" height="12" rx="2"/>')
        parts.append(
            f'<text x="40" y="{y}">{html.escape(name)} <tspan class="pale" dx="8">{html.escape(about)}</tspan></text>'
        )
    return "".join(parts), 60 + 20 * len(names)
