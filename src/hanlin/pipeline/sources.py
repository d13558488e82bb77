"""Where each stage's data come from: the embedded tinyworld, which knows the right answers, or the user's files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import math
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import hash_json, sha256_file
from hanlin.corpus import tinyworld
from hanlin.corpus.readers.read import expand, read_conversations, read_preferences
from hanlin.recipe.recipe import Recipe

# Tasks of the embedded world, in the order in which a report shows them.
TASKS = (
    "story_answers",
    "greetings",
    "story_requests",
    "outside_declined",
    "word_problems",
    "problems_solved",
    "preferred_manner",
    "task_reward",
)
TURNS = "later_turns"  # is measured by conversations, not by single prompts

Check = Callable[[dict[str, Any], str], bool]


@dataclasses.dataclass(frozen=True)
class Task:
    """Held-out prompts with an exact judge.

    Attributes:
        name: the metric's name in report.json.
        thinking: how the answer begins, see `Tokenizer.render`.
        temperature: 0 for answers that are right or wrong, more for free ones.
    """

    name: str
    records: list[dict[str, Any]]
    check: Check
    thinking: bool | None = None
    temperature: float = 0.0


# The judge of one turn, by its kind.
CHECKS: dict[str, Check] = {
    "greeting": tinyworld.check_exact,
    "sum": tinyworld.check_exact,
    "story": tinyworld.check_story_answer,
    "problem": tinyworld.check_problem,
    "tell": tinyworld.is_story,
    "outside": lambda record, text: tinyworld.declines(text),
    "free": lambda record, text: tinyworld.manner(text) != "neither",
}


class TinyworldSource:
    """Every stage's data from the generator; training and held-out structures are disjoint by construction."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.seed = recipe, recipe.seed

    def fingerprint(self, stage: str) -> dict[str, Any]:
        """What the stage's data depend on besides the recipe: the grammar itself, and how this file makes examples of it."""
        examples = {} if stage == "corpus" else {"examples": sha256_file(Path(__file__))}
        return {"tinyworld": _grammar_digest(), "seed": self.seed} | examples

    def documents(self) -> Iterator[dict[str, Any]]:
        """Text for pretraining, with known dirt in it."""
        section = self.recipe.corpus
        return tinyworld.documents(self.seed, section.documents, dirt=tinyworld.Dirt(section.dirt))

    def conversations(self, stage: str, direct: bool = False) -> Iterator[dict[str, Any]]:
        """Training conversations of `sft` or `distill`.

        SFT: the chats of `tinyworld.chat`. Distillation: word problems of one to five steps, of which `think_share` show their
        reasoning and the others the bare answer, and half as many chats, so that nothing is forgotten; `direct` shows no
        reasoning at all (the control).
        """
        if stage == "sft":
            assert self.recipe.sft is not None
            yield from tinyworld.chat_conversations(self.seed, self.recipe.sft.examples, "train")
            return
        section = self.recipe.distill
        assert section is not None
        problems = tinyworld.problems(self.seed, section.examples, "train", fewest=1)
        chats = tinyworld.chat_conversations(self.seed + 1, section.examples, "train", with_problems=True)
        share = section.think_share
        for index, (problem, chat) in enumerate(zip(problems, chats, strict=True)):
            thought = int((index + 1) * share) > int(index * share)
            problem = problem | {"messages": tinyworld.as_typed(problem["messages"], problem["id"])}
            yield problem if thought and not direct else without_reasoning(problem)
            if index % 2 == 0:
                yield without_reasoning(chat) if direct else chat

    def preferences(self, stage: str, heldout: bool = False) -> Iterator[dict[str, Any]]:
        """Pairs of a polite and an impolite answer to open requests.

        For DPO, two in three pairs are about something the model can do already, with the right answer on both sides: there is
        nothing to prefer, and what remains of the loss is the likelihood of that answer, which holds the model where it is. Open
        requests alone spoil the rest: measured here, problems solved by thinking fell from 90 % to 37 %; and small talk rejected
        for a right answer spoils the answers themselves (greetings 97 % → 57 %).
        """
        if heldout:
            yield from tinyworld.preferences(self.seed, self.recipe.evaluation.count, "heldout")
            return
        section = self.recipe.dpo if stage == "dpo" else self.recipe.reward
        assert section is not None
        pairs = tinyworld.preferences(self.seed + (stage == "reward"), section.examples, "train")
        known = self._known()
        for index, pair in enumerate(pairs):
            if stage == "dpo" and index % 3:
                *prompt, reply = next(known)["messages"]
                yield {"prompt": prompt, "chosen": reply, "rejected": reply}
            else:
                yield pair

    def _known(self) -> Iterator[dict[str, Any]]:
        """What the model was taught before DPO but for open requests: chats, half of their stories left out, and as many problems, so
        that it keeps thinking as often as it did."""
        distill = self.recipe.distill
        chats = tinyworld.chat_conversations(
            self.seed + 8, 1 << 30, "train", with_problems=distill is not None
        )
        problems = self.conversations("distill") if distill is not None else iter(())
        for index, chat in enumerate(chats):
            if chat["kind"] != "free" and (chat["kind"] != "story" or index % 2):
                yield chat
            if problem := next((p for p in problems if "answer" in p), None):
                yield problem

    def problems(self, heldout: bool = False) -> list[dict[str, Any]]:
        """Word problems with their answers, for reinforcement learning."""
        assert self.recipe.grpo is not None
        split, count = (
            ("heldout", self.recipe.evaluation.count) if heldout else ("train", self.recipe.grpo.examples)
        )
        return list(tinyworld.problems(self.seed + 2, count, split, reasoning=False, fewest=1))

    def task(self, name: str) -> Task:
        """The held-out task behind a metric's name."""
        count, seed = self.recipe.evaluation.count, self.seed
        few = min(count, self.recipe.evaluation.closed_count)
        if name == "story_answers":
            return Task(
                name, list(tinyworld.story_questions(seed, count, "heldout")), tinyworld.check_story_answer
            )
        if name == "greetings":
            return Task(name, list(tinyworld.greetings(seed, few, "heldout")), tinyworld.check_exact)
        if name == "story_requests":
            return Task(name, list(tinyworld.story_requests(seed, few, "heldout")), tinyworld.is_story)
        if name == "outside_declined":
            return Task(name, list(tinyworld.outside_questions(seed, few, "heldout")), CHECKS["outside"])
        if name == "word_problems":
            records = list(tinyworld.problems(seed + 3, few, "heldout", reasoning=False, fewest=1))
            return Task(name, records, tinyworld.check_problem)
        if name in ("problems_solved", "direct"):
            records = list(tinyworld.problems(seed, count, "heldout", reasoning=False))
            return Task(name, records, tinyworld.check_problem, thinking=name == "problems_solved")
        if name == "task_reward":
            return Task(name, self.problems(heldout=True), tinyworld.check_problem, temperature=1.0)
        if name == "preferred_manner":
            records = list(tinyworld.free_prompts(seed, count, "heldout"))
            polite: Check = lambda record, text: tinyworld.manner(text) == "polite"  # noqa: E731
            return Task(name, records, polite, temperature=self.recipe.evaluation.temperature)
        raise KeyError(name)

    def mixed_conversations(self, with_problems: bool) -> list[list[dict[str, Any]]]:
        """Held-out conversations whose subject changes with every turn."""
        count = min(self.recipe.evaluation.count, self.recipe.evaluation.closed_count)
        return list(tinyworld.mixed_conversations(self.seed, count, "heldout", with_problems))

    def sample_prompts(self) -> list[dict[str, Any]]:
        """Prompts to show before and after each stage: `text` to go on from, or `messages` to answer."""
        return tinyworld.sample_prompts("heldout")


@functools.cache
def _grammar_digest() -> str:
    sources = sorted(Path(tinyworld.__file__).parent.glob("*.py"))
    return hash_json([[file.name, sha256_file(file)] for file in sources])


class FileSource:
    """The user's own files.

    What is held out is decided by the first thing that the user says, for all stages alike: a question that one stage is judged by is
    in no stage's training data, whatever answer or reasoning stands beside it there. Two in a hundred are held out, those with the
    smallest hashes; of a small file more, a tenth or `heldout_fewest`.
    """

    heldout_share = 0.02
    heldout_fewest = 20
    heldout_most = 500
    stages = ("sft", "distill", "dpo", "reward", "grpo")

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def files(self, stage: str) -> tuple[str, ...]:
        """The patterns a recipe gives for a stage."""
        section = getattr(self.recipe, stage)
        return section.files if section is not None else ()

    def fingerprint(self, stage: str) -> list[Any]:
        """Names, sizes and change times of the stage's files, and of all that decide what is held out."""
        names = ("corpus",) if stage == "corpus" else tuple(name for name in self.stages if self.files(name))
        return [
            [str(path), path.stat().st_size, path.stat().st_mtime_ns]
            for name in names
            for path in expand(self.files(name))
        ]

    def documents(self) -> list[Path]:
        """Files of text."""
        return expand(self.recipe.corpus.files)

    def conversations(self, stage: str, direct: bool = False, heldout: bool = False) -> Iterator[Any]:
        """Conversations of a stage's files; `direct` leaves out the reasoning (the control of distillation)."""
        section = getattr(self.recipe, stage)
        records = self._side(read_conversations(section.files), heldout)
        limited = islice(records, self.heldout_most if heldout else section.limit or None)
        for record in limited:
            yield without_reasoning(record) if direct else record

    def preferences(self, stage: str, heldout: bool = False) -> Iterator[Any]:
        """Preference pairs of a stage's files."""
        return islice(
            self._side(read_preferences(self.files(stage)), heldout), self.heldout_most if heldout else None
        )

    def problems(self, heldout: bool = False) -> list[Any]:
        """Conversations with a checkable `answer` beside the messages.

        Raises:
            HanlinError: there are none on this side.
        """
        records = (
            record for record in read_conversations(self.files("grpo")) if record.get("answer") is not None
        )
        found = list(islice(self._side(records, heldout), self.heldout_most if heldout else None))
        if not found:
            raise HanlinError(
                "No conversation in grpo.files has an `answer` beside its messages; GRPO needs answers it "
                "can check."
            )
        return found

    def counts(self, stage: str) -> tuple[int, int]:
        """Records of a stage to train on, and held out.

        Raises:
            HanlinError: nothing is left to train on.
        """
        sides = [key in self.heldout_keys for key in self._keys(stage)]
        every, held = len(sides), sum(sides)
        if every == held:
            raise HanlinError(
                "{stage}.files holds {every} usable records; with those held out to judge by, nothing is "
                "left to train on. Give more questions that differ.",
                stage=stage,
                every=every,
            )
        return every - held, held

    @functools.cached_property
    def heldout_keys(self) -> frozenset[int]:
        """Keys of the prompts that no stage trains on: of each stage those with the smallest hashes."""
        held: set[int] = set()
        for stage in self.stages:
            distinct = set(self._keys(stage)) if self.files(stage) else set()
            if distinct:
                fewest = max(1, min(self.heldout_fewest, math.ceil(len(distinct) / 10)))
                held.update(heapq.nsmallest(max(fewest, int(self.heldout_share * len(distinct))), distinct))
        return frozenset(held)

    def sample_prompts(self) -> list[dict[str, Any]]:
        """Prompts of the recipe, to go on from and to answer."""
        return [
            {"text": prompt, "messages": [{"role": "user", "content": prompt}]}
            for prompt in self.recipe.evaluation.prompts
        ]

    def _keys(self, stage: str) -> Iterator[int]:
        pairs = stage in ("dpo", "reward")
        for record in (read_preferences if pairs else read_conversations)(self.files(stage)):
            if stage != "grpo" or record.get("answer") is not None:
                yield prompt_key(record)

    def _side(self, records: Any, heldout: bool) -> Iterator[Any]:
        return (record for record in records if (prompt_key(record) in self.heldout_keys) == heldout)


def prompt_key(record: Any) -> int:
    """64-bit hash of the first thing that the user says in a conversation or preference pair, marks, spaces and width aside."""
    asked = record.get("prompt", record.get("messages"))
    if not isinstance(asked, str):
        asked = next((message["content"] for message in asked if message["role"] == "user"), "")
    plain = "".join(
        c
        for c in unicodedata.normalize("NFKC", asked or "").casefold()
        if unicodedata.category(c)[0] in "LNS"
    )
    return int.from_bytes(
        hashlib.sha256((plain or str(asked)).encode("utf-8", "surrogatepass")).digest()[:8], "big"
    )


def plain_questions(task: Task) -> Task:
    """Story questions in the text layout that pretraining knows, for a model that has never seen a conversation."""

    def plain(record: dict[str, Any]) -> dict[str, Any]:
        story, _, question = record["messages"][0]["content"].rpartition("\n")
        question = question.removeprefix("问题：").removeprefix("请问：")
        return {**record, "prompt_text": f"{story}\n问：{question}\n答："}

    return dataclasses.replace(task, records=[plain(record) for record in task.records])


def without_reasoning(record: dict[str, Any]) -> dict[str, Any]:
    """A conversation without what the assistant thought."""
    bare = [
        {key: value for key, value in message.items() if key != "reasoning_content"}
        for message in record["messages"]
    ]
    return {**record, "messages": bare}


def make_source(recipe: Recipe) -> TinyworldSource | FileSource:
    """The recipe's source."""
    return TinyworldSource(recipe) if recipe.tinyworld else FileSource(recipe)
