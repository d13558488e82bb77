"""How bad a doctor finds what it sees. No torch here: reports name the levels too."""

from __future__ import annotations

from typing import Literal

from hanlin.common.messages import Text

Level = Literal["ok", "unknown", "yellow", "red"]
LEVELS: tuple[Level, ...] = ("ok", "unknown", "yellow", "red")  # the better first
LEVEL_NAMES: dict[str, Text] = {
    "ok": Text.in_context("doctor", "ok"),
    "unknown": Text.in_context("doctor", "unknown"),
    "yellow": Text.in_context("doctor", "yellow"),
    "red": Text.in_context("doctor", "red"),
}
