"""Judges that are models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.arena.page.markup import section, share_cell, share_interval, table
from hanlin.common.messages import Text
from hanlin.report.text import both, esc


def judges_section(found: Mapping[str, Any]) -> str:
    parts = []
    for name, judge in found["judges"].items():
        lines = _judge_lines(judge)
        items = "".join(f"<li>{both(line)}</li>" for line in lines)
        mark = "" if judge["validated"] else f' <span class="mark even">{both("unvalidated")}</span>'
        unusable = f' <span class="mark lost">{both("unusable")}</span>' if judge.get("unusable") else ""
        rates = [
            [esc(entry["model"]), share_cell(entry), str(entry["n"])] for entry in judge["win_rates"] or ()
        ]
        parts.append(
            f'<h3>{esc(name)}{mark}{unusable}</h3><ul class="findings">{items}</ul>'
            + (table([both("model"), both("wins"), "n"], rates) if rates else "")
        )
    return section(Text("Judges that are models"), "".join(parts), "judges")


def _judge_lines(judge: Mapping[str, Any]) -> list[Text]:
    flips, first, failures = judge["flips"], judge["first_position"], judge["parse_failures"]
    lines = [
        Text("{votes} battles judged, each in both orders.", votes=judge["votes"]),
        Text(
            "The verdict changed with the order in {share} of {n} battles.",
            share=share_interval(flips),
            n=flips["n"],
        ),
        Text(
            "Of its {n} decisions {share} were for the answer shown first (half is expected).",
            share=share_interval(first),
            n=first["n"],
        ),
        Text(
            "{failed} of {n} replies could not be read ({share}); they count for nothing.",
            failed=failures["count"],
            n=failures["n"],
            share=share_interval(failures),
        ),
    ]
    if judge["stability"]["n"]:
        lines.append(
            Text(
                "Asked once more in the same order, it said the same {share} of {n} times.",
                share=share_interval(judge["stability"]),
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
                share=share_interval(judge["longer_wins"]),
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
                share=share_interval(agreement),
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
