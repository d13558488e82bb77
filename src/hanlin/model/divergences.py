"""How far a student's next-token distribution q is from a teacher's p, in chunks: the logits of a batch are
never there at once, the student's or the teacher's.

* forward: KL(p‖q) (Hinton et al. 2015): q covers all that p does;
* reverse: KL(q‖p) (Gu et al. 2024): q keeps to what p finds likely;
* jsd: β·KL(p‖m) + (1-β)·KL(q‖m), m = β·p + (1-β)·q (Agarwal et al. 2024), from 0 to β's own entropy;
* skew: KL(p‖λ·p + (1-λ)·q) (Ko et al. 2024): finite whatever q leaves out.

With a temperature T both are softmax(logits / T). The gradient then shrinks like 1/T², which whoever weighs
this against a cross entropy makes up for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from hanlin.model.losses import chunk_rows, recomputed

Divergence = Literal["forward", "reverse", "jsd", "skew"]
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
_LEAST = -100.0  # log probability of what a distribution excludes: e⁻¹⁰⁰ is nothing, and has a logarithm


def divergence(log_p: torch.Tensor, log_q: torch.Tensor, kind: Divergence, mix: float = 0.5) -> torch.Tensor:
    """Of each row, in nats, (n,) float32.

    Args:
        log_p: the teacher's log probabilities, (n, V); -inf where it excludes an entry.
        log_q: the student's, (n, V).
        mix: β of `jsd`, λ of `skew`.
    """
    log_p, log_q = log_p.clamp(min=_LEAST), log_q.clamp(min=_LEAST)
    if kind == "forward":
        return _kl(log_p, log_q)
    if kind == "reverse":
        return _kl(log_q, log_p)
    if kind == "skew":
        return _kl(log_p, _mixture(log_p, log_q, mix))
    between = _mixture(log_p, log_q, mix)
    return mix * _kl(log_p, between) + (1 - mix) * _kl(log_q, between)


def _kl(log_a: torch.Tensor, log_b: torch.Tensor) -> torch.Tensor:
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def _mixture(log_p: torch.Tensor, log_q: torch.Tensor, share: float) -> torch.Tensor:
    """log(share·p + (1-share)·q)."""
    return torch.lerp(log_q.exp(), log_p.exp(), share).clamp(min=1e-38).log()


def chunked_divergence(
    student: Callable[[torch.Tensor], torch.Tensor],
    teacher: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    teacher_hidden: torch.Tensor,
    vocab_size: int,
    kind: Divergence,
    *,
    mix: float = 0.5,
    temperature: float = 1.0,
) -> torch.Tensor:
    """The divergence at each token, (N,) float32, differentiable to the student; logits are computed again in
    the backward pass.

    Args:
        student, teacher: (n, d) → (n, V), each from hidden states of its own width.
        hidden, teacher_hidden: (N, d) and (N, d'), one state for each predicted token.
        vocab_size: entries that both know; what either's vocabulary is padded with is left out.
    """

    def of_chunk(states: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            log_p = _log_softmax(teacher(theirs), vocab_size, temperature)
        return divergence(log_p, _log_softmax(student(states), vocab_size, temperature), kind, mix)

    rows = chunk_rows(vocab_size, hidden.device)
    parts = [torch.zeros(0, dtype=torch.float32, device=hidden.device)]
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        parts.append(recomputed(of_chunk, hidden[part], teacher_hidden[part]))
    return torch.cat(parts)


def chunked_top_divergence(
    student: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    top_ids: torch.Tensor,
    top_log_probs: torch.Tensor,
    vocab_size: int,
    kind: Divergence,
    *,
    mix: float = 0.5,
    temperature: float = 1.0,
) -> torch.Tensor:
    """`chunked_divergence` from what was kept of the teacher: its k likeliest entries, and all others as one.

    What is lost by putting entries together is what they differ in: it is a lower bound of the whole (the
    data processing inequality), and with k = V the same.

    Args:
        top_ids, top_log_probs: (N, k), at the same temperature.
    """

    def of_chunk(states: torch.Tensor, ids: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
        log_q = _log_softmax(student(states), vocab_size, temperature).gather(1, ids)
        if ids.shape[1] == vocab_size:
            return divergence(log_p, log_q, kind, mix)
        return divergence(_with_rest(log_p), _with_rest(log_q), kind, mix)

    rows = chunk_rows(vocab_size, hidden.device)
    parts = [torch.zeros(0, dtype=torch.float32, device=hidden.device)]
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        parts.append(recomputed(of_chunk, hidden[part], top_ids[part], top_log_probs[part]))
    return torch.cat(parts)


@torch.no_grad()
def top_log_probs(
    teacher: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    vocab_size: int,
    k: int,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and log probabilities of a teacher's k likeliest entries at each token, likeliest first, (N, k)
    int64 and float32."""
    found = [
        _log_softmax(teacher(part), vocab_size, temperature).topk(k, dim=-1)
        for part in hidden.split(chunk_rows(vocab_size, hidden.device))
    ]
    return torch.cat([top.indices for top in found]), torch.cat([top.values for top in found])


def _log_softmax(logits: torch.Tensor, vocab_size: int, temperature: float) -> torch.Tensor:
    return F.log_softmax(logits[:, :vocab_size].float() / temperature, dim=-1)


def _with_rest(log_top: torch.Tensor) -> torch.Tensor:
    """Log probabilities (n, k) with that of all other entries behind them, (n, k + 1)."""
    rest = torch.log1p(-log_top.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))
    return torch.cat([log_top, rest], dim=-1)
