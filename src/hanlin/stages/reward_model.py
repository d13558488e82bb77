"""Reward model: the Bradley-Terry likelihood of preferences, -log σ(r_chosen - r_rejected) + c·(r_chosen +
r_rejected)².

The second term centres the scores (as TRL does, c = 0.01); the score is read at a conversation's last token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from hanlin.common.config import OutOfRange, Range, above, at_least
from hanlin.common.devices import resolve_device
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing
from hanlin.dataset import Batch, TokenDataset, pack_sequences
from hanlin.evaluation import Metric, length_control, pair_accuracy
from hanlin.evaluation.likelihood import pair_ids
from hanlin.model import ForwardContext, ModelShape, RewardModel, families, family_of, load_reward_model
from hanlin.rl.rewards.base import Reward, Sample, register_reward
from hanlin.stages.base import Job, content_hash
from hanlin.stages.pairs import PairConfig, PairSource, PairStage, build_pair_dataset, split_pairs
from hanlin.stages.stage import StageConfig, register_stage
from hanlin.training import Objective, TrainConfig, TrainResult


@dataclasses.dataclass(frozen=True)
class RewardConfig(PairConfig):
    """`centering` is c."""

    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(learning_rate=1e-3, muon=False)
    )
    centering: float = 0.01

    RANGES: ClassVar[dict[str, Range]] = {"centering": at_least(0)}


def scores(model: Any, batch: Batch, context: ForwardContext | None = None) -> torch.Tensor:
    """Score of each document of a batch, read at its last token, (documents,)."""
    context = context or model.context(batch.ids, **batch.attention_kwargs)
    values = model(batch.ids, context).flatten()
    owner = batch.doc_ids.flatten()
    place = torch.arange(len(owner), device=owner.device)
    last = torch.zeros(len(batch.documents), dtype=torch.int64, device=owner.device)
    last.scatter_reduce_(0, owner[owner >= 0], place[owner >= 0], "amax")
    return values[last]


class PairwiseRewardLoss(Objective):
    """The objective."""

    def __init__(self, config: RewardConfig):
        self.config = config

    def num_items(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.documents) / 2

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """Summed loss over the pairs of a micro-batch."""
        context = model.context(batch.ids, **batch.attention_kwargs)
        chosen, rejected = split_pairs(scores(model, batch, context), batch)
        loss = (-F.logsigmoid(chosen - rejected) + self.config.centering * (chosen + rejected).square()).sum()
        metrics = {"accuracy": (chosen > rejected).sum(), "accuracy_count": len(chosen)}
        return context.with_aux(loss, metrics, self.num_items(batch))

    def per_sequence_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """The loss of each answer's pair, without the centring, (documents,)."""
        values = scores(model, batch)
        partner = [batch.documents.index(document ^ 1) for document in batch.documents]
        sign = torch.tensor(
            [1.0 - 2.0 * (document % 2) for document in batch.documents], device=values.device
        )
        return -F.logsigmoid(sign * (values - values[partner]))


def require_trunk(shape: ModelShape) -> None:
    """Refuse a family whose trunk cannot carry a score; before anything runs, where the shape is known by
    then.

    Raises:
        HanlinError: it is such a family.
    """
    if family_of(shape.family).hf.scoring_architecture is None:
        raise HanlinError(
            "A reward model can't have family {family}, which the stock format of scoring models does not "
            "know. Use one of {known}, or leave the reward stage out.",
            family=shape.family,
            known=listing(name for name, spec in families().items() if spec.hf.scoring_architecture),
        )


def reward(parent: Path | str, dataset: Path | str, config: RewardConfig, job: Job) -> TrainResult:
    """Train a reward model from a language model's trunk, and publish it as a stock sequence classifier.

    Raises:
        HanlinError: the pairs were encoded by another tokenizer, or the model's family cannot carry a score.
    """
    trunk, tokenizer = job.load(parent, config.seq_len)
    require_trunk(trunk.config)
    data = TokenDataset(dataset)
    data.require_tokenizer(tokenizer)
    model = RewardModel(trunk.config).to(trunk.device)
    model.take_decoder(trunk)
    with torch.no_grad():  # N(0, 1/sqrt(d+1)) as open-instruct initialises it
        std = (trunk.config.hidden_size + 1) ** -0.5
        model.score.weight.copy_(
            torch.randn(model.score.weight.shape, generator=torch.Generator().manual_seed(job.seed)) * std
        )
    parents = {"model": content_hash(parent), "dataset": data.manifest.content_hash}
    source = PairSource(data, config, job.seed)
    result = job.train(
        model,
        source,
        PairwiseRewardLoss(config),
        config,
        origin=parents,
        dataset=data.path,
        tokenizer=tokenizer,
    )
    return job.publish(model, tokenizer, result, config, parents)


@torch.no_grad()
def score_pairs(
    model: RewardModel, dataset: TokenDataset, config: PairConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of every pair of a dataset: (chosen, rejected), each (pairs,)."""
    source = PairSource(dataset, config, seed=0)
    chosen, rejected = [], []
    for start in range(0, source.count, config.pairs):
        batch = source.pack(range(start, min(start + config.pairs, source.count))).to(model.device)
        for values, side in zip(split_pairs(scores(model, batch), batch), (chosen, rejected), strict=True):
            side.append(values.cpu().numpy())
    return np.concatenate(chosen), np.concatenate(rejected)


@dataclasses.dataclass(frozen=True)
class RewardModelConfig(RewardConfig, StageConfig):
    """A reward model on preference pairs."""


@register_stage
class RewardModelStage(PairStage):
    """A model of the preference itself, measured against the length of the answers alone."""

    kind = "reward_model"
    Config = RewardModelConfig
    produces = "reward_model"
    own_metric = "pair_accuracy"
    title = Text("Reward model")
    does = Text("A second model learns to score answers: of two, the better one should score higher.")

    def train(self, job: Job) -> TrainResult:
        """From the parent's trunk."""
        assert self.inputs.parent is not None
        return reward(self.inputs.parent, self.data, self.config, job)

    def evaluate(self, model: Path) -> dict[str, Metric]:
        """Pairs ranked rightly, beside the control that knows their lengths only."""
        heldout = self.encoded_heldout(build_pair_dataset)
        chosen, rejected = score_pairs(load_reward_model(model), heldout, self.config)
        training = TokenDataset(self.data, verify=False).lengths.reshape(-1, 2)
        ids = pair_ids(self.tokenizer(), heldout)
        control = length_control(training, heldout.lengths.reshape(-1, 2), ids)
        return {"pair_accuracy": pair_accuracy(chosen, rejected, ids).with_control("length", control)}

    @classmethod
    def check(cls, config: RewardModelConfig, shape: ModelShape | None) -> None:
        """The family must have a stock format for scores."""
        if shape is not None:
            require_trunk(shape)


@register_reward
@dataclasses.dataclass(frozen=True)
class ModelReward(Reward):
    """The score that a reward model gives an answer; `from` names the stage that trained it.

    Attributes:
        scale: scores are divided by it; scores of a reward model have no unit of their own.
    """

    kind: str = "model"
    source: str = dataclasses.field(default="", metadata={"key": "from"})
    scale: float = 1.0
    rows: int = 16

    RANGES: ClassVar[dict[str, Range]] = {"scale": above(0), "rows": at_least(1)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source:
            raise OutOfRange("from is empty: a reward of kind model names the stage that trains it")

    def needs(self) -> str:
        """The stage that trains it."""
        return self.source

    def load(self, models: Callable[[str], Path], device: str | None) -> None:
        """Open the reward model."""
        model = load_reward_model(models(self.source))
        object.__setattr__(self, "_model", model.to(resolve_device(device)).eval())

    @torch.no_grad()
    def score(self, samples: Sequence[Sample]) -> list[float]:
        """Score of each answer, read at its last token, as the model was trained; ids go in as they were
        written."""
        model: RewardModel = self._model  # type: ignore[attr-defined]
        longest = max(len(sample.prompt) + len(sample.ids) for sample in samples)
        values = []
        for start in range(0, len(samples), self.rows):
            part = samples[start : start + self.rows]
            sequences = [
                ([*sample.prompt, *sample.ids], [0] * len(sample.prompt) + [1] * len(sample.ids))
                for sample in part
            ]
            batch = pack_sequences(sequences, longest, list(range(len(part))))
            found = scores(model, batch.to(model.score.weight.device)).float().cpu()
            order = sorted(range(len(part)), key=batch.documents.__getitem__)
            values += [float(found[index]) / self.scale for index in order]
        return values
