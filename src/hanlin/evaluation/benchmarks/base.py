"""A benchmark: where its items lie in the files that its authors publish, and the prompts under which a model
is asked them. One short file each; a new one registers itself, from inside or outside the package."""

from __future__ import annotations

import abc
import dataclasses
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, TypeVar

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing
from hanlin.common.registry import Registry
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import LETTERS, Form, Item, LeftOut, Prompt, data_digest

PROTOCOLS = ("hanlin-zh", "lm-eval", "official", "opencompass-ppl")

# How questions with choices are put under `hanlin-zh`, unless a benchmark has its own.
CLOZE = Prompt("{given}问题：{question}\n答案：")
CLOZE_PMI = dataclasses.replace(CLOZE, main="pmi")
LETTERED = Prompt("{given}问题：{question}\n{options}\n答案：", "{letter}", main="sum")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a written answer is right, read strictly and leniently."""

    strict: bool
    lenient: bool


class NoFiles(HanlinError):
    """A directory without the files of a benchmark."""


class Benchmark(abc.ABC):
    """Published items and how to ask them.

    Attributes:
        name: what `--tasks` and metrics call it.
        title: for the report.
        licence: of the data, as the authors state it; shown before anything is fetched.
        home: where the user finds the files.
        split: that is asked; few-shot examples come from `shots_split`.
        counts: items of each split as published, those that are left out among them; another count is said,
            not refused.
        sha256: `data_digest` of each split's items where the published files were at hand; others are said.
        prompts: protocol → form → prompt. The first form of a protocol is the one that decides.
        cluster: what a cluster is, in words; empty where items are independent.
        samples: names of the fixed lists of items that there are (`sampling.sample`).
    """

    name: ClassVar[str]
    title: ClassVar[Text]
    licence: ClassVar[str]
    home: ClassVar[str]
    split: ClassVar[str]
    shots_split: ClassVar[str] = ""
    counts: ClassVar[Mapping[str, int]] = {}
    sha256: ClassVar[Mapping[str, str]] = {}
    prompts: ClassVar[Mapping[str, Mapping[Form, Prompt]]]
    cluster: ClassVar[Text | None] = None
    samples: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Items of a split in the publisher's order, and in their places those that can't be asked.

        Raises:
            HanlinError: the files are not there, or hold something else.
        """

    def check(self, item: Item, text: str) -> Verdict:
        """Whether a written answer is right; for benchmarks with prompts of the form `answer`."""
        raise NotImplementedError(f"{self.name} has no written answers")

    def prompt(self, protocol: str, form: Form | None = None) -> tuple[Form, Prompt]:
        """A protocol's prompt, its first form where none is named.

        Raises:
            HanlinError: the benchmark has no such protocol or form.
        """
        forms = self.prompts.get(protocol)
        if forms is None:
            raise HanlinError(
                "{benchmark} has no protocol {protocol!r}. There are: {known}.",
                benchmark=self.name,
                protocol=protocol,
                known=listing(self.prompts),
            )
        if form is None:
            form = next(iter(forms))
        if form not in forms:
            raise HanlinError(
                "{benchmark} has no form {form!r} under {protocol}. There are: {known}.",
                benchmark=self.name,
                form=form,
                protocol=protocol,
                known=listing(forms),
            )
        return form, forms[form]

    def is_in(self, folder: Folder) -> bool:
        """Whether the files of its split are there."""
        try:
            next(iter(self.read(folder, self.split)), None)
        except NoFiles:
            return False
        return True

    def files(self, folder: Folder, *patterns: str) -> list[str]:
        """Paths that match the first pattern that any path matches: the patterns are the layouts in which the
        files are published. Those in a directory named after the benchmark are preferred, and of several
        copies (an archive and what was unpacked from it) one is taken.

        Raises:
            NoFiles: there are none; the message says which files belong there, and whence.
        """
        for pattern in patterns:
            found = folder.find(pattern)
            if found:
                break
        else:
            raise NoFiles(
                "{path} holds no files of {benchmark}: expected {patterns}. They are at {home} (licence: "
                "{licence}).",
                path=folder.path,
                benchmark=self.name,
                patterns=listing(patterns),
                home=self.home,
                licence=self.licence,
            )
        named = [name for name in found if _plain(self.name) in _plain(name)]
        copies: dict[str, str] = {}
        for name in named or found:
            copies.setdefault("/".join(name.split("/")[-pattern.count("/") - 1 :]), name)
        return [copies[tail] for tail in sorted(copies)]


Row = Mapping[str, object]
_B = TypeVar("_B", bound=Benchmark)
BENCHMARKS: Registry[Benchmark] = Registry(Text("benchmark"))


def register_benchmark(cls: type[_B]) -> type[_B]:
    """Enter a benchmark in the table, as a decorator."""
    BENCHMARKS.register(cls.name, cls)
    return cls


def read_items(benchmark: Benchmark, folder: Folder, split: str, warn: Callable[..., None]) -> list[Item]:
    """Items of a split, checked: a right answer among the choices, no choice twice, no id twice.

    Args:
        warn: is told of a count that is not the published one, and of items that can't be used, which are
            left out and counted.

    Raises:
        HanlinError: no files, or none of the items can be used.
    """
    items: list[Item] = []
    seen: set[str] = set()
    left_out: dict[Text, list[str]] = {}
    for item in benchmark.read(folder, split):
        reason = item.reason if isinstance(item, LeftOut) else _fault(item)
        if item.id in seen:
            reason = Text("an id that occurred before")
        seen.add(item.id)
        if isinstance(item, LeftOut) or reason:
            left_out.setdefault(reason or Text(""), []).append(item.id)
        else:
            items.append(item)
    for reason, ids in left_out.items():
        warn(
            "{benchmark}, items left out: {count}, {reason} (the first is {first}).",
            benchmark=benchmark.name,
            count=len(ids),
            reason=reason,
            first=ids[0],
        )
    if not items:
        raise HanlinError(
            "{path}: {benchmark} has no usable items in its split {split}.",
            path=folder.path,
            benchmark=benchmark.name,
            split=split,
        )
    _compare(benchmark, split, items, len(items) + sum(map(len, left_out.values())), warn)
    return items


def _compare(
    benchmark: Benchmark, split: str, items: list[Item], found: int, warn: Callable[..., None]
) -> None:
    """Say where the items are not those that were published."""
    published, expected = benchmark.counts.get(split, found), benchmark.sha256.get(split)
    digest = data_digest(items)
    if found != published:
        warn(
            "{benchmark}: {found} items in split {split}, and {published} were published: another version, "
            "or files that are not whole. SHA-256 of the items: {digest}, expected {expected}.",
            benchmark=benchmark.name,
            found=found,
            split=split,
            published=published,
            digest=digest[:16],
            expected=expected[:16] if expected else Text("unknown"),
        )
    elif expected and digest != expected:
        warn(
            "{benchmark}: the items of split {split} are as many as were published, but not the same: "
            "another version of the files. SHA-256 of the items: {digest}, expected {expected}. Scores of "
            "different versions can't be compared.",
            benchmark=benchmark.name,
            split=split,
            digest=digest[:16],
            expected=expected[:16],
        )


def _fault(item: Item) -> Text | None:
    """Why an item can't be asked."""
    if not item.choices:
        return None if item.answer or item.more else Text("no answer")
    if item.gold is None or not 0 <= item.gold < len(item.choices):
        return Text("an answer outside the choices")
    if len(set(item.choices)) < len(item.choices):
        return Text("two choices that are the same")
    if not all(item.choices):
        return Text("an empty choice")
    return None


def letter_index(answer: str) -> int | None:
    """The place of a letter among the choices, None where the answer is not one letter."""
    letter = unicodedata.normalize("NFKC", answer).strip().upper()
    return LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS else None


def column(row: Row, *names: str, where: str) -> str:
    """A row's value under the first of the names that it has.

    Raises:
        HanlinError: it has none of them; the message shows the columns there are.
    """
    for name in names:
        value = row.get(name)
        if value is not None:
            return str(value)
    raise HanlinError(
        "{where} has no column {wanted}; its columns are: {known}.",
        where=where,
        wanted=names[0],
        known=listing(str(name) for name in row if name is not None),
    )


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
