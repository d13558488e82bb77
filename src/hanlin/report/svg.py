"""Small pictures in SVG: a point with its whiskers, a curve, bars, a histogram. Colours are classes: one
style sheet serves light, dark and print."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from hanlin.evaluation.statistics import Metric

Curve = tuple[np.ndarray, np.ndarray]  # x, y, each (points,)

MOST_POINTS = 300


def interval_plot(metric: Metric, low: float, high: float, share: bool, label: str) -> str:
    """A metric as point and whisker over its control's, on a common scale, with a dashed line at chance.

    Args:
        low, high: ends of the scale.
        share: ticks in per cent.
        label: said to screen readers, in the language of the reader's choice elsewhere.
    """
    width, left, right = 320, 12, 308
    height = 58 if metric.control else 42

    def x(value: float) -> float:
        return left + (right - left) * (min(max(value, low), high) - low) / (high - low)

    parts = [
        f'<svg class="interval" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label, quote=True)}">'
    ]
    base = height - 16
    for tick in nice_ticks(low, high, 5):
        text = f"{100 * tick:.6g}%" if share else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{base}"/>')
        anchor = "start" if x(tick) < left + 4 else "end" if x(tick) > right - 4 else "middle"
        place = x(tick) + {"start": -6, "end": 6, "middle": 0}[anchor]
        parts.append(
            f'<text class="tick" x="{place:.1f}" y="{height - 3}" text-anchor="{anchor}">{text}</text>'
        )
    if metric.chance is not None and low <= metric.chance <= high:
        parts.append(
            f'<line class="chance" x1="{x(metric.chance):.1f}" x2="{x(metric.chance):.1f}" y1="2" y2="{base}"/>'
        )
    parts.append(_whisker("ours", x(metric.low), x(metric.value), x(metric.high), 15))
    if metric.control:
        control = metric.control
        parts.append(_whisker("control", x(control.low), x(control.value), x(control.high), 31))
    return "".join(parts) + "</svg>"


def _whisker(kind: str, low: float, value: float, high: float, y: float) -> str:
    ends = "".join(f'<line x1="{end:.1f}" x2="{end:.1f}" y1="{y - 6}" y2="{y + 6}"/>' for end in (low, high))
    point = (
        f'<circle cx="{value:.1f}" cy="{y}" r="3.6"/>'
        if kind == "ours"
        else f'<rect x="{value - 3:.1f}" y="{y - 3}" width="6" height="6"/>'
    )
    return f'<g class="{kind}">{point}<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>{ends}</g>'


def curve_plot(
    curves: Sequence[Curve],
    label: str,
    *,
    width: int,
    height: int,
    line: float | None = None,
    from_zero: bool = False,
) -> str:
    """Curves over training steps; noisy ones are drawn pale with their running mean on top.

    Args:
        curves: the first is the run itself; others (further seeds) are drawn behind it.
        line: a value to compare with, drawn dashed.
        from_zero: the vertical axis begins at zero even where the values are far from it.
    """
    left, right, top, bottom = 44, width - 8, 10, height - 22
    drawn = [(thin(x), thin(y), thin(running_mean(y))) for x, y in curves]
    ys = np.concatenate([smooth for _, _, smooth in drawn] + [np.array([line] if line is not None else [])])
    x_low, x_high = min(float(x.min()) for x, _, _ in drawn), max(float(x.max()) for x, _, _ in drawn)
    y_low, y_high = min(float(ys.min()), 0.0 if from_zero else np.inf), float(ys.max())
    margin = 0.06 * (y_high - y_low) or abs(y_high) * 0.1 or 1.0
    y_low, y_high = (0.0 if y_low >= 0 and y_low - margin < 0 else y_low - margin), y_high + margin
    x_span = x_high - x_low or 1.0

    def px(values: np.ndarray) -> np.ndarray:
        return left + (right - left) * (values - x_low) / x_span

    def py(values: np.ndarray) -> np.ndarray:
        return bottom - (bottom - top) * (np.clip(values, y_low, y_high) - y_low) / (y_high - y_low)

    parts = [
        f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label, quote=True)}">'
    ]
    for tick in nice_ticks(y_low, y_high, 4):
        y = float(py(np.array(tick)))
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    for tick in nice_ticks(x_low, x_high, max(4, width // 90)):
        x = float(px(np.array(tick)))
        anchor = "end" if x > right - 10 else "middle"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">{short(tick)}</text>'
        )
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    if line is not None:
        y = float(py(np.array(line)))
        parts.append(f'<line class="reference" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for index in reversed(range(len(drawn))):
        x, y, smooth = drawn[index]
        if index == 0 and not np.array_equal(y, smooth):
            parts.append(f'<path class="raw" d="{_path(px(x), py(y))}"/>')
        parts.append(f'<path class="{"line" if index == 0 else "other"}" d="{_path(px(x), py(smooth))}"/>')
    return "".join(parts) + "</svg>"


def bar(start: float, end: float, kind: str) -> str:
    """A bar from `start` to `end`, both shares of the width."""
    start, end = min(max(start, 0.0), 1.0), min(max(end, 0.0), 1.0)
    width = max(end - start, 0.004)  # a stage of a second is still to be seen
    return (
        f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="10"/>'
        f'<rect class="{kind}" x="{100 * min(start, 1 - width):.2f}" width="{100 * width:.2f}" height="10"/></svg>'
    )


def histogram(columns: Sequence[tuple[str, int]], label: str, *, width: int, height: int) -> str:
    """Counts as columns side by side, each with its name below where there is room, and the largest count on
    the axis."""
    left, top, bottom = 44, 8, height - 20
    most = max((count for _, count in columns), default=0) or 1
    step = (width - left - 4) / max(len(columns), 1)
    every = max(1, math.ceil(max((len(name) for name, _ in columns), default=1) * 7 / step))
    parts = [
        f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label, quote=True)}">'
    ]
    for tick in nice_ticks(0, most, 3 if height > 150 else 2):
        y = bottom - (bottom - top) * tick / most
        parts.append(f'<line class="grid" x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    for place, (name, count) in enumerate(columns):
        x, tall = left + place * step, (bottom - top) * count / most
        tall = max(tall, 1.0) if count else 0.0  # one document is still to be seen
        text = html.escape(name, quote=True)
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{bottom - tall:.1f}" width="{max(step - 2, 1):.1f}" height="{tall:.1f}"><title>{text}: {count:,}</title></rect>'
        )
        if place % every == 0:
            parts.append(
                f'<text class="tick" x="{x + step / 2:.1f}" y="{height - 5}" text-anchor="middle">{text}</text>'
            )
    return "".join(parts) + f'<line class="axis" x1="{left}" x2="{width}" y1="{bottom}" y2="{bottom}"/></svg>'


def stack(parts: Sequence[tuple[float, str]]) -> str:
    """Shares of a whole behind one another, each with its class."""
    drawn, start = [], 0.0
    for part, kind in parts:
        if part > 0:
            drawn.append(f'<rect class="{kind}" x="{100 * start:.2f}" width="{100 * part:.2f}" height="10"/>')
        start += max(part, 0.0)
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="10"/>'
        f"{''.join(drawn)}</svg>"
    )


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Up to `most` + 1 round numbers (1, 2, 2.5 or 5 times a power of ten apart) from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def short(value: float) -> str:
    """A number in few characters: 1.5k, 0.002, 3e-4."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1000:
        return f"{value / 1000:g}k"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def running_mean(values: np.ndarray) -> np.ndarray:
    """Each value's mean with its neighbours, a window of 3 % of the curve; short curves stay as they are.

    The window shrinks towards the ends, so the first and last values stay where they were.
    """
    count = len(values)
    reach = count // 66
    if reach < 1:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    middle = np.arange(count)
    around = np.minimum(reach, np.minimum(middle, count - 1 - middle))
    return (sums[middle + around + 1] - sums[middle - around]) / (2 * around + 1)


def thin(values: np.ndarray) -> np.ndarray:
    """At most `MOST_POINTS` of the values, first and last among them."""
    if len(values) <= MOST_POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int)]


# Paper, ink and six colours in light and dark, and the classes that every chart has.
CHART_STYLE = """
svg{background:var(--paper);font:13px/1 system-ui,"Noto Sans CJK SC","Noto Sans SC","PingFang SC","Microsoft YaHei",sans-serif;
--paper:#fffdf9;--ink:#22201d;--pale:#77716a;--rule:#e6e0d6;--a:#b3392c;--b:#2f6f8f;--c:#c58a1c;--d:#5b7d46;--e:#7a5a94;--f:#8a6d5b}
@media (prefers-color-scheme:dark){svg{--paper:#1b1a18;--ink:#ece7df;--pale:#a49c91;--rule:#38352f;--a:#e5786a;--b:#6fb2d2;--c:#e3b458;--d:#9bbf83;--e:#b798d3;--f:#c3a792}}
text{fill:var(--ink)}.pale{fill:var(--pale);font-size:11.5px}.title{font-size:18px;font-weight:600}
.grid{stroke:var(--rule)}
""".strip().replace("\n", "")
_STYLE = (
    CHART_STYLE
    + """
.strong{font-weight:600}.axis{stroke:var(--pale)}.zero{stroke:var(--ink);stroke-dasharray:4 3}
.better{--k:var(--d)}.worse{--k:var(--a)}.unclear,.one_seed,.few{--k:var(--pale)}.part{--k:var(--pale);opacity:.75}
.t0{--k:var(--a)}.t1{--k:var(--b)}.t2{--k:var(--c)}.t3{--k:var(--d)}.t4{--k:var(--e)}.t5{--k:var(--f)}
.mark{fill:var(--k)}.whisker,.line,.fit{stroke:var(--k);fill:none;stroke-width:1.8}.fit{stroke-width:1.2;stroke-dasharray:5 3}.raw{stroke:var(--k);fill:none;opacity:.22}
""".strip().replace("\n", "")
)
COLOURS = 6
WIDTH = 760


def document(title: str, note: str, body: str, height: float) -> str:
    """A picture that stands by itself, in light and dark: title, a pale remark behind it, and what is drawn
    below."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img" '
        f'aria-label="{html.escape(title, quote=True)}"><style>{_STYLE}</style><text class="title" x="20" y="30">{html.escape(title)}</text>'
        f'<text class="pale" x="20" y="50">{html.escape(note)}</text>{body}</svg>\n'
    )


def forest(rows: Sequence[tuple[str, str, float, float, float, str]], *, top: float) -> tuple[str, float]:
    """Values with their intervals below one another, about a dashed line at zero; the drawing and where it
    ends.

    Args:
        rows: name, remark, value, low, high and class of each; a row without a name belongs to the one above
            it.
    """
    left, right = 300, WIDTH - 30
    low, high = min([0.0, *(row[3] for row in rows)]), max([0.0, *(row[4] for row in rows)])
    margin = 0.05 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    drawn, y = [], top
    for name, remark, value, start, end, kind in rows:
        y += 14 if not name else 30 if y > top else 12
        if name:
            drawn.append(
                f'<text class="strong" x="{left - 20}" y="{y:.0f}" text-anchor="end">{html.escape(name)}</text>'
            )
            y += 15
        drawn.append(
            f'<text class="pale" x="{left - 20}" y="{y + 4:.0f}" text-anchor="end">{html.escape(remark)}</text>'
        )
        tip = f"{name or remark}: {value:+.4f} [{start:+.4f}, {end:+.4f}]"
        drawn.append(
            f'<g class="{kind}"><title>{html.escape(tip)}</title><line class="whisker" x1="{x(start):.1f}" x2="{x(end):.1f}" y1="{y:.0f}" y2="{y:.0f}"/>'
            f'<circle class="mark" cx="{x(value):.1f}" cy="{y:.0f}" r="{4.2 if name else 2.8}"/></g>'
        )
    bottom = y + 16
    grid = []
    for tick in nice_ticks(low, high, 6):
        grid.append(
            f'<line class="{"zero" if tick == 0 else "grid"}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom}"/>'
        )
        grid.append(
            f'<text class="pale" x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{f"{tick:+g}" if tick else "0"}</text>'
        )
    return "".join(grid + drawn), bottom + 30


@dataclasses.dataclass(frozen=True)
class Stroke:
    """Something drawn in a chart: a `line`, a dashed `fit`, a pale `raw` curve, or `mark`s with whiskers
    where there are intervals.

    Attributes:
        colour: number of the series, which is its colour and its line in the legend.
        low, high: ends of the whiskers, (points,).
    """

    x: np.ndarray
    y: np.ndarray
    colour: int
    kind: Literal["line", "fit", "raw", "mark"] = "line"
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def chart(
    strokes: Sequence[Stroke],
    *,
    left: float,
    right: float,
    top: float,
    bottom: float,
    label: str,
    log_x: bool = False,
) -> str:
    """Axes, grid and strokes within a box of a picture; `label` says what the horizontal axis counts."""
    xs = np.concatenate([stroke.x for stroke in strokes])
    ys = np.concatenate(
        [
            part
            for stroke in strokes
            if stroke.kind != "raw"
            for part in (stroke.y, stroke.low, stroke.high)
            if part is not None
        ]
    )
    x_low, x_high = float(xs.min()), float(xs.max())
    margin = 0.06 * float(ys.max() - ys.min()) or 0.1 * abs(float(ys.max())) or 1.0
    y_low, y_high = float(ys.min()) - margin, float(ys.max()) + margin

    def px(values: np.ndarray) -> np.ndarray:
        low, high, values = (np.log(v) for v in (x_low, x_high, values)) if log_x else (x_low, x_high, values)
        return left + (right - left) * (values - low) / ((high - low) or 1.0)

    def py(values: np.ndarray) -> np.ndarray:
        return bottom - (bottom - top) * (np.clip(values, y_low, y_high) - y_low) / (y_high - y_low)

    parts = []
    for tick in nice_ticks(y_low, y_high, 5):
        y = float(py(np.array(tick)))
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="pale" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    for tick in (
        log_ticks(x_low, x_high) if log_x else nice_ticks(x_low, x_high, max(2, int((right - left) / 80)))
    ):
        x = float(px(np.array(tick)))
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        parts.append(
            f'<text class="pale" x="{x:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{short(tick)}</text>'
        )
    parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>')
    parts.append(
        f'<text class="pale" x="{(left + right) / 2:.1f}" y="{bottom + 33:.1f}" text-anchor="middle">{html.escape(label)}</text>'
    )
    for stroke in strokes:
        x, y = px(stroke.x), py(stroke.y)
        if stroke.kind != "mark":
            parts.append(f'<path class="{stroke.kind} t{stroke.colour % COLOURS}" d="{_path(x, y)}"/>')
            continue
        if stroke.low is not None and stroke.high is not None:
            for at, low, high in zip(x, py(stroke.low), py(stroke.high), strict=True):
                parts.append(
                    f'<line class="whisker t{stroke.colour % COLOURS}" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
                )
        for at, height in zip(x, y, strict=True):
            parts.append(
                f'<circle class="mark t{stroke.colour % COLOURS}" cx="{at:.1f}" cy="{height:.1f}" r="3.4"/>'
            )
    return "".join(parts)


def legend(names: Sequence[str], *, top: float) -> tuple[str, float]:
    """A line for each series, in its colour; the drawing and where it ends."""
    parts = []
    for index, name in enumerate(names):
        y = top + 19 * index
        parts.append(
            f'<rect class="mark t{index % COLOURS}" x="20" y="{y - 10:.0f}" width="12" height="12" rx="2"/>'
        )
        parts.append(f'<text x="40" y="{y:.0f}">{html.escape(name)}</text>')
    return "".join(parts), top + 19 * len(names)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`, or the powers alone where those would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [tick for power in powers for factor in factors if low <= (tick := factor * 10.0**power) <= high]


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
