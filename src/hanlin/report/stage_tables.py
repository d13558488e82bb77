"""Compact tables of a stage: what it was given beside what it left, greedy answers beside sampled ones, what
a control was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.common.messages import Text, listing, verbatim
from hanlin.evaluation.statistics import FEWEST, Control, Metric, ranking
from hanlin.report.text import apart_text, both, control_text, metric_text, show, span

SAMPLED = "/sampled"

VERDICTS = {
    "better": ("won", Text("better")),
    "worse": ("lost", Text("worse")),
    "overlap": ("even", Text("no telling apart")),
    "few": ("none", Text("too few items")),
}


FINDINGS = {
    "better": ("won", Text("better")),
    "worse": ("lost", Text("worse")),
    "unclear": ("even", Text("no telling apart")),
    "held": ("won", Text("held")),
    "lost": ("lost", Text("lost too much")),
    "undecided": ("even", Text("undecided")),
}


def few(metric: Metric) -> str:
    """A flag for figures that rest on few items."""
    if metric.n >= FEWEST:
        return ""
    return f' <span class="few">{both("fewer than {fewest}: too few to tell", fewest=FEWEST)}</span>'


def target_of(stage: Mapping[str, Any]) -> tuple[str, Metric] | None:
    """The metric a stage is judged by: the one it names, else the first that has a control."""
    metrics = {name: Metric.from_dict(raw) for name, raw in stage["metrics"].items()}
    target = stage.get("target")
    if target is not None and target in metrics:
        return target, metrics[target]
    return next(((name, metric) for name, metric in metrics.items() if metric.control), None)


def split(
    raw: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[dict[str, Metric], dict[str, Metric], dict[str, Metric]]:
    """A stage's metrics: those for the table with controls, guards that have a value before, and pairs of
    greedy and sampled."""
    metrics = {name: Metric.from_dict(value) for name, value in raw.items()}
    pairs = {name for name in metrics if name + SAMPLED in metrics}
    sampled = {name: metric for name, metric in metrics.items() if name in pairs or name.endswith(SAMPLED)}
    rest = {name: metric for name, metric in metrics.items() if name not in sampled}
    guards = {
        name: metric
        for name, metric in rest.items()
        if name in before and not (metric.control and metric.control.name in ("base", "before"))
    }
    main = {name: metric for name, metric in rest.items() if name not in guards or metric.control is not None}
    return main, guards, sampled


def before_and_after(
    guards: Mapping[str, Metric], before: Mapping[str, Any], judged: Sequence[Mapping[str, Any]] = ()
) -> str:
    """What earlier stages taught: the model before, the model after, and what the gate found of them; of what
    it did not judge, whether they can be told apart.

    Args:
        judged: parts of the gate's verdict (`gate.Judgement.to_dict`).
    """
    found = {judgement["metric"]: judgement for judgement in judged}
    rows = []
    for name, after in guards.items():
        old = Metric.from_dict(before[name])
        share = metric_text(name).share
        if name in found:
            change = _judgement(found[name], share)
        else:
            kind, verdict = VERDICTS[ranking(after, old, after.higher_is_better)]
            change = f'<span class="mark {kind}">{both(verdict)}</span>'
        rows.append(
            f'<tr><th scope="row">{both(metric_text(name).name)}</th>{_figure(old, share)}{_figure(after, share)}'
            f'<td>{change}</td><td class="figure">{after.n:,}</td></tr>'
        )
    return _table(
        Text("What it could do before, and can now"),
        (
            Text("Metric"),
            Text("Before"),
            Text("After"),
            Text("Gain"),
            Text("Items"),
        ),
        rows,
    )


def _judgement(judged: Mapping[str, Any], share: bool) -> str:
    """What the gate found of a metric: the difference with the ends that decided, the loss allowed, and how
    many items more would decide."""
    kind, verdict = FINDINGS.get(judged["finding"], ("none", verbatim(judged["finding"])))
    said = [apart_text(judged["difference"], judged["low"], judged["high"], share)]
    if judged.get("allowed") is not None:
        allowed = f"{100 * judged['allowed']:.1f}" if share else f"{judged['allowed']:.3f}"
        said.append(Text("allowed: {allowed}", allowed=allowed))
    if judged.get("further"):
        said.append(Text("about {further:,} more items would decide", further=judged["further"]))
    return f'<span class="mark {kind}">{both(verdict)}</span><small>{both(listing(said))}</small>'


def greedy_and_sampled(metrics: Mapping[str, Metric], settings: Mapping[str, float] | None) -> str:
    """The same items answered with the likeliest tokens, and by sampling as `hanlin chat` does."""
    rows = []
    for name, metric in metrics.items():
        other = metrics.get(name + SAMPLED)
        if other is None:
            continue
        share = metric_text(name).share
        rows.append(
            f'<tr><th scope="row">{both(metric_text(name).name)}<small>{both(metric_text(name).meaning)}</small></th>'
            f'{_figure(metric, share, few(metric))}{_figure(other, share)}<td class="figure">{metric.n:,}</td></tr>'
        )
    how = ""
    if settings:
        how = " (" + ", ".join(f"{name} {value:g}" for name, value in settings.items()) + ")"
    sampled = Text("Sampled, as chat does by default{how}", how=how)
    return _table(
        Text("The likeliest token each time, and sampling"),
        (Text("Metric"), Text("Greedy"), sampled, Text("Items")),
        rows,
    )


def about_bits(metric: Metric | None, pretrained: float | None) -> str:
    """Bits per byte of the final model in words: what later stages cost at bare text, and the control beside
    it."""
    if metric is None or pretrained is None:
        return ""
    figures = Text(
        "On unseen text the pretrained model needs {pretrained:.3f} bits per byte, the final model "
        "{final:.3f}",
        pretrained=pretrained,
        final=metric.value,
    )
    if metric.control is not None:
        figures = Text(
            "{figures}, the {control} {value:.3f}",
            figures=figures,
            control=control_text(metric.control.name),
            value=metric.control.value,
        )
    note = both(
        "{figures}. Stages after pretraining teach conversation and cost some of the skill at bare text; "
        "these figures say how much.",
        figures=figures,
    )
    return f"<p>{note}</p>"


def about_control(control: Sequence[Mapping[str, float]] | None) -> str:
    """What GRPO's control of equal time was given: its steps and rate, for each seed."""
    if not control:
        return ""
    steps = [f"{run['steps']:,}" for run in control]
    rates = [f"{run['mean_learning_rate']:.2g}" for run in control]
    note = both(
        "The control went on with fine-tuning for the same time: {steps} steps, at a mean learning rate of "
        "{rates}.",
        steps=listing(steps),
        rates=listing(rates),
    )
    return f'<p class="caption">{note}</p>'


def _figure(score: Metric | Control, share: bool, flag: str = "") -> str:
    return f'<td class="figure"><b>{show(score.value, share)}</b> <small>{both(span(score, share, dash=True))}</small>{flag}</td>'


def _table(title: Text, heads: Sequence[Text], rows: Sequence[str]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{both(text)}</th>" for text in heads)
    return (
        f'<h3>{both(title)}</h3><div class="scroll"><table class="compact"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
