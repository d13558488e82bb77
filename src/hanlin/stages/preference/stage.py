"""Preference optimisation: from pairs of answers, or from answers with a label, a model learns what people
prefer."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from hanlin.common.config import OutOfRange, Range, above, at_least, require_ranges
from hanlin.common.devices import device_capabilities
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing
from hanlin.dataset import Batch, TokenDataset
from hanlin.evaluation import Metric
from hanlin.model import CausalLM, choose_kernels, load_model
from hanlin.stages.base import Job, content_hash
from hanlin.stages.pairs import (
    PairConfig,
    PairSource,
    PairStage,
    build_heldout_pairs,
    build_pair_dataset,
    say_equal_pairs,
)
from hanlin.stages.preference import kto, losses, reference_free
from hanlin.stages.preference.harm import harm, refuse_harm
from hanlin.stages.preference.labelled import (
    LabelledObjective,
    LabelledSource,
    build_labelled_dataset,
    good_documents,
)
from hanlin.stages.preference.log_probs import answer_log_probs
from hanlin.stages.preference.loss import LabelledLoss, PairLoss, PreferenceLoss
from hanlin.stages.preference.objective import PairObjective
from hanlin.stages.preference.reference import CachedReference, cached_reference
from hanlin.stages.stage import StageConfig, register_stage
from hanlin.training import TrainConfig, TrainResult

__all__ = ["PreferenceConfig", "PreferenceStage", "kto", "losses", "optimise_preferences", "reference_free"]

_OF_THE_LOSS = ("beta", "length_normalized", "sft_weight")


@dataclasses.dataclass(frozen=True)
class PreferenceConfig(PairConfig, StageConfig):
    """Preference optimisation.

    Attributes:
        loss: its kind, or a section with the kind and its parameters.
        pairs: per step; answers per step for a loss of answers with a label.
        beta, length_normalized, sft_weight: short for those of `loss`.
        refuse_harm: do not publish a model whose chosen answers have become a tenth less likely per token, or
            whose greedy replies repeat themselves twice as much (`harm`).
    """

    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(learning_rate=3e-4, muon=False)
    )
    loss: PreferenceLoss = losses.DPO()
    beta: float | None = None
    length_normalized: bool | None = None
    sft_weight: float | None = None
    refuse_harm: bool = True

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
    parent: Path | str, dataset: Path | str, config: PreferenceConfig, job: Job, *, judged: bool = True
) -> TrainResult:
    """Teach a model which answers are preferred, and publish it.

    Args:
        dataset: as `build_dataset` makes it for the loss.
        judged: a gate decides on the model afterwards; otherwise what does harm to the answers trained on is
            refused here.

    Raises:
        HanlinError: the data were encoded by another tokenizer, a row has no answer, or the model is refused.
    """
    model, tokenizer = job.load(parent, config.seq_len)
    data = TokenDataset(dataset)
    data.require_tokenizer(tokenizer)
    require_answers(data)
    parents = {"model": content_hash(parent), "dataset": data.manifest.content_hash}
    loss = config.loss
    if isinstance(loss, LabelledLoss):
        source = LabelledSource(data, config, job.seed)
        source.reference = reference_of(model, source, config, job, parents)
        objective = LabelledObjective(loss, source.reference)
    else:
        assert isinstance(loss, PairLoss)
        source = PairSource(data, config, job.seed)
        needed = loss.needs_reference
        objective = PairObjective(loss, reference_of(model, source, config, job, parents) if needed else None)
    result = job.train(
        model, source, objective, config, origin=parents, dataset=data.path, tokenizer=tokenizer
    )
    if config.refuse_harm and not judged:
        chosen = good_documents(data) if isinstance(loss, LabelledLoss) else range(0, len(data), 2)
        trained = cast(CausalLM, job.strategy.unsharded(model))

        def check() -> None:
            before = load_model(parent, device=str(model.device))
            found = harm(before, trained, tokenizer, data, chosen, falls=loss.lowers_chosen)
            refuse_harm(found, job.out.name)

        job.group.run_on_rank0(check)
    return job.publish(model, tokenizer, result, config, parents)


def reference_of(
    model: CausalLM, source: PairSource, config: PreferenceConfig, job: Job, parents: dict[str, str]
) -> CachedReference:
    """The reference: the model as it is, with which training begins."""
    choose_kernels(model, model.device, job.progress.warn, config.train.attention)
    weight, shard = config.loss.tail_weight, job.strategy.data_shard
    steps = min(config.train.steps, -(-source.count // config.pairs))
    source.period = steps if steps * config.pairs < source.count else None
    precision = device_capabilities(model.device).train_dtype

    def batches(step: int) -> list[Batch]:
        if not isinstance(source, LabelledSource):
            return source.micro_batches(step, model, shard)
        own = [source.pack_documents([2 * row for row in source.numbers(step, shard)])]
        return own + [source.mismatched(step)] * (step % shard.world_size == shard.rank)

    return cached_reference(
        model,
        (batch for step in range(steps) for batch in batches(step)),
        len(source.dataset),
        job.work,
        [parents, source.identity(), steps, shard.world_size, precision, weight],
        group=job.group,
        progress=job.progress,
        log_probs=lambda policy, batch: answer_log_probs(policy, batch, weight)[0],
    )


def require_answers(data: TokenDataset) -> None:
    """Refuse a document in which nothing is learnt: its mean log-probability would be 0 / 0.

    Raises:
        HanlinError: names the first one.
    """
    assert data.mask is not None
    learnt = [int(data.mask[first + 1 : end].sum()) for first, end in itertools.pairwise(data.starts)]
    empty = [index for index, count in enumerate(learnt) if not count]
    if empty:
        raise HanlinError(
            "{count} answers in {path} have no token to learn, the first in document {first}: they were cut "
            "away, or are empty. Encode the data again with a larger seq_len, or leave these out.",
            count=len(empty),
            path=data.path,
            first=empty[0],
        )


def build_dataset(loss: PreferenceLoss, *arguments: Any, **options: Any) -> TokenDataset:
    """Encode records as the loss reads them: `build_pair_dataset` or `build_labelled_dataset`."""
    build = build_labelled_dataset if isinstance(loss, LabelledLoss) else build_pair_dataset
    return build(*arguments, **options)


@register_stage
class PreferenceStage(PairStage):
    """Preference optimisation."""

    kind = "preference"
    Config = PreferenceConfig
    title = Text("Preference optimisation")
    does = Text("From judged answers the model learns to prefer what people prefer.")

    def prepare(self) -> None:
        """Encode the data, and tell of pairs that have nothing to prefer."""
        super().prepare()
        data, loss = TokenDataset(self.data, verify=False), self.config.loss
        if isinstance(loss, PairLoss):
            say_equal_pairs(data, self.inputs.progress, anchored=loss.sft_weight > 0)
        elif self.inputs.judged:  # labels may leave no pair to be judged by, which is better known now
            self.encoded_heldout(build_heldout_pairs)

    def data_key(self, *more: Any) -> Any:
        """With the form that the loss reads."""
        labelled = isinstance(self.config.loss, LabelledLoss)
        return super().data_key(*more, *(["labelled"] if labelled else []))

    def build(self, *arguments: Any, **options: Any) -> TokenDataset:
        """Encode what is trained on."""
        return build_dataset(self.config.loss, *arguments, **options)

    def train(self, job: Job) -> TrainResult:
        """Continue the parent, which is the reference too."""
        assert self.inputs.parent is not None
        return optimise_preferences(
            self.inputs.parent, self.data, self.config, job, judged=self.inputs.judged
        )

    def harm(self, before: Path, after: Path) -> Mapping[str, tuple[Metric, Metric, float]]:
        """On the held-out pairs."""
        if not self.config.refuse_harm:
            return {}
        pairs = self.encoded_heldout(build_heldout_pairs)
        old, new = load_model(before), load_model(after)
        falls = self.config.loss.lowers_chosen
        return harm(old, new, self.tokenizer(), pairs, range(0, len(pairs), 2), falls=falls)
