"""A fitted scaling law as text, Markdown and a picture, in the language of the locale. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hanlin.common import terminal
from hanlin.common.errors import tr
from hanlin.common.progress import format_seconds
from hanlin.report.svg import Stroke, chart, document, legend, short

_FAR = 3.0  # times outside the data beyond which advice is a guess


def scaling_text(found: Mapping[str, Any]) -> str:
    """For a terminal."""
    advice = [line for entry in found["advice"] for line in advice_lines(entry)]
    return "\n".join(
        [
            law_line(found),
            *terminal.table(_coefficients(found)),
            "",
            *terminal.table(_points(found)),
            "",
            *advice,
            *_about(found),
        ]
    )


def scaling_markdown(found: Mapping[str, Any]) -> str:
    """As a page."""
    parts = [
        tr(f"# 规模律：{found['recipe']}", f"# Scaling law: {found['recipe']}"),
        law_line(found),
        _markdown(_coefficients(found)),
    ]
    parts += [tr("## 各点", "## Points"), _markdown(_points(found))]
    if found["advice"]:
        parts += [
            tr("## 建议", "## Advice"),
            "\n".join(f"- {line}" for entry in found["advice"] for line in advice_lines(entry)),
        ]
    return "\n\n".join([*parts, "\n".join(_about(found))]) + "\n"


def law_line(found: Mapping[str, Any]) -> str:
    """The law with its numbers."""
    law = found["law"]
    return (
        f"L(N, D) = {law['E']:.4f} + {law['A']:.4g}/N^{law['alpha']:.3f} + {law['B']:.4g}/D^{law['beta']:.3f}  "
        + tr("（比特/字节）", "(bits per byte)")
    )


def advice_lines(entry: Mapping[str, Any]) -> list[str]:
    """What a budget should be spent on, and how far that lies from anything that was trained."""
    size, shape = entry["parameters"], entry["shape"]
    (low, high), (best, worst) = entry["parameters_interval"], entry["loss_interval"]
    what = (
        tr(f"时间 {format_seconds(entry['seconds'])}", f"{format_seconds(entry['seconds'])} of time")
        if entry["seconds"]
        else f"{entry['flops']:.3g} FLOPs"
    )
    lines = [
        tr(
            f"预算 {what}：{_count(size)} 参数 [{_count(low)}, {_count(high)}]（宽 {shape['hidden_size']}、{shape['num_hidden_layers']} 层），{_count(entry['tokens'])} 词元"
            f"（每参数 {entry['tokens'] / size:.1f} 个），预计 {entry['loss']:.4f} [{best:.4f}, {worst:.4f}] 比特/字节。",
            f"Budget of {what}: {_count(size)} parameters [{_count(low)}, {_count(high)}] (width {shape['hidden_size']}, {shape['num_hidden_layers']} layers), {_count(entry['tokens'])} tokens "
            f"({entry['tokens'] / size:.1f} per parameter), {entry['loss']:.4f} [{best:.4f}, {worst:.4f}] bits per byte expected.",
        )
    ]
    of_size, of_length = entry["outside"]
    if max(of_size, of_length) > 1.0:
        guess = (
            tr(
                "。这么远只能算猜测，请先在附近训一个点",
                "; so far out it is a guess: train a point nearby first",
            )
            if max(of_size, of_length) > _FAR
            else ""
        )
        lines.append(
            tr(
                f"这是外推：大小在训练过的范围之外 {of_size:.1f} 倍，长度之外 {of_length:.1f} 倍{guess}。",
                f"This extrapolates: {of_size:.1f} times outside the sizes that were trained, {of_length:.1f} times outside the lengths{guess}.",
            )
        )
    if entry["at_edge"]:
        lines.append(
            tr(
                "最好的点在搜索范围的边上，实际的最优还在外面。",
                "The best point is at the edge of what was searched: the optimum lies further out.",
            )
        )
    return lines


def scaling_picture(found: Mapping[str, Any]) -> str:
    """Bits per byte against tokens, a colour for each size, the law through them; an SVG that stands by itself."""
    sizes = sorted({point["parameters"] for point in found["points"]})
    names, top = legend([f"{_count(size)} " + tr("参数", "parameters") for size in sizes], top=78)
    strokes = []
    reach = [point["tokens"] for point in found["points"]]
    for colour, size in enumerate(sizes):
        mine = sorted((p for p in found["points"] if p["parameters"] == size), key=lambda p: p["tokens"])
        tokens = np.array([p["tokens"] for p in mine], dtype=float)
        metrics = [p["bits_per_byte"] for p in mine]
        value, low, high = (
            np.array([metric[name] for metric in metrics]) for name in ("value", "low", "high")
        )
        inside, all_of_it = (
            np.geomspace(a, b, 60) for a, b in ((tokens[0], tokens[-1]), (min(reach), max(reach)))
        )
        strokes.append(Stroke(all_of_it, _loss(found, size, all_of_it), colour, "fit"))
        strokes.append(Stroke(inside, _loss(found, size, inside), colour))
        strokes.append(Stroke(tokens, value, colour, "mark", low, high))
    bottom = top + 320
    body = names + chart(
        strokes,
        left=70,
        right=730,
        top=top + 8,
        bottom=bottom,
        label=tr("训练词元（对数）", "tokens of training (log)"),
        log_x=True,
    )
    title = tr("规模律：留出文本的比特/字节", "Scaling law: bits per byte of held-out text")
    return document(
        title, law_line(found) + tr("；虚线在数据之外", "; dashed outside the data"), body, bottom + 48
    )


def _loss(found: Mapping[str, Any], parameters: float, tokens: np.ndarray) -> np.ndarray:
    law = found["law"]
    return law["E"] + law["A"] / parameters ** law["alpha"] + law["B"] / tokens ** law["beta"]


def _coefficients(found: Mapping[str, Any]) -> list[list[str]]:
    head = [tr("系数", "coefficient"), tr("值", "value"), "95 %"]
    return [head] + [
        [name, f"{value:.4g}", "[{:.4g}, {:.4g}]".format(*found["intervals"][name])]
        for name, value in found["law"].items()
    ]


def _points(found: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [
            tr("参数", "parameters"),
            tr("宽×层", "width x layers"),
            tr("词元", "tokens"),
            tr("实测", "measured"),
            tr("规律", "law"),
            tr("残差", "residual"),
            tr("词元/秒", "tokens/s"),
        ]
    ]
    for p in found["points"]:
        metric = p["bits_per_byte"]
        rows.append(
            [
                f"{p['parameters']:,}",
                f"{p['hidden_size']}×{p['layers']}",
                f"{p['tokens']:,}",
                f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]",
                f"{p['law']:.4f}",
                f"{p['residual']:+.2%}",
                f"{p['tokens_per_second']:,.0f}",
            ]
        )
    return rows


def _about(found: Mapping[str, Any]) -> list[str]:
    residuals = np.array([p["residual"] for p in found["points"]])
    return [
        tr(
            f"{len(residuals)} 个点，留出文档 {found['documents']:,} 篇；残差的均方根 {np.sqrt((residuals**2).mean()):.2%}，最大 {np.abs(residuals).max():.2%}。"
            "参数含词嵌入；系数的区间只计入拟合的噪声，不计入形状、学习率没有逐个调过的偏差。",
            f"{len(residuals)} points, {found['documents']:,} held-out documents; residuals {np.sqrt((residuals**2).mean()):.2%} (root mean square), {np.abs(residuals).max():.2%} at most. "
            "Parameters include the embedding; intervals hold the noise of the fit, not that shape and learning rate were not tuned for each size.",
        )
    ]


def _count(value: float) -> str:
    return short(float(f"{value:.3g}"))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])
