"""Tables and sizes as text: for a terminal, where Chinese takes two columns a character, and for Markdown."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from typing import TextIO


def width(text: str) -> int:
    """Columns a terminal gives the text: two for each wide character, none for marks on another and for
    invisible ones."""
    return sum(
        0
        if unicodedata.category(c) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )


# C0 but line feed and tab, DEL, C1, and the controls of writing direction (UAX #9): what makes a terminal
# move, hide or reorder.
_UNSEEN = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    0x200E,
    0x200F,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]
_SHOWN = {c: f"\\x{c:02x}" if c < 0x100 else f"\\u{c:04x}" for c in _UNSEEN if chr(c) not in "\n\t"}


def printable(text: str) -> str:
    """Text that came from data or from a model, with what would command a terminal shown as escapes (ESC as
    `\\x1b`)."""
    return text.translate(_SHOWN)


def for_stream(text: str, stream: TextIO) -> str:
    """`printable` text where a terminal reads it; a file or a pipe gets it as it is."""
    return printable(text) if stream.isatty() else text


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines with the cells of each column below one another, two spaces apart.

    Args:
        right: columns that are aligned to the right.
    """
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for column, (cell, wide) in enumerate(zip(row, widths, strict=True)):
            space = " " * (wide - width(cell))
            cells.append(space + cell if column in right else cell + space)
        lines.append("  ".join(cells).rstrip())
    return lines


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of Markdown, the head first; a `|` within a cell is escaped."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def memory_size(size: float) -> str:
    """Bytes as people read them of memory: `1.50 GiB`, below half of one `300 MiB`."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"
