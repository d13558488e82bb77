"""The results of an arena as one page to read and print, and as lines for a terminal. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanlin.arena.page.appendix import answers_section, disputed_section, reasons_section, rules_section
from hanlin.arena.page.judges import judges_section
from hanlin.arena.page.markup import percent
from hanlin.arena.page.ranking import categories_section, matrix_section, ranking_section, style_section
from hanlin.arena.page.sentences import agreement_sentence, lede, repeats_sentence, side_sentences
from hanlin.arena.page.trust import funnel_section, trust_section
from hanlin.common import terminal
from hanlin.common.messages import Text, sentences, tr
from hanlin.report.page import document, masthead
from hanlin.report.text import esc

STYLE = Path(__file__).parents[1] / "static" / "report.css"


def render_arena(found: Mapping[str, Any]) -> str:
    """The page as HTML; whatever comes from data is escaped."""
    parts = [
        masthead(
            Text("Arena"), found["arena"], Text("Which model do people prefer?"), "", sentences(lede(found))
        ),
        ranking_section(found),
        matrix_section(found),
        style_section(found),
        trust_section(found),
        funnel_section(found),
        categories_section(found),
        reasons_section(found),
        judges_section(found),
        disputed_section(found),
        answers_section(found),
        rules_section(found),
    ]
    return document(f"翰林 Hanlin · {esc(Text('Arena').en)}", parts, ("report.css", str(STYLE)))


def summary(found: Mapping[str, Any]) -> str:
    """The main figures for a terminal."""
    lines = [str(sentence) for sentence in lede(found)]
    if found["scores"]:
        rows = [[tr("rank"), tr("model"), tr("score"), "95 %", tr("wins"), "n"]]
        rates = {entry["model"]: entry for entry in found["win_rates"]}
        rows += [
            [
                str(entry["rank"]),
                entry["model"],
                f"{entry['elo']:.0f}",
                f"[{entry['low']:.0f}, {entry['high']:.0f}]",
                percent(rates[entry["model"]]["share"]),
                str(rates[entry["model"]]["n"]),
            ]
            for entry in found["scores"]
        ]
        lines += ["", *terminal.table(rows), ""]
    lines += [
        str(sentence)
        for sentence in (*side_sentences(found), agreement_sentence(found), repeats_sentence(found))
    ]
    return "\n".join(lines)
