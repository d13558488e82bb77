"""Sheets to vote on without computers: one for each rater, with the battles of its plan, and a CSV file to
fill in afterwards."""

from __future__ import annotations

from pathlib import Path

from hanlin.arena.exchange import COLUMNS
from hanlin.arena.rules import ArenaConfig, read_arena, read_secret
from hanlin.arena.store import Store
from hanlin.common.atomic import atomic_write
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, tr
from hanlin.report.page import document
from hanlin.report.text import both, esc

STYLE = Path(__file__).parent / "static" / "paper.css"


def export_paper(folder: Path, out: Path, raters: int) -> str:
    """Write the sheets as HTML, and beside them a CSV file with a line for each battle.

    Returns:
        What was written, for people.

    Raises:
        HanlinError: no arena, or fewer than one rater.
    """
    if raters < 1:
        raise HanlinError("--raters must be at least 1, not {raters}.", raters=raters)
    config = read_arena(folder)
    store = Store(folder, read_secret(folder))
    try:
        store.note("rules", config.rules.digest())
        codes = store.ensure_raters(raters)[:raters]
        schedule = store.schedule(config)
        sheets, lines = [], [",".join((*COLUMNS, "reasons"))]
        for code in codes:
            rater = store.rater_of(code)
            assert rater is not None
            store.join(rater, schedule)
            sheets.append(_sheet(store, config, code, rater))
            lines += [f"{code},{row['position']},," for row in store.battles_of(rater)]
    finally:
        store.close()
    parts = [
        '<nav class="controls"><button id="language" type="button">EN</button>'
        '<button id="theme" type="button">◐</button></nav>',
        *sheets,
    ]
    page = out if out.suffix.lower() in (".html", ".htm") else out.with_name(out.name + ".html")
    table = page.with_suffix(".csv")
    atomic_write(page, document("翰林 Hanlin", parts, ("report.css", str(STYLE))))
    atomic_write(table, "\ufeff" + "\n".join(lines) + "\n")
    return tr(
        "{count} sheets to print: {page}. Write the votes into {table} and read them with: hanlin arena import "
        "{folder} {table}",
        count=len(codes),
        page=page,
        table=table,
        folder=folder,
    )


def _sheet(store: Store, config: ArenaConfig, code: str, rater: int) -> str:
    rows = []
    for row in store.battles_of(rater):
        prompt, left, right, thought = store.texts(row, config)
        choices = "".join(
            f'<span class="box"></span>{number} {both(text)}'
            for number, text in enumerate(
                (Text("first better"), Text("second better"), Text("equal"), Text("both bad")), start=1
            )
        )
        said = f'<p class="thought">{both("Reasoning before the answer is left out.")}</p>' if thought else ""
        rows.append(
            f'<article><h3><span class="ordinal">{row["position"]}</span>{esc(prompt)}</h3>'
            f'<div class="pair"><div><h4>1</h4><p>{_text(left)}</p></div><div><h4>2</h4><p>{_text(right)}</p></div></div>'
            f'{said}<p class="choices">{choices}</p></article>'
        )
    how = Text(
        "For each question tick which answer is better. The answers come from different models whose names are "
        "hidden; there is no right answer, judge for yourself."
    )
    return (
        f'<section class="sheet"><h2>{both("Which answer is better?")}<code>{esc(code)}</code></h2>'
        f"<p>{both(how)}</p>{''.join(rows)}</section>"
    )


def _text(text: str) -> str:
    return esc(text) if text else both("(no answer)")
