"""Traditional Chinese to simplified, by OpenCC (extra `data`): phrase by phrase, not character by
character."""

from __future__ import annotations

import functools
import re
from importlib import metadata
from typing import Any

import numpy as np

from hanlin.common.errors import HanlinError
from hanlin.corpus.text.characters import TRADITIONAL, table

PACKAGE = "opencc"
# OpenCC is handed UTF-8, which has no place for halves of surrogate pairs
_WHOLE = re.compile("[^\ud800-\udfff]+")


class Simplifier:
    """`simplifier(text)`: the text in simplified characters; one without any traditional character comes
    back as it is.

    Mainland forms (OpenCC's `t2s`), without exchange of words: 軟體 becomes 软体, not 软件.

    Raises:
        HanlinError: OpenCC is not installed.
    """

    def __init__(self) -> None:
        self._converter = _opencc().OpenCC("t2s")

    def __call__(self, text: str) -> str:
        if not _traditional().search(text):
            return text
        try:
            return self._converter.convert(text)
        except UnicodeEncodeError:
            return _WHOLE.sub(lambda found: self._converter.convert(found[0]), text)


def version() -> str:
    """Of the package, whose dictionaries the result hangs on.

    Raises:
        HanlinError: OpenCC is not installed.
    """
    _opencc()
    return metadata.version(PACKAGE)


@functools.cache
def _traditional() -> re.Pattern[str]:
    """A character that may have a simplified form: the standard set of simplified Chinese lacks it."""
    points = np.flatnonzero(table()[:0x10000] & TRADITIONAL)
    return re.compile("[" + "".join(map(chr, points.tolist())) + "]")


def _opencc() -> Any:
    try:
        import opencc  # type: ignore[import-not-found]
    except ImportError:
        raise HanlinError(
            "Turning traditional characters into simplified ones (simplify: true) needs opencc. Run pip "
            "install 'hanlin[data]', or leave simplify out."
        ) from None
    return opencc
