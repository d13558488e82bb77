"""Errors for people: what happened and where, why it matters, what to do next."""

from __future__ import annotations

import locale
import os


def prefers_chinese() -> bool:
    """Whether messages should be Chinese: `HANLIN_LANG` (zh or en) wins, then the locale environment."""
    choice = os.environ.get("HANLIN_LANG")
    if choice:
        return choice.lower().startswith("zh")
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return value.lower().startswith("zh")
    return (locale.getlocale()[0] or "").lower().startswith(("zh", "chinese"))


def language_unsaid() -> bool:
    """Whether nothing in the environment says which language the reader wants: no `HANLIN_LANG`, and a locale of C or none."""
    if os.environ.get("HANLIN_LANG"):
        return False
    said = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := os.environ.get(name))), "")
    return said.partition(".")[0] in ("", "C", "POSIX") and not prefers_chinese()


def first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started: the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


def require_one_process(command: str) -> None:
    """Refuse several processes of torchrun for what only one can do.

    Raises:
        HanlinError: there are several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        error = HanlinError(
            f"{command} 只用一个进程。多个进程请一个阶段一个阶段地训练：torchrun … -m hanlin pretrain --config …（见 docs/zh/distributed.md）。",
            f"{command} takes one process. Train stage by stage with several: torchrun … -m hanlin pretrain --config … (see docs/en/distributed.md).",
        )
        error.told = not first_process()
        raise error


def tr(zh: str, en: str) -> str:
    """The Chinese or the English form of a message, by `prefers_chinese`."""
    return zh if prefers_chinese() else en


class HanlinError(Exception):
    """A mistake or accident the user can act on; the command line prints it without a stack trace and exits 1.

    Both languages are required, so that no message exists in only one of them.

    Attributes:
        told: another process says it, so this one may be silent.
    """

    told = False

    def __init__(self, zh: str, en: str):
        super().__init__(tr(zh, en))
        self.zh = zh
        self.en = en

    def __reduce__(self):
        return (type(self), (self.zh, self.en))
