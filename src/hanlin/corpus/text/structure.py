"""How deep a JSON value is and of how many values it consists, found without building it.

A few kilobytes of gzip can hold a value of twenty million empty lists, 60 bytes each once they are objects;
and one nested a thousand deep ends the interpreter's recursion wherever it is looked at next. Both are
refused before they are built.
"""

from __future__ import annotations

import numpy as np

MAX_DEPTH = 200  # lists and objects within one another; data sets that people have stay below 20
_PIECE = 1 << 16
_QUOTE, _COMMA = ord('"'), ord(",")


class Structure:
    """What a scanner over the text of a JSON value has seen so far: lists, objects and commas outside
    strings.

    Attributes:
        values: how many of them: one more than the values within, at most.
        deepest: how many lists and objects were open at once.
    """

    def __init__(self) -> None:
        self.values = self.deepest = 0
        self._depth = self._quoted = 0
        self._backslash = False

    def feed(self, piece: bytes | str, *, whole: bool = False) -> int | None:
        """Go on with `piece`; the place in it where the value ends, or None where it does not.

        Args:
            whole: go on to the end, whatever ends before.
        """
        data = piece.encode("ascii", "replace") if isinstance(piece, str) else piece
        if self._backslash and data[:1] in (b"\\", b'"'):
            data = b"_" + data[1:]
        # Pairs go from the left, so that of an odd number of backslashes the last one stands before the
        # quote.
        data = data.replace(rb"\\", b"__").replace(rb"\"", b"__")
        self._backslash = (self._backslash and not data) or data.endswith(b"\\")
        symbols = np.frombuffer(data, np.uint8)
        quotes = symbols == _QUOTE
        outside = (np.cumsum(quotes, dtype=np.int32) + self._quoted) & 1 == 0
        folded = symbols | 0x20  # "[" and "]" become "{" and "}"
        opens = (folded == ord("{")) & outside
        closes = (folded == ord("}")) & outside
        level = self._depth + np.cumsum(opens.astype(np.int32) - closes)
        ends = None if whole else next(iter(np.flatnonzero(closes & (level <= 0)).tolist()), None)
        until = len(data) if ends is None else ends + 1
        if until:
            self.values += int(np.count_nonzero((opens | ((symbols == _COMMA) & outside))[:until]))
            self.deepest = max(self.deepest, int(level[:until].max()))
            self._depth = int(level[until - 1])
            self._quoted = (self._quoted + int(np.count_nonzero(quotes))) & 1
        return None if ends is None else ends + 1


def measure(
    text: bytes | str, begin: int = 0, *, whole: bool = False, piece: int = _PIECE
) -> tuple[int, int, int | None]:
    """Lists, objects and commas of the value that begins at `begin`, how deep it is, and where it ends
    (None: not within `text`).

    Args:
        whole: measure all that is there, not the first value alone.
        piece: characters to look at in one go.
    """
    found = Structure()
    for start in range(begin, len(text), piece):
        end = found.feed(text[start : start + piece], whole=whole)
        if end is not None:
            return found.values, found.deepest, start + end
    return found.values, found.deepest, None


def too_complex(line: bytes | str, most: int) -> bool:
    """Whether a line of JSON is deeper than `MAX_DEPTH`, or consists of more than `most` values."""
    if len(line) <= MAX_DEPTH:
        return False
    opening, brace, comma = (b"[", b"{", b",") if isinstance(line, bytes) else ("[", "{", ",")
    opened = line.count(opening) + line.count(brace)  # type: ignore[arg-type]
    if opened <= MAX_DEPTH and (len(line) <= most or opened + line.count(comma) <= most):  # type: ignore[arg-type]
        return False
    values, deepest, _ = measure(line, whole=True)
    return deepest > MAX_DEPTH or values > most
