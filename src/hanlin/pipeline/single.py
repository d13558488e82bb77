"""One stage by itself: `hanlin sft --config sft.yaml --out DIR`. The YAML names the inputs and holds the stage's section."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.config import apply_overrides, build, flatten, load_yaml, to_dict
from ..common.errors import HanlinError, first_process
from ..common.locks import directory_lock
from ..common.manifest import hash_json, read_manifest
from ..common.progress import Progress, make_progress
from ..common.target import refuse_foreign_target
from ..corpus.files import expand
from ..corpus.readers import read_conversations, read_preferences
from ..dataset import TokenDataset, build_conversation_dataset
from ..export import check_export
from ..model import ModelShape
from ..stages.dpo import DPOConfig, dpo
from ..stages.grpo import GRPOConfig, grpo
from ..stages.job import Job
from ..stages.pairs import build_pair_dataset
from ..stages.pretrain import pretrain
from ..stages.reward import RewardConfig, reward
from ..stages.rewards import numeric_answer
from ..stages.supervised import SupervisedConfig, finetune
from ..tokenizer import load_tokenizer
from ..training.parallel import Team, joined
from .dial import apply_dial, dial_text


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


@dataclasses.dataclass(frozen=True)
class SupervisedFile:
    """`model` to start from, `files` of conversations, and the training section `config`."""

    model: Path
    files: tuple[str, ...]
    config: SupervisedConfig = dataclasses.field(default_factory=SupervisedConfig)
    seed: int = 1
    device: str = "auto"
    track: tuple[str, ...] = ()


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


FILES: dict[str, type] = {"pretrain": PretrainFile, "sft": SupervisedFile, "distill": SupervisedFile, "dpo": DPOFile, "reward": RewardFile, "grpo": GRPOFile}


def turned(values: dict[str, Any], overrides: Sequence[str], dial: Mapping[str, Any]) -> dict[str, Any]:
    """A pretraining file's values as the dial sets them for its tokenizer and its data; what the dial came to goes to stderr."""
    missing = [key for key in ("tokenizer", "dataset") if key not in values]
    if missing:
        raise HanlinError(f"缺少 {missing[0]}：--params 要看词表和数据的大小。", f"{missing[0]} is missing: --params looks at the vocabulary and the data.")
    words, data = load_tokenizer(Path(values["tokenizer"])), TokenDataset(Path(values["dataset"]), verify=False)
    fixed = flatten(apply_overrides({}, overrides)) | {"tokenizer.vocab_size": words.vocab_size}
    plain = {key: value for key, value in values.items() if key != "tokenizer"}
    settled, found = apply_dial(plain, fixed, data_tokens=int(data.lengths.sum()), **dial)
    if first_process():
        print(dial_text(found), file=sys.stderr)
    return settled | {"tokenizer": values["tokenizer"]}


def run_stage(name: str, config: Path, out: Path, overrides: Sequence[str] = (), dial: Mapping[str, Any] | None = None) -> dict[str, Any]:
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
    with joined(section.train.parallel, file.device, section.train.deepspeed_config) as (team, device):
        return _run(name, config, file, out, team, device)


def _run(name: str, config: Path, file: Any, out: Path, team: Team, device: str | None) -> dict[str, Any]:
    """The stage, in each process of a team; the first one prepares what all read, speaks and writes."""
    root = out.parent / f".{out.name}.work"
    team.by_first(lambda: _refuse_target(name, config, file, out))
    progress = make_progress() if team.first else Progress()
    with contextlib.ExitStack() as held:
        team.by_first(lambda: held.enter_context(directory_lock(root)))
        work = root / hash_json([name, to_dict(file)])[:10]  # another configuration never resumes these checkpoints
        progress.stage(1, 1, name)
        job = Job(out, work, progress, file.seed, device=device, trackers=file.track, team=team)
        if name == "pretrain":
            tokenizer = load_tokenizer(file.tokenizer)
            shape = file.model.config(tokenizer.vocab_size, tokenizer.eos_id)
            check_export(shape, tokenizer)
            pretrain(file.dataset, file.tokenizer, shape, file.pretrain, job)
        elif name == "grpo":
            problems = [record for record in read_conversations(file.files) if record.get("answer") is not None]
            if not problems:
                raise HanlinError(f"{config}：files 里没有带 answer 字段的对话。", f"{config}: no conversation in files has an `answer`.")
            grpo(file.model, problems, numeric_answer, file.config, job)
        else:
            tokenizer, data = load_tokenizer(file.model), work / f"data-{hash_json([str(config), list(file.files)])[:10]}"

            def encode() -> None:
                build, read = (build_conversation_dataset, read_conversations) if name in ("sft", "distill") else (build_pair_dataset, read_preferences)
                build(read(file.files), tokenizer, data, max_length=file.config.seq_len)

            team.by_first(encode)
            if name in ("sft", "distill"):
                finetune(file.model, data, file.config, job)
            else:
                {"dpo": dpo, "reward": reward}[name](file.model, data, file.config, job)
    progress.close()
    return team.by_first(lambda: read_manifest(out, verify=False).metrics)


def _refuse_target(name: str, config: Path, file: Any, out: Path) -> None:
    inputs = (file.dataset, file.tokenizer) if name == "pretrain" else (file.model, *expand(file.files))
    refuse_foreign_target(out, "reward_model" if name == "reward" else "model", [config, *inputs])
