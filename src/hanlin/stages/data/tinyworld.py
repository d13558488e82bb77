"""Records of the embedded tinyworld, which knows the right answers; training and held-out structures are
disjoint by construction."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from hanlin.common.config import Range, at_least
from hanlin.common.manifest import hash_json, sha256_file
from hanlin.corpus import tinyworld
from hanlin.evaluation.tasks import tinyworld as tasks
from hanlin.stages.data.base import (
    DataScope,
    DataSource,
    Record,
    Schema,
    register_source,
    without_reasoning,
)

EXAMPLES_VERSION = 2  # raised when the records made here of tinyworld's change
_SCHEMAS: dict[str, Schema] = {
    "chat": "messages",
    "reasoning": "messages",
    "manner": "preferences",
    "problems": "problems",
}


@register_source
@dataclasses.dataclass(frozen=True)
class TinyworldData(DataSource):
    """Generated records.

    Attributes:
        task: `chat`, the conversations of `tinyworld.chat`; `reasoning`, word problems of one to five steps,
            of which `think_share` show their reasoning and the others the bare answer, and half as many
            chats, so that nothing is forgotten; `manner`, pairs of a polite and an impolite answer to open
            requests; `problems`, word problems with their answers.
        examples: how many.
        anchors: of pairs, two in three are about something that the model can do already, with the right
            answer on both sides: there is nothing to prefer, and what remains of the loss is the likelihood
            of that answer, which holds the model where it is. `chat` takes chats, `reasoning` as many
            problems besides. Open requests alone spoil the rest: measured here, problems solved by thinking
            fell from 90 % to 37 %; and small talk rejected for a right answer spoils the answers themselves
            (greetings 97 % → 57 %). But a question from outside is to be declined, and a friendly
            answer to something else is rejected for it: held in place alone, it was declined 100 % → 89–94 %
            of the time, since manners are taught on short requests like it; so, 97 %.
        offset: added to the recipe's seed, so that two stages of one task read different records.
    """

    kind: str = "tinyworld"
    task: Literal["chat", "reasoning", "manner", "problems"] = "chat"
    examples: int = 1000
    think_share: float = 0.5
    anchors: Literal["none", "chat", "reasoning"] = "none"
    offset: int = 0

    RANGES: ClassVar[dict[str, Range]] = {
        "examples": at_least(1),
        "think_share": Range(0, 1),
        "offset": at_least(0),
    }

    def schemas(self) -> tuple[Schema, ...]:
        """By the task."""
        return (_SCHEMAS[self.task],)

    def train(self, scope: DataScope) -> Iterator[Record]:
        """Generated records of the training split."""
        seed = scope.seed + self.offset
        if self.task == "chat":
            records: Iterator[Any] = tinyworld.chat_conversations(seed, self.examples, "train")
        elif self.task == "reasoning":
            records = reasoning_conversations(seed, self.examples, self.think_share)
        elif self.task == "problems":
            records = tinyworld.problems(seed + 2, self.examples, "train", reasoning=False, fewest=1)
        else:
            records = self._pairs(seed)
        return itertools.islice(self._with_reasoning(records), self.limit or None)

    def heldout(self, scope: DataScope) -> Iterator[Record]:
        """Generated records of structures that no training record has; the offset plays no part."""
        count = scope.evaluation.count
        if self.task == "problems":
            return tinyworld.problems(scope.seed + 2, count, "heldout", reasoning=False, fewest=1)
        if self.task == "manner":
            return tinyworld.preferences(scope.seed, count, "heldout")
        return tinyworld.chat_conversations(scope.seed, count, "heldout")

    def identity(self, scope: DataScope) -> Any:
        """The grammar itself, and how this file makes records of it."""
        return {"tinyworld": grammar_digest(), "seed": scope.seed, "version": EXAMPLES_VERSION}

    def target(self, scope: DataScope) -> str:
        """By the task."""
        by_task = {"chat": tasks.STORY_QA, "reasoning": tasks.MATH, "manner": tasks.POLITENESS}
        return by_task.get(self.task) or super().target(scope)

    def teaches(self, scope: DataScope) -> Sequence[str]:
        """By the task. Whether to think is taught by reinforcement alone, and moves freely before."""
        return {
            "chat": (
                tasks.STORY_QA,
                tasks.GREETINGS,
                tasks.STORY_REQUESTS,
                tasks.OUTSIDE_DECLINED,
                tasks.LATER_TURNS,
            ),
            "reasoning": (tasks.MATH,),
            "manner": (),
            "problems": (tasks.MATH_FREE,),
        }[self.task]

    def _pairs(self, seed: int) -> Iterator[Any]:
        pairs = tinyworld.preferences(seed, self.examples, "train")
        if self.anchors == "none":
            yield from pairs
            return
        known = _known(seed, self.anchors == "reasoning")
        for index, pair in enumerate(pairs):
            if index % 3:
                chat = next(known)
                *prompt, reply = chat["messages"]
                outside = chat.get("kind") == "outside"
                yield {"prompt": prompt, "chosen": reply, "rejected": pair["chosen"] if outside else reply}
            else:
                yield pair


def reasoning_conversations(seed: int, count: int, think_share: float) -> Iterator[Any]:
    """Word problems with and without their reasoning, and half as many chats."""
    problems = tinyworld.problems(seed, count, "train", fewest=1)
    chats = tinyworld.chat_conversations(seed + 1, count, "train", with_problems=True)
    for index, (problem, chat) in enumerate(zip(problems, chats, strict=True)):
        thinks = int((index + 1) * think_share) > int(index * think_share)
        typed = problem | {"messages": tinyworld.as_typed(problem["messages"], problem["id"])}
        yield typed if thinks else without_reasoning(typed)
        if index % 2 == 0:
            yield chat


# Of the chats of a kind, one in so many is shown again.
_KNOWN_ONE_IN = {"story": 4, "greeting": 2}


def _known(seed: int, with_problems: bool) -> Iterator[Any]:
    """What a model has been taught before, but for open requests: chats, and as many problems, so that it
    keeps thinking as often as it did."""
    chats = tinyworld.chat_conversations(seed + 8, 1 << 30, "train", with_problems=with_problems)
    problems = reasoning_conversations(seed, 1 << 30, 0.5) if with_problems else iter(())
    for index, chat in enumerate(chats):
        if index % _KNOWN_ONE_IN.get(chat["kind"], 1) == 0 and chat["kind"] != "free":
            yield chat
        if problem := next((p for p in problems if "answer" in p), None):
            yield problem


@functools.cache
def grammar_digest() -> str:
    """Hash of the sources of tinyworld: whatever changes there may change a record."""
    sources = sorted(Path(tinyworld.__file__).parent.glob("*.py"))
    return hash_json([[file.name, sha256_file(file)] for file in sources])
