"""Ctrl-C and SIGTERM as a question the loop asks between steps."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the checkpoint was written (or at once, when asked twice).

    Attributes:
        signal: its number; a program ends with 128 + that.
    """

    def __init__(self, number: int = signal.SIGINT):
        super().__init__(number)
        self.signal = number


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Turn SIGINT and SIGTERM into a number (0: none yet) that can be asked for; a second one stops at
    once."""
    asked: list[int] = []

    def handler(number, frame):
        if asked:
            raise Interrupted(number)
        asked.append(number)

    try:
        previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody can press Ctrl-C here
        previous = {}
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
