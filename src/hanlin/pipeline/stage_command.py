"""One stage by itself: `hanlin sft --config sft.yaml --out DIR`. The YAML is the stage's section of a recipe,
with what it begins from.

    from: models/zh                       # a model's directory
    data: {files: [chats.jsonl]}
    seq_len: 512
    train: {steps: 1000, learning_rate: 1e-3}
    seed: 1                               # of the run, as in a recipe

Pretraining names `dataset`, `tokenizer` and `model` (a shape) instead of `from`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hanlin.common.config import (
    Range,
    Where,
    apply_overrides,
    build,
    flatten,
    load_yaml,
    require_ranges,
    to_dict,
)
from hanlin.common.errors import HanlinError, first_process
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import hash_json, read_manifest, sha256_file
from hanlin.common.progress import Progress, make_progress
from hanlin.common.registry import load_extension
from hanlin.common.target import refuse_foreign_target
from hanlin.corpus.readers.files import expand
from hanlin.dataset import TokenDataset
from hanlin.export import check_export
from hanlin.model import ModelConfig, ModelShape
from hanlin.recipe import recipe as _kinds  # noqa: F401 - fills the tables of kinds
from hanlin.recipe.sizing import apply_sizing, sizing_text
from hanlin.recipe.upgrade import refuse_old_shape
from hanlin.stages.base import Job, content_hash
from hanlin.stages.data.base import DataScope
from hanlin.stages.pretrain import PretrainConfig
from hanlin.stages.reward_model import require_trunk
from hanlin.stages.stage import STAGES, StageConfig, StageInputs, is_artifact
from hanlin.tokenizer import load_tokenizer
from hanlin.tokenizer.foreign import open_any
from hanlin.training.distributed.launch import init_distributed
from hanlin.training.distributed.strategy import Strategy
from hanlin.training.spikes import RUN, SPIKES, write_run_file

METRICS = "metrics.jsonl"
_DATA = "data"  # in the work directory: the encoded records
_RUN_KEYS = ("dataset", "tokenizer", "model", "seed", "device", "track", "extensions")


@dataclasses.dataclass(frozen=True)
class StageFile:
    """What a file of a single stage says besides the stage's own section.

    Attributes:
        dataset: tokens of the pretraining text (`hanlin dataset build`): what pretraining reads, and what
            other stages mix in.
        tokenizer: of pretraining; that of the model it begins with elsewhere.
        model: shape of a model that begins from nothing.
    """

    stage: StageConfig
    dataset: Path | None = None
    tokenizer: Path | None = None
    model: ModelShape = dataclasses.field(default_factory=ModelShape)
    seed: int = 1
    device: str = "auto"
    track: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()

    RANGES: ClassVar[dict[str, Range]] = {"seed": Range(0, (1 << 32) - 1)}

    def __post_init__(self):
        require_ranges(self)

    @property
    def pretrain(self) -> PretrainConfig:
        """The stage, where it is pretraining."""
        assert isinstance(self.stage, PretrainConfig)
        return self.stage

    @property
    def text(self) -> tuple[Path, Path]:
        """Directories of the token dataset and of the tokenizer, of a file that has both."""
        assert self.dataset is not None and self.tokenizer is not None
        return self.dataset, self.tokenizer


def load_stage_file(
    kind: str, path: Path, overrides: Sequence[str] = (), sizes: Mapping[str, Any] | None = None
) -> StageFile:
    """Read a single stage's file.

    Args:
        sizes: `params`, `depth`, `tokens` of `recipe.sizing`, for pretraining; they replace the file's,
            overrides win over them.

    Raises:
        HanlinError: what the file says cannot be.
    """
    written = load_yaml(path)
    refuse_old_shape(written, path)
    for extension in written.get("extensions") or ():
        load_extension(str(extension), path.parent)
    overrides = [item.removeprefix(f"{kind}.") for item in overrides]  # as a recipe would have them
    values = apply_overrides(written, overrides)
    if sizes:
        values = sized(values, overrides, sizes)
    stage_class = STAGES.get(kind)
    run = {key: values[key] for key in _RUN_KEYS if key in values}
    stage = {key: value for key, value in values.items() if key not in _RUN_KEYS}
    if str(stage.setdefault("kind", kind)) != kind:
        raise HanlinError(
            "{path} is a stage of kind {found}, and the command is for {wanted}.",
            path=path,
            found=stage["kind"],
            wanted=kind,
        )
    stage.setdefault("id", kind)
    where = Where(str(path), flatten(apply_overrides({}, overrides)))
    config = build(stage_class.Config, stage, where)
    if "model" in run and not isinstance(run["model"], Mapping):
        raise HanlinError(
            "{path}: `model` is the shape of a new model. The model to begin with is `from: {model}`.",
            path=path,
            model=run["model"],
        )
    file = build(StageFile, {"stage": {"kind": kind, "id": kind}} | run, where)
    file = dataclasses.replace(file, stage=config)
    _check(file, path)
    return file


def _check(file: StageFile, path: Path) -> None:
    """What the stage begins with, and reads, is named.

    Raises:
        HanlinError: it is not.
    """
    config, from_nothing = file.stage, file.stage.kind == "pretrain" and not file.stage.parent
    needed = ("dataset", "tokenizer") if from_nothing else ("dataset",) if config.kind == "pretrain" else ()
    for name in needed:
        if getattr(file, name) is None:
            raise HanlinError("{path}: {key} is missing.", path=path, key=name)
    if not from_nothing and not config.parent:
        raise HanlinError("{path}: `from` is missing: the directory of the model to begin with.", path=path)
    if from_nothing and config.adapter is not None:
        raise HanlinError(
            "{stage} makes a model from nothing, and an adapter is for a model that there is. "
            "Leave `adapter` out.",
            stage=config.id,
        )
    if config.stage.schema is not None:
        if config.data is None:
            raise HanlinError(
                "{path}: `data` is missing: where the records come from, such as data: {{files: [FILES]}}.",
                path=path,
            )
        if config.stage.schema not in config.data.schemas():
            raise HanlinError(
                "{path}: a stage of kind {kind} reads {wanted}, and `data` are something else.",
                path=path,
                kind=config.kind,
                wanted=config.stage.schema,
            )
    config.stage.check(config, file.model if from_nothing else None)


def sized(values: dict[str, Any], overrides: Sequence[str], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """A pretraining file's values with the sizes that suit its tokenizer and its data; what they came to
    goes to stderr."""
    missing = [key for key in ("tokenizer", "dataset") if key not in values]
    if missing:
        raise HanlinError("{key} is missing: --params looks at the vocabulary and the data.", key=missing[0])
    tokenizer = load_tokenizer(Path(values["tokenizer"]))
    data = TokenDataset(Path(values["dataset"]), verify=False)
    given = flatten(apply_overrides({}, overrides))
    fixed = {key if key.startswith("model.") else f"pretrain.{key}": value for key, value in given.items()}
    fixed["tokenizer.vocab_size"] = tokenizer.vocab_size
    own = {key: value for key, value in values.items() if key not in _RUN_KEYS}
    plain = {"model": values.get("model") or {}, "pretrain": own, "stages": ["pretrain"]}
    patched, sizing = apply_sizing(plain, fixed, data_tokens=int(data.lengths.sum()), **sizes)
    if first_process():
        print(sizing_text(sizing), file=sys.stderr)
    run = {key: values[key] for key in _RUN_KEYS if key in values and key != "model"}
    return run | {"model": patched["model"]} | patched["pretrain"]


def run_stage(
    kind: str,
    path: Path,
    out: Path,
    overrides: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run one stage and publish its model in `out`; returns its metrics. Run again to resume.

    Raises:
        HanlinError: what the configuration or the data lack.
    """
    file = load_stage_file(kind, path, overrides, sizes)
    train = file.stage.train
    with init_distributed(train.parallel, file.device, train.deepspeed_config) as (strategy, device):
        return _run(path, file, out, strategy, device)


def _run(path: Path, file: StageFile, out: Path, strategy: Strategy, device: str | None) -> dict[str, Any]:
    """The stage, in each process; rank 0 prepares what all read, speaks and writes."""
    root = out.parent / f".{out.name}.work"
    group = strategy.group
    group.run_on_rank0(lambda: _refuse_target(path, file, out))
    progress = make_progress() if group.is_rank0 else Progress()
    with contextlib.ExitStack() as held:

        def begin() -> str:
            held.enter_context(directory_lock(root))
            return _key(file)

        key = group.run_on_rank0(begin)
        progress.stage(1, 1, file.stage.id)
        # another parent, other data or another configuration never resume these checkpoints
        work = root / key[:10]
        if group.run_on_rank0(lambda: is_artifact(out, key, progress)):
            progress.note(
                "{out} is the result of this configuration, data and start already: there is nothing to do.",
                out=out,
            )
        else:
            job = Job(
                out,
                work,
                progress,
                file.seed,
                key,
                device,
                file.track,
                strategy=strategy,
                adapter=file.stage.adapter,
            )
            stage = file.stage.stage(file.stage, _inputs(file, work, progress))
            if file.stage.kind == "pretrain":
                _check_export(file)
            group.run_on_rank0(stage.prepare)
            stage.train(job)
        group.run_on_rank0(lambda: _tidy(file, work, out, progress))
    progress.close()
    return group.run_on_rank0(lambda: read_manifest(out, verify=False).metrics)


def _inputs(file: StageFile, work: Path, progress: Progress) -> StageInputs:
    """What the stage is given: nothing is held out, since it is not judged here."""
    parent = Path(file.stage.parent) if file.stage.parent else None
    tokenizer = file.tokenizer if parent is None else parent
    assert tokenizer is not None
    schema = file.stage.stage.schema or "messages"
    scope = DataScope(file.stage.id, schema, file.seed)
    return StageInputs(
        parent, tokenizer, work / _DATA, scope, progress, file.dataset, file.model, judged=False
    )


def _check_export(file: StageFile) -> None:
    """Make sure, before step 0, that the model can leave the house."""
    if file.stage.parent or file.tokenizer is None:
        return
    tokenizer = load_tokenizer(file.tokenizer)
    check_export(file.model.config(tokenizer.vocab_size, tokenizer.eos_id), tokenizer)


def _key(file: StageFile) -> str:
    """What the result depends on: the contents of all inputs, wherever they lie, and the configuration."""
    config = file.stage
    asked = config.training_identity()
    asked["data"] = {key: value for key, value in (asked.get("data") or {}).items() if key != "files"}
    parts: list[Any] = [config.kind, asked, file.seed, file.device]
    further = config.stage.identity(config)
    parts += [] if further is None else [further]
    if config.parent:
        open_any(Path(config.parent))  # says it where there is no model
        parts.append(content_hash(config.parent))
        if config.stage.produces == "reward_model":
            require_trunk(ModelConfig.from_hf(Path(config.parent)))
    else:
        parts += [to_dict(file.model), load_tokenizer(file.tokenizer or "").content_hash]
    if file.dataset is not None:
        parts.append(content_hash(file.dataset))
    if config.data is not None and config.data.patterns():
        parts.append([sha256_file(path) for path in expand(config.data.patterns())])
    elif config.data is not None:
        parts.append(config.data.identity(DataScope(config.id, config.stage.schema or "messages", file.seed)))
    return hash_json(parts)


def _tidy(file: StageFile, work: Path, out: Path, progress: Progress) -> None:
    """Once the result is published: its curve and the record of its bad steps go beside it, the work
    directory goes away."""
    encoded = work / _DATA / file.stage.id
    if (work / SPIKES).is_file() and encoded.is_dir():  # the record names documents by their places in it
        shutil.rmtree(out / _DATA, ignore_errors=True)
        os.replace(encoded, out / _DATA)
        write_run_file(work, out / _DATA, out)
    for name in (METRICS, RUN, SPIKES):
        if (work / name).is_file():
            os.replace(work / name, out / name)
    shutil.rmtree(work, ignore_errors=True)
    others = [folder for folder in work.parent.iterdir() if folder.is_dir()]
    if others:
        progress.note(
            "{folder} still holds {count} unfinished trainings (of another configuration, data or start): "
            "remove it if they are not needed.",
            folder=work.parent,
            count=len(others),
        )
    else:
        shutil.rmtree(work.parent, ignore_errors=True)


def _refuse_target(path: Path, file: StageFile, out: Path) -> None:
    config = file.stage
    inputs: list[Path] = [path]
    inputs += [Path(item) for item in (config.parent, file.dataset, file.tokenizer) if item]
    if config.data is not None and config.data.patterns():
        inputs += expand(config.data.patterns())
    refuse_foreign_target(out, config.stage.produces, inputs)
