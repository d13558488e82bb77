"""Named places where a test may kill the process, as a power cut would: `HANLIN_FAIL_AT=name[:nth]`."""

from __future__ import annotations

import os

_seen: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Die here without any clean-up if `HANLIN_FAIL_AT` names this point (and this occurrence, counted from
    1)."""
    wanted = os.environ.get("HANLIN_FAIL_AT")
    if not wanted:
        return
    target, _, nth = wanted.partition(":")
    if target != name:
        return
    _seen[name] = _seen.get(name, 0) + 1
    if _seen[name] == int(nth or 1):
        os._exit(137)
