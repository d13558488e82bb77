"""Pretraining: a model from nothing, by predicting the next token of packed documents (Radford et al. 2018).

Before it begins, the end of each of the largest sources is compared with the rest of it, and one that is
unlike it is warned of.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hanlin.common.config import to_dict
from hanlin.common.devices import resolve_device
from hanlin.common.manifest import hash_json
from hanlin.common.messages import Text
from hanlin.dataset import TokenDataset, tail_alarm
from hanlin.dataset.tail import tail_warning
from hanlin.model import CausalLM, ModelConfig, init_weights
from hanlin.stages.base import Job, check_length, content_hash
from hanlin.stages.stage import Stage, StageConfig, register_stage
from hanlin.stages.supervised import SupervisedConfig, finetune, next_token_training
from hanlin.tokenizer import load_tokenizer
from hanlin.training import TrainResult
from hanlin.training.spikes import RUN

_MOST_SOURCES = 32
MOST_PASSES = 4  # over the same text that are worth nearly as much as new text (Muennighoff et al. 2023)


def pretrain(
    dataset: Path | str, tokenizer: Path | str, shape: ModelConfig, config: SupervisedConfig, job: Job
) -> TrainResult:
    """Train a model of the given shape on a token dataset and publish it.

    Raises:
        HanlinError: the dataset is not this tokenizer's, or its rows are longer than the model's positions.
    """
    words, data = load_tokenizer(tokenizer), TokenDataset(dataset)
    model = CausalLM(shape)
    check_length(model, config.seq_len)
    init_weights(model, job.seed)
    model.to(resolve_device(job.device))
    if job.group.is_rank0 and not (job.work / RUN).is_file():  # a run that goes on has been told
        for tail in tail_alarm(data, most=_MOST_SOURCES):
            if tail.suspicious:
                job.progress.warn(tail_warning(tail))
    parents = {"dataset": data.manifest.content_hash, "tokenizer": content_hash(tokenizer)}
    result = next_token_training(
        job, model, data, words, config, parents | {"model": hash_json(to_dict(shape))}
    )
    return job.publish(model, words, result, config, parents, parameters=shape.parameters())


@dataclasses.dataclass(frozen=True)
class PretrainConfig(SupervisedConfig, StageConfig):
    """Pretraining on the recipe's text; `from` a model goes on with it instead of beginning from nothing.

    Attributes:
        first_token: a new model reads each document after <|endoftext|>, and so learns its first token; false
            is how it was before there was this choice. A model that goes on keeps what it has.
    """

    first_token: bool = True


@register_stage
class PretrainStage(Stage):
    """Pretraining."""

    kind = "pretrain"
    Config = PretrainConfig
    teaches_chat = False
    title = Text("Pretraining")
    does = Text(
        "From random weights, the model practises predicting the next token, and so learns the language "
        "itself."
    )

    @property
    def data(self) -> Path:
        """The tokens of the whole text."""
        assert self.inputs.dataset is not None
        return self.inputs.dataset

    def prepare(self) -> None:
        """Say when the text will be read so often that it is learnt by heart."""
        there = int(TokenDataset(self.data, verify=False).lengths.sum())
        config: PretrainConfig = self.config
        passes = config.train.steps * config.batch_tokens / there
        if passes > MOST_PASSES:
            self.inputs.progress.warn(
                "the corpus has {there:.2f}M tokens and will be read {passes:.0f} times; beyond {most} it "
                "is mostly learnt by heart. Add text, or lower {stage}.train.steps to {enough}",
                there=there / 1e6,
                passes=passes,
                most=MOST_PASSES,
                stage=self.inputs.scope.stage,
                enough=max(1, int(MOST_PASSES * there / config.batch_tokens)),
            )

    def train(self, job: Job) -> TrainResult:
        """From nothing, or from the model that `from` names."""
        if self.inputs.parent is not None:
            return finetune(self.inputs.parent, self.data, self.config, job)
        return pretrain(self.data, self.inputs.tokenizer, self.new_shape(), self.config, job)

    def new_shape(self) -> ModelConfig:
        """With a start token, unless `first_token` says not to."""
        shape = super().new_shape()
        return shape if self.config.first_token else dataclasses.replace(shape, bos_token_id=None)

    @classmethod
    def work(cls, config: PretrainConfig) -> float:
        """Its tokens."""
        return float(config.train.steps * config.rows * config.seq_len)
