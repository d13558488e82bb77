"""Preference losses as functions of log-probabilities: against formulas written anew, against TRL, and
against what each must do by its nature."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from hanlin.recipe import recipe as _kinds  # noqa: F401 - fills the tables of kinds
from hanlin.stages.preference.kto import KTO
from hanlin.stages.preference.loss import LOSSES, Answers, LabelledLoss, PairLoss, ReferencedLoss
from hanlin.stages.preference.losses import DPO, ConservativeDPO, LengthDesensitizedDPO, RobustDPO
from hanlin.stages.preference.reference_free import SimPO, log_odds
from tests.stages import trl_goldens
from tests.stages.preference_bench import Tokens, drawn_pairs
from tests.stages.trl_goldens import GOLDENS

PAIR_KINDS = [kind for kind in LOSSES if issubclass(LOSSES.get(kind), PairLoss)]
PARTS = ("policy", "reference", "length")
IN_FLOAT32 = ("exo", "orpo")  # what TRL computes of them, or of their parameters
SAID = json.loads(GOLDENS.read_text(encoding="utf-8"))


def plain(kind: str, **settings) -> PairLoss:
    """A loss without its anchor."""
    return LOSSES.get(kind)(**{"sft_weight": 0.0} | settings)  # type: ignore[return-value]


def answers(policy, reference, length) -> Answers:
    """Of numbers, float64."""
    parts = (np.atleast_1d(part) for part in (policy, reference, length))
    return Answers(*(torch.tensor(part, dtype=torch.float64) for part in parts))


def sides(chosen: Tokens, rejected: Tokens, tail: float = 1.0) -> tuple[Answers, Answers]:
    """A pair, tokens beyond the shorter answer's length weighted."""
    shared = min(len(chosen.policy), len(rejected.policy))
    weights = (
        [1.0 if at < shared else tail for at in range(len(side.policy))] for side in (chosen, rejected)
    )
    return tuple(side.answers(w) for side, w in zip((chosen, rejected), weights, strict=True))  # type: ignore[return-value]


# ---------------------------------------------------------------- formulas, written anew


def sigmoid(x: float) -> float:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


FORMULAS = {
    "dpo": lambda a, b, A, B, m, n: -np.log(sigmoid(2 * (a / m - b / n))) - 0.2 * A / m,
    "cdpo": lambda a, b, A, B, m, n: (
        -0.9 * np.log(sigmoid(0.1 * (a - b))) - 0.1 * np.log(sigmoid(0.1 * (b - a)))
    ),
    "robust": lambda a, b, A, B, m, n: (
        (0.1 * np.log(sigmoid(0.1 * (b - a))) - 0.9 * np.log(sigmoid(0.1 * (a - b)))) / 0.8
    ),
    "ipo": lambda a, b, A, B, m, n: (a / m - b / n - 5) ** 2,
    "hinge": lambda a, b, A, B, m, n: max(0, 1 - 0.1 * (a - b)),
    "apo-zero": lambda a, b, A, B, m, n: 1 - sigmoid(0.1 * a) + sigmoid(0.1 * b),
    "apo-down": lambda a, b, A, B, m, n: sigmoid(0.1 * a) + 1 - sigmoid(0.1 * (a - b)),
    "bco": lambda a, b, A, B, m, n: -np.log(sigmoid(0.1 * a)) - np.log(sigmoid(-0.1 * b)),
    "nca": lambda a, b, A, B, m, n: (
        -np.log(sigmoid(0.1 * a)) - np.log(sigmoid(-0.1 * a)) / 2 - np.log(sigmoid(-0.1 * b)) / 2
    ),
    "exo": lambda a, b, A, B, m, n: sum(
        q * np.log(q / p) for q, p in ((sigmoid(0.1 * (a - b)), 0.999), (sigmoid(0.1 * (b - a)), 0.001))
    ),
    "sppo": lambda a, b, A, B, m, n: (a - 5) ** 2 + (b + 5) ** 2,
    "dpop": lambda a, b, A, B, m, n: -np.log(sigmoid(0.1 * (a - b - 5 * max(0, -a)))),
    "rpo": lambda a, b, A, B, m, n: -np.log(sigmoid(0.1 * (a - b))) - A / m,
    "ld-dpo": lambda a, b, A, B, m, n: -np.log(sigmoid(0.1 * (a - b))),
    "simpo": lambda a, b, A, B, m, n: -np.log(sigmoid(2 * (A / m - B / n) - 1)),
    "orpo": lambda a, b, A, B, m, n: (
        -A / m
        - 0.1
        * np.log(
            sigmoid(np.log(np.exp(A / m) / (1 - np.exp(A / m))) - np.log(np.exp(B / n) / (1 - np.exp(B / n))))
        )
    ),
    "cpo": lambda a, b, A, B, m, n: -np.log(sigmoid(0.1 * (A - B))) - A / m,
}
"""By kind, with the default parameters: log-ratios a and b, log-probabilities A and B, lengths m and n."""


@pytest.mark.parametrize("kind", PAIR_KINDS)
def test_a_loss_is_its_formula(kind):
    loss = LOSSES.get(kind)()
    for pair in drawn_pairs(2):
        chosen, rejected = sides(*pair, tail=loss.tail_weight)
        numbers = [
            part.item()
            for part in (
                chosen.log_ratio,
                rejected.log_ratio,
                chosen.policy,
                rejected.policy,
                chosen.length,
                rejected.length,
            )
        ]
        assert loss(chosen, rejected)[0].item() == pytest.approx(float(FORMULAS[kind](*numbers)), rel=1e-10)


@pytest.mark.parametrize("kind", [kind for kind in SAID["losses"] if kind != "kto"])
def test_a_loss_is_what_trl_computes(kind):
    loss = LOSSES.get(kind)()
    ours = [loss(*sides(*pair, tail=loss.tail_weight))[0].item() for pair in drawn_pairs()]
    assert ours == pytest.approx(SAID["losses"][kind], rel=1e-6 if kind in IN_FLOAT32 else 1e-8)


def test_kto_is_what_trl_computes():
    rows = [(side, place == 0) for pair in drawn_pairs() for place, side in enumerate(pair)]
    every = [tokens.answers() for tokens, _ in rows]
    together = Answers(*(torch.cat([getattr(a, n) for a in every]) for n in PARTS))
    others = [side.answers().log_ratio for pair in drawn_pairs(1) for side in pair]
    kl = torch.cat(others).mean().clamp(min=0)
    assert float(kl) > 0
    loss, _ = KTO(desirable_weight=1.3, undesirable_weight=0.8)(
        together, torch.tensor([good for _, good in rows]), kl
    )
    assert loss.mean().item() == pytest.approx(SAID["losses"]["kto"][0], rel=1e-8)


@pytest.mark.nightly
def test_trl_still_says_so():
    pytest.importorskip("trl")
    assert trl_goldens.computed() == {
        kind: pytest.approx(values, rel=1e-6) for kind, values in SAID["losses"].items()
    }


# ---------------------------------------------------------------- what each must do by its nature

AT_THE_START = {
    **dict.fromkeys(("dpo", "cdpo", "robust", "dpop", "rpo", "ld-dpo"), math.log(2)),
    **dict.fromkeys(("bco", "nca"), 2 * math.log(2)),
    **dict.fromkeys(("hinge", "apo-zero", "apo-down"), 1.0),
    "ipo": 25.0,
    "sppo": 50.0,
    "exo": -math.log(2) - 0.5 * (math.log(1e-3) + math.log1p(-1e-3)),
}
"""Where policy and reference agree; the others need no reference."""


@pytest.mark.parametrize("kind", PAIR_KINDS)
def test_the_loss_at_the_start_is_known(kind):
    loss = plain(kind)
    pairs = [sides(Tokens(c.policy, c.policy), Tokens(r.policy, r.policy)) for c, r in drawn_pairs()]
    if not loss.needs_reference:
        assert kind not in AT_THE_START
        moved = [Answers(side.policy, side.reference - 1, side.length) for side in pairs[0]]
        assert torch.equal(loss(*moved)[0], loss(*pairs[0])[0])  # the reference is not read
        return
    for pair in pairs:
        value, margin = loss(*pair)
        assert value.item() == pytest.approx(AT_THE_START[kind], abs=1e-12)
        assert margin.item() == 0.0


@pytest.mark.parametrize("kind", PAIR_KINDS)
def test_swapping_the_answers_negates_the_margin(kind):
    loss = plain(kind)
    for chosen, rejected in (sides(*pair) for pair in drawn_pairs(3)):
        assert loss(chosen, rejected)[1].item() == pytest.approx(-loss(rejected, chosen)[1].item(), rel=1e-12)


@pytest.mark.parametrize("kind", PAIR_KINDS)
def test_a_larger_lead_costs_less(kind):
    """At the start of training the gradient lowers the rejected answer under the chosen one. Of SPPO and IPO
    too, whose aim lies ahead; APO-down lowers both, the rejected faster."""
    policy = torch.tensor([-7.0, -7.0], dtype=torch.float64, requires_grad=True)
    reference, length = policy.detach(), torch.tensor([5.0, 5.0], dtype=torch.float64)
    both = [Answers(policy[[i]], reference[[i]], length[[i]]) for i in (0, 1)]
    plain(kind)(*both)[0].sum().backward()
    assert policy.grad is not None and float(policy.grad[0]) < float(policy.grad[1])
    assert float(policy.grad[1]) > 0


def test_without_doubt_conservative_and_robust_are_dpo():
    for pair in drawn_pairs(4):
        expected = DPO(beta=0.3, length_normalized=False, sft_weight=0.0)(*sides(*pair))[0]
        for cls in (ConservativeDPO, RobustDPO):
            found = cls(beta=0.3, label_smoothing=0.0)(*sides(*pair))[0]
            assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_robust_dpo_of_flipped_labels_is_dpo_of_the_right_ones():
    """(1-ε)·L(w, l) + ε·L(l, w) = L_DPO(w, l), which is what the loss was made for."""
    loss, expected = RobustDPO(label_smoothing=0.2), DPO(beta=0.1, length_normalized=False, sft_weight=0.0)
    for chosen, rejected in (sides(*pair) for pair in drawn_pairs(5)):
        found = 0.8 * loss(chosen, rejected)[0] + 0.2 * loss(rejected, chosen)[0]
        assert found.item() == pytest.approx(expected(chosen, rejected)[0].item(), rel=1e-12)


def test_conservative_dpo_is_least_where_its_doubt_says():
    margins = np.linspace(-30, 60, 9001)
    zeros = np.zeros_like(margins)
    loss = ConservativeDPO(label_smoothing=0.1)
    values = loss(answers(margins, zeros, zeros + 1), answers(zeros, zeros, zeros + 1))[0]
    assert 0.1 * margins[int(values.argmin())] == pytest.approx(math.log(9), abs=1e-2)


def test_a_penalty_of_zero_and_a_tail_of_full_weight_are_dpo():
    for pair in drawn_pairs(6):
        expected = DPO(beta=0.1, length_normalized=False, sft_weight=0.0)(*sides(*pair))[0]
        assert torch.equal(LOSSES.get("dpop")(penalty=0.0)(*sides(*pair))[0], expected)
        assert torch.equal(LengthDesensitizedDPO(alpha=1.0)(*sides(*pair))[0], expected)


def test_a_chosen_answer_that_falls_costs_dpop_more_the_lower_it_falls():
    lost = [LOSSES.get("dpop")()(answers(-x, 0.0, 4), answers(-2 * x, 0.0, 4))[0].item() for x in (1, 2, 4)]
    dpo = [plain("dpo", beta=0.1, length_normalized=False)(answers(-x, 0, 4), answers(-2 * x, 0, 4))[0].item()
           for x in (1, 2, 4)]  # fmt: skip
    assert lost == sorted(lost) and dpo == sorted(dpo, reverse=True)


def test_simpo_knows_neither_a_constant_per_token_nor_repetition():
    for chosen, rejected in (sides(*pair) for pair in drawn_pairs(7)):
        expected = SimPO()(chosen, rejected)[0].item()
        shifted = [Answers(side.policy + 0.7 * side.length, side.reference, side.length)
                   for side in (chosen, rejected)]  # fmt: skip
        assert SimPO()(*shifted)[0].item() == pytest.approx(expected, rel=1e-12)
        twice = [Answers(*(2 * getattr(side, n) for n in PARTS))
                 for side in (chosen, rejected)]  # fmt: skip
        assert SimPO()(*twice)[0].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "kind", [kind for kind in PAIR_KINDS if issubclass(LOSSES.get(kind), ReferencedLoss)]
)
def test_a_normalised_loss_does_not_know_repetition(kind):
    loss = LOSSES.get(kind)(length_normalized=True)
    for pair in (sides(*pair) for pair in drawn_pairs(8)):
        twice = [Answers(*(2 * getattr(side, n) for n in PARTS)) for side in pair]
        assert loss(*twice)[0].item() == pytest.approx(loss(*pair)[0].item(), rel=1e-12)


@pytest.mark.parametrize("kind", list(LOSSES))
@pytest.mark.parametrize("chosen", [-1e-8, -1e4])
@pytest.mark.parametrize("rejected", [-1e-8, -1e4])
def test_extreme_log_probabilities_give_finite_values_and_gradients(kind, chosen, rejected):
    policy = torch.tensor([chosen, rejected], requires_grad=True)
    both = Answers(policy, torch.tensor([-3.0, -3.0]), torch.tensor([2.0, 2.0]))
    loss = LOSSES.get(kind)()
    if isinstance(loss, LabelledLoss):
        value = loss(both, torch.tensor([True, False]), torch.tensor(0.5))[0].sum()
    else:
        value = loss(both[[0]], both[[1]])[0].sum()  # type: ignore[operator]
    value.backward()
    assert torch.isfinite(value) and policy.grad is not None and torch.isfinite(policy.grad).all()


def test_log_odds_are_exact_at_both_ends():
    for power in (-30, -12, -3, -1):
        p = 10.0**power
        exact = math.log(p) - math.log1p(-p)
        assert log_odds(torch.tensor(math.log(p), dtype=torch.float64)).item() == pytest.approx(exact)
        if power >= -6:  # near certainty, where 1 - e^x loses its digits
            exact = math.log1p(-p) - math.log(p)
            found = log_odds(torch.tensor(math.log1p(-p), dtype=torch.float32)).item()
            assert found == pytest.approx(exact, rel=1e-4)


def test_kto_at_the_start_is_half_its_weights_and_z_only_shifts():
    both = answers([-4.0, -9.0], [-4.0, -9.0], [3, 5])
    good = torch.tensor([True, False])
    loss = KTO(desirable_weight=1.5, undesirable_weight=0.5)
    assert loss(both, good, torch.zeros(()))[0].tolist() == [0.75, 0.25]
    moved = answers([-4.0 + 0.3, -9.0 + 0.3], [-4.0, -9.0], [3, 5])
    assert loss(moved, good, torch.tensor(0.3))[0].tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("kind", PAIR_KINDS)
def test_the_anchor_is_the_likelihood_of_the_chosen_answer(kind):
    for chosen, rejected in (sides(*pair) for pair in drawn_pairs(9)):
        without, with_it = (plain(kind, sft_weight=w)(chosen, rejected)[0].item() for w in (0.0, 0.4))
        assert with_it - without == pytest.approx(-0.4 * chosen.mean.item())
