"""What a person watches: a live panel on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from .errors import tr

_SHOWN = ("loss", "bits_per_byte", "reward", "accuracy", "tokens_per_second")
_UNITS = {"tokens_per_second": "tok/s", "bits_per_byte": "bits/byte"}


def format_seconds(seconds: float) -> str:
    """`73` → `1:13`."""
    minutes, seconds = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Shows the stages of a run. The base class is silent."""

    def stage(self, index: int, count: int, name: str) -> None:
        """A stage begins: `index` of `count`, both from 1."""

    def update(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        """A step is done."""

    def note(self, zh: str, en: str) -> None:
        """Something worth a line."""

    def warn(self, zh: str, en: str) -> None:
        """Something that should not be overlooked."""

    def sample(self, prompt: str, text: str) -> None:
        """A piece of the model's own text."""

    def close(self) -> None:
        """No more to come."""


class PlainProgress(Progress):
    """One line every `interval` seconds, for logs and pipes."""

    def __init__(self, interval: float = 10.0):
        self._interval = interval
        self._title = ""
        self._began = self._last = time.monotonic()
        self._first_step = 0

    def stage(self, index: int, count: int, name: str) -> None:
        self._title = f"[{index}/{count} {name}]"
        self._began, self._last, self._first_step = time.monotonic(), 0.0, -1
        self._line(tr("开始", "start"))

    def update(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        now = time.monotonic()
        if self._first_step < 0:
            self._first_step, self._began = step - 1, now
        if now - self._last < self._interval and step < steps:
            return
        self._last = now
        self._line(describe(step, steps, figures, now - self._began, self._first_step))

    def note(self, zh: str, en: str) -> None:
        self._line(tr(zh, en))

    def warn(self, zh: str, en: str) -> None:
        self._line(tr("注意：", "warning: ") + tr(zh, en))

    def sample(self, prompt: str, text: str) -> None:
        self._line(f"{prompt!r} → {text!r}")

    def _line(self, text: str) -> None:
        print(self._title, text, file=sys.stderr, flush=True)


def describe(step: int, steps: int, figures: Mapping[str, float], elapsed: float, first: int = 0) -> str:
    """The one-line form of a step: position, figures, time left."""
    shown = [f"{figures[name]:,.0f} {_UNITS[name]}" if name == "tokens_per_second" else f"{figures[name]:.3f} {_UNITS.get(name, name)}" for name in _SHOWN if name in figures]
    done = step - first
    eta = format_seconds(elapsed / done * (steps - step)) if done > 1 else "?"
    return f"{step}/{steps}  " + "  ".join(shown) + f"  ETA {eta}"


class LiveProgress(Progress):
    """A panel that redraws in place: stage, bar, figures, time left; notes scroll above it."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True)
        self._bars = Bars(TextColumn("[bold]{task.fields[title]}"), BarColumn(), TextColumn("{task.description}"), console=self._console, transient=False)
        self._bars.start()
        self._task = None
        self._began, self._first_step, self._last = time.monotonic(), -1, 0.0

    def stage(self, index: int, count: int, name: str) -> None:
        if self._task is not None:
            self._bars.stop_task(self._task)
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task("", total=None, title=f"{index}/{count} {name}")
        self._began, self._first_step = time.monotonic(), -1

    def update(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        now = time.monotonic()
        if self._first_step < 0:
            self._first_step, self._began = step - 1, now
        if self._task is not None and (now - self._last > 0.1 or step == steps):
            self._last = now
            self._bars.update(self._task, completed=step, total=steps, description=describe(step, steps, figures, now - self._began, self._first_step))

    def note(self, zh: str, en: str) -> None:
        self._console.print(tr(zh, en), markup=False, highlight=False)

    def warn(self, zh: str, en: str) -> None:
        self._console.print(tr(zh, en), style="yellow", markup=False, highlight=False)

    def sample(self, prompt: str, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(prompt, style="dim") + Text(" → ") + Text(text, style="cyan"))

    def close(self) -> None:
        self._bars.stop()


def make_progress() -> Progress:
    """A panel on a terminal, lines elsewhere."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()
