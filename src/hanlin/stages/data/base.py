"""What a data source is: the section `data` of a stage, which gives records to train on and others to be
judged by."""

from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from hanlin.common.config import Range, Tagged, at_least, require_ranges
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.common.registry import Registry
from hanlin.evaluation.config import EvaluationConfig

Schema = Literal["messages", "preferences", "problems"]
"""What a stage reads: conversations; pairs of a chosen and a rejected answer; conversations with a checkable
`answer`."""

METRIC_OF_SCHEMA: dict[Schema, str] = {
    "messages": "answer_bits_per_byte",
    "preferences": "pairs_preferred",
    "problems": "reward_mean",
}
"""What held-out records of a schema measure; `NAME/STAGE` is the metric on those of one stage."""

Record = Mapping[str, Any]

SOURCES: Registry[DataSource] = Registry(Text("kind of data"))


class HeldOut:
    """Prompts that no stage of a recipe trains on, whatever answer or reasoning stands beside them there."""

    def __contains__(self, record: Record) -> bool:
        return False

    def identity(self) -> Any:
        """JSON-able: what decides which prompts are held out."""
        return None


@dataclasses.dataclass(frozen=True)
class DataScope:
    """What a source's records depend on besides its own configuration.

    Attributes:
        stage: id of the stage, for messages.
        seed: of the recipe.
        held_out: prompts kept from training by any stage.
    """

    stage: str
    schema: Schema
    seed: int
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    held_out: HeldOut = dataclasses.field(default_factory=HeldOut)


@dataclasses.dataclass(frozen=True)
class DataSource(Tagged):
    """Records of one stage.

    Attributes:
        limit: the most records to train on, 0 for all.
        reasoning: `drop` leaves out what the assistant thought; `required` keeps conversations that have it
            and no others.
    """

    kind: str = ""
    limit: int = 0
    reasoning: Literal["keep", "drop", "required"] = "keep"

    RANGES: ClassVar[dict[str, Range]] = {"limit": at_least(0)}
    SCHEMAS: ClassVar[tuple[Schema, ...]] = ("messages", "preferences", "problems")

    def __post_init__(self):
        require_ranges(self)

    @classmethod
    def variant(cls, values: Mapping[str, Any], where: Text) -> type:
        """By `kind`; data with `files` are files."""
        return SOURCES.get(values.get("kind") or ("files" if "files" in values else "tinyworld"), where)

    def train(self, scope: DataScope) -> Iterator[Record]:
        """Records to train on."""
        raise NotImplementedError

    def heldout(self, scope: DataScope) -> Iterator[Record]:
        """Records to be judged by."""
        raise NotImplementedError

    def identity(self, scope: DataScope) -> Any:
        """JSON-able: what the records depend on besides the configuration."""
        raise NotImplementedError

    def patterns(self) -> tuple[str, ...]:
        """Files that must be there before anything runs."""
        return ()

    def counts(self, scope: DataScope) -> tuple[int, int] | None:
        """Records to train on, and held out, where a user wants to be told."""
        return None

    def schemas(self) -> tuple[Schema, ...]:
        """What kinds of stage these records suit."""
        return self.SCHEMAS

    def target(self, scope: DataScope) -> str:
        """Metric that a stage on these records is judged by, unless its `evaluate` names another."""
        return f"{METRIC_OF_SCHEMA[scope.schema]}/{scope.stage}"

    def teaches(self, scope: DataScope) -> Sequence[str]:
        """Metrics that every later stage is measured by too, so that nothing is unlearnt unnoticed."""
        return () if scope.schema == "problems" else (self.target(scope),)

    def _with_reasoning(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records as `reasoning` wants them."""
        if self.reasoning == "drop":
            return (without_reasoning(record) for record in records)
        if self.reasoning == "required":
            return (record for record in records if has_reasoning(record))
        return records


_DataSource = TypeVar("_DataSource", bound=DataSource)


def register_source(cls: type[_DataSource]) -> type[_DataSource]:
    """Enter a source in the table by its `kind`'s default, as a decorator."""
    kind = cls.__dataclass_fields__["kind"].default
    SOURCES.register(str(kind), cls)
    return cls


def without_reasoning(record: Record) -> Record:
    """A conversation without what the assistant thought."""
    messages = [
        {key: value for key, value in message.items() if key != "reasoning_content"}
        for message in record["messages"]
    ]
    return {**record, "messages": messages}


def has_reasoning(record: Record) -> bool:
    """Whether the assistant thinks somewhere in a conversation."""
    return any(message.get("reasoning_content") for message in record.get("messages", ()))


def prompt_key(record: Record) -> int:
    """64-bit hash of the first thing that the user says in a conversation or preference pair, marks, spaces
    and width aside."""
    asked = record.get("prompt", record.get("messages"))
    if not isinstance(asked, str):
        asked = next((message["content"] for message in asked or () if message["role"] == "user"), "")
    folded = unicodedata.normalize("NFKC", asked or "").casefold()
    plain = "".join(c for c in folded if unicodedata.category(c)[0] in "LNS")
    digest = hashlib.sha256((plain or str(asked)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def nothing_left(stage: str, usable: int) -> HanlinError:
    """The error for files whose held-out part leaves nothing to train on."""
    return HanlinError(
        "The data of {stage} hold {usable} usable records; with those held out to judge by, nothing is "
        "left to train on. Give more questions that differ.",
        stage=stage,
        usable=usable,
    )
