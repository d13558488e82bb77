"""A recipe: the whole life of one model, as frozen dataclasses read from YAML. A life is a list of stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import hanlin.export.gguf_export
import hanlin.stages.data.files
import hanlin.stages.data.tinyworld
import hanlin.stages.kinds  # noqa: F401 - fill the tables of kinds
from hanlin.common.config import (
    Range,
    Where,
    apply_overrides,
    at_least,
    build,
    flatten,
    load_yaml,
    require_ranges,
)
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing
from hanlin.common.registry import load_extension
from hanlin.evaluation.config import EvaluationConfig
from hanlin.export.base import EXPORTS, Export
from hanlin.export.gguf_export import GGUFExport
from hanlin.model import ModelShape
from hanlin.recipe import patch
from hanlin.recipe.corpora import CorpusSource, FilesCorpus
from hanlin.recipe.scale import scaled
from hanlin.recipe.sizing import Sizing, apply_sizing
from hanlin.recipe.upgrade import refuse_old_shape
from hanlin.report.format import export_steps
from hanlin.stages.pretrain import PretrainConfig
from hanlin.stages.stage import StageConfig

RECIPES = Path(__file__).parent.parent / "recipes"
SIZES = ("params", "depth", "tokens")


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Vocabulary size with special tokens; longest token in characters; special tokens to reserve."""

    vocab_size: int = 6400
    max_token_chars: int = 8
    num_special: int = 16

    RANGES: ClassVar[dict[str, Range]] = {
        "vocab_size": at_least(257),
        "max_token_chars": at_least(1),
        "num_special": at_least(9),
    }

    def __post_init__(self):
        require_ranges(self)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything a run depends on besides its data.

    Attributes:
        corpus: the text that the tokenizer and the model are made from; absent in a recipe that begins with
            models there are.
        stages: what is done to the model, in order.
        export: what is written of the finished model for other programs.
        extensions: Python files (beside the recipe) or modules that register kinds of their own.
        directory: where the recipe's file is: paths of extensions are relative to it.
    """

    name: str
    seed: int = 1
    description: dict[str, str] = dataclasses.field(default_factory=dict)
    corpus: CorpusSource | None = None
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    model: ModelShape = dataclasses.field(default_factory=ModelShape)
    stages: tuple[StageConfig, ...] = dataclasses.field(default=(), metadata={"by_id": True})
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    export: tuple[Export, ...] = (GGUFExport(),)
    device: str = "auto"
    track: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    directory: str = ""

    RANGES: ClassVar[dict[str, Range]] = {"seed": Range(0, (1 << 32) - 1)}

    def __post_init__(self):
        require_ranges(self)
        check_stages(self)

    def stage(self, name: str) -> StageConfig:
        """A stage by its id."""
        return next(stage for stage in self.stages if stage.id == name)

    @property
    def pretrain(self) -> PretrainConfig:
        """The stage that makes the model from nothing.

        Raises:
            HanlinError: the recipe has none.
        """
        for stage in self.stages:
            if isinstance(stage, PretrainConfig) and not stage.parent:
                return stage
        raise HanlinError("The recipe {name} has no stage of kind pretrain.", name=self.name)

    @property
    def begins_from_text(self) -> bool:
        """Whether the recipe makes its tokenizer and its model itself."""
        return self.corpus is not None

    @property
    def generated(self) -> bool:
        """Whether the text is generated: nothing it measures is to be compared with real text."""
        return self.corpus is not None and not isinstance(self.corpus, FilesCorpus)

    def steps(self) -> list[str]:
        """Ids of all that a run does, in order: the text's three steps, the stages, the final evaluation and
        the exports."""
        text = ["corpus", "tokenizer", "dataset"] if self.begins_from_text else []
        return [
            *text,
            *(stage.id for stage in self.stages),
            "evaluation",
            *export_steps([export.kind for export in self.export]),
        ]

    def published(self) -> list[StageConfig]:
        """Stages whose model may become the one that people talk to."""
        return [s for s in self.stages if s.role == "stage" and s.stage.produces == "model"]


RESERVED = (*(field.name for field in dataclasses.fields(Recipe)), "dataset", *EXPORTS)


def check_stages(recipe: Recipe) -> None:
    """Refuse before anything runs an order of stages that cannot work.

    Raises:
        HanlinError: says which stage, and why.
    """
    seen: dict[str, StageConfig] = {}
    for stage in recipe.stages:
        _check_parent(recipe, stage, seen)
        _check_role(stage, seen)
        _check_data(recipe, stage)
        for name in stage.stage.stages_named(stage):
            if name not in seen:
                raise HanlinError(
                    "{stage} names the stage {name!r}, which is not before it. Before it are: {known}.",
                    stage=stage.id,
                    name=name,
                    known=listing(seen) if seen else Text("none"),
                )
            stage.stage.check_named(stage, seen[name])
        shape = recipe.model if recipe.begins_from_text else None
        stage.stage.check(stage, shape)
        if shape is not None and stage.seq_len > shape.max_position_embeddings:
            raise HanlinError(
                "{stage}.seq_len {seq_len} exceeds model.max_position_embeddings {most}: the model has no "
                "more positions. Change one of them.",
                stage=stage.id,
                seq_len=stage.seq_len,
                most=shape.max_position_embeddings,
            )
        seen[stage.id] = stage
    if not recipe.published():
        raise HanlinError(
            "The recipe {name} has no stage that makes a model. Give it `stages`.", name=recipe.name
        )
    if recipe.begins_from_text:
        # refuses an impossible shape
        recipe.model.config(max(recipe.tokenizer.vocab_size, 300), 0)
    names = [export.name() for export in recipe.export]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise HanlinError("Two exports would write {name}. Give one of them another `file`.", name=twice)


def _check_parent(recipe: Recipe, stage: StageConfig, seen: Mapping[str, StageConfig]) -> None:
    """A stage begins with a model that is there by then, or makes one."""
    makes_one = stage.kind == "pretrain" and not stage.parent
    if makes_one and not recipe.begins_from_text:
        raise HanlinError(
            "{stage} makes a model from text, and the recipe has no corpus. Give `corpus`, or begin `from` "
            "a model's directory.",
            stage=stage.id,
        )
    if makes_one and stage.adapter is not None:
        raise HanlinError(
            "{stage} makes a model from nothing, and an adapter is for a model that there is. "
            "Leave `adapter` out.",
            stage=stage.id,
        )
    if stage.parent in seen:
        parent = seen[stage.parent]
        if parent.stage.produces != "model":
            raise HanlinError(
                "{stage} cannot begin from {parent}: a reward model scores answers and writes none.",
                stage=stage.id,
                parent=parent.id,
            )
    elif stage.parent:
        if any(other.id == stage.parent for other in recipe.stages if other is not stage):
            raise HanlinError(
                "{stage} begins from {parent}, which comes after it. Put {parent} first.",
                stage=stage.id,
                parent=stage.parent,
            )
        if "/" not in stage.parent and not Path(stage.parent).is_dir():
            raise HanlinError(
                "{stage} begins from {parent!r}, which is neither a stage before it ({known}) nor a "
                "model's directory.",
                stage=stage.id,
                parent=stage.parent,
                known=listing(seen) if seen else Text("there is none"),
            )
    elif not makes_one and not any(s.role == "stage" and s.stage.produces == "model" for s in seen.values()):
        raise HanlinError(
            "{stage} has no model to begin with: no stage before it makes one. Put a stage of kind "
            "pretrain first, or give `from` a model's directory.",
            stage=stage.id,
        )


def _check_role(stage: StageConfig, seen: Mapping[str, StageConfig]) -> None:
    """A control is one of something."""
    if stage.role == "control" and stage.of not in seen:
        raise HanlinError(
            "{stage} is a control `of` {of!r}, which is not a stage before it. Before it are: {known}.",
            stage=stage.id,
            of=stage.of,
            known=listing(seen) if seen else Text("none"),
        )
    if stage.equal_time and stage.role == "control" and stage.seeds > seen[stage.of].seeds:
        raise HanlinError(
            "{stage} is a control of equal time with {seeds} seeds, and {of} has {others}: each is stopped "
            "after the seconds of one. Give both the same `seeds`.",
            stage=stage.id,
            seeds=stage.seeds,
            of=stage.of,
            others=seen[stage.of].seeds,
        )
    if stage.role != "control" and (stage.of or stage.equal_time):
        raise HanlinError("{stage}: `of` and `equal_time` are for stages with role: control.", stage=stage.id)


def _check_data(recipe: Recipe, stage: StageConfig) -> None:
    """A stage has records of the schema it reads."""
    schema, data = stage.stage.schema, stage.data
    if schema is None:
        return
    if data is None:
        raise HanlinError(
            "{stage} has no data. Give it some: data: {{files: [FILES]}}, or leave the stage out "
            "({stage}=null).",
            stage=stage.id,
        )
    if schema not in data.schemas():
        raise HanlinError(
            "{stage} reads {wanted}, and its data are {found}.",
            stage=stage.id,
            wanted=schema,
            found=listing(data.schemas()),
        )
    if data.kind == "files" and not data.patterns():
        raise HanlinError(
            "{stage}.data.files is empty: give its data, or leave the stage out ({stage}=null).",
            stage=stage.id,
        )


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """The file of a shipped recipe, or of a path.

    Raises:
        HanlinError: there is neither.
    """
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise HanlinError(
            "There is no recipe called {name}, and no such file. Shipped recipes: {known}.",
            name=name,
            known=listing(recipe_names()),
        )
    return path


def load_recipe(
    name: str | Path,
    overrides: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    *,
    params: str | None = None,
    depth: int | None = None,
    tokens: str | None = None,
    scale: float | None = None,
    on_sizing: Callable[[Sizing], None] | None = None,
) -> Recipe:
    """Read a shipped recipe by name, or a YAML file by path, and apply dotted overrides.

    Args:
        extra: values set by flags, by section or stage, e.g. `{"corpus": {"files": (…)}}`; they win over
            everything.
        params, depth, tokens: sizes to derive (`recipe.sizing`): they replace the file's, overrides win over
            them. A file may have these keys itself; then all that it says besides wins over what is derived
            too.
        scale: the recipe in small, see `sizing.scaled`.
        on_sizing: told what the sizes came to, when some were derived.

    Raises:
        HanlinError: no such recipe, an unknown key, an impossible value or order of stages.
    """
    path = find_recipe(name)
    written = load_yaml(path)
    refuse_old_shape(written, path)
    for extension in (*(written.get("extensions") or ()), *_extensions_of(overrides)):
        load_extension(str(extension), path.parent)
    named = patch.by_id(written, str(path), RESERVED)
    asked = {key: named.pop(key) for key in SIZES if key in named}
    values = patch.override(named, overrides)
    asked |= {key: values.pop(key) for key in SIZES if key in values}
    flags = {
        key: value for key, value in zip(SIZES, (params, depth, tokens), strict=True) if value is not None
    }
    given = flatten(apply_overrides({}, [item.removeprefix("stages.") for item in overrides]))
    if "params" in flags or "depth" in flags:
        asked = {key: value for key, value in asked.items() if key == "tokens"}
        fixed = given
    else:
        fixed = flatten({key: value for key, value in values.items() if key != patch.STAGES})
    asked |= flags
    if "params" in asked or "depth" in asked:
        values, sizing = apply_sizing(values, fixed, **asked)
        if on_sizing is not None:
            on_sizing(sizing)
    elif asked:
        raise HanlinError("--tokens goes with --params or --depth.")
    for section, entries in (extra or {}).items():
        _require_section(section, values, path)
        values[section] = (
            patch.merge(values.get(section), entries) if isinstance(entries, Mapping) else entries
        )

    def built(values: Mapping[str, Any]) -> Recipe:
        plain = {"name": path.stem, "directory": str(path.parent)} | patch.as_list(values)
        return build(Recipe, plain, Where(str(path), given))

    recipe = built(values)
    return recipe if scale is None else built(scaled(values, scale, given))


def _require_section(section: str, values: Mapping[str, Any], path: Path) -> None:
    """Refuse a flag for a stage that the recipe does not have, and name the settings of those that it has."""
    order = values[patch.STAGES]
    if section in RESERVED or values.get(section) is not None:
        return
    reading = [name for name in order if (values.get(name) or {}).get("data")]
    raise HanlinError(
        "--{section}: the recipe {name} has no stage called {section}. "
        "Give the files of one that it has: {keys}.",
        section=section,
        name=path.stem,
        keys=listing([f"{name}.data.files=[FILES]" for name in reading]) if reading else Text("none"),
    )


def read_recipe(file: Path, values: Mapping[str, Any]) -> Recipe:
    """A recipe as a run keeps it (`to_dict`)."""
    for extension in values.get("extensions") or ():
        load_extension(str(extension), Path(values.get("directory") or file.parent))
    refuse_old_shape(values, file)
    return build(Recipe, values, str(file))


def _extensions_of(overrides: Sequence[str]) -> tuple[str, ...]:
    found = apply_overrides({}, [item for item in overrides if item.startswith("extensions=")]).get(
        "extensions"
    )
    return tuple(found or ())
