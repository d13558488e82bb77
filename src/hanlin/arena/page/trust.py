"""Whether the votes can be trusted, and which of them count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.arena.page.markup import bar, section, share_interval, table
from hanlin.arena.page.sentences import agreement_sentence, repeats_sentence, side_sentences
from hanlin.common.messages import Text
from hanlin.report.text import both, esc

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


def trust_section(found: Mapping[str, Any]) -> str:
    if not found["funnel"][0]["left"]:
        return ""
    gold, kept = found["gold"], found["sides"]["kept"]
    lines = [*side_sentences(found)]
    if kept["n"] and found["excluded"]:
        lines.append(
            Text(
                "Without the raters left out it is {share} of {n} (p = {p:.2g}).",
                share=share_interval(kept),
                n=kept["n"],
                p=kept["p"],
            )
        )
    lines += [agreement_sentence(found), repeats_sentence(found)]
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
    return section(Text("Can the votes be trusted?"), f'<ul class="findings">{items}</ul>', "trust")


def funnel_section(found: Mapping[str, Any]) -> str:
    first, *steps = found["funnel"]
    if not first["left"]:
        return ""
    total = first["left"]
    rows = [[both(STEPS["settled"]), "", bar(total, total), f"<b>{total}</b>"]]
    rows += [
        [both(STEPS[s["step"]]), f"−{s['out']}" if s["out"] else "0", bar(s["left"], total), str(s["left"])]
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
        excluded = f"<h3>{both('Raters left out')}</h3>" + table([both("rater"), both("why")], lines)
    return section(
        Text("Which votes count"),
        table([both("step"), both("taken out"), "", both("remaining")], rows) + excluded,
        "funnel",
    )
