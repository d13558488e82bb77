"""The words of a corpus' page in both languages, and the small forms it is made of: amounts, shares,
tables."""

from __future__ import annotations

from collections.abc import Sequence

from hanlin.common.messages import Text, verbatim
from hanlin.corpus.builder.build import TITLES
from hanlin.report.text import both

SCRIPTS: dict[str, Text] = {
    "simplified": Text("simplified"),
    "traditional": Text("traditional"),
    "kana": Text("Japanese"),
    "hangul": Text("Korean"),
    "latin": Text("Latin"),
    "cyrillic": Text("Cyrillic"),
    "other": Text("other"),
    "none": Text.in_context("script", "none"),
}

# Where a source's documents went, in the order of the picture.
CAUSES: dict[str, Text] = {
    "kept": Text("training"),
    "heldout": Text("held out"),
    "duplicates": Text("duplicates"),
    "rules": Text("dropped by rules"),
    "contaminated": Text("overlapping benchmarks"),
}

PHASES: dict[str, Text] = TITLES

BLOCKS: dict[str, Text] = {
    "read": Text("reading and parsing"),
    "count": Text("counting"),
    "clean": Text("cleaning rules"),
    "mask": Text("masking personal data"),
    "decontaminate": Text("comparing with benchmarks"),
    "boilerplate": Text("removing boilerplate"),
    "stats": Text("figures and samples"),
    "write": Text("writing to disk"),
    "sketch": Text("fingerprints"),
}


def amount(value: int, unit: Text | None = None) -> Text:
    """A number in few figures, with its unit: `1.23M characters`; Chinese counts by 10⁴ and 10⁸."""
    length, sign = abs(value), "-" if value < 0 else ""
    if length < 1e5:
        number = f"{sign}{length:,}"
        return verbatim(number) if unit is None else Text("{number} {unit}", number=number, unit=unit)
    en = f"{length / 1e6:,.2f}M" if length < 1e9 else f"{length / 1e9:,.2f}B"
    zh = f"{length / 1e4:,.1f} {_MYRIAD.zh}" if length < 1e8 else f"{length / 1e8:,.2f} {_MYRIAD_MYRIADS.zh}"
    return Text.rendered(
        en=sign + en + (f" {unit.en}" if unit else ""), zh=sign + zh + (unit.zh if unit else "")
    )


_MYRIAD = Text("ten thousand")
_MYRIAD_MYRIADS = Text("hundred million")


def size(value: int) -> str:
    """Bytes as people read them: `12.3 MB`."""
    length, sign = float(abs(value)), "-" if value < 0 else ""
    for unit in ("B", "kB", "MB", "GB"):
        if length < 1000:
            return f"{sign}{length:.0f}\u00a0{unit}" if unit == "B" else f"{sign}{length:.3g}\u00a0{unit}"
        length /= 1000
    return f"{sign}{length:.3g}\u00a0TB"


def percent(part: float, whole: float) -> str:
    """A part in per cent, with a second decimal where it is small."""
    value = 100 * part / whole if whole else 0.0
    return f"{value:.2f}%" if 0 < value < 1 else f"{value:.1f}%"


def heading(title: Text) -> str:
    """A section's title."""
    return f"<h2>{both(title)}</h2>"


def more(count: int, of: Text, extra: str = "") -> str:
    """A line that says how many things are not shown."""
    return (
        f'<p class="caption">{both("{count:,} more {of}", count=count, of=of)}'
        f"{' ' if extra else ''}{extra}</p>"
    )


def table(heads: Sequence[Text], rows: Sequence[Sequence[str]], kind: str) -> str:
    """Rows of HTML under a row of titles; without titles if all of them are empty.

    Args:
        kind: class of the table, by which the style sheet knows its columns.
    """
    titles = "".join(f"<th>{both(head) if head else ''}</th>" for head in heads)
    top = f"<thead><tr>{titles}</tr></thead>" if any(heads) else ""
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return f'<div class="scroll"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'
