"""`hanlin recipe`: files of recipes."""

from __future__ import annotations

import sys
from pathlib import Path


def upgrade(file: Path, /, *, out: Path | None = None) -> None:
    """Rewrite a recipe or a stage's file of the shape before stages were a list.

    Parameters
    ----------
    file
        The YAML of before; it is not changed.
    out
        Where the new one goes; stdout when absent.
    """
    from hanlin.common.atomic import atomic_write
    from hanlin.recipe.upgrade import upgrade_file

    text = upgrade_file(file)
    if out is None:
        sys.stdout.write(text)
    else:
        atomic_write(out, text.encode())
