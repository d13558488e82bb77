"""Items of benchmarks, and the prompts under which a model is asked them. No torch here.

A protocol is part of a score: the same model on the same items differs by a dozen points between two of them
(Steel-LLM publishes 38.6 on C-Eval for itself, minimind's table gives it 24.9). So a prompt has a name, and
every score carries it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from hanlin.common.messages import Text

Form = Literal["cloze", "letters", "pairs", "answer"]
"""How an item is asked: the likelihood of each choice's text; that of its letter, the choices being listed;
that of each of two whole sentences; or an answer that the model writes."""

Normalisation = Literal["sum", "token", "char", "byte", "pmi"]
"""What the log probability of a choice is divided by, or (pmi) what is taken off it: its log probability
without the question."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Item:
    """One item, whatever file it came from.

    Attributes:
        id: stable across files and versions of a file's order: the publisher's own where there is one, else
            a place in a named file. Two runs are compared item by item by it.
        question: what is asked, without the passage and the choices.
        choices: texts to choose from; none where the model writes the answer.
        gold: index of the right choice.
        answer: what a written answer is held against.
        passage: text that the question is about.
        subject: stratum for tables and samples, such as the school subject or the grammatical paradigm.
        cluster: items of one cluster depend on each other (questions about one passage): intervals draw
            clusters, not items. Empty: the item is its own.
        more: further fields that the benchmark's own prompts and checks use. A list of texts, one for each
            choice, names in a template the text of the choice at hand.
    """

    id: str
    question: str
    choices: tuple[str, ...] = ()
    gold: int | None = None
    answer: str = ""
    passage: str = ""
    subject: str = ""
    cluster: str = ""
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """What a prompt's template may name: this item's fields, `options`, the lettered choices, and
        `given`, the passage and a line break where there is one."""
        named = {
            "question": self.question,
            "passage": self.passage,
            "given": f"{self.passage}\n" if self.passage else "",
            "subject": self.subject,
            "answer": self.answer,
            "options": lettered(self.choices),
        }
        return named | dict(self.more)

    def fields_of(self, at: int) -> dict[str, Any]:
        """The same, with `choice`, `letter` and the fields by choice of the one at an index."""
        by_choice = {name: value[at] for name, value in self.more.items() if isinstance(value, (list, tuple))}
        return self.fields() | {"choice": self.choices[at], "letter": LETTERS[at]} | by_choice


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """An item of a file that can't be asked, and why."""

    id: str
    reason: Text


def lettered(choices: Iterable[str]) -> str:
    """The choices a line each, with their letters."""
    return "\n".join(f"{LETTERS[at]}. {choice}" for at, choice in enumerate(choices))


@dataclasses.dataclass(frozen=True)
class Request:
    """One likelihood to compute: that of `continuation` after `context`.

    Attributes:
        measured: the part of the continuation whose characters and bytes count, which is all of it but the
            delimiter.
    """

    context: str
    continuation: str
    measured: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """How an item is put, as templates over `Item.fields()`; `{choice}` and `{letter}` are those of the
    choice at hand.

    Attributes:
        context: what precedes. Where it names `{choice}` every choice has a context of its own (XWinograd).
        continuation: what is scored; for a written answer, what a shot shows.
        choices: what stands for the choices, in their order, where their own texts do not.
        main: the normalisation that decides, fixed beforehand: never the best of five.
        delimiter: between context and continuation; it is scored with the continuation and measured with
            neither.
        description: before the shots.
        between: between shots, and between the last one and the question.
        before_question: between the last shot and the question, where that is not `between`.
        bare: the context that stands for no question, a template too, for `pmi` and the control that never
            sees the question; None where there is no such thing (whole sentences).
        stop: of a written answer: texts that end it.
        max_new_tokens: of a written answer.
    """

    context: str
    continuation: str = "{choice}"
    choices: tuple[str, ...] = ()
    main: Normalisation = "char"
    delimiter: str = ""
    description: str = ""
    between: str = "\n\n"
    before_question: str | None = None
    bare: str | None = "答案："
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 0

    def requests(self, item: Item, shots: Sequence[Item] = ()) -> list[Request]:
        """One request for each choice."""
        head = self.head(item.fields(), shots)
        made = []
        for at in range(len(item.choices)):
            values = self._fields(item, at)
            said = self.continuation.format_map(values)
            made.append(Request(head + self.context.format_map(values), self.delimiter + said, said))
        return made

    def bare_requests(self, item: Item) -> list[Request]:
        """The same continuations after no question; none where there is no such thing."""
        if self.bare is None:
            return []
        return [
            dataclasses.replace(request, context=self.bare.format_map(self._fields(item, at)))
            for at, request in enumerate(self.requests(item))
        ]

    def written(self, item: Item, shots: Sequence[Item] = ()) -> str:
        """The prompt of an item whose answer the model writes."""
        fields = item.fields()
        return self.head(fields, shots) + self.context.format_map(fields)

    def head(self, fields: Mapping[str, Any], shots: Sequence[Item]) -> str:
        """Description and shots, each with its right answer."""
        head = self.description.format_map(fields)
        for number, shot in enumerate(shots, start=1):
            values = shot.fields() if shot.gold is None else self._fields(shot, shot.gold)
            head += self.context.format_map(values) + self.delimiter + self.continuation.format_map(values)
            if number < len(shots) or self.before_question is None:
                head += self.between
            else:
                head += self.before_question
        return head

    def _fields(self, item: Item, at: int) -> dict[str, Any]:
        """The item's fields, with those of the choice at an index."""
        fields = item.fields_of(at)
        return fields | {"choice": self.choices[at]} if self.choices else fields

    def digest(self) -> str:
        """First characters of the SHA-256 of everything that decides what the model sees."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:12]


def data_digest(items: Iterable[Item]) -> str:
    """SHA-256 over the items in order, so that two scores are known to be of the same items."""
    digest = hashlib.sha256()
    for item in items:
        values = dataclasses.asdict(item)
        digest.update(json.dumps(values, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace"))
        digest.update(b"\n")
    return digest.hexdigest()


def identity(items: Sequence[Item]) -> dict[str, Any]:
    """What was asked, as `Metric.share` and its like take it: `ids`, `data` and `clusters`."""
    return {
        "ids": [item.id for item in items],
        "data": data_digest(items),
        "clusters": [item.cluster or item.id for item in items],
    }
