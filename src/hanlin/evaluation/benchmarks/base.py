"""A benchmark: where its items lie in the files that its authors publish, and the prompts under which a model
is asked them. One short file each; a new one registers itself, from inside or outside the package."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, TypeVar

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing, tr
from hanlin.common.registry import Registry
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Form, Item, Prompt

PROTOCOLS = ("hanlin-zh", "lm-eval", "official", "opencompass-ppl")


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
        counts: items of each split as published; another count is said, not refused.
        prompts: protocol → form → prompt. The first form of a protocol is the one that decides.
        cluster: what a cluster is, in words; empty where items are independent.
    """

    name: ClassVar[str]
    title: ClassVar[Text]
    licence: ClassVar[str]
    home: ClassVar[str]
    split: ClassVar[str]
    shots_split: ClassVar[str] = ""
    counts: ClassVar[Mapping[str, int]]
    prompts: ClassVar[Mapping[str, Mapping[Form, Prompt]]]
    cluster: ClassVar[Text | None] = None

    @abc.abstractmethod
    def read(self, folder: Folder, split: str) -> Iterator[Item]:
        """Items of a split, in the publisher's order.

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
        """Paths that match any of the patterns; of several copies, those in a directory named after the
        benchmark.

        Raises:
            NoFiles: there are none; the message says which files belong there, and whence.
        """
        found = [name for pattern in patterns for name in folder.find(pattern)]
        named = [name for name in found if _plain(self.name.partition("-")[0]) in _plain(name)]
        if not found:
            raise NoFiles(
                "{path} holds no files of {benchmark}: expected {patterns}. They are at {home} (licence: "
                "{licence}).",
                path=folder.path,
                benchmark=self.name,
                patterns=listing(patterns),
                home=self.home,
                licence=self.licence,
            )
        return named or found


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
    items, seen, faults = [], set(), {}
    for item in benchmark.read(folder, split):
        fault = _fault(item)
        if item.id in seen:
            fault = tr("an id that occurred before")
        if fault:
            faults.setdefault(fault, []).append(item.id)
            continue
        seen.add(item.id)
        items.append(item)
    for fault, ids in faults.items():
        warn(
            "{benchmark}: {count} items left out: {fault} (the first is {first}).",
            benchmark=benchmark.name,
            count=len(ids),
            fault=fault,
            first=ids[0],
        )
    if not items:
        raise HanlinError(
            "{path}: {benchmark} has no usable items in its split {split}.",
            path=folder.path,
            benchmark=benchmark.name,
            split=split,
        )
    published, found = benchmark.counts.get(split), len(items) + sum(map(len, faults.values()))
    if published is not None and found != published:
        warn(
            "{benchmark}: {found} items in split {split}, and {published} were published: another version, "
            "or files that are not whole.",
            benchmark=benchmark.name,
            found=found,
            split=split,
            published=published,
        )
    return items


def _fault(item: Item) -> str:
    """Why an item can't be asked; empty where it can."""
    if not item.choices:
        return "" if item.answer or item.more else tr("no answer")
    if item.gold is None or not 0 <= item.gold < len(item.choices):
        return tr("an answer outside the choices")
    if len(set(item.choices)) < len(item.choices):
        return tr("two choices that are the same")
    if not all(item.choices):
        return tr("an empty choice")
    return ""


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
