"""Errors for people: what happened and where, why it matters, what to do next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hanlin.common.messages import Text

if TYPE_CHECKING:
    from typing_extensions import LiteralString


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
            "{command} takes one process. Train stage by stage with several: "
            "torchrun … -m hanlin pretrain --config … (see docs/en/distributed.md).",
            command=command,
        )
        error.already_reported = not first_process()
        raise error


class HanlinError(Exception):
    """A mistake or accident the user can act on; the command line prints it without a stack trace and exits
    1.

    Args:
        message: a `Text`, or the template of one.
        fields: the template's.

    Attributes:
        text: the message in both languages; `str()` of the error is in that of the reader.
        already_reported: another process prints it, so this one may be silent.
    """

    already_reported = False

    def __init__(self, message: LiteralString | Text, /, **fields: Any):
        self.text = Text.of(message, **fields)
        super().__init__(str(self.text))

    @property
    def en(self) -> str:
        """The message in English."""
        return self.text.en

    @property
    def zh(self) -> str:
        """The message in Chinese."""
        return self.text.zh

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[HanlinError], arguments: tuple[Any, ...]) -> HanlinError:
    """An unpickled error, its attributes yet to be set; its class need not know of this."""
    return kind.__new__(kind, *arguments)


class ConfigError(HanlinError, ValueError):
    """Settings that cannot work: one alone, or several together."""
