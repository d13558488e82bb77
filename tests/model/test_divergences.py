"""Divergences of a student from a teacher: against numpy in float64, their limits, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from hanlin.model import losses
from hanlin.model.divergences import (
    DIVERGENCES,
    chunked_divergence,
    chunked_top_divergence,
    divergence,
    top_log_probs,
)

VOCAB = 11


def reference(p: np.ndarray, q: np.ndarray, kind: str, mix: float) -> np.ndarray:
    """By the definitions, float64, (n,)."""

    def kl(a, b):
        return np.array(
            [
                sum(x * math.log(x / y) for x, y in zip(r, s, strict=True) if x)
                for r, s in zip(a, b, strict=True)
            ]
        )

    if kind == "jsd":
        between = mix * p + (1 - mix) * q
        return mix * kl(p, between) + (1 - mix) * kl(q, between)
    return {
        "forward": lambda: kl(p, q),
        "reverse": lambda: kl(q, p),
        "skew": lambda: kl(p, mix * p + (1 - mix) * q),
    }[kind]()


def draws(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("mix", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_is_its_definition(kind, mix, temperature):
    student, teacher = 3 * draws(7, VOCAB, 0), 3 * draws(7, VOCAB, 1)
    p, q = (np.exp(log_softmax(x.numpy() / temperature, -1)) for x in (teacher, student))
    found = chunked_divergence(
        lambda x: x,
        lambda x: x,
        student.float(),
        teacher.float(),
        VOCAB,
        kind,
        mix=mix,
        temperature=temperature,
    )
    np.testing.assert_allclose(found.numpy(), reference(p, q, kind, mix), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(kind):
    logits = draws(3, VOCAB, 2).requires_grad_()
    log_p = draws(3, VOCAB, 3).log_softmax(-1)
    assert torch.autograd.gradcheck(
        lambda x: divergence(log_p, x.log_softmax(-1), kind, 0.3), (logits,), atol=1e-6
    )


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind):
    logits = draws(5, VOCAB, 4).float().requires_grad_()
    apart = chunked_divergence(lambda x: x, lambda x: x, logits, logits.detach(), VOCAB, kind, mix=0.4)
    assert float(apart.detach().abs().max()) < 1e-6
    apart.sum().backward()
    assert float(logits.grad.abs().max()) < 1e-6


def test_forward_is_cross_entropy_with_soft_labels_less_their_entropy():
    student, teacher = draws(6, VOCAB, 5).float(), draws(6, VOCAB, 6).float()
    p = teacher.softmax(-1)
    soft = torch.nn.functional.cross_entropy(student, p, reduction="none")
    entropy = -(p * p.log()).sum(-1)
    found = chunked_divergence(lambda x: x, lambda x: x, student, teacher, VOCAB, "forward")
    torch.testing.assert_close(found, soft - entropy, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_jsd_lies_between_nothing_and_the_entropy_of_its_share(beta):
    log_p, log_q = ((8 * draws(50, VOCAB, seed)).log_softmax(-1) for seed in (7, 8))
    found = divergence(log_p, log_q, "jsd", beta)
    most = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert (found >= 0).all() and (found <= most + 1e-9).all() and found.max() > 0.8 * most
    if beta == 0.5:
        torch.testing.assert_close(found, divergence(log_q, log_p, "jsd", 0.5))


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_finite_where_the_teacher_excludes_an_entry(kind):
    teacher = draws(4, VOCAB, 9).float()
    teacher[:, 3] = -math.inf
    student = draws(4, VOCAB, 10).float().requires_grad_()
    apart = chunked_divergence(lambda x: x, lambda x: x, student, teacher, VOCAB, kind, mix=0.1)
    apart.sum().backward()
    assert apart.isfinite().all() and student.grad.isfinite().all()


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_chunks_and_padded_vocabularies_change_nothing(kind, monkeypatch):
    generator = torch.Generator().manual_seed(11)
    hidden = torch.randn(9, 4, generator=generator).requires_grad_()
    theirs = torch.randn(9, 6, generator=generator)
    ours_head = torch.randn(VOCAB + 5, 4, generator=generator).requires_grad_()
    their_head = torch.randn(VOCAB + 2, 6, generator=generator)

    def once():
        apart = chunked_divergence(
            lambda x: x @ ours_head.t(), lambda x: x @ their_head.t(), hidden, theirs, VOCAB, kind
        )
        return apart, torch.autograd.grad(apart.sum(), (hidden, ours_head))

    whole, gradients = once()
    assert (gradients[1][VOCAB:] == 0).all()
    monkeypatch.setattr(losses, "CHUNK_ROWS", 2)
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 0)
    parts, others = once()
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_all_entries_kept_are_the_whole_and_fewer_a_lower_bound(kind):
    student, teacher = 2 * draws(20, VOCAB, 12).float(), 2 * draws(20, VOCAB, 13).float()
    whole = chunked_divergence(
        lambda x: x, lambda x: x, student, teacher, VOCAB, kind, mix=0.3, temperature=1.5
    )
    last = torch.zeros(20)
    for k in (1, 3, 6, VOCAB):
        ids, values = top_log_probs(lambda x: x, teacher, VOCAB, k, 1.5)
        found = chunked_top_divergence(
            lambda x: x, student, ids, values, VOCAB, kind, mix=0.3, temperature=1.5
        )
        assert (found <= whole + 1e-5).all() and found.sum() >= last.sum() - 1e-5
        last = found
    torch.testing.assert_close(last, whole, atol=1e-5, rtol=1e-4)


def test_the_expected_gradient_of_sampled_tokens_is_that_of_the_exact_divergence():
    """On-policy distillation by the policy gradient (a sample's log q - log p as its cost) against the exact
    reverse KL over the vocabulary, by enumeration of all samples: the same in expectation."""
    logits, log_p = draws(1, 5, 14).requires_grad_(), draws(1, 5, 15).log_softmax(-1)
    log_q = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad(divergence(log_p, log_q, "reverse").sum(), logits, retain_graph=True)
    cost = (log_q - log_p).detach()
    expected = (log_q.exp().detach() * cost * log_q).sum()  # Σ_v q(v) · cost(v) · ∇log q(v)
    (sampled,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(sampled, exact, atol=1e-9, rtol=1e-6)
