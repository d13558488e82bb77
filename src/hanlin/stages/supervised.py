"""Next-token training, shared by pretraining, SFT and distillation: they differ in data and rates, not in mathematics."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.config import to_dict
from ..common.devices import resolve_device
from ..common.errors import HanlinError
from ..common.manifest import MANIFEST, artifact, read_manifest
from ..common.progress import Progress
from ..common.tracking import MetricsLog
from ..dataset import IGNORE, Batch, ConversationRows, TextRows, TokenDataset
from ..model import CausalLM, RewardModel, linear_cross_entropy, load_model, save_weights
from ..tokenizer import Tokenizer, load_tokenizer
from ..training import TrainConfig, TrainResult, train


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """How to train on next tokens.

    Attributes:
        seq_len: tokens in a row.
        batch_tokens: tokens in an optimiser step.
        micro_tokens: tokens in one forward pass; the rest is gradient accumulation.
        z_loss: weight of logsumexp², see `linear_cross_entropy`.
    """

    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    seq_len: int = 256
    batch_tokens: int = 8192
    micro_tokens: int = 8192
    z_loss: float = 1e-4

    def __post_init__(self):
        if self.seq_len < 2:
            raise ValueError(f"seq_len must be at least 2, not {self.seq_len}")
        if self.batch_tokens < self.seq_len or self.micro_tokens < self.seq_len:
            raise ValueError(f"batch_tokens {self.batch_tokens} and micro_tokens {self.micro_tokens} must hold at least one row of seq_len {self.seq_len}")

    @property
    def rows(self) -> int:
        """Rows in a step."""
        return self.batch_tokens // self.seq_len


class RowSource:
    """Packed rows of one dataset, step after step."""

    def __init__(self, rows: TextRows | ConversationRows, config: SupervisedConfig):
        self.rows, self.config = rows, config

    @property
    def fingerprint(self) -> str:
        """Of the data, their order and the batch."""
        return f"{self.rows.fingerprint}/{self.config.rows}"

    def micro_batches(self, step: int, model: nn.Module) -> list[Batch]:
        """Rows `step·rows … (step+1)·rows`, cut into micro-batches."""
        first, count = step * self.config.rows, self.config.rows
        micro = max(1, self.config.micro_tokens // self.config.seq_len)
        return [self.rows.batch(list(range(first + at, first + min(at + micro, count)))) for at in range(0, count, micro)]


class NextToken:
    """Cross entropy of the next token, summed over the tokens to learn (plus z-loss).

    Args:
        token_bytes: UTF-8 length of each token, (V,), to log bits per byte.
    """

    def __init__(self, token_bytes: torch.Tensor, z_loss: float = 0.0):
        self.token_bytes, self.z_loss = token_bytes, z_loss

    def weight(self, batch: Batch) -> float:
        """Tokens to learn."""
        return batch.targets

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of a micro-batch, in nats."""
        hidden = model.hidden(batch.ids, positions=batch.positions, doc_ids=batch.doc_ids)  # (B, T, d)
        learned = batch.labels != IGNORE
        labels = batch.labels[learned]
        loss, nll = linear_cross_entropy(hidden[learned], model.head_weight, labels, z_loss=self.z_loss)
        return loss, {"nll": float(nll), "bytes": float(self.token_bytes.to(labels.device)[labels].sum())}


def token_bytes(tokenizer: Tokenizer) -> torch.Tensor:
    """UTF-8 bytes behind each token id, (V,) int64; zero for control tokens."""
    ordinary = [len(token) for token in tokenizer.vocabulary.tokens]
    return torch.tensor(ordinary + [0] * (tokenizer.vocab_size - len(ordinary)), dtype=torch.int64)


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
) -> None:
    """Publish a model directory: weights, config, tokenizer, chat template, manifest. Stock transformers opens it."""
    kind = "reward_model" if isinstance(model, RewardModel) else "model"
    with artifact(out, kind, parents=parents, config=to_dict(config), seed=seed, key=key) as written:
        save_weights(model, written.path, im_end_id=tokenizer.im_end_id)
        tokenizer.save(written.path)
        written.metrics = metrics


def run_supervised(
    model: CausalLM,
    dataset: TokenDataset,
    tokenizer: Tokenizer,
    config: SupervisedConfig,
    work: Path,
    progress: Progress,
    *,
    seed: int,
    trackers: tuple[str, ...] = (),
    max_seconds: float | None = None,
) -> TrainResult:
    """Train `model` in place on a dataset's documents, or on the assistant's tokens where it has a mask.

    Raises:
        HanlinError: the dataset was made with another tokenizer, or holds conversations longer than a row.
    """
    dataset.require_tokenizer(tokenizer)
    rows = (TextRows if dataset.mask is None else ConversationRows)(dataset, config.seq_len, seed)
    log = MetricsLog(work / "metrics.jsonl", trackers, name=work.name, config=to_dict(config))
    try:
        return train(
            model, RowSource(rows, config), NextToken(token_bytes(tokenizer), config.z_loss), config.train, work, progress,
            log=log, max_seconds=max_seconds,
        )  # fmt: skip
    finally:
        log.close()


def finetune(
    parent: Path | str,
    dataset: Path | str,
    config: SupervisedConfig,
    out: Path | str,
    work: Path,
    progress: Progress,
    *,
    seed: int,
    key: str = "",
    device: str | None = None,
    trackers: tuple[str, ...] = (),
    max_seconds: float | None = None,
) -> TrainResult:
    """Continue a model on a dataset of conversations and publish the result: SFT, distillation and their controls."""
    model, tokenizer, data = load_model(parent, device=str(resolve_device(device))), load_tokenizer(parent), TokenDataset(dataset)
    check_length(model, config.seq_len)
    result = run_supervised(model, data, tokenizer, config, work, progress, seed=seed, trackers=trackers, max_seconds=max_seconds)
    write_model(
        out, model, tokenizer, parents={"model": content_hash(parent), "dataset": data.manifest.content_hash},
        config=config, seed=seed, metrics=training_metrics(result), key=key,
    )  # fmt: skip
    return result


def check_length(model: CausalLM | RewardModel, seq_len: int) -> None:
    """Refuse rows longer than the positions the model knows."""
    limit = model.config.max_position_embeddings
    if seq_len > limit:
        raise HanlinError(
            f"seq_len={seq_len} 超过模型的 max_position_embeddings={limit}。请减小 seq_len，或用更大的 max_position_embeddings 重新预训练。",
            f"seq_len={seq_len} exceeds the model's max_position_embeddings={limit}. Lower seq_len, or pretrain with a larger max_position_embeddings.",
        )


def content_hash(path: Path | str) -> str:
    """Content hash of an artefact already verified, or `external` for a model that is not ours."""
    return read_manifest(path, verify=False).content_hash if (Path(path) / MANIFEST).is_file() else "external"


def training_metrics(result: TrainResult) -> dict[str, Any]:
    """Headline figures of a finished loop for a manifest."""
    return {"seconds": round(result.seconds, 2), "skipped": result.skipped} | {k: v for k, v in result.last.items() if k in ("loss", "bits_per_byte")}
