"""Reward model: the Bradley-Terry likelihood of preferences, -log σ(r_chosen - r_rejected) + c·(r_chosen + r_rejected)².

The second term centres the scores (as TRL does, c = 0.01); the score is read at a conversation's last token.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from hanlin.common.config import Range, at_least
from hanlin.common.errors import HanlinError
from hanlin.dataset import Batch, TokenDataset
from hanlin.model import ModelShape, RewardModel, family_of
from hanlin.stages.base import Job, content_hash
from hanlin.stages.pairs import PairConfig, PairSource, split_pairs
from hanlin.training import TrainConfig, TrainResult


@dataclasses.dataclass(frozen=True)
class RewardConfig(PairConfig):
    """`centering` is c."""

    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(learning_rate=1e-3, muon=False)
    )
    centering: float = 0.01

    RANGES: ClassVar[dict[str, Range]] = {"centering": at_least(0)}


def scores(model: Any, batch: Batch) -> torch.Tensor:
    """Score of each document of a batch, read at its last token, (documents,)."""
    values = model(batch.ids, **batch.apart).flatten()
    owner = batch.doc_ids.flatten()
    place = torch.arange(len(owner), device=owner.device)
    last = torch.zeros(len(batch.documents), dtype=torch.int64, device=owner.device)
    last.scatter_reduce_(0, owner[owner >= 0], place[owner >= 0], "amax")
    return values[last]


class BradleyTerry:
    """The objective."""

    def __init__(self, config: RewardConfig):
        self.config = config

    def weight(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.documents) / 2

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        """Summed loss over the pairs of a micro-batch."""
        chosen, rejected = split_pairs(scores(model, batch), batch)
        loss = (-F.logsigmoid(chosen - rejected) + self.config.centering * (chosen + rejected).square()).sum()
        return loss, {"accuracy": (chosen > rejected).sum(), "accuracy_count": len(chosen)}

    def per_document(self, model: Any, batch: Batch) -> torch.Tensor:
        """The loss of each answer's pair, without the centring, (documents,)."""
        values = scores(model, batch)
        partner = [batch.documents.index(document ^ 1) for document in batch.documents]
        sign = torch.tensor(
            [1.0 - 2.0 * (document % 2) for document in batch.documents], device=values.device
        )
        return -F.logsigmoid(sign * (values - values[partner]))


def require_trunk(shape: ModelShape) -> None:
    """Refuse a family whose trunk cannot carry a score; before anything runs, where the shape is known by then.

    Raises:
        HanlinError: it is such a family.
    """
    if family_of(shape.family).hf.scoring_architecture is None:
        raise HanlinError(
            f"奖励模型需要 family: qwen3 或 llama，这个模型是 {shape.family}（打分模型的标准格式不含它）。请用那两种模型，或去掉 reward 这个阶段。",
            f"A reward model needs family: qwen3 or llama, and this model is {shape.family}, which the stock format of scoring models does not know. "
            "Use one of those, or leave the reward stage out.",
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
    model.decoder.load_state_dict(trunk.decoder.state_dict())
    with torch.no_grad():  # N(0, 1/sqrt(d+1)) as open-instruct initialises it
        std = (trunk.config.hidden_size + 1) ** -0.5
        model.score.weight.copy_(
            torch.randn(model.score.weight.shape, generator=torch.Generator().manual_seed(job.seed)) * std
        )
    parents = {"model": content_hash(parent), "dataset": data.manifest.content_hash}
    source = PairSource(data, config, job.seed)
    result = job.train(
        model, source, BradleyTerry(config), config, origin=parents, dataset=data.path, tokenizer=tokenizer
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
