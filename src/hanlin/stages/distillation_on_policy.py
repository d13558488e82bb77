"""On-policy distillation (Agarwal et al. 2024; Lu et al. 2025): the student writes, and at every token that
it wrote the teacher's distribution is imitated.

By default the exact reverse KL over the vocabulary, which is what a policy gradient with the cost
log q - log p estimates from the one token that was drawn: the same gradient in expectation, with far less
noise, for one more product with the teacher's head. No gradient goes through the drawing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from hanlin.common.config import Range, at_least
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.dataset import Batch, pack_sequences
from hanlin.model import ModelShape
from hanlin.model.divergences import Divergence
from hanlin.rl.rewards.base import FunctionReward
from hanlin.stages.base import Job, content_hash
from hanlin.stages.distillation import (
    DistillationLoss,
    TeacherConfig,
    is_stage,
    load_teacher,
    require_positions,
    require_teacher,
    require_writer,
    teacher_folder,
    teacher_identity,
)
from hanlin.stages.grpo import GRPOConfig, RolloutSource
from hanlin.stages.stage import Stage, StageConfig, register_stage
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.token_bytes import token_bytes
from hanlin.training import TrainConfig, TrainResult
from hanlin.training.contract import config_hash
from hanlin.training.distributed.shard import FULL, DataShard


@dataclasses.dataclass(frozen=True)
class OnPolicyDistillConfig(TeacherConfig, GRPOConfig, StageConfig):
    """On-policy distillation: `prompts` a step, each answered `group_size` times at `temperature`, which is
    that of the divergence too."""

    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(learning_rate=3e-4, muon=False)
    )
    divergence: Divergence = "reverse"
    temperature: float = 1.0
    group_size: int = 1

    RANGES: ClassVar[dict[str, Range]] = {
        **GRPOConfig.RANGES,
        **TeacherConfig.TEACHER_RANGES,
        "group_size": at_least(1),
        "kl_coef": Range(0, 0),  # the teacher is the reference
    }


class OwnAnswers(RolloutSource):
    """Answers of the student as it is now: a pure function of step, seed and weights."""

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        tokenizer: Tokenizer,
        config: OnPolicyDistillConfig,
        seed: int,
        progress: Progress | None = None,
    ):
        super().__init__(records, FunctionReward(), tokenizer, config, seed, progress)

    def micro_batches(self, step: int, model: nn.Module, shard: DataShard = FULL) -> list[Batch]:  # type: ignore[override]
        """Generate, and pack what was written."""
        chosen, prompts, completions = self._answers(step, model, shard)
        count = len(completions)
        ended = sum(completion.finish_reason == "stop" for completion in completions)
        self._metrics = {
            "answer_length": float(sum(len(completion.ids) for completion in completions)),
            "answer_length_count": float(count),
            "ended": float(ended),
            "ended_count": float(count),
        }
        # an answer that failed is nothing to learn from
        useful = [at for at, completion in enumerate(completions) if completion.ids]
        if not useful:
            return [Batch.empty(self.config.seq_len)]
        sequences = [
            (
                [*prompts[at], *completions[at].ids],
                [0] * len(prompts[at]) + [1] * len(completions[at].ids),
            )
            for at in useful
        ]
        rows = pack_sequences(sequences, self.config.seq_len, useful)
        rows.documents = [chosen[at // self.config.group_size] for at in rows.documents]
        return [rows]


@register_stage
class OnPolicyDistillStage(Stage):
    """On-policy distillation."""

    kind = "on_policy_distill"
    Config = OnPolicyDistillConfig
    schema = "messages"
    title = Text("On-policy distillation")
    does = Text(
        "The model writes answers of its own, and at each token a larger model says what it expected."
    )

    def prepare(self) -> None:
        """Nothing is encoded beforehand; who gave files is told what becomes of them."""
        self.say_counts()

    def train(self, job: Job) -> TrainResult:
        """Let the parent write, and the teacher say what it thinks of it."""
        parent, config = self.inputs.parent, self.config
        assert parent is not None and config.data is not None
        folder = teacher_folder(config, self.inputs)
        model, tokenizer = job.load(parent, config.seq_len)
        teacher = load_teacher(folder, model, tokenizer)
        require_positions(teacher, folder, config.seq_len)
        records = list(config.data.train(self.inputs.scope))
        source = OwnAnswers(records, tokenizer, config, job.seed, job.progress)
        loss = DistillationLoss(teacher, config, 0.0, tokenizer.vocab_size, token_bytes(tokenizer))
        parents = {
            "model": content_hash(parent),
            "prompts": config_hash(source.identity()),
            "teacher": content_hash(folder),
        }
        result = job.train(model, source, loss, config, origin=parents)
        left_out = len(records) - len(source.records)
        return job.publish(
            model, tokenizer, result, config, parents, problems=len(source.records), left_out=left_out
        )

    @classmethod
    def work(cls, config: OnPolicyDistillConfig) -> float:
        """A token that is generated is taken to cost as much as three trained on, and the teacher's one
        more."""
        return 4.0 * config.train.steps * config.prompts * config.group_size * config.max_new_tokens

    @classmethod
    def stages_named(cls, config: OnPolicyDistillConfig) -> tuple[str, ...]:
        """The teacher, where it is a stage."""
        return (config.teacher,) if is_stage(config.teacher) else ()

    @classmethod
    def check_named(cls, config: OnPolicyDistillConfig, other: StageConfig) -> None:
        """A teacher writes."""
        require_writer(config.id, other)

    @classmethod
    def check(cls, config: OnPolicyDistillConfig, shape: ModelShape | None) -> None:
        """There is a teacher."""
        require_teacher(config, config.teacher)

    @classmethod
    def identity(cls, config: OnPolicyDistillConfig) -> Any:
        """The teacher's content, where it is no stage of the run."""
        return teacher_identity(config)
