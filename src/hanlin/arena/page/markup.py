"""Pieces of the page: sections, tables, shares with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.common.messages import Text
from hanlin.report.text import both


def section(title: Text, body: str, key: str) -> str:
    return f'<section class="stage" id="{key}"><h2>{both(title)}</h2>{body}</section>' if body else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "compact") -> str:
    """A table of cells that are HTML; the first of each row is its head."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f'<td class="figure">{cell}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def bar(part: float, whole: float) -> str:
    return f'<div class="share" role="presentation"><svg viewBox="0 0 100 8" preserveAspectRatio="none"><rect class="track" width="100" height="8"/><rect class="part" width="{100 * part / (whole or 1):.1f}" height="8"/></svg></div>'


def share_cell(entry: Mapping[str, Any]) -> str:
    if entry["share"] is None:
        return "–"
    return f"{percent(entry['share'])} <small>[{percent(entry['low'])}, {percent(entry['high'])}]</small>"


def share_interval(entry: Mapping[str, Any]) -> str:
    if entry["share"] is None:
        return "–"
    return f"{percent(entry['share'])} [{percent(entry['low'])}, {percent(entry['high'])}]"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}%"
