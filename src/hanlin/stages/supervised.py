"""Next-token training, shared by pretraining, SFT and distillation: they differ in data and rates, not in
mathematics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from hanlin.common.atomic import read_json, write_json
from hanlin.common.config import Range, at_least, require_ranges
from hanlin.common.devices import device_capabilities, is_discrete, to_device_async
from hanlin.common.errors import ConfigError
from hanlin.common.progress import SOURCE, SOURCE_LOSS, Progress
from hanlin.dataset import Batch, ConversationRows, TextRows, TokenDataset
from hanlin.model import CausalLM, ForwardContext
from hanlin.stages.base import Job, content_hash
from hanlin.stages.pairs import sum_by_document
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.token_bytes import token_bytes
from hanlin.training import BatchSource, Objective, TrainConfig, TrainResult
from hanlin.training.checkpoint.writer import saves_in_background
from hanlin.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hanlin.training.distributed.shard import FULL, DataShard
from hanlin.training.step_estimate import StepSpec, fit_step, training_memory_budget


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """How to train on next tokens.

    Attributes:
        seq_len: tokens in a row.
        batch_tokens: tokens in an optimiser step.
        micro_tokens: tokens in one forward pass; the rest is gradient accumulation. `auto` takes the largest
            power of two of rows that fits the memory free when the stage first begins, and stays with it.
        checkpoint_activations: compute each layer again in the backward pass instead of keeping what it
            left: a third more work, a fraction of the memory.
        z_loss: weight of logsumexp², see `model.losses.linear_cross_entropy`.
        document_mask: tokens attend within their own document only; without it, to everything before them in
            the row.
    """

    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    seq_len: int = 256
    batch_tokens: int = 8192
    micro_tokens: Literal["auto"] | int = 8192
    checkpoint_activations: bool = False
    z_loss: float = 1e-4
    document_mask: bool = True

    RANGES: ClassVar[dict[str, Range]] = {
        "seq_len": at_least(2),
        "batch_tokens": at_least(2),
        "micro_tokens": at_least(2),
        "z_loss": at_least(0),
    }

    def __post_init__(self):
        require_ranges(self)
        if self.batch_tokens < self.seq_len or (
            self.micro_tokens != "auto" and self.micro_tokens < self.seq_len
        ):
            raise ConfigError(
                "batch_tokens {batch_tokens} and micro_tokens {micro_tokens} must hold at least one row of "
                "seq_len {seq_len}",
                batch_tokens=self.batch_tokens,
                micro_tokens=self.micro_tokens,
                seq_len=self.seq_len,
            )

    @property
    def rows(self) -> int:
        """Rows in a step."""
        return self.batch_tokens // self.seq_len

    def step_spec(self, dtype: str, discrete: bool = False, processes: int = 1) -> StepSpec:
        """What the planner needs to know of a step, with products in `dtype`, on a device with memory of its
        own or not."""
        copied = not discrete and saves_in_background(self.train.async_save, discrete, processes)
        micros = -(-self.rows // self.micro_rows)
        return StepSpec(
            self.seq_len,
            self.micro_rows,
            micros,
            dtype,
            self.document_mask,
            self.checkpoint_activations,
            discrete and self.train.offload_optimizer,
            copied,
            not discrete,
        )

    @property
    def micro_rows(self) -> int:
        """Rows in one forward pass; all of them while `auto` is not fitted."""
        return (
            self.rows
            if self.micro_tokens == "auto"
            else min(self.rows, max(1, self.micro_tokens // self.seq_len))
        )


class RowSource(BatchSource):
    """Packed rows of one dataset, step after step."""

    uniform = True

    def __init__(self, rows: TextRows | ConversationRows, config: SupervisedConfig):
        self.rows, self.config = rows, config
        self._read: list[int] = []

    def identity(self) -> dict[str, Any]:
        """The data, their order and the batch."""
        return self.rows.identity() | {"rows": self.config.rows}

    def micro_batches(self, step: int, model: nn.Module, shard: DataShard = FULL) -> list[Batch]:
        """The shard's part of rows `step·rows … (step+1)·rows`, cut into micro-batches."""
        indices = shard.slice(self.config.rows)
        samples = [step * self.config.rows + place for place in indices]
        micro = self.config.micro_rows
        batches = [self.rows.batch(samples[at : at + micro]) for at in range(0, len(samples), micro)]
        self._read = [document for batch in batches for document in batch.documents]
        return batches

    def metrics(self) -> dict[str, float]:
        """`source/NAME`: each source's share of the documents read last; nothing where the dataset does not
        know them."""
        sources, names = self.rows.dataset.sources, self.rows.dataset.source_names
        if sources is None or not self._read:
            return {}
        counts = np.bincount(sources[self._read], minlength=len(names))
        return {
            f"{SOURCE}{names[index]}": float(counts[index] / len(self._read))
            for index in np.flatnonzero(counts)
        }


class NextTokenLoss(Objective):
    """Cross entropy of the next token, summed over the tokens to learn (plus z-loss).

    Args:
        token_bytes: UTF-8 length of each token, (V,), to log bits per byte.
        dataset: where it knows the sources of its documents, bits per byte are logged for each source as
            well.
    """

    def __init__(
        self,
        token_bytes: torch.Tensor,
        z_loss: float = 0.0,
        document_mask: bool = True,
        dataset: TokenDataset | None = None,
    ):
        self.token_bytes, self.z_loss, self.document_mask = token_bytes, z_loss, document_mask
        self.sources, self.source_names = (
            (None, []) if dataset is None else (dataset.sources, dataset.source_names)
        )

    def num_items(self, batch: Batch) -> float:
        """Tokens to learn."""
        return batch.num_loss_tokens

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """Loss of a micro-batch, in nats."""
        context = self._context(model, batch)
        hidden, labels = self._hidden_and_labels(model, batch, context)
        loss, nll = model.head.cross_entropy(hidden, labels, z_loss=self.z_loss)
        return context.with_aux(loss, self._bits(batch, nll, labels), self.num_items(batch))

    def _bits(self, batch: Batch, nll: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """What bits per byte are made of, over all and by source."""
        if self.token_bytes.device != labels.device:
            self.token_bytes = to_device_async(self.token_bytes, labels.device)
        size = self.token_bytes[labels]
        return {"nll": nll.sum(), "bytes": size.sum()} | self._by_source(batch, nll, size)

    def _by_source(self, batch: Batch, nll: torch.Tensor, size: torch.Tensor) -> dict[str, torch.Tensor]:
        """Bits and bytes of each source in a micro-batch; which ones are in it the host knows."""
        if self.sources is None:
            return {}
        present, of_document = np.unique(self.sources[batch.documents], return_inverse=True)
        of_token = to_device_async(torch.from_numpy(of_document), nll.device)[
            batch.gather_loss_tokens(batch.doc_ids)
        ]
        bits = torch.zeros(len(present), device=nll.device).index_add_(0, of_token, nll / math.log(2))
        learned = torch.zeros(len(present), device=nll.device).index_add_(0, of_token, size.float())
        names = [f"{SOURCE_LOSS}{self.source_names[index]}" for index in present]
        return dict(zip(names, bits, strict=True)) | {
            f"{name}_count": value for name, value in zip(names, learned, strict=True)
        }

    def per_sequence_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Mean loss per token of each document of a micro-batch, in nats, (documents,)."""
        hidden, labels = self._hidden_and_labels(model, batch, self._context(model, batch))
        sums, counts = sum_by_document(-model.head.token_log_probs(hidden, labels), batch)
        return sums / counts.clamp(min=1)

    def _context(self, model: Any, batch: Batch) -> ForwardContext:
        return model.context(batch.ids, **(batch.attention_kwargs if self.document_mask else {}))

    def _hidden_and_labels(
        self, model: Any, batch: Batch, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (n, d) and labels (n,) of the tokens to learn."""
        hidden = model.hidden(batch.ids, context)  # (B, T, d)
        return batch.gather_loss_tokens(hidden), batch.gather_loss_tokens(batch.labels)


def settle_micro_batch(
    config: SupervisedConfig,
    model: CausalLM,
    work: Path,
    progress: Progress,
    group: ProcessGroup = SINGLE_PROCESS,
) -> SupervisedConfig:
    """`micro_tokens: auto` as a number that fits the free memory of every process' device; a resumed run
    keeps the one it began with.

    Raises:
        HanlinError: not even one row fits; says what would help, cheapest first.
    """
    if config.micro_tokens != "auto":
        return config
    file = work / "micro_tokens.json"
    known = group.run_on_rank0(lambda: int(read_json(file)["micro_tokens"]) if file.is_file() else 0)
    if known:
        return dataclasses.replace(config, micro_tokens=known)
    device = next(model.parameters()).device
    fit = fit_step(
        model.config,
        config.train,
        config.step_spec(device_capabilities(device).train_dtype, is_discrete(device), group.world_size),
        -(-config.rows // group.world_size),
        training_memory_budget(device),
    )
    chosen = min(group.all_gather_object(fit.rows)) * config.seq_len
    progress.note(
        "micro_tokens: auto → {chosen:,} ({rows} rows, expected peak {peak:.2f} GiB, {memory:.2f} GiB there)",
        chosen=chosen,
        rows=fit.rows,
        peak=fit.peak / 2**30,
        memory=fit.memory / 2**30,
    )
    group.run_on_rank0(lambda: write_json(file, {"micro_tokens": chosen}))
    return dataclasses.replace(config, micro_tokens=chosen)


def next_token_training(
    job: Job,
    model: CausalLM,
    dataset: TokenDataset,
    tokenizer: Tokenizer,
    config: SupervisedConfig,
    origin: Mapping[str, str],
    *,
    loss: NextTokenLoss | None = None,
) -> TrainResult:
    """Train `model` in place on a dataset's documents, or on the assistant's tokens where it has a mask.

    Args:
        origin: content hashes of what the model was made from, by role.
        loss: another one than plain cross entropy.

    Raises:
        HanlinError: the dataset was made with another tokenizer, or holds conversations longer than a row.
    """
    dataset.require_tokenizer(tokenizer)
    config = settle_micro_batch(config, model, job.work, job.progress, job.group)
    if config.checkpoint_activations:
        model.checkpoint_activations = True
    rows = (
        TextRows(dataset, config.seq_len, job.seed, model.config.bos_token_id)
        if dataset.mask is None
        else ConversationRows(dataset, config.seq_len, job.seed)
    )
    plain = NextTokenLoss(token_bytes(tokenizer), config.z_loss, config.document_mask, dataset)
    return job.train(
        model,
        RowSource(rows, config),
        loss or plain,
        config,
        origin=origin,
        dataset=dataset.path,
        tokenizer=tokenizer,
    )


def finetune(parent: Path | str, dataset: Path | str, config: SupervisedConfig, job: Job) -> TrainResult:
    """Continue a model on a dataset of conversations and publish the result: SFT, distillation and their
    controls."""
    model, tokenizer = job.load(parent, config.seq_len)
    data = TokenDataset(dataset)
    parents = {"model": content_hash(parent), "dataset": data.manifest.content_hash}
    result = next_token_training(job, model, data, tokenizer, config, parents)
    return job.publish(model, tokenizer, result, config, parents)
