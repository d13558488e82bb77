"""A fitted scaling law as text, Markdown and a picture, in the language of the locale. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hanlin.common import terminal
from hanlin.common.messages import tr
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
        tr("# Scaling law: {recipe}", recipe=found["recipe"]),
        law_line(found),
        terminal.markdown_table(_coefficients(found)),
    ]
    parts += [tr("## Points"), terminal.markdown_table(_points(found))]
    if found["advice"]:
        parts += [
            tr("## Advice"),
            "\n".join(f"- {line}" for entry in found["advice"] for line in advice_lines(entry)),
        ]
    return "\n\n".join([*parts, "\n".join(_about(found))]) + "\n"


def law_line(found: Mapping[str, Any]) -> str:
    """The law with its numbers."""
    law = found["law"]
    return (
        f"L(N, D) = {law['E']:.4f} + {law['A']:.4g}/N^{law['alpha']:.3f} "
        f"+ {law['B']:.4g}/D^{law['beta']:.3f}  " + tr("(bits per byte)")
    )


def advice_lines(entry: Mapping[str, Any]) -> list[str]:
    """What a budget should be spent on, and how far that lies from anything that was trained."""
    size, shape = entry["parameters"], entry["shape"]
    (low, high), (best, worst) = entry["parameters_interval"], entry["loss_interval"]
    what = (
        tr("{seconds} of time", seconds=format_seconds(entry["seconds"]))
        if entry["seconds"]
        else f"{entry['flops']:.3g} FLOPs"
    )
    lines = [
        tr(
            "Budget of {what}: {size} parameters [{low}, {high}] (width {hidden_size}, {num_hidden_layers} "
            "layers), {tokens} tokens ({tokens_per_param:.1f} per parameter), {loss:.4f} [{best:.4f}, "
            "{worst:.4f}] bits per byte expected.",
            what=what,
            size=_count(size),
            low=_count(low),
            high=_count(high),
            hidden_size=shape["hidden_size"],
            num_hidden_layers=shape["num_hidden_layers"],
            tokens=_count(entry["tokens"]),
            tokens_per_param=entry["tokens"] / size,
            loss=entry["loss"],
            best=best,
            worst=worst,
        )
    ]
    of_size, of_length = entry["outside"]
    if max(of_size, of_length) > 1.0:
        guess = (
            tr("; so far out it is a guess: train a point nearby first")
            if max(of_size, of_length) > _FAR
            else ""
        )
        lines.append(
            tr(
                "This extrapolates: {of_size:.1f} times outside the sizes that were trained, "
                "{of_length:.1f} times outside the lengths{guess}.",
                of_size=of_size,
                of_length=of_length,
                guess=guess,
            )
        )
    if entry["at_edge"]:
        lines.append(tr("The best point is at the edge of what was searched: the optimum lies further out."))
    return lines


def scaling_picture(found: Mapping[str, Any]) -> str:
    """Bits per byte against tokens, a colour for each size, the law through them; an SVG that stands by
    itself."""
    sizes = sorted({point["parameters"] for point in found["points"]})
    names, top = legend([f"{_count(size)} " + tr("parameters") for size in sizes], top=78)
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
        label=tr("tokens of training (log)"),
        log_x=True,
    )
    title = tr("Scaling law: bits per byte of held-out text")
    return document(title, law_line(found) + tr("; dashed outside the data"), body, bottom + 48)


def _loss(found: Mapping[str, Any], parameters: float, tokens: np.ndarray) -> np.ndarray:
    law = found["law"]
    return law["E"] + law["A"] / parameters ** law["alpha"] + law["B"] / tokens ** law["beta"]


def _coefficients(found: Mapping[str, Any]) -> list[list[str]]:
    head = [tr("coefficient"), tr("value"), "95 %"]
    return [head] + [
        [name, f"{value:.4g}", "[{:.4g}, {:.4g}]".format(*found["intervals"][name])]
        for name, value in found["law"].items()
    ]


def _points(found: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [
            tr("parameters"),
            tr("width x layers"),
            tr("tokens"),
            tr("measured"),
            tr("law"),
            tr("residual"),
            tr("tokens/s"),
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
            "{count} points, {documents:,} held-out documents; residuals {mean:.2%} (root mean square), "
            "{residuals:.2%} at most. Parameters include the embedding; intervals hold the noise of the "
            "fit, not that shape and learning rate were not tuned for each size.",
            count=len(residuals),
            documents=found["documents"],
            mean=np.sqrt((residuals**2).mean()),
            residuals=np.abs(residuals).max(),
        )
    ]


def _count(value: float) -> str:
    return short(float(f"{value:.3g}"))
