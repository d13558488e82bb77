"""Supervised fine-tuning: the model reads conversations and learns what the assistant says in them (Ouyang et
al. 2022, step 1).

Chain-of-thought SFT is the same on conversations with `reasoning_content`. So that a model which learns to
talk keeps its language, documents of the pretraining text are mixed in; and conversations of earlier stages,
so that it keeps what they taught.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hanlin.common.config import OutOfRange, Range, at_least
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.messages import Text
from hanlin.dataset import TokenDataset, build_conversation_dataset, permutation
from hanlin.model import ModelShape
from hanlin.stages.base import Job
from hanlin.stages.stage import Stage, StageConfig, register_stage
from hanlin.stages.supervised import SupervisedConfig, finetune
from hanlin.training import TrainResult


@dataclasses.dataclass(frozen=True)
class SFTConfig(SupervisedConfig, StageConfig):
    """Fine-tuning on conversations.

    Attributes:
        text_share: documents of the pretraining text mixed in, as a share of all documents: without them a
            model that learns to talk forgets how to go on with a text.
        mix: conversations of earlier stages mixed in, as shares of all documents, by the stages' ids.
        min_tokens, max_tokens: conversations of fewer or more tokens are left out and counted; `max_tokens`
            0 is `seq_len`.
    """

    text_share: float = 0.15
    mix: dict[str, float] = dataclasses.field(default_factory=dict)
    min_tokens: int = 0
    max_tokens: int = 0

    RANGES: ClassVar[dict[str, Range]] = {
        "text_share": Range(0, 0.9),
        "min_tokens": at_least(0),
        "max_tokens": at_least(0),
    }

    def __post_init__(self):
        super().__post_init__()
        if self.max_tokens > self.seq_len:
            raise OutOfRange(
                "max_tokens is {most}, and a row holds seq_len={seq_len} tokens",
                most=self.max_tokens,
                seq_len=self.seq_len,
            )
        if self.min_tokens > (self.max_tokens or self.seq_len):
            raise OutOfRange(
                "min_tokens is {fewest}, more than the longest conversation may have ({most})",
                fewest=self.min_tokens,
                most=self.max_tokens or self.seq_len,
            )
        if (
            not all(0 < share < 1 for share in self.mix.values())
            or self.text_share + sum(self.mix.values()) > 0.9
        ):
            raise OutOfRange("mix and text_share are shares of all documents, and add up to 0.9 at most")


@register_stage
class SFTStage(Stage):
    """Fine-tuning on conversations."""

    kind = "sft"
    Config = SFTConfig
    schema = "messages"
    title = Text("Supervised fine-tuning")
    does = Text(
        "Shown questions with their answers, the model learns to answer instead of merely continuing text."
    )

    def prepare(self) -> None:
        """Encode the conversations, with what is mixed in."""
        config: SFTConfig = self.config
        mixed = {name: self._earlier(name) for name in config.mix}
        text = self.texts(self.inputs.scope.seed) if config.text_share and self.inputs.dataset else None
        origin = (
            [read_manifest(self.inputs.dataset, verify=False).content_hash]
            if text and self.inputs.dataset
            else []
        )
        if text and self.start_id is not None:
            origin.append(f"after {self.start_id}")
        origin += [data.manifest.content_hash for data in mixed.values()]
        shares = [config.text_share, config.mix, config.min_tokens, config.max_tokens, config.seq_len]

        def build(path: Path, key: str) -> TokenDataset:
            self.say_counts()
            assert config.data is not None
            return build_conversation_dataset(
                config.data.train(self.inputs.scope),
                self.tokenizer(),
                path,
                max_length=config.max_tokens or config.seq_len,
                min_length=config.min_tokens,
                key=key,
                text=text,
                text_share=config.text_share,
                mixed=[
                    (config.mix[name], _endless(data, self.inputs.scope.seed)) for name, data in mixed.items()
                ],
            )

        self.encoded(self.data_key(origin, shares), build)

    def train(self, job: Job) -> TrainResult:
        """Continue the parent."""
        assert self.inputs.parent is not None
        return finetune(self.inputs.parent, self.data, self.config, job)

    def data_facts(self) -> dict[str, Any]:
        """Counts of the encoded conversations."""
        return dict(read_manifest(self.data, verify=False).metrics)

    @classmethod
    def work(cls, config: SFTConfig) -> float:
        """Its tokens."""
        return float(config.train.steps * config.rows * config.seq_len)

    @classmethod
    def stages_named(cls, config: SFTConfig) -> tuple[str, ...]:
        """Those whose conversations are mixed in."""
        return tuple(config.mix)

    @classmethod
    def check_named(cls, config: SFTConfig, other: StageConfig) -> None:
        """Only conversations can be mixed in."""
        if other.stage.schema != cls.schema:
            raise HanlinError(
                "{stage} mixes in the data of {other}, which are no conversations. Name a stage of kind sft.",
                stage=config.id,
                other=other.id,
            )

    @classmethod
    def check(cls, config: SFTConfig, shape: ModelShape | None) -> None:
        """Nothing besides what every stage is checked for."""

    def _earlier(self, name: str) -> TokenDataset:
        assert self.inputs.stage_data is not None
        return TokenDataset(self.inputs.stage_data(name), verify=False)


def _endless(data: TokenDataset, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and mask of a data set's documents, again and again, in a seeded order."""
    assert data.mask is not None
    epoch = 0
    while True:
        for index in permutation(len(data), seed, epoch):
            yield data.document(int(index)), data.mask[data.starts[index] : data.starts[index + 1]]
        epoch += 1
