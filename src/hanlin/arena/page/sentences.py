"""What was found, in sentences for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.arena.page.markup import share_interval
from hanlin.common.messages import Text, joined, listing, sentences, verbatim

HARDLY_AGREE = 0.6


def lede(found: Mapping[str, Any]) -> list[Text]:
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


def side_sentences(found: Mapping[str, Any]) -> list[Text]:
    side = found["sides"]["all"]
    if not side["n"]:
        return [Text("No vote was decided for a side yet.")]
    lines = [
        Text(
            "The left answer won {share} of {n} decided battles (half is expected; p = {p:.2g}).",
            share=share_interval(side),
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


def agreement_sentence(found: Mapping[str, Any]) -> Text:
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


def repeats_sentence(found: Mapping[str, Any]) -> Text:
    repeats = found["repeats"]
    if not repeats["n"]:
        return Text("No battle was judged twice by the same rater yet.")
    return Text(
        "Shown again with its sides swapped, a battle got the same verdict {share} of {n} times.",
        share=share_interval(repeats),
        n=repeats["n"],
    )
