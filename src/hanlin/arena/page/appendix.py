"""Why answers lost, where raters differed, how the answers were made, and the rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.arena.page.markup import section, table
from hanlin.common.messages import Text, listing
from hanlin.report.text import both, esc

REASON_NAMES: dict[str, Text] = {
    "fluency": Text("not fluent"),
    "relevance": Text("off the point"),
    "facts": Text("wrong facts"),
    "repetition": Text("repeats"),
    "short": Text("too short"),
    "long": Text("too long"),
    "unsafe": Text("unsafe"),
}


VERDICTS: dict[str, Text] = {
    "first": Text("the first better"),
    "second": Text("the second better"),
    "tie": Text("equal"),
    "bad": Text("both bad"),
}


def reasons_section(found: Mapping[str, Any]) -> str:
    used = [name for name in REASON_NAMES if any(entry["reasons"].get(name) for entry in found["reasons"])]
    if not used:
        return ""
    rows = [
        [esc(entry["model"]), *(str(entry["reasons"].get(name, 0)) for name in used)]
        for entry in found["reasons"]
    ]
    return section(
        Text("What was wrong with the losing answers"),
        table([both("model"), *(both(REASON_NAMES[name]) for name in used)], rows),
        "reasons",
    )


def disputed_section(found: Mapping[str, Any]) -> str:
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
    return section(Text("Battles that raters judged most differently"), "".join(items), "disputed")


def answers_section(found: Mapping[str, Any]) -> str:
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
    return section(
        Text("The answers"),
        table(head, rows, "compact answers-table") + f'<p class="caption">{both(note)}</p>',
        "answers",
    )


def rules_section(found: Mapping[str, Any]) -> str:
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
    return section(
        Text("The rules"),
        "<ul class='findings'>" + "".join(f"<li>{both(line)}</li>" for line in lines) + "</ul>" + changed,
        "rules",
    )
