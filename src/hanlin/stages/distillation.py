"""Distillation from the logits of a larger model of one's own (Hinton et al. 2015):

    L = α·CE + (1 - α)·T²·D(p, q)

on the tokens that the assistant says, and on mixed-in text; p is the teacher's distribution, q the student's,
D one of `model.divergences`. Both read the same packed rows. The teacher must have the student's tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from hanlin.common.config import OutOfRange, Range, above
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.dataset import Batch, TokenDataset
from hanlin.model import CausalLM, ModelShape, load_model
from hanlin.model.divergences import Divergence, chunked_divergence
from hanlin.stages.base import Job, content_hash
from hanlin.stages.sft import SFTConfig, SFTStage
from hanlin.stages.stage import StageConfig, StageInputs, register_stage
from hanlin.stages.supervised import NextTokenLoss, next_token_training
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.foreign import open_any
from hanlin.tokenizer.token_bytes import token_bytes
from hanlin.training import TrainResult


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """From whom to learn, and how.

    Attributes:
        teacher: a model's directory, or the id of an earlier stage.
        divergence: D: `forward`, `reverse`, `jsd` or `skew`.
        beta: β of `jsd`; λ of `skew`, where 0.1 is what its authors take.
        temperature: T of both distributions in D.
    """

    teacher: str = ""
    divergence: Divergence = "forward"
    beta: float = 0.5
    temperature: float = 1.0

    TEACHER_RANGES: ClassVar[dict[str, Range]] = {"beta": Range(0, 1), "temperature": above(0)}


def require_teacher(config: StageConfig, teacher: str) -> None:
    """Refuse a section that names none.

    Raises:
        HanlinError: it does not.
    """
    if not teacher:
        raise HanlinError(
            "{stage} names no teacher: say teacher: DIRECTORY of a model, or the id of an earlier stage.",
            stage=config.id,
        )


def is_stage(teacher: str) -> bool:
    """Whether `teacher` is the id of a stage and no directory."""
    return bool(teacher) and not Path(teacher).is_dir()


def teacher_folder(config: TeacherConfig, inputs: StageInputs) -> Path:
    """Directory of the teacher.

    Raises:
        HanlinError: neither a directory nor, in this run, a stage.
    """
    if not is_stage(config.teacher):
        return Path(config.teacher)
    if inputs.stage_model is None:
        raise HanlinError(
            "{teacher} is no model's directory, and a stage only in a recipe that has it before this one. "
            "Name the directory of the teacher.",
            teacher=config.teacher,
        )
    return inputs.stage_model(config.teacher)


def load_teacher(folder: Path, student: CausalLM, tokenizer: Tokenizer) -> CausalLM:
    """The teacher, frozen, where the student is.

    Raises:
        HanlinError: its tokenizer is another: its probabilities are of other tokens.
    """
    theirs = open_any(folder)
    if theirs.content_hash != tokenizer.content_hash:
        raise HanlinError(
            "The teacher {folder} has another tokenizer than the student ({theirs}…, {ours}…): its "
            "probabilities are of other tokens. Teach by its answers instead (hanlin data sample, then sft), "
            "or train a student with its tokenizer.",
            folder=folder,
            theirs=theirs.content_hash[:12],
            ours=tokenizer.content_hash[:12],
        )
    return load_model(folder, device=str(student.device)).requires_grad_(False)


class DistillationLoss(NextTokenLoss):
    """The objective.

    Args:
        alpha: share of the cross entropy; without it labels are not looked at.
        vocab_size: entries that both know.
    """

    def __init__(
        self,
        teacher: CausalLM,
        config: TeacherConfig,
        alpha: float,
        vocab_size: int,
        *arguments: Any,
        **options: Any,
    ):
        super().__init__(*arguments, **options)
        self.teacher, self.config, self.alpha, self.vocab_size = teacher, config, alpha, vocab_size

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """Loss of a micro-batch, in nats, summed over the tokens to learn."""
        config = self.config
        context = self._context(model, batch)
        hidden, labels = self._hidden_and_labels(model, batch, context)
        with torch.no_grad():
            theirs, _ = self._hidden_and_labels(self.teacher, batch, self._context(self.teacher, batch))
        apart = chunked_divergence(
            model.head.logits,
            self.teacher.head.logits,
            hidden,
            theirs,
            self.vocab_size,
            config.divergence,
            mix=config.beta,
            temperature=config.temperature,
        )
        loss = (1 - self.alpha) * config.temperature**2 * apart.sum()
        items = self.num_items(batch)
        metrics: dict[str, Any] = {"divergence": apart.detach().sum(), "divergence_count": items}
        if self.alpha:
            entropy, nll = model.head.cross_entropy(hidden, labels, z_loss=self.z_loss)
            loss = loss + self.alpha * entropy
            metrics |= self._bits(batch, nll, labels)
        return context.with_aux(loss, metrics, items)


@dataclasses.dataclass(frozen=True)
class DistillConfig(TeacherConfig, SFTConfig):
    """Distillation on conversations. `alpha` is α, the share of the cross entropy."""

    alpha: float = 0.5

    RANGES: ClassVar[dict[str, Range]] = {
        **SFTConfig.RANGES,
        **TeacherConfig.TEACHER_RANGES,
        "alpha": Range(0, 1),
    }

    def __post_init__(self):
        super().__post_init__()
        if self.alpha == 1:
            raise OutOfRange("alpha is 1, which asks the teacher nothing: use a stage of kind sft")


def distill(
    parent: Path | str, dataset: Path | str, teacher: Path, config: DistillConfig, job: Job
) -> TrainResult:
    """Continue a model on a dataset of conversations with a teacher beside it, and publish it.

    Raises:
        HanlinError: the teacher or the dataset has another tokenizer; rows are longer than the teacher knows.
    """
    model, tokenizer = job.load(parent, config.seq_len)
    professor = load_teacher(teacher, model, tokenizer)
    require_positions(professor, teacher, config.seq_len)
    data = TokenDataset(dataset)
    parents = {
        "model": content_hash(parent),
        "dataset": data.manifest.content_hash,
        "teacher": content_hash(teacher),
    }
    size, width = tokenizer.vocab_size, token_bytes(tokenizer)
    loss = DistillationLoss(
        professor, config, config.alpha, size, width, config.z_loss, config.document_mask, data
    )
    result = next_token_training(job, model, data, tokenizer, config, parents, loss=loss)
    return job.publish(model, tokenizer, result, config, parents)


def require_positions(teacher: CausalLM, folder: Path, seq_len: int) -> None:
    """Refuse rows longer than the positions that the teacher knows.

    Raises:
        HanlinError: they are.
    """
    limit = teacher.config.max_position_embeddings
    if seq_len > limit:
        raise HanlinError(
            "seq_len is {seq_len}, and the teacher {folder} knows {limit} positions. Lower seq_len, or take "
            "another teacher.",
            seq_len=seq_len,
            folder=folder,
            limit=limit,
        )


def teacher_identity(config: TeacherConfig) -> str | None:
    """The teacher's content; None where it is a stage of the run, whose model counts anyway."""
    return None if is_stage(config.teacher) else content_hash(config.teacher)


def require_writer(stage: str, other: StageConfig) -> None:
    """Refuse a teacher that scores answers and writes none.

    Raises:
        HanlinError: it is a reward model.
    """
    if other.stage.produces != "model":
        raise HanlinError(
            "{stage} names {other} as its teacher, which scores answers and writes none.",
            stage=stage,
            other=other.id,
        )


@register_stage
class DistillStage(SFTStage):
    """Distillation from logits."""

    kind = "distill"
    Config = DistillConfig
    title = Text("Distillation")
    does = Text("A larger model's probabilities of every next token are imitated, not its choices alone.")

    def train(self, job: Job) -> TrainResult:
        """Continue the parent, the teacher beside it."""
        assert self.inputs.parent is not None
        folder = teacher_folder(self.config, self.inputs)
        return distill(self.inputs.parent, self.data, folder, self.config, job)

    @classmethod
    def work(cls, config: DistillConfig) -> float:
        """Twice the tokens: the teacher reads them too."""
        return 2 * super().work(config)

    @classmethod
    def stages_named(cls, config: DistillConfig) -> tuple[str, ...]:
        """Those whose conversations are mixed in, and the teacher."""
        return (*super().stages_named(config), *((config.teacher,) if is_stage(config.teacher) else ()))

    @classmethod
    def check_named(cls, config: DistillConfig, other: StageConfig) -> None:
        """Conversations are mixed in; a teacher writes."""
        if other.id in config.mix:
            super().check_named(config, other)
        if other.id == config.teacher:
            require_writer(config.id, other)

    @classmethod
    def check(cls, config: DistillConfig, shape: ModelShape | None) -> None:
        """There is a teacher."""
        require_teacher(config, config.teacher)

    @classmethod
    def identity(cls, config: DistillConfig) -> Any:
        """The teacher's content, where it is no stage of the run."""
        return teacher_identity(config)
