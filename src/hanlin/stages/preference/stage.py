"""Preference optimisation: from pairs of answers, or from answers with a label, a model learns what people
prefer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from hanlin.common.config import OutOfRange, Range, above, at_least, require_ranges
from hanlin.common.devices import device_capabilities
from hanlin.common.messages import Text, listing
from hanlin.dataset import TokenDataset
from hanlin.model import CausalLM, choose_kernels
from hanlin.stages.base import Job, content_hash
from hanlin.stages.pairs import PairConfig, PairSource, PairStage
from hanlin.stages.preference import losses, reference_free
from hanlin.stages.preference.log_probs import answer_log_probs
from hanlin.stages.preference.loss import PairLoss, PreferenceLoss
from hanlin.stages.preference.objective import PairObjective
from hanlin.stages.preference.reference import Reference, ReferenceModel, cached_reference
from hanlin.stages.stage import StageConfig, register_stage
from hanlin.training import TrainConfig, TrainResult

__all__ = ["PreferenceConfig", "PreferenceStage", "losses", "optimise_preferences", "reference_free"]

_OF_THE_LOSS = ("beta", "length_normalized", "sft_weight")


@dataclasses.dataclass(frozen=True)
class PreferenceConfig(PairConfig, StageConfig):
    """Preference optimisation.

    Attributes:
        loss: its kind, or a section with the kind and its parameters.
        beta, length_normalized, sft_weight: short for those of `loss`.
        cache_reference: compute the reference's log-probabilities once and read them from disk; otherwise a
            second model answers at each step, with the packing of that step.
    """

    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(learning_rate=3e-4, muon=False)
    )
    loss: PreferenceLoss = losses.DPO()
    beta: float | None = None
    length_normalized: bool | None = None
    sft_weight: float | None = None
    cache_reference: bool = True

    RANGES: ClassVar[dict[str, Range]] = {"beta": above(0), "sft_weight": at_least(0)}

    def __post_init__(self) -> None:
        require_ranges(self)
        given = {name: getattr(self, name) for name in _OF_THE_LOSS if getattr(self, name) is not None}
        known = [field.name for field in dataclasses.fields(self.loss) if field.name != "kind"]
        for name in given:
            if name not in known:
                raise OutOfRange(
                    "{name} is set, and loss {loss} has no such setting. It has {known}",
                    name=name,
                    loss=self.loss.kind,
                    known=listing(known),
                )
        object.__setattr__(self, "loss", dataclasses.replace(self.loss, **given))


def optimise_preferences(
    parent: Path | str, dataset: Path | str, config: PreferenceConfig, job: Job
) -> TrainResult:
    """Teach a model which answers are preferred, and publish it.

    Raises:
        HanlinError: the data were encoded by another tokenizer.
    """
    model, tokenizer = job.load(parent, config.seq_len)
    data = TokenDataset(dataset)
    data.require_tokenizer(tokenizer)
    parents = {"model": content_hash(parent), "dataset": data.manifest.content_hash}
    source = PairSource(data, config, job.seed)
    assert isinstance(config.loss, PairLoss)
    objective = PairObjective(config.loss, reference_of(model, source, config, job, parents))
    result = job.train(
        model, source, objective, config, origin=parents, dataset=data.path, tokenizer=tokenizer
    )
    return job.publish(model, tokenizer, result, config, parents)


def reference_of(
    model: CausalLM, source: PairSource, config: PreferenceConfig, job: Job, parents: dict[str, str]
) -> Reference | None:
    """The reference that the loss needs, if any; the model is the one that training begins with."""
    if not config.loss.needs_reference:
        return None
    weight = config.loss.tail_weight
    if not config.cache_reference:
        return ReferenceModel.copy_of(model, weight)
    choose_kernels(model, model.device, job.progress.warn, config.train.attention)
    steps = range(min(config.train.steps, -(-source.count // config.pairs)))
    shard = job.strategy.data_shard
    batches = (batch for step in steps for batch in source.micro_batches(step, model, shard))
    return cached_reference(
        model,
        batches,
        len(source.dataset),
        job.work,
        [
            parents,
            source.identity(),
            shard.world_size,
            len(steps),
            device_capabilities(model.device).train_dtype,
            weight,
        ],
        group=job.group,
        progress=job.progress,
        log_probs=lambda policy, batch: answer_log_probs(policy, batch, weight)[0],
    )


@register_stage
class PreferenceStage(PairStage):
    """Preference optimisation."""

    kind = "preference"
    Config = PreferenceConfig
    title = Text("Preference optimisation")
    does = Text("From pairs of answers the model learns to prefer the manner that people prefer (DPO).")

    def train(self, job: Job) -> TrainResult:
        """Continue the parent, which is the reference too."""
        assert self.inputs.parent is not None
        return optimise_preferences(self.inputs.parent, self.data, self.config, job)
