"""What every stage does besides its own mathematics: start from a model, run the loop with a log, publish the
result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hanlin.common.config import to_dict
from hanlin.common.devices import resolve_device
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, artifact, hash_json, read_manifest, sha256_file
from hanlin.common.progress import Progress
from hanlin.common.target import refuse_foreign_target
from hanlin.common.tracking import MetricsLog
from hanlin.model import CausalLM, RewardModel, load_model, save_weights
from hanlin.model.adapters import Adapter
from hanlin.tokenizer import Tokenizer, load_tokenizer
from hanlin.training import BatchSource, Objective, TrainResult, train
from hanlin.training.distributed.process_group import ProcessGroup
from hanlin.training.distributed.strategy import SingleProcess, Strategy
from hanlin.training.spikes import write_run_file


@dataclasses.dataclass(frozen=True)
class Job:
    """One training of one model.

    Attributes:
        out: directory the finished model is published in, whole or not at all.
        work: directory of checkpoints and `metrics.jsonl`; a job with the same one goes on where it was
            interrupted.
        key: what the result depends on, recorded in its manifest.
        max_seconds: the loop stops there, with the model it has.
        strategy: of the processes that do the job together; rank 0 writes.
        adapter: what is trained instead of all weights; folded into them before the model is published.
    """

    out: Path
    work: Path
    progress: Progress
    seed: int = 1
    key: str = ""
    device: str | None = None
    trackers: tuple[str, ...] = ()
    max_seconds: float | None = None
    strategy: Strategy = dataclasses.field(default_factory=SingleProcess)
    adapter: Adapter | None = None

    @property
    def group(self) -> ProcessGroup:
        """The processes that do the job together."""
        return self.strategy.group

    def load(self, parent: Path | str, seq_len: int) -> tuple[CausalLM, Tokenizer]:
        """The model to start from and its tokenizer.

        Raises:
            HanlinError: no model there, or rows of `seq_len` are longer than the positions it knows.
        """
        model = load_model(parent, device=str(resolve_device(self.device)))
        check_length(model, seq_len)
        if self.adapter is not None:
            self.adapter.apply(model)
        return model, load_tokenizer(parent)

    def train(
        self,
        model: CausalLM | RewardModel,
        source: BatchSource,
        objective: Objective,
        config: Any,
        *,
        origin: Mapping[str, str],
        dataset: Path | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> TrainResult:
        """Run the loop with the stage's `config.train`, logging to `work`.

        Args:
            origin: content hashes of what the model was made from, by role: checkpoints of another origin
                are refused.
            dataset: where the documents of a bad step can be read, with `tokenizer`.

        Raises:
            HanlinError: what `out` holds must not be replaced by the result.
        """
        self.group.run_on_rank0(lambda: refuse_foreign_target(self.out, kind_of(model)))
        log = MetricsLog(None)
        if self.group.is_rank0:
            write_run_file(self.work, dataset, tokenizer and tokenizer.path)
            log = MetricsLog(
                self.work / "metrics.jsonl", self.trackers, name=self.work.name, config=to_dict(config)
            )
        try:
            return train(
                model,
                source,
                objective,
                config.train,
                self.work,
                self.progress,
                log=log,
                max_seconds=self.max_seconds,
                strategy=self.strategy,
                origin=origin,
            )
        finally:
            log.close()

    def publish(
        self,
        model: CausalLM | RewardModel,
        tokenizer: Tokenizer,
        result: TrainResult,
        config: Any,
        parents: dict[str, str],
        **metrics: Any,
    ) -> TrainResult:
        """Write the model directory, with the loop's headline figures in its manifest; returns `result`."""
        figures = {"seconds": round(result.seconds, 2), "skipped": result.skipped}
        figures |= {name: value for name, value in result.last.items() if name in ("loss", "bits_per_byte")}
        if self.adapter is not None:
            self.adapter.merge(model)
        weights = self.strategy.full_state_dict(model)
        self.group.run_on_rank0(
            lambda: write_model(
                self.out,
                model,
                tokenizer,
                parents=parents,
                config=config,
                seed=self.seed,
                metrics=figures | metrics,
                key=self.key,
                weights=weights,
            )
        )
        return result


def write_model(
    out: Path | str,
    model: CausalLM | RewardModel,
    tokenizer: Tokenizer,
    *,
    parents: dict[str, str],
    config: Any,
    seed: int,
    metrics: dict[str, Any],
    key: str = "",
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Publish a model directory: weights (the model's own, unless given), config, tokenizer, chat template,
    manifest. Stock transformers opens it."""
    with artifact(
        out, kind_of(model), parents=parents, config=to_dict(config), seed=seed, key=key
    ) as written:
        save_weights(model, written.path, im_end_id=tokenizer.im_end_id, weights=weights)
        tokenizer.save(written.path)
        written.metrics = metrics


def kind_of(model: CausalLM | RewardModel) -> str:
    """Kind of the artefact a model is published as."""
    return "reward_model" if isinstance(model, RewardModel) else "model"


def check_length(model: CausalLM | RewardModel, seq_len: int) -> None:
    """Refuse rows longer than the positions the model knows."""
    limit = model.config.max_position_embeddings
    if seq_len > limit:
        raise HanlinError(
            "seq_len={seq_len} exceeds the model's max_position_embeddings={limit}. Lower seq_len, or "
            "pretrain with a larger max_position_embeddings.",
            seq_len=seq_len,
            limit=limit,
        )


def content_hash(path: Path | str) -> str:
    """Content hash of an artefact already verified; of a model that is not ours, hash of its weights,
    configuration and tokenizer."""
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return read_manifest(folder, verify=False).content_hash
    files = sorted(
        file
        for file in folder.iterdir()
        if file.name == "config.json" or file.suffix == ".safetensors" or file.name.startswith("tokenizer")
    )
    return hash_json(["external", {file.name: sha256_file(file) for file in files if file.is_file()}])
