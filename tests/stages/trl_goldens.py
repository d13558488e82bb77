"""What TRL's own code computes of `drawn_pairs`, kept in `trl_goldens.json`: `python -m
tests.stages.trl_goldens` writes it where TRL is installed, and the nightly test compares it with what TRL
says then.

Its trainers' loss methods are called with a stand-in for the trainer and for the model, one pair at a time:
TRL averages over a micro-batch, and its SFT term over the tokens of all of them.
"""

from __future__ import annotations

import collections
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tests.stages.preference_bench import Tokens, drawn_pairs

GOLDENS = Path(__file__).with_suffix(".json")
# what TRL calls each loss, with its parameters where they are not β = 0.1 alone
DPO_TYPES: dict[str, dict[str, Any]] = {
    "dpo": {"loss_types": ["sigmoid_norm", "sft"], "loss_weights": [1.0, 0.2], "beta": 2.0},
    "robust": {"loss_types": ["robust"], "label_smoothing": 0.1},
    "ipo": {"loss_types": ["ipo"]},
    "hinge": {"loss_types": ["hinge"]},
    "apo-zero": {"loss_types": ["apo_zero"]},
    "apo-down": {"loss_types": ["apo_down"]},
    "bco": {"loss_types": ["bco_pair"]},
    "nca": {"loss_types": ["nca_pair"]},
    "exo": {"loss_types": ["exo_pair"], "label_smoothing": 1e-3},
    "sppo": {"loss_types": ["sppo_hard"]},
    "rpo": {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]},
    "ld-dpo": {"loss_types": ["sigmoid"], "ld_alpha": 0.5},
}


class StandIn:
    """A model that knows its answers' log-probabilities, behind one token of a prompt."""

    training = True

    def __init__(self, rows: list[list[float]]):
        width = max(map(len, rows))
        self.mask = torch.tensor([[0] + [1] * len(row) + [0] * (width - len(row)) for row in rows])
        values = [row + [0.0] * (width - len(row)) for row in rows]
        self.log_probs = torch.tensor(values, dtype=torch.float64)

    def __call__(self, **_: Any) -> SimpleNamespace:
        nothing = torch.zeros_like(self.log_probs)
        return SimpleNamespace(
            log_probs=self.log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


def trainer(**settings: Any) -> SimpleNamespace:
    """A stand-in for a trainer, with what its loss methods ask of it."""

    def same(values: Any) -> Any:
        return values

    defaults: dict[str, Any] = {
        "accelerator": SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same),
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None),
        "_metrics": {"train": collections.defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
        "f_divergence_type": "reverse_kl",
        "use_weighting": False,
        "beta": 0.1,
        "label_smoothing": 0.0,
        "ld_alpha": None,
        "loss_weights": [1.0],
        "alpha": 0.0,
    }
    return SimpleNamespace(**defaults | settings)


def dpo_loss(chosen: Tokens, rejected: Tokens, settings: dict[str, Any]) -> float:
    """`DPOTrainer`'s loss of a pair."""
    from trl.trainer import dpo_trainer

    policy = StandIn([chosen.policy, rejected.policy])
    reference = StandIn([chosen.reference, rejected.reference])
    inputs = {
        "input_ids": policy.mask,
        "attention_mask": torch.ones_like(policy.mask),
        "completion_mask": policy.mask,
    }
    self = trainer(model=policy, ref_model=reference, **settings)
    with (
        mock.patch.object(dpo_trainer, "disable_gradient_checkpointing", mock.MagicMock()),
        mock.patch.object(dpo_trainer, "is_peft_model", lambda model: False),
    ):
        return float(dpo_trainer.DPOTrainer._compute_loss(self, policy, inputs, False))


def cpo_loss(chosen: float, rejected: float, **settings: Any) -> float:
    """`CPOTrainer`'s loss of two numbers."""
    from trl.experimental.cpo import CPOTrainer

    numbers = (torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected))
    return float(CPOTrainer.cpo_loss(trainer(**settings), *numbers)[0])


def orpo_loss(chosen: Tokens, rejected: Tokens) -> float:
    """`ORPOTrainer`'s loss of a pair, in float32 as it computes it."""
    from trl.experimental.orpo import ORPOTrainer

    numbers = [torch.tensor([mean(tokens)]) for tokens in (chosen, rejected)]
    return -mean(chosen) - float(ORPOTrainer.odds_ratio_loss(trainer(), *numbers)[0])


def kto_loss(answers: list[tuple[Tokens, bool]], mismatched: list[Tokens]) -> float:
    """`KTOTrainer`'s mean loss of a step."""
    from trl.trainer import kto_trainer

    def rows(side: str) -> list[list[float]]:
        return [getattr(tokens, side) for tokens, _ in answers]

    policy, reference = StandIn(rows("policy")), StandIn(rows("reference"))

    def kl(model: StandIn, batch: Any) -> torch.Tensor:
        side = "policy" if model is policy else "reference"
        return torch.tensor([sum(getattr(tokens, side)) for tokens in mismatched], dtype=torch.float64)

    batch = {
        "input_ids": policy.mask,
        "attention_mask": torch.ones_like(policy.mask),
        "completion_mask": policy.mask,
        "label": torch.tensor([label for _, label in answers]),
    }
    self = trainer(
        model=policy,
        ref_model=reference,
        calculate_KL=True,
        loss_type="kto",
        desirable_weight=1.3,
        undesirable_weight=0.8,
        _compute_kl_logps=kl,
    )
    with (
        mock.patch.object(kto_trainer, "disable_gradient_checkpointing", mock.MagicMock()),
        mock.patch.object(kto_trainer, "is_peft_model", lambda model: False),
    ):
        return float(kto_trainer.KTOTrainer._compute_loss(self, policy, batch, False))


def mean(tokens: Tokens) -> float:
    """Log-probability per token under the policy."""
    return sum(tokens.policy) / len(tokens.policy)


def log_ratio(tokens: Tokens) -> float:
    """Log-ratio of the whole answer."""
    return sum(tokens.policy) - sum(tokens.reference)


def computed() -> dict[str, list[float]]:
    """The losses of each pair by kind; of KTO that of all answers together."""
    pairs = drawn_pairs()
    found = {kind: [dpo_loss(*pair, settings) for pair in pairs] for kind, settings in DPO_TYPES.items()}
    found["cdpo"] = [
        cpo_loss(log_ratio(c), log_ratio(r), loss_type="sigmoid", label_smoothing=0.1) for c, r in pairs
    ]
    found["simpo"] = [
        cpo_loss(mean(c), mean(r), loss_type="simpo", beta=2.0, simpo_gamma=1.0) for c, r in pairs
    ]
    found["cpo"] = [cpo_loss(sum(c.policy), sum(r.policy), loss_type="sigmoid") - mean(c) for c, r in pairs]
    found["orpo"] = [orpo_loss(*pair) for pair in pairs]
    answers = [(side, place == 0) for pair in pairs for place, side in enumerate(pair)]
    others = [side for pair in drawn_pairs(1) for side in pair]
    found["kto"] = [kto_loss(answers, others)]
    return found


def main() -> None:
    """Write the goldens."""
    import trl

    losses = {kind: [round(value, 9) for value in values] for kind, values in computed().items()}
    said = {"versions": {"trl": trl.__version__}, "losses": losses}
    GOLDENS.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
