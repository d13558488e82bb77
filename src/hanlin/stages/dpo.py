"""Direct Preference Optimisation (Rafailov et al. 2023), length-normalised, with a small SFT anchor.

    L = -log σ(β·(Δchosen - Δrejected)) + α·NLL(chosen),   Δ = (log π(y|x) - log π_ref(y|x)) / |y|

Without the anchor and the division by |y|, small models lower the likelihood of both answers and ramble.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F

from hanlin.common.config import Range, above, at_least
from hanlin.common.messages import Text
from hanlin.dataset import Batch, TokenDataset
from hanlin.model import ForwardContext
from hanlin.stages.base import Job, content_hash
from hanlin.stages.pairs import PairConfig, PairSource, PairStage, split_pairs, sum_by_document
from hanlin.stages.stage import StageConfig, register_stage
from hanlin.training import Objective, TrainConfig, TrainResult


@dataclasses.dataclass(frozen=True)
class DPOConfig(PairConfig):
    """β scales the implicit reward; `length_normalized` divides it by the answer's tokens; `sft_weight`
    is α."""

    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(learning_rate=3e-4, muon=False)
    )
    beta: float = 2.0
    length_normalized: bool = True
    sft_weight: float = 0.2

    RANGES: ClassVar[dict[str, Range]] = {"beta": above(0), "sft_weight": at_least(0)}


class DPOLoss(Objective):
    """The objective; the reference is the model as it was when training began."""

    def __init__(self, reference: Any, config: DPOConfig):
        self.reference, self.config = reference, config

    def num_items(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.documents) / 2

    def answer_log_probs(
        self, model: Any, batch: Batch, context: ForwardContext | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log π of each document's answer, and its tokens; (documents,) each."""
        context = context or model.context(batch.ids, **batch.attention_kwargs)
        hidden = batch.gather_loss_tokens(model.hidden(batch.ids, context))
        return sum_by_document(
            model.head.token_log_probs(hidden, batch.gather_loss_tokens(batch.labels)), batch
        )

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """Summed loss over the pairs of a micro-batch."""
        context = model.context(batch.ids, **batch.attention_kwargs)
        log_probs, lengths = self.answer_log_probs(model, batch, context)
        with torch.no_grad():
            reference, _ = self.answer_log_probs(self.reference, batch)
        scale = lengths if self.config.length_normalized else torch.ones_like(lengths)
        chosen, rejected = split_pairs((log_probs - reference) / scale, batch)
        margin = self.config.beta * (chosen - rejected)
        anchor = -split_pairs(log_probs / lengths, batch)[0]
        loss = (-F.logsigmoid(margin) + self.config.sft_weight * anchor).sum()
        count = len(margin)
        metrics: dict[str, float | torch.Tensor] = {
            "accuracy": (margin > 0).sum(),
            "margin": margin.detach().sum(),
            "chosen_logp": -anchor.detach().sum(),
        }
        metrics |= {f"{name}_count": count for name in metrics}
        return context.with_aux(loss, metrics, count)

    def per_sequence_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Mean loss per token of each answer, chosen and rejected alike, (documents,)."""
        log_probs, lengths = self.answer_log_probs(model, batch)
        return -log_probs / lengths


def dpo(parent: Path | str, dataset: Path | str, config: DPOConfig, job: Job) -> TrainResult:
    """Teach a model which of two answers is preferred, and publish it.

    Raises:
        HanlinError: the pairs were encoded by another tokenizer.
    """
    model, tokenizer = job.load(parent, config.seq_len)
    data = TokenDataset(dataset)
    data.require_tokenizer(tokenizer)
    reference = copy.deepcopy(model).requires_grad_(False)
    parents = {"model": content_hash(parent), "dataset": data.manifest.content_hash}
    source, objective = PairSource(data, config, job.seed), DPOLoss(reference, config)
    result = job.train(
        model, source, objective, config, origin=parents, dataset=data.path, tokenizer=tokenizer
    )
    return job.publish(model, tokenizer, result, config, parents)


@dataclasses.dataclass(frozen=True)
class PreferenceConfig(DPOConfig, StageConfig):
    """Preference optimisation; `loss` names the method."""

    loss: Literal["dpo"] = "dpo"


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
        return dpo(self.inputs.parent, self.data, self.config, job)
