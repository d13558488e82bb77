"""The page that shows a run to people: one file, no network, Chinese and English, screen and paper. Read from
top to bottom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common.messages import Text, listing, sentences
from hanlin.evaluation.statistics import FEWEST, Control, Metric, beats, ranking
from hanlin.report import svg
from hanlin.report.evidence import curves_of, drops_of, facts_of, provenance, samples_of
from hanlin.report.findings import alarms, findings_of
from hanlin.report.model_facts import examples_of, in_a_line, model_of, tokens_of
from hanlin.report.stage_tables import (
    about_bits,
    about_control,
    before_and_after,
    few,
    greedy_and_sampled,
    split,
    target_of,
)
from hanlin.report.text import (
    STEPS,
    apart_text,
    both,
    control_text,
    duration,
    esc,
    in_words,
    memory,
    metric_text,
    show,
    span,
    stage_text,
)

STATIC = Path(__file__).parent / "static"


def render_report(report: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    """The whole page as HTML. Whatever comes from data is escaped; see `write_report` for the arguments."""
    stages = report["stages"]
    title = f"翰林 Hanlin · {esc(report['recipe'])}"
    parts = [
        _cover(report, extras),
        _contents(report, extras),
        _tiles(stages),
        model_of(report["about"]) if report.get("about") else "",
        _overview(stages, extras),
        *(_stage(number, stage, extras) for number, stage in enumerate(stages, start=1)),
        provenance(report, extras),
    ]
    return document(title, parts)


def document(title: str, parts: Iterable[str], styles: Sequence[str] = ("report.css",)) -> str:
    """A page of these parts that needs no network.

    Args:
        title: HTML.
        styles: style sheets in `static`, or absolute paths of others.
    """
    style, script = (
        "".join((STATIC / name).read_text(encoding="utf-8") for name in names)
        for names in (styles, ("report.js",))
    )
    page = (
        '<!doctype html>\n<html lang="zh-CN" data-language="zh"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{style}</style><script>{script}</script></head>\n<body>{''.join(parts)}</body></html>\n"
    )
    return page.encode("utf-8", "replace").decode()  # halves of surrogate pairs have no UTF-8


def masthead(brand: Text, name: str, title: Text, subtitle: str, lede: Text) -> str:
    """The buttons, and what the page is: a seal, a title, some sentences.

    Args:
        name: shown as code, escaped here.
        subtitle: HTML.
    """
    return (
        '<nav class="controls"><button id="language" type="button">EN</button><button id="theme" type="button">◐</button></nav>'
        f'<header><p class="brand"><span class="seal" aria-hidden="true">翰林</span>{both(brand)}<code>{esc(name)}</code></p>'
        f'<h1>{both(title)}</h1>{subtitle}<p class="lede">{both(lede)}</p></header>'
    )


# ---------------------------------------------------------------- the first page


def _cover(report: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    stages = report["stages"]
    judged = [metric for stage in stages if (metric := target_of(stage)) and metric[1].control]
    won = sum(beats(metric) for _, metric in judged)
    rejected = [stage for stage in stages if not stage["kept"]]
    lede = [
        Text(
            "Recipe {recipe} (seed {seed}) ran {count} stages: {stages}. It took {time} and {memory} of "
            "memory at most.",
            recipe=report["recipe"],
            seed=report["seed"],
            count=len(stages),
            stages=_titles(stages),
            time=duration(report["seconds"]),
            memory=memory(report["peak_rss_mb"]),
        )
    ]
    if judged:
        lede.append(
            Text(
                "{count} stages each had a control that could have done as well; {won} of them beat it.",
                count=len(judged),
                won=won,
            )
        )
    unsure = sum(metric.n < FEWEST for _, metric in judged)
    if unsure:
        lede.append(
            Text(
                "{unsure} of them were measured on fewer than {fewest} items, too few to tell.",
                unsure=unsure,
                fewest=FEWEST,
            )
        )
    if rejected:
        lede.append(
            Text(
                "Not kept: {stages}; the best model before it is what was published.",
                stages=_titles(rejected),
            )
        )
    undecided = [stage for stage in stages if stage["kept"] and _is_undecided(stage)]
    if undecided:
        lede.append(
            Text(
                "Kept, but undecided: {stages}; what their items could not show stands with each.",
                stages=_titles(undecided),
            )
        )
    ill = [stage for stage in stages if _is_red(stage)]
    if ill:
        lede.append(Text("The doctors found faults of the models of: {stages}.", stages=_titles(ill)))
    lede.append(
        Text(
            "Every score is measured on unseen items with a 95% confidence interval. Scores of the same "
            "items are compared item by item; of others, those whose intervals overlap are not ranked."
        )
    )
    description = extras.get("recipe_resolved", {}).get("description") or {}
    # What the run made, not what the recipe says of itself: settings given on the command line may have
    # changed that.
    about = in_a_line(report["about"]) if report.get("about") else None
    if about is None and {"zh", "en"} <= set(description):
        about = Text.from_dict(description)
    subtitle = f'<p class="subtitle">{both(about)}</p>' if about else ""
    title = Text("From raw text to a language model")
    if any(stage["kind"] not in ("pretrain", *STEPS) for stage in stages):
        title = Text("From raw text to a model you can talk to")
    return masthead(Text("Run report"), report["recipe"], title, subtitle, sentences(lede))


def _is_undecided(stage: Mapping[str, Any]) -> bool:
    """Whether the gate could not decide on a stage's model."""
    return (stage.get("gate") or {}).get("verdict") == "undecided"


def _is_red(stage: Mapping[str, Any]) -> bool:
    """Whether a doctor found its model at fault."""
    return any(finding["level"] == "red" for finding in alarms(stage.get("doctors") or {}).values())


def _titles(stages: Sequence[Mapping[str, Any]]) -> Text:
    """The stages' titles inside a sentence."""
    return listing(stage_text(stage).title.lower() for stage in stages)


def _contents(report: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    """Links to the sections, and to the corpus' own page."""
    links = [f'<a href="#model">{both("Model")}</a>'] if report.get("about") else []
    links.append(f'<a href="#overview">{both("Overview")}</a>')
    links += [
        f'<a href="#{esc(stage["id"])}">{both(stage_text(stage).title)}</a>' for stage in report["stages"]
    ]
    links.append(f'<a href="#provenance">{both("Provenance")}</a>')
    if extras.get("corpus_page"):
        links.append(f'<a href="{esc(extras["corpus_page"])}">{both("Corpus report ↗")}</a>')
    return f'<nav class="contents" id="top">{"".join(links)}</nav>'


def _tiles(stages: Sequence[Mapping[str, Any]]) -> str:
    tiles = []
    for stage in stages:
        aim = target_of(stage)
        if aim is None:
            continue
        name, metric = aim
        text = metric_text(name)
        unit = "" if text.share else f"<small>{both('bits')}</small>"
        rejected = "" if stage["kept"] else f'<p class="against">{both("this stage was not kept")}</p>'
        control = ""
        if metric.control:
            label = control_text(metric.control.name)
            control = f'<p class="against">{both("control")} <b>{show(metric.control.value, text.share)}</b> · {both(label)}</p>'
        tiles.append(
            f'<a class="tile {"" if stage["kept"] else "rejected"}" href="#{esc(stage["id"])}"><p class="tile-name">{both(text.name)}</p>'
            f'<p class="tile-value">{show(metric.value, text.share)}{unit}</p>'
            f'<p class="tile-interval">{both(span(metric, text.share, dash=True))} · n = {metric.n:,}{few(metric)}</p>{control}{rejected}</a>'
        )
    return f'<section class="tiles">{"".join(tiles)}</section>' if tiles else ""


def _overview(stages: Sequence[Mapping[str, Any]], extras: Mapping[str, Any]) -> str:
    """Stage by stage: verdict, where its time lies in the whole, its memory."""
    total, most = (
        sum(stage["seconds"] for stage in stages) or 1.0,
        max((stage["peak_rss_mb"] for stage in stages), default=0) or 1.0,
    )
    rows, elapsed = [], 0.0
    for number, stage in enumerate(stages, start=1):
        start, elapsed = elapsed, elapsed + stage["seconds"]
        rows.append(
            f'<tr><td class="number">{number}</td><th scope="row"><a href="#{esc(stage["id"])}">{both(stage_text(stage).title)}</a></th>'
            f"<td>{_verdict(stage)}</td>"
            f'<td class="wide">{svg.bar(start / total, elapsed / total, "time")}</td><td class="figure">{both(duration(stage["seconds"]))}</td>'
            f'<td class="wide">{svg.bar(0, stage["peak_rss_mb"] / most, "memory")}</td><td class="figure">{memory(stage["peak_rss_mb"])}</td></tr>'
        )
    return (
        f'<section class="overview" id="overview"><h2>{both("The stages at a glance")}</h2><div class="scroll"><table><thead><tr><th></th>'
        f"<th>{both('Stage')}</th><th>{both('Against its control')}</th>"
        f'<th colspan="2">{both("Time (left to right is the whole run)")}</th>'
        f'<th colspan="2">{both("Peak memory")}</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div><p class="caption">'
        f"{both(_PEAK_MEMORY)}</p></section>"
    )


_PEAK_MEMORY = Text(
    "Peak memory: the most that the process held during the stage, with what earlier stages had not given "
    "back."
)


def _verdict(stage: Mapping[str, Any]) -> str:
    aim, rejected = (
        target_of(stage),
        "" if stage["kept"] else f' <span class="mark lost">{both("not kept")}</span>',
    )
    if aim is None:
        return '<span class="mark none">—</span>' + rejected
    name, metric = aim
    value = show(metric.value, metric_text(name).share)
    if metric.control is None:
        return f"<small>{value}</small>{rejected}"
    (kind, text), against = _RESULTS[_result(metric)], show(metric.control.value, metric_text(name).share)
    return f'<span class="mark {kind}">{both(text)}</span><small>{value} {both("against")} {against}</small>{rejected}'


_RESULTS = {
    "better": ("won", Text("beats its control")),
    "overlap": ("even", Text.in_context("verdict", "cannot be told apart")),
    "worse": ("lost", Text("below its control")),
    "few": ("none", Text("too few items to tell")),
}


def _result(metric: Metric) -> str:
    assert metric.control is not None
    return ranking(metric, metric.control, metric.higher_is_better)


# ---------------------------------------------------------------- one stage


def _stage(number: int, stage: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    name, kind = stage["id"], stage["kind"]
    text, notes = stage_text(stage), dict((extras.get("notes") or {}).get(name) or {})
    gate = notes.pop("gate", None) or stage.get("gate")
    doctors = notes.pop("doctors", None) or stage.get("doctors")
    samples = (extras.get("samples") or {}).get(name) or stage["samples"]
    aim = target_of(stage)
    before = notes.get("before") or {}
    main, guards, sampled = split(stage["metrics"], before)
    if aim is not None and aim[0] in main:
        main = {aim[0]: aim[1]} | main
    hidden = {"seconds"} if kind == "corpus" else set()  # of its steps; the corpus page has them
    parts = [
        f'<section class="stage" id="{esc(name)}"><h2><span class="ordinal">{number}</span>{both(text.title)}<code>{esc(name)}</code></h2>',
        f'<p class="says">{both(text.does)} {_outcome(aim) if aim else ""}</p>',
        _gate(stage, gate),
        _metrics(main),
        about_bits(main.get("bits_per_byte"), notes.get("pretrained_bits_per_byte")),
        about_control(notes.get("curves")),
        before_and_after(guards, before, (gate or {}).get("judged") or ()),
        greedy_and_sampled(sampled, notes.get("sampled")),
        findings_of(doctors),
        curves_of(name, extras.get("curves") or {}, aim),
        drops_of(extras.get("drops") or {}) if kind == "corpus" else "",
        tokens_of(extras.get("tokens")) if kind == "tokenizer" else "",
        examples_of((extras.get("examples") or {}).get(name)),
        samples_of(samples, stage["metrics"]),
        facts_of(notes, hidden),
        f'<p class="back"><a href="#top">{both("↑ contents")}</a></p>',
    ]
    return "".join(parts) + "</section>"


def _outcome(aim: tuple[str, Metric]) -> str:
    """One sentence: did it beat its control?"""
    name, metric = aim
    text = metric_text(name)
    value = show(metric.value, text.share)
    if metric.control is None:
        return both("{text}: {value}.", text=text.name, value=value)
    control, against = control_text(metric.control.name), show(metric.control.value, text.share)
    figures = Text(
        "{metric} {value}, {control} {against}",
        metric=text.name.lower(),
        value=value,
        control=control,
        against=against,
    )
    result, pairs = _result(metric), metric.control.difference
    if result == "few":
        said = Text(
            "With {n} items it cannot be said whether it beat its control: {figures}.",
            n=metric.n,
            figures=figures,
        )
    elif pairs is None:
        said = {
            "better": Text("It beat its control: {figures}, the intervals apart.", figures=figures),
            "overlap": Text(
                "It did not beat its control: {figures}; the intervals overlap, so they cannot be told apart.",
                figures=figures,
            ),
            "worse": Text("It did not beat its control but fell below it: {figures}.", figures=figures),
        }[result]
    else:
        said = _item_by_item(result, figures, apart_text(None, *pairs, text.share))
    return f"<strong>{both(said)}</strong>"


def _item_by_item(result: str, figures: Text, apart: Text) -> Text:
    """The same of a control that is compared item by item."""
    fields = {"figures": figures, "apart": apart}
    if result == "better":
        return Text("It beat its control: {figures}; item by item the gain is within {apart}.", **fields)
    if result == "worse":
        return Text(
            "It did not beat its control but fell below it: {figures}; item by item the gain is within "
            "{apart}.",
            **fields,
        )
    return Text(
        "It did not beat its control: {figures}; item by item the gain is within {apart}, so they cannot "
        "be told apart.",
        **fields,
    )


def _gate(stage: Mapping[str, Any], gate: Mapping[str, Any] | None) -> str:
    kept = stage["kept"]
    if gate is None and kept:
        return ""
    titles = {stage["id"]: stage_text(stage).title}
    reason = in_words(Text.from_dict(gate), titles) if gate else Text("This stage's model was not kept.")
    kind, label = ("won", Text("kept")) if kept else ("lost", Text("not kept"))
    if kept and gate and gate.get("verdict") == "undecided":
        kind, label = "even", Text("kept, undecided")
    return f'<p class="gate"><span class="mark {kind}">{both(label)}</span> {both(reason)}</p>'


def _metrics(metrics: Mapping[str, Metric]) -> str:
    if not metrics:
        return ""
    longest = _ends([metric for name, metric in metrics.items() if not metric_text(name).share])
    rows = "".join(_metric_row(name, metric, longest) for name, metric in metrics.items())
    return (
        f'<div class="scroll"><table class="metrics"><thead><tr><th>{both("Metric")}</th>'
        f'<th class="figure">{both("Result")}</th><th class="figure">{both("Control")}</th>'
        f'<th class="plot">{both("95% intervals")}<span class="legend"><i class="ours"></i>{both("result")}'
        f'<i class="control"></i>{both("control")}</span></th>'
        f'<th class="figure">{both("Items")}</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _metric_row(name: str, metric: Metric, longest: tuple[float, float]) -> str:
    text = metric_text(name)

    def figure(score: Metric | Control) -> str:
        return (
            f"<b>{show(score.value, text.share)}</b><small>{both(span(score, text.share, dash=True))}</small>"
        )

    control = ""
    if metric.control:
        c = metric.control
        control = f'{figure(c)}<small class="who">{both(control_text(c.name))}</small>'
    chance = (
        "" if metric.chance is None else f"<small>{both('chance')} {show(metric.chance, text.share)}</small>"
    )
    meaning = f"<small>{both(text.meaning)}</small>" if text.meaning else ""
    low, high = _share_scale(metric) if text.share else longest
    label = f"{name}: {show(metric.value, text.share)} {span(metric, text.share).en}"
    return (
        f'<tr><th scope="row">{both(text.name)}{meaning}</th><td class="figure">{figure(metric)}</td>'
        f'<td class="figure">{control}</td><td class="plot">{svg.interval_plot(metric, low, high, text.share, label)}</td>'
        f'<td class="figure">{metric.n:,}{few(metric)}{chance}</td></tr>'
    )


def _share_scale(metric: Metric) -> tuple[float, float]:
    """Shares stand on 0 … 100 %, those that are all small on a shorter scale from 0."""
    low, high = _ends([metric])
    return low, next((top for top in (0.01, 0.02, 0.05, 0.1, 0.2, 1.0) if top >= high / 1.1), high)


def _ends(metrics: Sequence[Metric]) -> tuple[float, float]:
    """One scale for several metrics and their controls, with zero on it."""
    ends = [0.0] + [
        end
        for metric in metrics
        for score in (metric, metric.control)
        if score
        for end in (score.low, score.value, score.high)
    ]
    ends = [end for end in ends if math.isfinite(end)]
    return min(ends), max(ends) * 1.1 or 1.0
