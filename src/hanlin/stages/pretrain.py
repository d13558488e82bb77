"""Pretraining: a model from nothing, by predicting the next token of packed documents (Radford et al. 2018)."""

from __future__ import annotations

from pathlib import Path

from ..common.devices import resolve_device
from ..common.progress import Progress
from ..dataset import TokenDataset
from ..model import CausalLM, ModelConfig, init_weights
from ..tokenizer import load_tokenizer
from ..training import TrainResult
from .supervised import SupervisedConfig, check_length, content_hash, run_supervised, training_metrics, write_model


def pretrain(
    dataset: Path | str,
    tokenizer: Path | str,
    shape: ModelConfig,
    config: SupervisedConfig,
    out: Path | str,
    work: Path,
    progress: Progress,
    *,
    seed: int,
    key: str = "",
    device: str | None = None,
    trackers: tuple[str, ...] = (),
) -> TrainResult:
    """Train a model of the given shape on a token dataset and publish it.

    Raises:
        HanlinError: the dataset is not this tokenizer's, or its rows are longer than the model's positions.
    """
    words, data = load_tokenizer(tokenizer), TokenDataset(dataset)
    model = CausalLM(shape)
    check_length(model, config.seq_len)
    init_weights(model, seed)
    model.to(resolve_device(device))
    result = run_supervised(model, data, words, config, work, progress, seed=seed, trackers=trackers)
    write_model(
        out, model, words, parents={"dataset": data.manifest.content_hash, "tokenizer": content_hash(tokenizer)},
        config=config, seed=seed, metrics={"parameters": shape.parameters()} | training_metrics(result), key=key,
    )  # fmt: skip
    return result
