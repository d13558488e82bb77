"""Reward model: the Bradley-Terry likelihood of preferences,

    -log σ(r_chosen - r_rejected - m) + c·(r_chosen + r_rejected)²

m is a margin (Llama 2, Touvron et al. 2023, eq. 2); the last term centres the scores (Eisenstein et al. 2023;
as TRL does, c = 0.01). The score is read at a conversation's last token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from hanlin.common.config import Range, at_least
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing
from hanlin.dataset import Batch, TokenDataset
from hanlin.evaluation import Metric, length_control, pair_accuracy
from hanlin.evaluation.likelihood import pair_ids
from hanlin.model import ModelShape, RewardModel, families, family_of, load_reward_model
from hanlin.rl.rewards.reward_model import Calibration, scores
from hanlin.stages.base import Job, content_hash
from hanlin.stages.pairs import (
    PairConfig,
    PairSource,
    PairStage,
    build_pair_dataset,
    pair_prompts,
    pairs_by_source,
    split_pairs,
)
from hanlin.stages.stage import StageConfig, register_stage
from hanlin.training import Objective, TrainConfig, TrainResult

CALIBRATED = 256  # pairs whose scores are looked at for the unit


@dataclasses.dataclass(frozen=True)
class RewardConfig(PairConfig):
    """`margin` is m, `centering` is c."""

    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(learning_rate=1e-3, muon=False)
    )
    margin: float = 0.0
    centering: float = 0.01

    RANGES: ClassVar[dict[str, Range]] = {"margin": at_least(0), "centering": at_least(0)}


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
        preference = -F.logsigmoid(chosen - rejected - self.config.margin)
        loss = (preference + self.config.centering * (chosen + rejected).square()).sum()
        metrics = {"accuracy": (chosen > rejected).sum(), "accuracy_count": len(chosen)}
        return context.with_aux(loss, metrics, self.num_items(batch))

    def per_sequence_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """The loss of each answer's pair, without margin and centring, (documents,)."""
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
    return job.publish(
        model,
        tokenizer,
        result,
        config,
        parents,
        beside=lambda folder: calibrate(folder, data, config, job.device),
    )


def calibrate(folder: Path, data: TokenDataset, config: PairConfig, device: str | None = None) -> None:
    """Write `calibration.json` into a reward model's directory: how its scores of both sides of the training
    pairs lie, a few hundred of them.

    Raises:
        HanlinError: the scores do not differ.
    """
    pairs = range(0, len(data) // 2, max(1, len(data) // 2 // CALIBRATED))
    sides = score_pairs(load_reward_model(folder, device), data, config, pairs)
    tokens = data.targets.reshape(-1, 2)[list(pairs)]
    Calibration.of(np.concatenate(sides), tokens.T.ravel()).save(folder)


@torch.no_grad()
def score_pairs(
    model: RewardModel, dataset: TokenDataset, config: PairConfig, pairs: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of pairs of a dataset, all of them when absent: (chosen, rejected), each (pairs,)."""
    source = PairSource(dataset, config, seed=0)
    pairs = range(source.count) if pairs is None else pairs
    chosen, rejected = [], []
    for start in range(0, len(pairs), config.pairs):
        batch = source.pack(pairs[start : start + config.pairs]).to(model.device)
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
        """Pairs ranked rightly, of all sources and of each, beside the control that knows their lengths only.
        Pairs of one prompt count as a cluster."""
        heldout = self.encoded_heldout(build_pair_dataset)
        chosen, rejected = score_pairs(load_reward_model(model), heldout, self.config)
        training = TokenDataset(self.data, verify=False).lengths.reshape(-1, 2)
        lengths = heldout.lengths.reshape(-1, 2)
        ids, prompts = np.array(pair_ids(self.tokenizer(), heldout)), np.array(pair_prompts(heldout))
        found = {}
        for name, kept in pairs_by_source(heldout).items():
            items: dict[str, Any] = {"ids": ids[kept].tolist(), "clusters": prompts[kept].tolist()}
            metric = pair_accuracy(chosen[kept], rejected[kept], **items)
            found[name] = metric.with_control("length", length_control(training, lengths[kept], **items))
        return found

    @classmethod
    def check(cls, config: RewardModelConfig, shape: ModelShape | None) -> None:
        """The family must have a stock format for scores."""
        if shape is not None:
            require_trunk(shape)
