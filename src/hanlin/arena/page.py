"""The results of an arena as one page to read and print, and as lines for a terminal. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common import terminal
from hanlin.common.messages import Text, joined, listing, sentences, tr, verbatim
from hanlin.evaluation.statistics import Metric
from hanlin.report.page import document, masthead
from hanlin.report.svg import interval_plot
from hanlin.report.text import both, esc

STYLE = Path(__file__).parent / "static" / "report.css"
HARDLY_AGREE = 0.6

STEPS: dict[str, Text] = {
    "settled": Text("battles settled"),
    "skipped": Text("skipped by the rater"),
    "excluded_gold": Text("of raters who failed the attention checks"),
    "excluded_side": Text("of raters who chose by side"),
    "excluded_fast": Text("of raters who voted faster than one can read"),
    "gold": Text("attention checks"),
    "repeat": Text("repetitions with the sides swapped, for consistency"),
    "shared": Text("battles shared by all raters, for agreement"),
}
REASON_NAMES: dict[str, Text] = {
    "fluency": Text("not fluent"),
    "relevance": Text("off the point"),
    "facts": Text("wrong facts"),
    "repetition": Text("repeats"),
    "short": Text("too short"),
    "long": Text("too long"),
    "unsafe": Text("unsafe"),
}
STYLE_NAMES: dict[str, Text] = {
    "length": Text("length"),
    "lists": Text("list items"),
    "headings": Text("headings"),
    "bold": Text("bold passages"),
}
VERDICTS: dict[str, Text] = {
    "first": Text("the first better"),
    "second": Text("the second better"),
    "tie": Text("equal"),
    "bad": Text("both bad"),
}


def render_arena(found: Mapping[str, Any]) -> str:
    """The page as HTML; whatever comes from data is escaped."""
    parts = [
        masthead(
            Text("Arena"), found["arena"], Text("Which model do people prefer?"), "", sentences(_lede(found))
        ),
        _ranking(found),
        _matrix(found),
        _style(found),
        _trust(found),
        _funnel(found),
        _categories(found),
        _reasons(found),
        _judges(found),
        _disputed(found),
        _answers(found),
        _rules(found),
    ]
    return document(f"翰林 Hanlin · {esc(Text('Arena').en)}", parts, ("report.css", str(STYLE)))


def summary(found: Mapping[str, Any]) -> str:
    """The main figures for a terminal."""
    lines = [str(sentence) for sentence in _lede(found)]
    if found["scores"]:
        rows = [[tr("rank"), tr("model"), tr("score"), "95 %", tr("wins"), "n"]]
        rates = {entry["model"]: entry for entry in found["win_rates"]}
        rows += [
            [
                str(entry["rank"]),
                entry["model"],
                f"{entry['elo']:.0f}",
                f"[{entry['low']:.0f}, {entry['high']:.0f}]",
                _percent(rates[entry["model"]]["share"]),
                str(rates[entry["model"]]["n"]),
            ]
            for entry in found["scores"]
        ]
        lines += ["", *terminal.table(rows), ""]
    lines += [
        str(sentence)
        for sentence in (*_side_sentences(found), _agreement_sentence(found), _repeats_sentence(found))
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------- what was found


def _lede(found: Mapping[str, Any]) -> list[Text]:
    lines = [
        Text(
            "{raters} raters settled {settled} of {planned} battles between {models} on {prompts} prompts; "
            "{n} votes count for the ranking.",
            raters=found["raters"],
            settled=found["funnel"][0]["left"],
            planned=found["battles_planned"],
            models=listing(found["models"]),
            prompts=found["prompts"],
            n=found["n"],
        )
    ]
    if not found["n"]:
        return [*lines, Text("There is nothing to rank yet.")]
    if not found["finite"]:
        lines.append(
            Text(
                "No finite estimate: {parts} never won or never lost against the others, so no score fits best. "
                "The matrix below shows who beat whom.",
                parts=joined([listing(part) for part in found["parts"]], Text(" and ")),
            )
        )
        return lines
    if not found["scores"]:
        return [*lines, Text("One vote has no interval; more are needed.")]
    best = found["scores"][0]
    lines.append(
        Text(
            "{model} scores highest: {elo:.0f} [{low:.0f}, {high:.0f}], where 1000 is the mean of the models "
            "and 100 points are 64% of wins.",
            **{key: best[key] for key in ("model", "elo", "low", "high")},
        )
    )
    lines.append(_needed(found))
    if not found["by_rater"]:
        lines.append(Text("There is one rater: the intervals say nothing of other people."))
    return lines


def _needed(found: Mapping[str, Any]) -> Text:
    needed, top = found["needed"], found.get("top_two")
    if top is None or needed["state"] == "unknown":
        return Text("How many more votes are needed cannot be said yet.")
    first, second = top["models"]
    gap = Text("{gap:.0f} points [{low:.0f}, {high:.0f}]", gap=top["gap"], low=top["low"], high=top["high"])
    if needed["state"] == "separated":
        return Text(
            "{first} is ahead of {second} by {gap}: no more votes are needed for that.",
            first=first,
            second=second,
            gap=gap,
        )
    if needed["state"] == "equivalent":
        return Text(
            "{first} and {second} are equivalent within ±{within:.0f} points ({gap}): more votes would not "
            "change that.",
            first=first,
            second=second,
            within=needed["within"],
            gap=gap,
        )
    if needed["votes"] is None:
        return Text(
            "{first} and {second} cannot be told apart ({gap}); if they are as close as they look, no class "
            "has enough votes to.",
            first=first,
            second=second,
            gap=gap,
        )
    return Text(
        "{first} and {second} cannot be told apart ({gap}). If the difference is what it looks, {between} votes "
        "between the two show it with 80% power: about {votes} more battles of this schedule.",
        first=first,
        second=second,
        gap=gap,
        between=needed["between"],
        votes=needed["votes"],
    )


def _section(title: Text, body: str, key: str) -> str:
    return f'<section class="stage" id="{key}"><h2>{both(title)}</h2>{body}</section>' if body else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "compact") -> str:
    """A table of cells that are HTML; the first of each row is its head."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f'<td class="figure">{cell}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _ranking(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return ""
    rates = {entry["model"]: entry for entry in found["win_rates"]}
    if not found["scores"]:
        rows = [
            [esc(name), f"<small>{both('no finite estimate')}</small>", _cell(entry), str(entry["n"])]
            for name, entry in rates.items()
        ]
        return _section(
            Text("Ranking"), _table([both("model"), both("score"), both("wins"), "n"], rows), "ranking"
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
                _cell(rates[entry["model"]]),
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
    return _section(
        Text("Ranking"),
        _table(head, rows)
        + f'<p class="caption">{both(caption)}</p>{unconnected}<h3>{both("How sure it is that the row is above the column")}</h3>'
        + _table(["", *map(esc, order)], above),
        "ranking",
    )


def _matrix(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return ""
    rows = [
        [
            esc(name),
            *("–" if cell is None else f"{_cell(cell)} <small>n = {cell['n']}</small>" for cell in row),
        ]
        for name, row in zip(found["models"], found["matrix"], strict=True)
    ]
    ties = found["ties"]
    caption = Text(
        "Share of battles that the row's model won against the column's, ties as halves. Equal: {tie} of {n} "
        "votes ({tie_share}); both bad: {bad} ({bad_share}).",
        tie=ties["tie"]["count"],
        n=ties["n"],
        tie_share=_percent(ties["tie"]["share"]),
        bad=ties["bad"]["count"],
        bad_share=_percent(ties["bad"]["share"]),
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
    return _section(
        Text("Who beat whom"),
        _table(["", *map(esc, found["models"])], rows) + f'<p class="caption">{both(caption)}</p>{alike}',
        "matrix",
    )


def _style(found: Mapping[str, Any]) -> str:
    style = found.get("style")
    if not style:
        return ""
    parts = []
    longer = found["longer_wins"]
    if longer["n"]:
        said = both("The longer answer won {share} of {n} battles.", share=_interval(longer), n=longer["n"])
        parts.append(f'<p class="says">{said}</p>')
    if "twice_as_long" in style and found["scores"]:
        longer = style["twice_as_long"]
        parts.append(
            '<p class="says">'
            + both(
                "All else equal, an answer twice as long as the other wins {value} of its battles [{low}, {high}].",
                **{end: _percent(longer[end]) for end in ("value", "low", "high")},
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
        parts.append(_table([both("model"), both("score"), both("with length and style held equal")], rows))
    if style["scores"]:
        rows = [
            [both(STYLE_NAMES[name]), f"{c['value']:+.2f} <small>[{c['low']:+.2f}, {c['high']:+.2f}]</small>"]
            for name, c in style["coefficients"].items()
        ]
        parts.append(
            f"<h3>{both('What style is worth')}</h3>"
            + _table(["", both("log odds of a standard deviation more")], rows)
        )
    return _section(Text("Length and style"), "".join(parts), "style")


# ---------------------------------------------------------------- can the raters be trusted


def _side_sentences(found: Mapping[str, Any]) -> list[Text]:
    side = found["sides"]["all"]
    if not side["n"]:
        return [Text("No vote was decided for a side yet.")]
    lines = [
        Text(
            "The left answer won {share} of {n} decided battles (half is expected; p = {p:.2g}).",
            share=_interval(side),
            n=side["n"],
            p=side["p"],
        )
    ]
    if found["sides"]["raters"]:
        lines.append(
            Text(
                "{count} raters chose one side more often than chance explains: {raters}.",
                count=len(found["sides"]["raters"]),
                raters=listing(
                    Text(
                        "{rater} ({left} of {decided} left)",
                        **{k: r[k] for k in ("rater", "left", "decided")},
                    )
                    for r in found["sides"]["raters"]
                ),
            )
        )
    return lines


def _agreement_sentence(found: Mapping[str, Any]) -> Text:
    a = found["agreement"]
    if a["alpha"] is None:
        return Text("No battle was judged by several raters yet: agreement is not known.")
    interval = (
        Text("interval not known")
        if a["alpha_low"] is None
        else verbatim(f"[{a['alpha_low']:.2f}, {a['alpha_high']:.2f}]")
    )
    lines = [
        Text(
            "Krippendorff's α of {judgements} judgements of {battles} battles: {alpha:.2f} {interval} (1: all "
            "agree, 0: as by chance).",
            judgements=a["judgements"],
            battles=a["battles"],
            alpha=a["alpha"],
            interval=interval,
        )
    ]
    if a["agreement"] is not None:
        lines.append(
            Text(
                "Two raters who both chose an answer chose the same {agreement:.0%} of the time ({pairs} pairs).",
                agreement=a["agreement"],
                pairs=a["pairs"],
            )
        )
        if a["agreement"] < HARDLY_AGREE:
            lines.append(
                Text("The votes hardly agree: read the ranking as one of these raters, not of quality.")
            )
    return sentences(lines)


def _repeats_sentence(found: Mapping[str, Any]) -> Text:
    repeats = found["repeats"]
    if not repeats["n"]:
        return Text("No battle was judged twice by the same rater yet.")
    return Text(
        "Shown again with its sides swapped, a battle got the same verdict {share} of {n} times.",
        share=_interval(repeats),
        n=repeats["n"],
    )


def _trust(found: Mapping[str, Any]) -> str:
    if not found["funnel"][0]["left"]:
        return ""
    gold, kept = found["gold"], found["sides"]["kept"]
    lines = [*_side_sentences(found)]
    if kept["n"] and found["excluded"]:
        lines.append(
            Text(
                "Without the raters left out it is {share} of {n} (p = {p:.2g}).",
                share=_interval(kept),
                n=kept["n"],
                p=kept["p"],
            )
        )
    lines += [_agreement_sentence(found), _repeats_sentence(found)]
    if gold["n"]:
        lines.append(
            Text(
                "Attention checks failed: {failed} of {n}, by {raters} raters.",
                failed=gold["failed"],
                n=gold["n"],
                raters=gold["raters_failing"],
            )
        )
    lines.append(Text("Votes taken back within ten seconds: {count}.", count=found["undone"]))
    items = "".join(f"<li>{both(line)}</li>" for line in lines)
    return _section(Text("Can the votes be trusted?"), f'<ul class="findings">{items}</ul>', "trust")


def _funnel(found: Mapping[str, Any]) -> str:
    first, *steps = found["funnel"]
    if not first["left"]:
        return ""
    total = first["left"]
    rows = [[both(STEPS["settled"]), "", _bar(total, total), f"<b>{total}</b>"]]
    rows += [
        [both(STEPS[s["step"]]), f"−{s['out']}" if s["out"] else "0", _bar(s["left"], total), str(s["left"])]
        for s in steps
    ]
    why = {
        "gold": lambda e: Text(
            "{failed} of {checks} attention checks failed", failed=e["failed"], checks=e["checks"]
        ),
        "side": lambda e: Text(
            "left {left} of {decided} times, p = {p:.1g}", left=e["left"], decided=e["decided"], p=e["p"]
        ),
        "fast": lambda e: Text(
            "{fast} of {votes} votes within the reading time", fast=e["fast"], votes=e["votes"]
        ),
    }
    excluded = ""
    if found["excluded"]:
        lines = [[esc(entry["rater"]), both(why[entry["reason"]](entry))] for entry in found["excluded"]]
        excluded = f"<h3>{both('Raters left out')}</h3>" + _table([both("rater"), both("why")], lines)
    return _section(
        Text("Which votes count"),
        _table([both("step"), both("taken out"), "", both("remaining")], rows) + excluded,
        "funnel",
    )


def _bar(part: float, whole: float) -> str:
    return f'<div class="share" role="presentation"><svg viewBox="0 0 100 8" preserveAspectRatio="none"><rect class="track" width="100" height="8"/><rect class="part" width="{100 * part / (whole or 1):.1f}" height="8"/></svg></div>'


# ---------------------------------------------------------------- in parts


def _categories(found: Mapping[str, Any]) -> str:
    if not found["n"] or not found["categories"]:
        return ""
    rows = [
        [
            f"{esc(c['category'])} <small>n = {c['n']}</small>",
            *(_cell(entry) if entry["n"] else "–" for entry in c["models"]),
        ]
        for c in found["categories"]
    ]
    note = Text(
        "Share of wins in each category, ties as halves, with 95% intervals that take votes as independent."
    )
    return _section(
        Text("By category"),
        _table(["", *map(esc, found["models"])], rows) + f'<p class="caption">{both(note)}</p>',
        "categories",
    )


def _reasons(found: Mapping[str, Any]) -> str:
    used = [name for name in REASON_NAMES if any(entry["reasons"].get(name) for entry in found["reasons"])]
    if not used:
        return ""
    rows = [
        [esc(entry["model"]), *(str(entry["reasons"].get(name, 0)) for name in used)]
        for entry in found["reasons"]
    ]
    return _section(
        Text("What was wrong with the losing answers"),
        _table([both("model"), *(both(REASON_NAMES[name]) for name in used)], rows),
        "reasons",
    )


def _judges(found: Mapping[str, Any]) -> str:
    parts = []
    for name, judge in found["judges"].items():
        lines = _judge_lines(judge)
        items = "".join(f"<li>{both(line)}</li>" for line in lines)
        mark = "" if judge["validated"] else f' <span class="mark even">{both("unvalidated")}</span>'
        unusable = f' <span class="mark lost">{both("unusable")}</span>' if judge.get("unusable") else ""
        rates = [[esc(entry["model"]), _cell(entry), str(entry["n"])] for entry in judge["win_rates"] or ()]
        parts.append(
            f'<h3>{esc(name)}{mark}{unusable}</h3><ul class="findings">{items}</ul>'
            + (_table([both("model"), both("wins"), "n"], rates) if rates else "")
        )
    return _section(Text("Judges that are models"), "".join(parts), "judges")


def _judge_lines(judge: Mapping[str, Any]) -> list[Text]:
    flips, first, failures = judge["flips"], judge["first_position"], judge["parse_failures"]
    lines = [
        Text("{votes} battles judged, each in both orders.", votes=judge["votes"]),
        Text(
            "The verdict changed with the order in {share} of {n} battles.",
            share=_interval(flips),
            n=flips["n"],
        ),
        Text(
            "Of its {n} decisions {share} were for the answer shown first (half is expected).",
            share=_interval(first),
            n=first["n"],
        ),
        Text(
            "{failed} of {n} replies could not be read ({share}); they count for nothing.",
            failed=failures["count"],
            n=failures["n"],
            share=_interval(failures),
        ),
    ]
    if judge["stability"]["n"]:
        lines.append(
            Text(
                "Asked once more in the same order, it said the same {share} of {n} times.",
                share=_interval(judge["stability"]),
                n=judge["stability"]["n"],
            )
        )
    order, words = judge["obeys_order"], judge["turned_by_words"]
    if order["n"]:
        lines.append(
            Text(
                "An order to choose it, put into the losing answer, turned {turned} of {n} verdicts; as many "
                "harmless words turned {words} of {of}.",
                turned=order["count"],
                n=order["n"],
                words=words["count"],
                of=words["n"],
            )
        )
    if judge["among_models"]:
        lines.append(
            Text("It is one of the models it judges: see whether it wins more here than with people.")
        )
    if judge.get("errors"):
        lines.append(
            Text("{errors} requests failed; the same command asks them again.", errors=judge["errors"])
        )
    if judge["longer_wins"]["n"]:
        lines.append(
            Text(
                "The longer answer won {share} of {n} battles.",
                share=_interval(judge["longer_wins"]),
                n=judge["longer_wins"]["n"],
            )
        )
    if judge["alpha"] is not None:
        agreement = judge["agreement"]
        lines.append(
            Text(
                "With the people's majority on {n} battles: α = {alpha:.2f}; the same answer in {share} of {decided} "
                "that both decided.",
                n=judge["with_people"],
                alpha=judge["alpha"],
                share=_interval(agreement),
                decided=agreement["n"],
            )
        )
    if not judge["validated"]:
        lines.append(
            Text(
                "Only {n} of its battles were judged by people, and 50 are needed before it is worth believing.",
                n=judge["with_people"],
            )
        )
    return lines


def _disputed(found: Mapping[str, Any]) -> str:
    items = []
    for entry in found["disputed"]:
        verdicts = listing(
            Text("{verdict} {count}×", verdict=VERDICTS[name], count=count)
            for name, count in sorted(entry["verdicts"].items(), key=lambda item: -item[1])
        )
        columns = "".join(
            f"<div><h4>{esc(entry[side])}</h4><p>{esc(text)}</p></div>"
            for side, text in zip(("first", "second"), entry["answers"], strict=True)
        )
        items.append(
            f'<div class="sample"><p class="prompt">{esc(entry["prompt"])} <small>{both(verdicts)}</small></p>'
            f'<div class="columns">{columns}</div></div>'
        )
    return _section(Text("Battles that raters judged most differently"), "".join(items), "disputed")


def _answers(found: Mapping[str, Any]) -> str:
    rows = [
        [
            esc(entry["model"]),
            str(entry["answers"]),
            f"{entry['median_characters']:.0f}",
            str(entry["empty"]),
            str(entry["cut_off"]),
            str(entry["reasoning_removed"]),
            str(entry["names_hidden"]),
            " · ".join(
                f"{esc(key)} {esc(value)}" for key, value in found["sampling"].get(entry["model"], {}).items()
            ),
        ]
        for entry in found["answers"]
    ]
    head = [
        both("model"),
        both("answers"),
        both("median characters"),
        both("empty"),
        both("cut off"),
        both("reasoning left out"),
        both("names hidden"),
        both("sampling"),
    ]
    note = Text(
        "All answers were written before the first vote, with seed {seed}; every rater saw the same.",
        seed=found["seed"],
    )
    return _section(
        Text("The answers"),
        _table(head, rows, "compact answers-table") + f'<p class="caption">{both(note)}</p>',
        "answers",
    )


def _rules(found: Mapping[str, Any]) -> str:
    rules = found["rules"]
    lines = [
        Text("A rater who fails {n} attention checks is left out.", n=rules["gold_failures"]),
        Text(
            "A rater with {votes} decided votes or more whose choice of sides has p < {p} is left out.",
            votes=rules["side_votes"],
            p=rules["side_p"],
        ),
        Text(
            "A rater with more than {share:.0%} of votes given within {seconds:g} s is left out.",
            share=rules["fast_share"],
            seconds=rules["fast_seconds"],
        ),
        Text("Models within ±{points:g} points are called equivalent.", points=rules["equivalent"]),
    ]
    changed = (
        f'<p class="gate"><span class="mark lost">{both("changed")}</span> {both("These rules are not those that were in force when voting began.")}</p>'
        if found["rules_changed"]
        else f'<p class="caption">{both("Written in arena.json before voting began, and not changed since.")}</p>'
    )
    return _section(
        Text("The rules"),
        "<ul class='findings'>" + "".join(f"<li>{both(line)}</li>" for line in lines) + "</ul>" + changed,
        "rules",
    )


def _cell(entry: Mapping[str, Any]) -> str:
    if entry["share"] is None:
        return "–"
    return f"{_percent(entry['share'])} <small>[{_percent(entry['low'])}, {_percent(entry['high'])}]</small>"


def _interval(entry: Mapping[str, Any]) -> str:
    if entry["share"] is None:
        return "–"
    return f"{_percent(entry['share'])} [{_percent(entry['low'])}, {_percent(entry['high'])}]"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}%"
