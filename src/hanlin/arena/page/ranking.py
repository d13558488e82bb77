"""Who is better than whom: scores, wins, style, categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.arena.page.markup import percent, section, share_cell, share_interval, table
from hanlin.common.messages import Text, listing
from hanlin.evaluation.statistics import Metric
from hanlin.report.svg import interval_plot
from hanlin.report.text import both, esc

STYLE_NAMES: dict[str, Text] = {
    "length": Text("length"),
    "lists": Text("list items"),
    "headings": Text("headings"),
    "bold": Text("bold passages"),
}


def ranking_section(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return ""
    rates = {entry["model"]: entry for entry in found["win_rates"]}
    if not found["scores"]:
        rows = [
            [esc(name), f"<small>{both('no finite estimate')}</small>", share_cell(entry), str(entry["n"])]
            for name, entry in rates.items()
        ]
        return section(
            Text("Ranking"), table([both("model"), both("score"), both("wins"), "n"], rows), "ranking"
        )
    low, high = min(s["low"] for s in found["scores"]), max(s["high"] for s in found["scores"])
    margin = 0.05 * (high - low) or 1.0
    rows = []
    for entry in found["scores"]:
        metric = Metric(entry["elo"], entry["low"], entry["high"], max(20, found["n"]))
        plot = interval_plot(metric, low - margin, high + margin, False, entry["model"])
        rows.append(
            [
                f'<span class="ordinal">{entry["rank"]}</span> {esc(entry["model"])}',
                f"<b>{entry['elo']:.0f}</b> <small>[{entry['low']:.0f}, {entry['high']:.0f}]</small>",
                f'<div class="plot">{plot}</div>',
                share_cell(rates[entry["model"]]),
                str(rates[entry["model"]]["n"]),
            ]
        )
    head = [both("model"), both("score"), both("95% interval over raters"), both("wins"), "n"]
    order = [entry["model"] for entry in found["scores"]]
    above = [
        [esc(name), *("–" if value is None else f"{100 * value:.0f}%" for value in row)]
        for name, row in zip(order, found["superiority"], strict=True)
    ]
    caption = Text(
        "Bradley–Terry scores, ties as half a win for each side. Rank: 1 and the number of models that are "
        "better in 97.5% of the draws, so models that cannot be told apart share one. Intervals come from "
        "drawing raters with replacement; they hold for these prompts and people like these."
    )
    if not found["by_rater"]:
        caption = Text(
            "Bradley–Terry scores, ties as half a win for each side. With one rater the intervals come from "
            "drawing votes, and say nothing of other people."
        )
    unconnected = ""
    if found["unconnected_draws"] > 0.01:
        unconnected = f'<p class="caption">{both("{share:.0%} of the draws have no finite score; the ends of the intervals are not to be taken literally.", share=found["unconnected_draws"])}</p>'
    return section(
        Text("Ranking"),
        table(head, rows)
        + f'<p class="caption">{both(caption)}</p>{unconnected}<h3>{both("How sure it is that the row is above the column")}</h3>'
        + table(["", *map(esc, order)], above),
        "ranking",
    )


def matrix_section(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return ""
    rows = [
        [
            esc(name),
            *("–" if cell is None else f"{share_cell(cell)} <small>n = {cell['n']}</small>" for cell in row),
        ]
        for name, row in zip(found["models"], found["matrix"], strict=True)
    ]
    ties = found["ties"]
    caption = Text(
        "Share of battles that the row's model won against the column's, ties as halves. Equal: {tie} of {n} "
        "votes ({tie_share}); both bad: {bad} ({bad_share}).",
        tie=ties["tie"]["count"],
        n=ties["n"],
        tie_share=percent(ties["tie"]["share"]),
        bad=ties["bad"]["count"],
        bad_share=percent(ties["bad"]["share"]),
    )
    same = [entry for entry in found["identical"] if entry["same"]]
    alike = ""
    if same:
        said = Text(
            "Not shown, since both answers were the same text: {pairs}. The scores are of the prompts on which "
            "the models differ.",
            pairs=listing(
                Text(
                    "{first} and {second} on {same} of {n} prompts",
                    first=entry["models"][0],
                    second=entry["models"][1],
                    same=entry["same"],
                    n=entry["n"],
                )
                for entry in same
            ),
        )
        alike = f'<p class="caption">{both(said)}</p>'
    return section(
        Text("Who beat whom"),
        table(["", *map(esc, found["models"])], rows) + f'<p class="caption">{both(caption)}</p>{alike}',
        "matrix",
    )


def style_section(found: Mapping[str, Any]) -> str:
    style = found.get("style")
    if not style:
        return ""
    parts = []
    longer = found["longer_wins"]
    if longer["n"]:
        said = both(
            "The longer answer won {share} of {n} battles.", share=share_interval(longer), n=longer["n"]
        )
        parts.append(f'<p class="says">{said}</p>')
    if "twice_as_long" in style and found["scores"]:
        longer = style["twice_as_long"]
        parts.append(
            '<p class="says">'
            + both(
                "All else equal, an answer twice as long as the other wins {value} of its battles [{low}, {high}].",
                **{end: percent(longer[end]) for end in ("value", "low", "high")},
            )
            + "</p>"
        )
    plain = {entry["model"]: entry for entry in found["scores"] or ()}
    rows = [
        [
            esc(entry["model"]),
            f"{plain[entry['model']]['elo']:.0f} <small>[{plain[entry['model']]['low']:.0f}, {plain[entry['model']]['high']:.0f}]</small>",
            f"<b>{entry['elo']:.0f}</b> <small>[{entry['low']:.0f}, {entry['high']:.0f}]</small>",
        ]
        for entry in style["scores"] or ()
        if entry["model"] in plain
    ]
    if rows:
        parts.append(table([both("model"), both("score"), both("with length and style held equal")], rows))
    if style["scores"]:
        rows = [
            [both(STYLE_NAMES[name]), f"{c['value']:+.2f} <small>[{c['low']:+.2f}, {c['high']:+.2f}]</small>"]
            for name, c in style["coefficients"].items()
        ]
        parts.append(
            f"<h3>{both('What style is worth')}</h3>"
            + table(["", both("log odds of a standard deviation more")], rows)
        )
    return section(Text("Length and style"), "".join(parts), "style")


def categories_section(found: Mapping[str, Any]) -> str:
    if not found["n"] or not found["categories"]:
        return ""
    rows = [
        [
            f"{esc(c['category'])} <small>n = {c['n']}</small>",
            *(share_cell(entry) if entry["n"] else "–" for entry in c["models"]),
        ]
        for c in found["categories"]
    ]
    note = Text(
        "Share of wins in each category, ties as halves, with 95% intervals that take votes as independent."
    )
    return section(
        Text("By category"),
        table(["", *map(esc, found["models"])], rows) + f'<p class="caption">{both(note)}</p>',
        "categories",
    )
