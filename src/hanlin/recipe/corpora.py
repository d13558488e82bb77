"""Where a recipe's text comes from: the section `corpus`. Files of the user's, or the embedded tinyworld with
known dirt in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from hanlin.common.config import Range, Tagged, at_least, require_ranges
from hanlin.common.errors import ConfigError
from hanlin.common.messages import Text
from hanlin.common.registry import Registry
from hanlin.corpus import tinyworld
from hanlin.corpus.builder.build import CorpusConfig
from hanlin.corpus.readers.read import expand
from hanlin.evaluation import Metric
from hanlin.stages.data.tinyworld import grammar_digest

CORPORA: Registry[CorpusSource] = Registry(Text("kind of corpus"))


@dataclasses.dataclass(frozen=True)
class CorpusSource(CorpusConfig, Tagged):
    """Text, and how it is cleaned."""

    kind: str = ""

    @classmethod
    def variant(cls, values: Mapping[str, Any], where: Text) -> type:
        """By `kind`; a corpus with `files` is of files."""
        return CORPORA.get(values.get("kind") or ("tinyworld" if "documents" in values else "files"), where)

    def read(self, seed: int) -> Iterable[Any]:
        """What `build_corpus` reads: documents, or paths."""
        raise NotImplementedError

    def origin(self, seed: int) -> Any:
        """JSON-able: what the text depends on besides this section."""
        raise NotImplementedError

    def patterns(self) -> tuple[str, ...]:
        """Files that must be there before anything runs."""
        return ()

    def judge(self, produced: Iterable[Any], kept: Iterable[str]) -> tuple[dict[str, Metric], dict[str, Any]]:
        """Metrics of the cleaning and facts for the report, where it is known what should have gone."""
        return {}, {}

    def sample_prompts(self) -> list[dict[str, Any]]:
        """Prompts to show a model by, where the text suggests some: `text` to go on from, `messages` to
        answer."""
        return []


_CorpusSource = TypeVar("_CorpusSource", bound=CorpusSource)


def register_corpus(cls: type[_CorpusSource]) -> type[_CorpusSource]:
    """Enter a corpus in the table by its `kind`'s default, as a decorator."""
    CORPORA.register(str(cls.__dataclass_fields__["kind"].default), cls)
    return cls


@register_corpus
@dataclasses.dataclass(frozen=True)
class FilesCorpus(CorpusSource):
    """The user's own text.

    Attributes:
        files: paths, globs or directories.
    """

    kind: str = "files"
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise ConfigError(
                "files is empty: give text files (--corpus), or kind: tinyworld with documents to generate "
                "some"
            )

    def read(self, seed: int) -> Iterable[Any]:
        """The files' paths."""
        return expand(self.files)

    def origin(self, seed: int) -> Any:
        """Names, sizes and change times."""
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in expand(self.files)]

    def patterns(self) -> tuple[str, ...]:
        """The files."""
        return self.files


@register_corpus
@dataclasses.dataclass(frozen=True)
class TinyworldCorpus(CorpusSource):
    """Generated text.

    Attributes:
        documents: how many. (`max_documents` bounds what is read.)
        dirt: share of injected dirt, so that cleaning can be checked against the truth.
    """

    kind: str = "tinyworld"
    documents: int = 1000
    dirt: float = 0.06

    RANGES: ClassVar[dict[str, Range]] = {"documents": at_least(1), "dirt": Range(0, 0.99)}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges(self)

    def read(self, seed: int) -> Iterable[Any]:
        """The documents."""
        return list(tinyworld.documents(seed, self.documents, dirt=tinyworld.Dirt(self.dirt)))

    def origin(self, seed: int) -> Any:
        """The grammar."""
        return {"tinyworld": grammar_digest(), "seed": seed}

    def judge(self, produced: Iterable[Any], kept: Iterable[str]) -> tuple[dict[str, Metric], dict[str, Any]]:
        """How much of the dirt went, and of the good documents."""
        score = tinyworld.check_cleaning(produced, kept)
        metrics = {
            "cleaning/recall": Metric.proportion(score.dirt_removed, score.dirt_total),
            "cleaning/false_positive_rate": Metric.proportion(
                score.good_lost, score.good_total, higher_is_better=False
            ),
        }
        return metrics, {"by_kind": score.by_kind}

    def sample_prompts(self) -> list[dict[str, Any]]:
        """Of the world's own."""
        return tinyworld.sample_prompts("heldout")
