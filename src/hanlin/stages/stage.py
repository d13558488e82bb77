"""What a stage of a recipe is: an object of a kind, with a configuration, the schema of its data, and how it
trains.

A new kind is one file: a dataclass derived from `StageConfig`, a class derived from `Stage`, and
`register_stage`. Recipes, single commands, plans and reports know stages by this interface alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from hanlin.common.config import Range, Tagged, at_least, to_dict
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, hash_json, read_manifest
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.common.registry import Registry
from hanlin.dataset import TokenDataset, build_conversation_dataset, too_long_warning
from hanlin.evaluation import Metric, answer_bits_per_byte
from hanlin.model import CausalLM, ModelConfig, ModelShape
from hanlin.model.adapters import Adapter
from hanlin.stages.base import Job
from hanlin.stages.data.base import DataScope, DataSource, Schema
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.foreign import open_any
from hanlin.training import TrainConfig, TrainResult

STAGES: Registry[Stage] = Registry(Text("kind of stage"))


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How a stage is judged.

    Attributes:
        target: metric that the stage must not make worse; that of its data when empty.
        regressions: metrics that it may not cost more than they tolerate; all that earlier stages taught
            when absent.
    """

    target: str = ""
    regressions: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class StageConfig(Tagged):
    """What every stage has, whatever its kind.

    Attributes:
        id: names the stage in files, reports and overrides; the kind where there is one of it.
        parent: `from` in YAML: the stage whose model it begins with, or a model's directory; the last
            accepted one when empty.
        role: a `control` is trained and measured beside the stage `of`, and never published.
        equal_time: a control stops after as many seconds as the stage that it is a control of took.
        seeds: trainings, of seeds that follow one another; the first is the one that may be published.
        data: where its records come from.
        adapter: what is trained instead of all weights.
        evaluate: how it is judged.
    """

    id: str = ""
    kind: str = ""
    parent: str = dataclasses.field(default="", metadata={"key": "from"})
    role: Literal["stage", "control"] = "stage"
    of: str = ""
    equal_time: bool = False
    seeds: int = 1
    data: DataSource | None = None
    adapter: Adapter | None = None
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    seq_len: int = 256

    RANGES: ClassVar[dict[str, Range]] = {"seeds": at_least(1), "seq_len": at_least(2)}

    @classmethod
    def variant(cls, values: Mapping[str, Any], where: Text) -> type:
        """The configuration of a kind of stage."""
        if not values.get("kind"):
            raise HanlinError(
                "{where}: `kind` is missing. There are: {kinds}.", where=where, kinds=", ".join(STAGES)
            )
        return STAGES.get(values["kind"], where).Config

    @property
    def stage(self) -> type[Stage]:
        """The class that runs it."""
        return STAGES.get(self.kind)

    def training_identity(self) -> dict[str, Any]:
        """What its training depends on of the configuration: not how it is called, judged, or begun from."""
        apart = ("id", "from", "role", "of", "seeds", "evaluate")
        return {name: value for name, value in to_dict(self).items() if name not in apart}


@dataclasses.dataclass
class StageInputs:
    """What a stage is given by whoever runs it.

    Attributes:
        parent: directory of the model to begin with; None begins from nothing.
        tokenizer: directory of the tokenizer.
        folder: encoded data go below it.
        scope: what the records depend on.
        dataset: tokens of the pretraining text, where there are any.
        shape: of a model that begins from nothing.
        judged: a gate decides on the model afterwards; otherwise the stage itself refuses what does harm.
        stage_data: encoded data of an earlier stage, by its id.
        stage_model: model of an earlier stage, by its id.
    """

    parent: Path | None
    tokenizer: Path
    folder: Path
    scope: DataScope
    progress: Progress = dataclasses.field(default_factory=Progress)
    dataset: Path | None = None
    shape: ModelShape | None = None
    judged: bool = True
    stage_data: Callable[[str], Path] | None = None
    stage_model: Callable[[str], Path] | None = None


class Stage:
    """One stage, ready to run.

    Class attributes:
        kind: its name in recipes.
        Config: its configuration.
        schema: what its data are; None reads the pretraining text.
        produces: `model`, which later stages begin with, or `reward_model`, which only judges.
        teaches_chat: whether its model has learnt to answer.
        title, does: what it is called and does, for reports.
        own_metric: what it is judged by beside the suite's metrics, for a stage that measures itself.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[StageConfig]]
    schema: ClassVar[Schema | None] = None
    produces: ClassVar[Literal["model", "reward_model"]] = "model"
    teaches_chat: ClassVar[bool] = True
    title: ClassVar[Text]
    does: ClassVar[Text]
    own_metric: ClassVar[str] = ""

    def __init__(self, config: Any, inputs: StageInputs):
        self.config = config
        self.inputs = inputs

    # ---------------------------------------------------------------- to be filled in by a kind

    def prepare(self) -> None:
        """Encode the data; called in the first process alone, before `train`. A second call finds them
        encoded."""

    def train(self, job: Job) -> TrainResult:
        """Train and publish the model in `job.out`; called in every process."""
        raise NotImplementedError

    def evaluate(self, model: Path) -> dict[str, Metric]:
        """What the stage measures of its model by itself."""
        return {}

    def heldout_metric(self, model: CausalLM, seed: int) -> Metric:
        """What the stage's held-out records say of any model of the run: of conversations, bits per byte of
        the answers. A kind with data of another schema measures what `METRIC_OF_SCHEMA` names.

        Args:
            seed: of what is sampled.
        """
        tokenizer = self.tokenizer()
        data = self.encoded_heldout(build_conversation_dataset)
        return answer_bits_per_byte(model, tokenizer, data)

    def harm(self, before: Path, after: Path) -> Mapping[str, tuple[Metric, Metric, float]]:
        """What this kind of stage is apt to spoil unnoticed: by metric its value after and before, and the
        loss that is allowed. A model that is shown to have lost more is refused whatever its target says.

        Args:
            before, after: directories of the models.
        """
        return {}

    def data_facts(self) -> dict[str, Any]:
        """Figures of the encoded data, for the report."""
        return {}

    @classmethod
    def check(cls, config: Any, shape: ModelShape | None) -> None:
        """Refuse before anything runs what cannot work.

        Raises:
            HanlinError: says why.
        """

    @classmethod
    def identity(cls, config: Any) -> Any:
        """JSON-able: what training depends on besides the configuration, the data and the parent."""
        return None

    @classmethod
    def work(cls, config: Any) -> float:
        """How much work a training is, in tokens trained on, roughly: for what is left of a run."""
        return 0.0

    @classmethod
    def stages_named(cls, config: Any) -> tuple[str, ...]:
        """Ids of earlier stages that the configuration names (rewards, mixed data)."""
        return ()

    @classmethod
    def check_named(cls, config: Any, other: StageConfig) -> None:
        """Refuse an earlier stage of `stages_named` that has not what is wanted of it.

        Raises:
            HanlinError: says what it lacks.
        """

    # ---------------------------------------------------------------- for the kinds

    @property
    def data(self) -> Path:
        """Directory of the encoded data."""
        return self.inputs.folder / self.inputs.scope.stage

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the run."""
        return open_any(self.inputs.tokenizer)

    def encoded(self, key: Any, build: Callable[[Path, str], TokenDataset]) -> TokenDataset:
        """The data set at `data`, made by `build(path, key)` unless it is there already; a damaged one is
        reported and made again.

        Args:
            key: JSON-able: what the data set depends on.
        """
        digest = hash_json(key)
        if not is_artifact(self.data, digest, self.inputs.progress):
            warning = too_long_warning(build(self.data, digest))
            if warning is not None:
                self.inputs.progress.warn(warning)
        return TokenDataset(self.data, verify=False)

    def encoded_heldout(self, build: Callable[..., TokenDataset]) -> TokenDataset:
        """The held-out records, encoded anew by `build(records, tokenizer, folder, max_length=…)`."""
        source: DataSource = self.config.data
        folder = self.inputs.folder / f"{self.inputs.scope.stage}-heldout"
        records = source.heldout(self.inputs.scope)
        data = build(records, self.tokenizer(), folder, max_length=self.config.seq_len)
        warning = too_long_warning(data)
        if warning is not None:
            self.inputs.progress.warn(warning)
        return data

    def say_counts(self) -> None:
        """Tell how many records there are to train on, and how many are held out."""
        source: DataSource = self.config.data
        counts = source.counts(self.inputs.scope)
        if counts is not None and counts[1]:
            self.inputs.progress.note(
                "{stage}: {train:,} records to train on, {held:,} held out",
                stage=self.inputs.scope.stage,
                train=counts[0],
                held=counts[1],
            )

    def data_key(self, *more: Any) -> Any:
        """What the encoded data depend on."""
        source: DataSource = self.config.data
        return [
            to_dict(source),
            source.identity(self.inputs.scope),
            self.inputs.scope.held_out.identity(),
            self.tokenizer().content_hash,
            *more,
        ]

    @property
    def start_id(self) -> int | None:
        """What the parent reads before a document (`ModelConfig.bos_token_id`)."""
        assert self.inputs.parent is not None
        return ModelConfig.from_hf(self.inputs.parent).bos_token_id

    def texts(self, seed: int) -> Iterator[np.ndarray]:
        """Documents of the pretraining text without end, in a seeded order, after the start token of the
        parent, where it has one; ids, (tokens,)."""
        from hanlin.dataset import permutation

        assert self.inputs.dataset is not None
        data, epoch = TokenDataset(self.inputs.dataset, verify=False), 0
        start = [] if self.start_id is None else [self.start_id]
        while True:
            for index in permutation(len(data), seed, epoch):
                document = data.document(int(index))
                if len(document) > 1:
                    yield np.concatenate([np.asarray(start, dtype=document.dtype), document])
            epoch += 1

    def new_shape(self) -> ModelConfig:
        """Shape of a model that begins from nothing."""
        tokenizer = self.tokenizer()
        assert self.inputs.shape is not None
        return self.inputs.shape.config(tokenizer.vocab_size, tokenizer.eos_id)


_Stage = TypeVar("_Stage", bound=Stage)


def register_stage(cls: type[_Stage]) -> type[_Stage]:
    """Enter a stage in the table, as a decorator."""
    STAGES.register(cls.kind, cls)
    return cls


def is_artifact(path: Path, key: str, progress: Progress) -> bool:
    """Whether a whole artefact of this key is there; a damaged one is reported, and is to be made again."""
    try:
        return (
            (path / MANIFEST).is_file()
            and read_manifest(path, verify=False).key == key
            and bool(read_manifest(path))
        )
    except HanlinError as error:
        progress.warn("must be done again: {error}", error=error)
        return False
