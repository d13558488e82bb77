"""Pretraining: a model from nothing, by predicting the next token of packed documents (Radford et al. 2018)."""

from __future__ import annotations

from pathlib import Path

from ..common.devices import resolve_device
from ..dataset import TokenDataset
from ..model import CausalLM, ModelConfig, init_weights
from ..tokenizer import load_tokenizer
from ..training import TrainResult
from .job import Job, check_length, content_hash
from .supervised import SupervisedConfig, next_token_training


def pretrain(dataset: Path | str, tokenizer: Path | str, shape: ModelConfig, config: SupervisedConfig, job: Job) -> TrainResult:
    """Train a model of the given shape on a token dataset and publish it.

    Raises:
        HanlinError: the dataset is not this tokenizer's, or its rows are longer than the model's positions.
    """
    words, data = load_tokenizer(tokenizer), TokenDataset(dataset)
    model = CausalLM(shape)
    check_length(model, config.seq_len)
    init_weights(model, job.seed)
    model.to(resolve_device(job.device))
    result = next_token_training(job, model, data, words, config)
    parents = {"dataset": data.manifest.content_hash, "tokenizer": content_hash(tokenizer)}
    return job.publish(model, words, result, config, parents, parameters=shape.parameters())
