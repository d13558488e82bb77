"""What every stage does besides its own mathematics: start from a model, run the loop with a log, publish the
result."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hanlin.common.config import to_dict
from hanlin.common.devices import resolve_device
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact, content_hash, sha256_file
from hanlin.common.messages import Text, listing
from hanlin.common.progress import Progress
from hanlin.common.target import refuse_foreign_target
from hanlin.common.tracking import MetricsLog
from hanlin.model import CausalLM, RewardModel, load_model, save_weights
from hanlin.model.adapters import Adapter
from hanlin.model.checkpoint_io import WEIGHTS
from hanlin.model.low_rank import adapted_parameters
from hanlin.model.peft_files import ADAPTER_CONFIG
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.foreign import open_any
from hanlin.training import BatchSource, Objective, TrainResult, train
from hanlin.training.distributed.process_group import ProcessGroup
from hanlin.training.distributed.strategy import SingleProcess, Strategy
from hanlin.training.spikes import write_run_file


@dataclasses.dataclass(frozen=True)
class Job:
    """One training of one model.

    Attributes:
        out: directory the finished model is published in, whole or not at all; an adapter that has a format
            of its own goes beside it, into `adapter_out`.
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
    _adapted: Path | None = dataclasses.field(default=None, init=False)  # what the adapter adds to

    @property
    def adapter_out(self) -> Path:
        """Directory of what the adapter learnt: `sft.adapter` beside `sft`."""
        return self.out.with_name(f"{self.out.name}.adapter")

    @property
    def group(self) -> ProcessGroup:
        """The processes that do the job together."""
        return self.strategy.group

    def load(self, parent: Path | str, seq_len: int) -> tuple[CausalLM, Tokenizer]:
        """The model to start from and its tokenizer.

        Raises:
            HanlinError: no model there, or rows of `seq_len` are longer than the positions it knows.
        """
        device = str(resolve_device(self.device))
        if self.adapter is None:
            model = load_model(parent, device=device)
        else:
            model, base = self.adapter.open(Path(parent), device)
            object.__setattr__(self, "_adapted", base)
            self._say_adapter(model)
        check_length(model, seq_len)
        return model, open_any(parent)

    def _say_adapter(self, model: CausalLM) -> None:
        """What is trained, and whether it is worth it."""
        found = adapted_parameters(model)
        share = found.trained / max(1, found.base)
        assert self.adapter is not None
        self.progress.note(
            "adapter {kind} on {maps}: {trained:,} of {base:,} parameters are trained ({share:.1%})",
            kind=self.adapter.kind,
            maps=listing(found.maps) if found.maps else Text("no linear map"),
            trained=found.trained,
            base=found.base,
            share=share,
        )
        if share > 0.5:
            self.progress.warn(
                "the adapter trains {share:.0%} as many parameters as the model has: it saves next to "
                "nothing. Lower its rank (adapter.r), or train without one.",
                share=share,
            )

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
        self.group.run_on_rank0(lambda: self._refuse_targets(kind_of(model)))
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
        beside: Callable[[Path], None] | None = None,
        **metrics: Any,
    ) -> TrainResult:
        """Write the model directory, with the loop's headline figures in its manifest; returns `result`.

        Args:
            beside: writes further files of the model into the directory, before it takes its place.

        With an adapter the model is the merged one, and what was learnt goes beside it where the kind has a
        format for that. The adapter is there first: a model that is there has its adapter.
        """
        figures = {"seconds": round(result.seconds, 2), "skipped": result.skipped}
        figures |= {name: value for name, value in result.last.items() if name in ("loss", "bits_per_byte")}
        learnt = self.work / "learnt"
        if self.adapter is None:
            weights, has_files = self.strategy.full_state_dict(model), False
        else:
            # merging needs whole matrices, and takes the wrappers away
            whole = self.strategy.unsharded(model)
            has_files = self.group.run_on_rank0(lambda: self._save_adapter(whole, learnt))
            self.adapter.merge(whole)
            weights = {name: part.detach().cpu().contiguous() for name, part in whole.state_dict().items()}

        def finish(written: Path) -> None:
            if beside is not None:
                beside(written)
            if has_files:
                merged = sha256_file(written / WEIGHTS)
                self._publish_adapter(learnt, tokenizer, parents, config, figures | {"merged": merged})

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
                before_published=finish,
            )
        )
        return result

    def _refuse_targets(self, kind: str) -> None:
        refuse_foreign_target(self.out, kind)
        if self.adapter is not None:
            refuse_foreign_target(self.adapter_out, "adapter")

    def _save_adapter(self, model: nn.Module, folder: Path) -> bool:
        """Keep what was learnt before it is merged; whether its kind has files for that."""
        assert self.adapter is not None and self._adapted is not None
        folder.mkdir(parents=True, exist_ok=True)
        base = self._adapted
        return self.adapter.save(model, folder, base.resolve(), content_hash(base))

    def _publish_adapter(
        self,
        learnt: Path,
        tokenizer: Tokenizer,
        parents: dict[str, str],
        config: Any,
        metrics: dict[str, Any],
    ) -> None:
        """Write the adapter's directory; where its base lies is no part of what it is."""
        assert self._adapted is not None
        with artifact(
            self.adapter_out,
            "adapter",
            parents=parents | {"base": content_hash(self._adapted)},
            config=to_dict(config),
            seed=self.seed,
            key=self.key,
            views=(ADAPTER_CONFIG,),
        ) as written:
            for file in learnt.iterdir():
                shutil.copy2(file, written.path / file.name)
            tokenizer.save(written.path)
            written.metrics = metrics
        shutil.rmtree(learnt)


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
    before_published: Callable[[Path], None] | None = None,
) -> None:
    """Publish a model directory: weights (the model's own, unless given), config, tokenizer, chat template,
    manifest. Stock transformers opens it.

    Args:
        before_published: is called with the directory as it will be, before it takes its place.
    """
    with artifact(
        out, kind_of(model), parents=parents, config=to_dict(config), seed=seed, key=key
    ) as written:
        save_weights(model, written.path, im_end_id=tokenizer.im_end_id, weights=weights)
        tokenizer.save(written.path)
        written.metrics = metrics
        if before_published is not None:
            before_published(written.path)


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
