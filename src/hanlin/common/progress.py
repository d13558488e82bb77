"""What a person watches: a live panel on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hanlin.common.messages import Text, tr, verbatim

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from typing_extensions import LiteralString

SOURCE = "source/"  # what precedes a source's name in figures: its share of the last step's documents
SOURCE_LOSS = "bits_per_byte/"  # and its bits per byte in that step
_MOST_SOURCES = 6


def format_seconds(seconds: float) -> str:
    """`73` → `1:13`."""
    minutes, seconds = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _megabytes(value: float) -> str:
    return f"{value / 1024:.1f} GiB" if value >= 10240 else f"{value:.0f} MiB"


# Figure → name, how to show it; what is not here is not shown, and what a step does not have is left out.
_FIGURES: dict[str, tuple[Text, Callable[[float], str]]] = {
    "loss": (Text("loss"), "{:.3f}".format),
    "bits_per_byte": (Text("bits/byte"), "{:.3f}".format),
    "reward": (Text("reward"), "{:.3f}".format),
    "accuracy": (Text("accuracy"), "{:.3f}".format),
    "tokens_per_second": (Text("tok/s"), "{:,.0f}".format),
    "mfu": (verbatim("MFU"), "{:.0%}".format),
    "memory_mb": (Text("memory"), _megabytes),
    "device_memory_mb": (Text("device memory"), _megabytes),
    "grad_norm": (Text("grad norm"), "{:.2f}".format),
    "lr": (Text("lr"), "{:.1e}".format),
    "skipped": (Text("skipped"), "{:.0f}".format),
    "loss_scale": (Text("loss scale"), "{:.0f}".format),
    "overflows": (Text("overflows"), "{:.0f}".format),
}
_FIRST_LINE = ("loss", "bits_per_byte", "reward", "accuracy", "grad_norm", "lr")


def shown_figures(figures: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """(key, name in the reader's language, text) of what is known of a step, in the panel's order; no step
    skipped and no overflow are not news."""
    found = [(key, str(name), form(figures[key])) for key, (name, form) in _FIGURES.items() if key in figures]
    return [entry for entry in found if entry[0] not in ("skipped", "overflows") or figures[entry[0]]]


def shown_sources(figures: Mapping[str, float]) -> str:
    """`web 61% 1.52 · books 22% 1.71`, largest first, with bits per byte where they are known; empty where
    sources are not."""
    shares = sorted(
        ((value, key[len(SOURCE) :]) for key, value in figures.items() if key.startswith(SOURCE)),
        reverse=True,
    )
    total = sum(share for share, _ in shares)
    if not total:
        return ""
    losses = {name: figures.get(SOURCE_LOSS + name) for _, name in shares}
    named = [
        f"{name} {share / total:.0%}" + ("" if losses[name] is None else f" {losses[name]:.2f}")
        for share, name in shares[:_MOST_SOURCES]
    ]
    rest = len(shares) - len(named)
    return " · ".join(named + ([tr("{rest} more", rest=rest)] if rest > 0 else []))


class Progress:
    """Shows the stages of a run. The base class is silent."""

    def expect(self, work: Mapping[str, float]) -> None:
        """How much work each stage of a run is, in any one unit; from it follows what is left of the
        whole."""

    def stage(self, index: int, count: int, name: str) -> None:
        """A stage begins: `index` of `count`, both from 1."""

    def part(self, title: Text, index: int = 1, count: int = 1) -> None:
        """A part of the stage begins that counts its own steps, a seed or a control: `index` of `count`,
        both from 1."""

    def done(self, seconds: float, outcome: Text | str = "") -> None:
        """The stage is over, with a word on what came of it."""

    def update(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        """A step is done."""

    def note(self, message: LiteralString | Text, /, **fields: Any) -> None:
        """Something worth a line: a `Text`, or the template of one and its fields."""

    def warn(self, message: LiteralString | Text, /, **fields: Any) -> None:
        """Something that should not be overlooked, likewise."""

    def sample(self, prompt: str, text: str) -> None:
        """A piece of the model's own text."""

    def close(self) -> None:
        """No more to come."""


class PlainProgress(Progress):
    """One line every `interval` seconds, for logs and pipes."""

    def __init__(self, interval: float = 10.0):
        self._interval = interval
        self._title = self._head = ""
        self._clock = _Clock()
        self._whole = _Whole()
        self._last = time.monotonic()

    def expect(self, work: Mapping[str, float]) -> None:
        self._whole.expect(work)

    def stage(self, index: int, count: int, name: str) -> None:
        self._head = f"{index}/{count} {name}"
        self._title = f"[{self._head}]"
        self._clock, self._last = _Clock(), 0.0
        self._whole.stage(name)
        self._line(tr("start"))

    def part(self, title: Text, index: int = 1, count: int = 1) -> None:
        self._title = f"[{self._head} · {title}]"
        self._whole.part(index, count)
        self._clock, self._last = _Clock(), 0.0

    def done(self, seconds: float, outcome: Text | str = "") -> None:
        self._title = f"[{self._head}]"
        self._whole.done(seconds)
        self._line(finished(seconds, outcome, self._whole.left()))

    def update(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        now = self._clock.at(step)
        if now - self._last < self._interval and step < steps:
            return
        self._last = now
        self._line(
            describe(step, steps, figures, self._clock.left(step, steps), self._whole.left(step, steps))
        )

    def note(self, message: LiteralString | Text, /, **fields: Any) -> None:
        self._line(tr(message, **fields))

    def warn(self, message: LiteralString | Text, /, **fields: Any) -> None:
        self._line(tr("warning: ") + tr(message, **fields))

    def sample(self, prompt: str, text: str) -> None:
        self._line(f"{prompt!r} → {text!r}")

    def _line(self, text: str) -> None:
        print(self._title, text, file=sys.stderr, flush=True)


def finished(seconds: float, outcome: Text | str, left: str = "") -> str:
    """`done in 2:03   bits per byte 0.322   about 10:15 of the run left`."""
    parts = [tr("done in {seconds}", seconds=format_seconds(seconds)), str(outcome)]
    parts.append(tr("about {left} of the run left", left=left) if left else "")
    return "   ".join(part for part in parts if part)


class _Whole:
    """What is left of a run, by the work of its stages and what a unit of it has taken so far."""

    def __init__(self):
        self._work: dict[str, float] = {}
        self._open: list[str] = []
        self._current, self._began = "", time.monotonic()
        self._taken = self._worked = 0.0
        self._part = (1, 1)

    def expect(self, work: Mapping[str, float]) -> None:
        self._work, self._open = dict(work), list(work)

    def stage(self, name: str) -> None:
        self._current, self._began, self._part = name, time.monotonic(), (1, 1)
        if name in self._open:  # stages before it are over, or were taken over from an earlier run
            self._open = self._open[self._open.index(name) + 1 :]

    def part(self, index: int, count: int) -> None:
        self._part = (index, count)

    def done(self, seconds: float) -> None:
        work = self._work.get(self._current, 0.0)
        if work > 0:
            self._taken, self._worked = self._taken + seconds, self._worked + work
        self._current = ""

    def left(self, step: int = 0, steps: int = 0) -> str:
        """`10:15`, or nothing where there is nothing to judge by, or nothing to come."""
        index, count = self._part
        share = (index - 1 + (step / steps if steps else 0.0)) / count
        here = self._work.get(self._current, 0.0)
        taken, worked = self._taken, self._worked
        if here and share > 0:
            taken, worked = taken + time.monotonic() - self._began, worked + share * here
        rest = sum(self._work[name] for name in self._open) + (1 - share) * here
        return format_seconds(taken / worked * rest) if worked and rest else ""


class _Clock:
    """Time since a stage's first step, and what is left of it at that pace."""

    def __init__(self):
        self.began, self.first = time.monotonic(), -1

    def at(self, step: int) -> float:
        """The time now; the first call says which step the stage began behind."""
        now = time.monotonic()
        if self.first < 0:
            self.first, self.began = step - 1, now
        return now

    def left(self, step: int, steps: int) -> str:
        """`1:13`, or `?` while there is nothing to judge by."""
        # The first step's end is where the clock begins, so one step fewer has been timed.
        timed = step - self.first - 1
        return format_seconds((time.monotonic() - self.began) / timed * (steps - step)) if timed > 0 else "?"


def describe(step: int, steps: int, figures: Mapping[str, float], left: str, whole: str = "") -> str:
    """The one-line form of a step: position, figures, sources, time left of the stage and of the whole
    run."""
    shown = [f"{name} {text}" for _, name, text in shown_figures(figures)]
    sources = shown_sources(figures)
    return "  ".join(
        [
            f"{step}/{steps}",
            *shown,
            *([tr("sources ") + sources] if sources else []),
            tr("ETA ") + left,
            *_whole_left(whole),
        ]
    )


def _whole_left(whole: str) -> list[str]:
    return [tr("run about {whole}", whole=whole)] if whole else []


def panel(
    title: str, step: int, steps: int | None, figures: Mapping[str, float], left: str, whole: str = ""
) -> RenderableType:
    """The live form of a step: a bar, then what is learnt, what it costs, and what was read."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text as RichText

    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    place = (
        RichText(
            f"{step}/{steps}  {step / steps:.0%}  " + "  ".join([tr("ETA ") + left, *_whole_left(whole)])
        )
        if steps
        else RichText(tr("starting"))
    )
    head.add_row(ProgressBar(total=steps or 1, completed=step), place)
    rows: list[RenderableType] = [head]
    shown = shown_figures(figures)
    for first in (True, False):
        line = RichText(overflow="fold")
        for key, name, text in shown:
            if (key in _FIRST_LINE) == first:
                style = "bold red" if key == "skipped" else "bold"
                # No break between a name and its figure: a narrow terminal wraps between them.
                line.append("   " if line else "").append(
                    f"{name}\u00a0".replace(" ", "\u00a0"), style="dim"
                ).append(text.replace(" ", "\u00a0"), style=style)
        if line:
            rows.append(line)
    sources = shown_sources(figures)
    if sources:
        rows.append(RichText(tr("sources "), style="dim") + RichText(sources, style="default"))
    return Panel(
        Group(*rows),
        title=RichText(title, style="bold"),
        title_align="left",
        border_style="dim",
        padding=(0, 1),
    )


class LiveProgress(Progress):
    """A panel that redraws in place; notes scroll above it."""

    def __init__(self, console: Console | None = None):
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(stderr=True)
        self._title, self._step, self._steps = "", 0, 0
        self._figures: dict[str, Any] = {}
        self._clock, self._whole, self._head = _Clock(), _Whole(), ""
        self._live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=4, transient=False
        )
        self._live.start()

    def _render(self) -> RenderableType:
        if not self._title:
            return ""
        return panel(
            self._title,
            self._step,
            self._steps,
            self._figures,
            self._clock.left(self._step, self._steps),
            self._whole.left(self._step, self._steps),
        )

    def expect(self, work: Mapping[str, float]) -> None:
        self._whole.expect(work)

    def stage(self, index: int, count: int, name: str) -> None:
        self._head = f"{index}/{count} {name}"
        self._whole.stage(name)
        self._begin(self._head)

    def part(self, title: Text, index: int = 1, count: int = 1) -> None:
        self._whole.part(index, count)
        self._begin(f"{self._head} · {title}")

    def done(self, seconds: float, outcome: Text | str = "") -> None:
        self._whole.done(seconds)
        self._console.print(
            f"✓ {self._head}   {finished(seconds, outcome)}", markup=False, highlight=False, style="green"
        )

    def _begin(self, title: str) -> None:
        self._title, self._step, self._steps, self._figures, self._clock = title, 0, 0, {}, _Clock()

    def update(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        self._clock.at(step)
        self._step, self._steps, self._figures = step, steps, dict(figures)

    def note(self, message: LiteralString | Text, /, **fields: Any) -> None:
        self._console.print(tr(message, **fields), markup=False, highlight=False)

    def warn(self, message: LiteralString | Text, /, **fields: Any) -> None:
        self._console.print(tr(message, **fields), style="yellow", markup=False, highlight=False)

    def sample(self, prompt: str, text: str) -> None:
        from rich.text import Text as RichText

        self._console.print(RichText(prompt, style="dim") + RichText(" → ") + RichText(text, style="cyan"))

    def close(self) -> None:
        self._live.stop()


def make_progress() -> Progress:
    """A panel on a terminal, lines elsewhere."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()
