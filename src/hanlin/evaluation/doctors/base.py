"""What a doctor of a model is, and the table of those there are. One short file each; a new one registers
itself, from inside or outside the package."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from hanlin.common.messages import Text, joined
from hanlin.common.registry import Registry
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.levels import LEVELS, Level
from hanlin.evaluation.statistics import FEWEST, Metric

Need = Literal["text", "dataset", "chats", "questions", "against", "exports", "tasks"]

LACKS: dict[Need, Text] = {
    "text": Text("No text was given that the model has not seen. Give some with --text."),
    "dataset": Text("The token dataset that the model was trained on was not given. Name it with --dataset."),
    "chats": Text("No conversations were given that the model has not seen. Give some with --chats."),
    "questions": Text("No questions were given, as a test has them. Give a table of some with --questions."),
    "against": Text("The model that it was trained from was not found. Name it with --against."),
    "exports": Text("No exported files of the model were found. Name some with --exports."),
    "tasks": Text("No questions with choices were given. Name some with --data DIR --tasks NAME."),
}


@dataclasses.dataclass(frozen=True)
class Sign:
    """Something that a doctor noticed.

    Attributes:
        level: how bad it is; `ok` for a remark that changes nothing.
        meaning: what it means for the model.
        advice: what to do; may be empty.
    """

    level: Level
    meaning: Text
    advice: Text = dataclasses.field(default_factory=lambda: Text(""))


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a doctor says of a model.

    Attributes:
        metrics: by name, the one that matters most first; `Doctor.labels` says what each is.
        details: examples and counts for `--json`, JSON-able.
    """

    level: Level
    metrics: Mapping[str, Metric]
    meaning: Text
    advice: Text
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        metrics: Mapping[str, Metric],
        signs: Sequence[Sign],
        healthy: Text,
        details: Mapping[str, Any] | None = None,
    ) -> Finding:
        """The worst level of all signs, with what they mean and advise, the worst first.

        Args:
            healthy: what it means that nothing was noticed.
        """
        ordered = sorted(signs, key=lambda sign: -LEVELS.index(sign.level))
        level = ordered[0].level if ordered else "ok"
        meanings = [sign.meaning for sign in ordered]
        advice = list(dict.fromkeys(sign.advice for sign in ordered if sign.advice))
        if level == "ok":
            meanings.insert(0, healthy)
        return cls(level, metrics, said_together(meanings), said_together(advice), details or {})

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the sentences in both languages."""
        return {
            "level": self.level,
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "meaning": self.meaning.to_dict(),
            "advice": self.advice.to_dict(),
            "details": dict(self.details),
        }


def said_together(texts: Sequence[Text]) -> Text:
    """Sentences one after another."""
    return joined(texts, Text.rendered(en=" ", zh="")) if texts else Text("")


class Doctor(abc.ABC):
    """Examines one side of a model.

    Attributes:
        name: what `--doctors` calls it.
        title: for a table.
        needs: inputs without which it can say nothing.
        labels: what each of its metrics is.
        order: place in the table; the urgent ones first.
    """

    name: ClassVar[str]
    title: ClassVar[Text]
    needs: ClassVar[tuple[Need, ...]] = ()
    labels: ClassVar[Mapping[str, Text]]
    order: ClassVar[int]

    @classmethod
    def label(cls, name: str) -> Text:
        """What a metric is. `NAME/PART` is `NAME` of one part, where `labels` has no such whole name."""
        base, _, part = name.partition("/")
        if name in cls.labels or not part:
            return cls.labels[name]
        return Text("{label}, {part}", label=cls.labels[base], part=part)

    @abc.abstractmethod
    def examine(self, context: DoctorContext) -> Finding:
        """Measure the model and judge it. Called only when all that is needed is there."""


DOCTORS: Registry[Doctor] = Registry(Text("doctor"))
D = TypeVar("D", bound=type[Doctor])


def register_doctor(cls: D) -> D:
    """Enter a doctor in the table, as a decorator."""
    DOCTORS.register(cls.name, cls)
    return cls


def doctor_names() -> list[str]:
    """All registered doctors, in the order in which they are shown."""
    return sorted(DOCTORS, key=lambda name: (DOCTORS.get(name).order, name))


def ordered_doctors(names: Sequence[str]) -> list[Doctor]:
    """The named doctors in the order of the table.

    Raises:
        HanlinError: no such doctor; the message lists them.
    """
    chosen = [DOCTORS.get(name) for name in dict.fromkeys(names)]
    return [kind() for kind in sorted(chosen, key=lambda kind: (kind.order, kind.name))]


def examine_model(
    context: DoctorContext, names: Sequence[str] = (), on_doctor: Callable[[str], None] | None = None
) -> Iterator[tuple[Doctor, Finding]]:
    """Findings of the named doctors, of all when none is named, in the order of the table.

    Args:
        on_doctor: told the name of each before it begins.

    Raises:
        HanlinError: no such doctor; the message lists them.
    """
    for doctor in ordered_doctors(names or doctor_names()):
        if on_doctor is not None:
            on_doctor(doctor.name)
        yield doctor, examined(doctor, context)


def examined(doctor: Doctor, context: DoctorContext) -> Finding:
    """What a doctor finds, or what it lacks."""
    lacking = [LACKS[need] for need in doctor.needs if not context.has(need)]
    return unknown(said_together(lacking)) if lacking else doctor.examine(context)


def unknown(why: Text, metrics: Mapping[str, Metric] | None = None) -> Finding:
    """A finding that judges nothing."""
    return Finding("unknown", metrics or {}, why, Text(""))


def few_texts() -> Text:
    """What is said of too few texts."""
    return Text("It takes {fewest} texts at least (--text).", fewest=FEWEST)


def above(metric: Metric, yellow: float, red: float) -> Level:
    """Level of a metric that should be small: the whole interval has to lie above a threshold. So a healthy
    model that is measured on few items raises no alarm by chance; of fewer than `FEWEST` nothing is said."""
    if metric.n < FEWEST or math.isinf(metric.low):
        return "unknown"
    return "red" if metric.low > red else "yellow" if metric.low > yellow else "ok"


def below(metric: Metric, yellow: float, red: float) -> Level:
    """Level of a metric that should be large, as `above`."""
    if metric.n < FEWEST or math.isinf(metric.high):
        return "unknown"
    return "red" if metric.high < red else "yellow" if metric.high < yellow else "ok"


def exactly(value: float, n: int, *, higher_is_better: bool = False) -> Metric:
    """A number that is no estimate, a maximum over `n` items for example: its interval is itself."""
    return Metric(value, value, value, n, higher_is_better)
