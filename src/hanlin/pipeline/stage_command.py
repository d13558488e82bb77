"""One stage by itself: `hanlin sft --config sft.yaml --out DIR`. The YAML names the inputs and holds the stage's section."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hanlin.common.config import (
    Range,
    apply_overrides,
    at_least,
    build,
    flatten,
    load_yaml,
    require_ranges,
    to_dict,
)
from hanlin.common.errors import HanlinError, first_process
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import MANIFEST, hash_json, read_manifest, sha256_file
from hanlin.common.progress import Progress, make_progress
from hanlin.common.target import refuse_foreign_target
from hanlin.corpus.readers.files import expand
from hanlin.corpus.readers.read import read_conversations, read_preferences
from hanlin.dataset import TokenDataset, build_conversation_dataset, too_long_warning
from hanlin.export import check_export
from hanlin.model import ModelConfig, ModelShape
from hanlin.recipe.sizing import apply_dial, dial_text
from hanlin.rl.rewards.numeric import numeric_answer
from hanlin.stages.base import Job, content_hash
from hanlin.stages.dpo import DPOConfig, dpo
from hanlin.stages.grpo import GRPOConfig, grpo
from hanlin.stages.pairs import build_pair_dataset
from hanlin.stages.pretrain import pretrain
from hanlin.stages.reward_model import RewardConfig, require_trunk, reward
from hanlin.stages.supervised import SupervisedConfig, finetune
from hanlin.tokenizer import load_tokenizer
from hanlin.training.distributed.launch import init_distributed
from hanlin.training.distributed.strategy import Strategy
from hanlin.training.spikes import RUN, SPIKES, write_run_file

METRICS = "metrics.jsonl"
_SEED = Range(0, 1 << 32)
_DATA = "data"  # in the work directory: the encoded conversations or pairs


@dataclasses.dataclass(frozen=True)
class PretrainFile:
    """`dataset` (from `hanlin dataset build`), `tokenizer`, the model's shape and the training section."""

    dataset: Path
    tokenizer: Path
    model: ModelShape = dataclasses.field(default_factory=ModelShape)
    pretrain: SupervisedConfig = dataclasses.field(default_factory=SupervisedConfig)
    seed: int = 1
    device: str = "auto"
    track: tuple[str, ...] = ()

    RANGES: ClassVar[dict[str, Range]] = {"seed": _SEED}

    def __post_init__(self):
        require_ranges(self)


@dataclasses.dataclass(frozen=True)
class SupervisedFile:
    """`model` to start from, `files` of conversations, the most of them to read (`limit`, 0 for all), and the training section `config`."""

    model: Path
    files: tuple[str, ...]
    limit: int = 0
    config: SupervisedConfig = dataclasses.field(default_factory=SupervisedConfig)
    seed: int = 1
    device: str = "auto"
    track: tuple[str, ...] = ()

    RANGES: ClassVar[dict[str, Range]] = {"seed": _SEED, "limit": at_least(0)}

    def __post_init__(self):
        require_ranges(self)


@dataclasses.dataclass(frozen=True)
class DPOFile(SupervisedFile):
    """The same, of preference pairs."""

    config: DPOConfig = dataclasses.field(default_factory=DPOConfig)  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class RewardFile(SupervisedFile):
    """The same, for a reward model."""

    config: RewardConfig = dataclasses.field(default_factory=RewardConfig)  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class GRPOFile(SupervisedFile):
    """The same, of conversations with a checkable `answer`."""

    config: GRPOConfig = dataclasses.field(default_factory=GRPOConfig)  # type: ignore[assignment]


FILES: dict[str, type] = {
    "pretrain": PretrainFile,
    "sft": SupervisedFile,
    "distill": SupervisedFile,
    "dpo": DPOFile,
    "reward": RewardFile,
    "grpo": GRPOFile,
}


def turned(values: dict[str, Any], overrides: Sequence[str], dial: Mapping[str, Any]) -> dict[str, Any]:
    """A pretraining file's values as the dial sets them for its tokenizer and its data; what the dial came to goes to stderr."""
    missing = [key for key in ("tokenizer", "dataset") if key not in values]
    if missing:
        raise HanlinError(
            "{missing} is missing: --params looks at the vocabulary and the data.", missing=missing[0]
        )
    words, data = (
        load_tokenizer(Path(values["tokenizer"])),
        TokenDataset(Path(values["dataset"]), verify=False),
    )
    fixed = flatten(apply_overrides({}, overrides)) | {"tokenizer.vocab_size": words.vocab_size}
    plain = {key: value for key, value in values.items() if key != "tokenizer"}
    settled, found = apply_dial(plain, fixed, data_tokens=int(data.lengths.sum()), **dial)
    if first_process():
        print(dial_text(found), file=sys.stderr)
    return settled | {"tokenizer": values["tokenizer"]}


def run_stage(
    name: str, config: Path, out: Path, overrides: Sequence[str] = (), dial: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run one stage and return its manifest's metrics; run again to resume.

    Args:
        dial: `params`, `depth`, `tokens` of `pipeline.dial`, for pretraining; its values replace the file's, overrides win over it.

    Raises:
        HanlinError: what the configuration or the data lack.
    """
    values = apply_overrides(load_yaml(config), overrides)
    if dial:
        values = turned(values, overrides, dial)
    file: Any = build(FILES[name], values, str(config))
    section = file.pretrain if name == "pretrain" else file.config
    with init_distributed(section.train.parallel, file.device, section.train.deepspeed_config) as (
        strategy,
        device,
    ):
        return _run(name, config, file, out, strategy, device)


def _run(
    name: str, config: Path, file: Any, out: Path, strategy: Strategy, device: str | None
) -> dict[str, Any]:
    """The stage, in each process; rank 0 prepares what all read, speaks and writes."""
    root = out.parent / f".{out.name}.work"
    group = strategy.group
    group.run_on_rank0(lambda: _refuse_target(name, config, file, out))
    progress = make_progress() if group.is_rank0 else Progress()
    with contextlib.ExitStack() as held:
        group.run_on_rank0(lambda: held.enter_context(directory_lock(root)))
        progress.stage(1, 1, name)
        key = group.run_on_rank0(lambda: _key(name, file))
        # another parent, other data or another configuration never resume these checkpoints
        work = root / key[:10]
        if group.run_on_rank0(lambda: _finished(out, key, progress)):
            progress.note(
                "{out} is the result of this configuration, data and start already: there is nothing to do.",
                out=out,
            )
        else:
            _train(
                name,
                config,
                file,
                Job(out, work, progress, file.seed, key, device, file.track, strategy=strategy),
            )
        group.run_on_rank0(lambda: _settle(work, out, progress))
    progress.close()
    return group.run_on_rank0(lambda: read_manifest(out, verify=False).metrics)


def _key(name: str, file: Any) -> str:
    """What the result depends on: the contents of all inputs, wherever they lie, and the configuration."""
    asked = {
        key: value
        for key, value in to_dict(file).items()
        if key not in ("dataset", "tokenizer", "files", "track")
    }
    if name == "pretrain":
        return hash_json(
            [name, asked, content_hash(file.dataset), load_tokenizer(file.tokenizer).content_hash]
        )
    load_tokenizer(file.model)  # says it where there is no model
    if name == "reward":
        require_trunk(ModelConfig.from_hf(file.model))
    return hash_json(
        [
            name,
            asked | {"model": content_hash(file.model)},
            [sha256_file(path) for path in expand(file.files)],
        ]
    )


def _finished(out: Path, key: str, progress: Progress) -> bool:
    """Whether `out` holds this very result, whole; a damaged one is reported and made again."""
    try:
        return (
            (out / MANIFEST).is_file()
            and read_manifest(out, verify=False).key == key
            and bool(read_manifest(out))
        )
    except HanlinError as error:
        progress.warn("must be done again: {error}", error=error)
        return False


def _settle(work: Path, out: Path, progress: Progress) -> None:
    """Once the result is published: its curve and the record of its bad steps go beside it, the work directory goes away."""
    if (work / SPIKES).is_file() and (
        work / _DATA
    ).is_dir():  # the record names documents by their places in it
        shutil.rmtree(out / _DATA, ignore_errors=True)
        os.replace(work / _DATA, out / _DATA)
        write_run_file(work, out / _DATA, out)
    for name in (METRICS, RUN, SPIKES):
        if (work / name).is_file():
            os.replace(work / name, out / name)
    shutil.rmtree(work, ignore_errors=True)
    others = [folder for folder in work.parent.iterdir() if folder.is_dir()]
    if others:
        progress.note(
            "{parent} still holds {count} unfinished trainings (of another configuration, data or start): "
            "remove it if they are not needed.",
            parent=work.parent,
            count=len(others),
        )
    else:
        shutil.rmtree(work.parent, ignore_errors=True)


def _train(name: str, config: Path, file: Any, job: Job) -> None:
    """Train and publish."""
    if name == "pretrain":
        tokenizer = load_tokenizer(file.tokenizer)
        shape = file.model.config(tokenizer.vocab_size, tokenizer.eos_id)
        check_export(shape, tokenizer)
        pretrain(file.dataset, file.tokenizer, shape, file.pretrain, job)
        return
    if name == "grpo":
        found = (record for record in read_conversations(file.files) if record.get("answer") is not None)
        problems = list(itertools.islice(found, file.limit or None))
        if not problems:
            raise HanlinError("{config}: no conversation in files has an `answer`.", config=config)
        grpo(file.model, problems, numeric_answer, file.config, job)
        return
    tokenizer, data = load_tokenizer(file.model), job.work / _DATA

    def encode() -> None:  # at every start: it costs little, and what lies there may be half a directory
        build, read = (
            (build_conversation_dataset, read_conversations)
            if name in ("sft", "distill")
            else (build_pair_dataset, read_preferences)
        )
        records = itertools.islice(read(file.files), file.limit or None)
        left_out = too_long_warning(build(records, tokenizer, data, max_length=file.config.seq_len))
        if left_out is not None:
            job.progress.warn(left_out)

    job.group.run_on_rank0(encode)
    {"sft": finetune, "distill": finetune, "dpo": dpo, "reward": reward}[name](
        file.model, data, file.config, job
    )


def _refuse_target(name: str, config: Path, file: Any, out: Path) -> None:
    inputs = (file.dataset, file.tokenizer) if name == "pretrain" else (file.model, *expand(file.files))
    refuse_foreign_target(out, "reward_model" if name == "reward" else "model", [config, *inputs])
