"""What the steps of a run share: the recipe, the directory, the processes, the models made so far."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hanlin.common.manifest import read_manifest
from hanlin.common.progress import Progress
from hanlin.corpus.builder.build import read_corpus
from hanlin.dataset import TokenDataset
from hanlin.evaluation import Metric, ngram_bits_per_byte, ngram_name
from hanlin.pipeline.lineage import Lineage
from hanlin.pipeline.runner import Runner
from hanlin.pipeline.suite import Suite
from hanlin.recipe.recipe import Recipe
from hanlin.stages.data.base import DataScope
from hanlin.stages.data.files import HeldOutOfFiles
from hanlin.stages.pretrain import PretrainConfig
from hanlin.stages.stage import Stage, StageConfig, StageInputs
from hanlin.tokenizer import load_tokenizer
from hanlin.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup


class RunContext:
    """The state of a run.

    Attributes:
        current: the best model so far.
        lineages: of each stage's model, by the stage's id.
        parents: of the model that each stage began with, by the stage's id.
        seconds: of each stage's trainings, by the stage's id.
        device: of this process.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        progress: Progress,
        group: ProcessGroup = SINGLE_PROCESS,
        device: str | None = None,
    ):
        self.recipe = recipe
        self.out = out
        self.progress = progress
        self.group = group
        self.device = device or recipe.device
        self.runner = Runner(out, recipe.steps(), progress, group)
        self.current = Lineage()
        self.lineages: dict[str, Lineage] = {}
        self.parents: dict[str, Lineage] = {}
        self.seconds: dict[str, list[float]] = {}
        self.held_out = HeldOutOfFiles(
            [(s.data, s.stage.schema) for s in recipe.stages if s.data is not None and s.stage.schema]
        )
        self.suite = Suite(recipe, self.stage_of, self._corpus(), self._context())

    # ---------------------------------------------------------------- stages and their models

    def parent_of(self, config: StageConfig) -> Lineage:
        """The model that a stage begins with: the one that `from` names, that of the stage it is a control
        of, or the best so far. One that makes a model from nothing has an empty lineage."""
        if config.parent in self.lineages:
            return self.lineages[config.parent]
        if config.parent:
            return Lineage(path=Path(config.parent), external=True)
        if config.kind == "pretrain":
            return Lineage()
        if config.role == "control":
            return self.parents[config.of]
        return self.current

    def stage_of(self, name: str) -> Stage:
        """A stage of the recipe with its inputs, by its id."""
        config = self.recipe.stage(name)
        return config.stage(config, self.inputs_of(config, None))

    def inputs_of(self, config: StageConfig, parent: Path | None) -> StageInputs:
        """What a stage is given."""
        from_text = self.recipe.begins_from_text
        return StageInputs(
            parent=parent,
            tokenizer=self.out / "tokenizer" if from_text else self._external_model(),
            folder=self.out / "data",
            scope=DataScope(
                config.id,
                config.stage.schema or "messages",
                self.recipe.seed,
                self.recipe.evaluation,
                self.held_out,
            ),
            progress=self.progress,
            dataset=self.out / "dataset" if from_text else None,
            shape=self.recipe.model if from_text else None,
            stage_data=lambda name: self.out / "data" / name,
            stage_model=self.model_of,
        )

    def model_of(self, name: str) -> Path:
        """Directory of a stage's model."""
        return self.out / ("controls" if self.recipe.stage(name).role == "control" else "models") / name

    # ---------------------------------------------------------------- text

    def beside_ngram(self, metric: Metric, first: Metric | None) -> Metric:
        """Bits per byte beside those of the n-gram model that pretraining was compared with."""
        if first is None or first.control is None:
            return metric
        # the difference is that of the pretrained model
        return dataclasses.replace(metric, control=dataclasses.replace(first.control, difference=None))

    def ngram_control(self) -> tuple[str, Metric]:
        """Name and bits per byte of an n-gram model on the training tokens."""
        data = TokenDataset(self.out / "dataset", verify=False)
        heldout = list(read_corpus(self.out / "corpus", "heldout"))
        words = load_tokenizer(self.out / "tokenizer")
        from_nothing = next(s for s in self.recipe.stages if isinstance(s, PretrainConfig))
        convention = "document" if from_nothing.first_token else "continuation"
        return ngram_name(data), ngram_bits_per_byte(data, words, heldout, convention=convention)

    def hash_of(self, name: str) -> str:
        """Content hash of an artefact of the run."""
        return read_manifest(self.out / name, verify=False).content_hash

    def _external_model(self) -> Path:
        """The model's directory that a recipe without text begins with."""
        ids = {stage.id for stage in self.recipe.stages}
        return next(Path(s.parent) for s in self.recipe.stages if s.parent and s.parent not in ids)

    def _corpus(self) -> Path | None:
        section = self.recipe.corpus
        return self.out / "corpus" if section is not None and section.heldout_fraction > 0 else None

    def _context(self) -> int:
        """Tokens of a document that a model sees at once: pretraining's rows."""
        lengths = [stage.seq_len for stage in self.recipe.stages if stage.kind == "pretrain"]
        return (lengths or [stage.seq_len for stage in self.recipe.stages])[0]
