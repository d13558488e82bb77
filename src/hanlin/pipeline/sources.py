"""Where each stage's data come from: the embedded tinyworld, which knows the right answers, or the user's files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..common.errors import HanlinError
from ..common.manifest import hash_json, sha256_file
from ..corpus import tinyworld
from ..corpus.readers import expand, read_conversations, read_preferences
from .recipe import Recipe

TASKS = ("story_answers", "problems_solved", "preferred_manner", "task_reward")

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

        SFT: chats (stories with questions, greetings, free requests in both manners). Distillation: word problems, of which
        `think_share` show their reasoning and the others the bare answer, with SFT chats between them so that nothing is
        forgotten; `direct` shows no reasoning at all (the control).
        """
        if stage == "sft":
            assert self.recipe.sft is not None
            yield from tinyworld.chat_conversations(self.seed, self.recipe.sft.examples, "train")
            return
        section = self.recipe.distill
        assert section is not None
        thought = tinyworld.problems(self.seed, section.examples, "train", reasoning=not direct)
        bare = tinyworld.problems(self.seed, section.examples, "train", reasoning=False)
        chats = tinyworld.chat_conversations(self.seed + 1, section.examples, "train")
        for index, (shown, plain, chat) in enumerate(zip(thought, bare, chats, strict=True)):
            share = section.think_share
            yield shown if int((index + 1) * share) > int(index * share) else plain
            if index % 3 == 0:
                yield chat

    def preferences(self, stage: str, heldout: bool = False) -> Iterator[dict[str, Any]]:
        """Pairs of a polite and an impolite answer to open requests.

        For DPO, every other pair is something the model can do already (a problem, with or without thinking, a story question,
        a greeting), its right answer preferred to a rude one. Open requests alone spoil the rest: measured here, greetings
        turned into small talk and problems solved by thinking fell from 90 % to 37 %.
        """
        if heldout:
            yield from tinyworld.preferences(self.seed, self.recipe.evaluation.count, "heldout")
            return
        section = self.recipe.dpo if stage == "dpo" else self.recipe.reward
        assert section is not None
        pairs = tinyworld.preferences(self.seed + (stage == "reward"), section.examples, "train")
        known = (c for c in self.conversations("distill" if self.recipe.distill else "sft") if c.get("kind") != "free")
        for index, pair in enumerate(pairs):
            if stage == "dpo" and index % 2:
                *prompt, reply = next(known)["messages"]
                yield {"prompt": prompt, "chosen": reply, "rejected": pair["rejected"]}
            else:
                yield pair

    def problems(self, heldout: bool = False) -> list[dict[str, Any]]:
        """Word problems with their answers, for reinforcement learning."""
        assert self.recipe.grpo is not None
        split, count = ("heldout", self.recipe.evaluation.count) if heldout else ("train", self.recipe.grpo.examples)
        return list(tinyworld.problems(self.seed + 2, count, split, reasoning=False))

    def task(self, name: str) -> Task:
        """The held-out task behind a metric's name."""
        count, seed = self.recipe.evaluation.count, self.seed
        if name == "story_answers":
            return Task(name, list(tinyworld.story_questions(seed, count, "heldout")), tinyworld.check_story_answer)
        if name == "problems_solved":
            return Task(name, list(tinyworld.problems(seed, count, "heldout", reasoning=False)), tinyworld.check_problem, thinking=True)
        if name == "direct":
            return Task(name, list(tinyworld.problems(seed, count, "heldout", reasoning=False)), tinyworld.check_problem, thinking=False)
        if name == "task_reward":
            return Task(name, self.problems(heldout=True), tinyworld.check_problem, temperature=1.0)
        if name == "preferred_manner":
            records = list(tinyworld.free_prompts(seed, count, "heldout"))
            return Task(name, records, lambda record, text: tinyworld.manner(text) == "polite", temperature=self.recipe.evaluation.temperature)
        raise KeyError(name)

    def sample_prompts(self) -> list[dict[str, Any]]:
        """Prompts to show before and after each stage: `text` to go on from, or `messages` to answer."""
        return tinyworld.sample_prompts("heldout")


@functools.cache
def _grammar_digest() -> str:
    sources = sorted(Path(tinyworld.__file__).parent.glob("*.py"))
    return hash_json([[file.name, sha256_file(file)] for file in sources])


class FileSource:
    """The user's own files. A record is held out when the hash of its text falls below a share, so order does not matter."""

    heldout_share = 0.02
    heldout_most = 500

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def files(self, stage: str) -> tuple[str, ...]:
        """The patterns a recipe gives for a stage."""
        return getattr(self.recipe, stage).files

    def fingerprint(self, stage: str) -> list[Any]:
        """Names, sizes and change times of the stage's files."""
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in expand(self.files(stage))]

    def documents(self) -> list[Path]:
        """Files of text."""
        return expand(self.recipe.corpus.files)

    def conversations(self, stage: str, direct: bool = False, heldout: bool = False) -> Iterator[Any]:
        """Conversations of a stage's files; `direct` leaves out the reasoning (the control of distillation)."""
        section = getattr(self.recipe, stage)
        records = (record for record in read_conversations(section.files) if self._held(record["messages"]) == heldout)
        limited = islice(records, self.heldout_most if heldout else section.limit or None)
        for record in limited:
            yield {**record, "messages": [_without_reasoning(m) for m in record["messages"]]} if direct else record

    def preferences(self, stage: str, heldout: bool = False) -> Iterator[Any]:
        """Preference pairs of a stage's files."""
        records = (record for record in read_preferences(self.files(stage)) if self._held(record["prompt"]) == heldout)
        return islice(records, self.heldout_most if heldout else None)

    def problems(self, heldout: bool = False) -> list[Any]:
        """Conversations with a checkable `answer` beside the messages."""
        found = [r for r in read_conversations(self.files("grpo")) if r.get("answer") is not None and self._held(r["messages"]) == heldout]
        if not found:
            raise HanlinError(
                "grpo.files 里没有带 answer 字段的对话；GRPO 需要能核对的答案。",
                "No conversation in grpo.files has an `answer` beside its messages; GRPO needs answers it can check.",
            )
        return found

    def sample_prompts(self) -> list[dict[str, Any]]:
        """Prompts of the recipe, to go on from and to answer."""
        return [{"text": prompt, "messages": [{"role": "user", "content": prompt}]} for prompt in self.recipe.evaluation.prompts]

    def _held(self, content: Any) -> bool:
        digest = hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:4], "big") < self.heldout_share * (1 << 32)


def plain_questions(task: Task) -> Task:
    """Story questions in the text layout that pretraining knows, for a model that has never seen a conversation."""

    def plain(record: dict[str, Any]) -> dict[str, Any]:
        story, _, question = record["messages"][0]["content"].rpartition("\n")
        question = question.removeprefix("问题：").removeprefix("请问：")
        return {**record, "prompt_text": f"{story}\n问：{question}\n答："}

    return dataclasses.replace(task, records=[plain(record) for record in task.records])


def _without_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != "reasoning_content"}


def make_source(recipe: Recipe) -> TinyworldSource | FileSource:
    """The recipe's source."""
    return TinyworldSource(recipe) if recipe.tinyworld else FileSource(recipe)
