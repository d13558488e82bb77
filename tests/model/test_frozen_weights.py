"""A frozen weight costs no gradient: no product for it and no memory, and the gradients of the others stay as
they are to the bit."""

from __future__ import annotations

import collections

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hanlin.model import linear_cross_entropy, token_log_probs
from tests.support import tiny_model

IDS = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(0))
PRODUCTS = {"mm", "addmm", "addmm_"}  # those of attention are bmm


class Watched(TorchDispatchMode):
    """Counts matrix products, and notes the shape of everything that is made."""

    def __init__(self):
        super().__init__()
        self.products = 0
        self.made = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.products += func.overloadpacket.__name__ in PRODUCTS
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.made[tuple(leaf.shape)] += 1
        return result


def step(
    family: str, frozen: tuple[str, ...] | None, loss: str
) -> tuple[int, dict[str, torch.Tensor | None]]:
    """Products of a step, and gradients, with weights of these ends of names frozen; with None, all of
    them."""
    model = tiny_model(family, num_hidden_layers=1)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen is not None and not name.endswith(frozen))
    with Watched() as watched:
        hidden = model.hidden(IDS)[:, :-1].flatten(0, 1)
        labels = IDS[:, 1:].flatten()
        if loss == "cross_entropy":
            value = model.head.cross_entropy(hidden, labels, z_loss=1e-3)[0]
        else:
            value = model.head.token_log_probs(hidden, labels).sum()
        if frozen is not None:
            value.backward()
    return watched.products, {name: p.grad for name, p in model.named_parameters()}


MATRICES = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"),
    "qwen3": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens"),
    "gpt2": ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj", "wte"),
}


@pytest.mark.parametrize("loss", ["cross_entropy", "token_log_probs"])
@pytest.mark.parametrize("family", MATRICES)
def test_each_frozen_matrix_saves_its_product(family, loss):
    ends = [f"{name}.weight" for name in MATRICES[family]]
    whole, expected = step(family, (), loss)
    for end in ends:
        count, grads = step(family, (end,), loss)
        assert count == whole - 1, end
        assert all(
            grads[name] is None if name.endswith(end) else torch.equal(grads[name], grad)
            for name, grad in expected.items()
        ), end
    count, grads = step(family, tuple(ends), loss)
    assert count == whole - len(ends)
    trained = {name: grad for name, grad in grads.items() if grad is not None}
    assert trained and all(torch.equal(grad, expected[name]) for name, grad in trained.items())


@pytest.mark.parametrize("loss", ["cross_entropy", "token_log_probs"])
@pytest.mark.parametrize("family", MATRICES)
def test_with_everything_frozen_there_is_a_forward_pass_alone(family, loss):
    """One product for each matrix; a head that needs no gradient makes none of its size."""
    count, grads = step(family, None, loss)
    assert count == len(MATRICES[family])
    assert all(grad is None for grad in grads.values())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_frozen_norms_give_the_others_the_same_gradients(family):
    expected = step(family, (), "cross_entropy")[1]
    found = step(family, ("norm.weight",), "cross_entropy")[1]
    for name, grad in found.items():
        assert grad is None if name.endswith("norm.weight") else torch.equal(grad, expected[name]), name


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("function", [linear_cross_entropy, token_log_probs])
def test_the_losses_compute_the_gradients_that_are_wanted(function, wanted, monkeypatch):
    """In several chunks; without a gradient of the head nothing of the head's size is made."""
    monkeypatch.setattr("hanlin.model.losses.CHUNK_ELEMENTS", 1)
    monkeypatch.setattr("hanlin.model.losses.CHUNK_ROWS", 16)
    hidden, weight, labels = torch.randn(50, 12), torch.randn(70, 12), torch.randint(0, 70, (50,))
    results = []
    for both in (True, False):
        leaves = [
            tensor.clone().requires_grad_(both or needed)
            for tensor, needed in zip((hidden, weight), wanted, strict=True)
        ]
        with Watched() as watched:
            value = function(*leaves, labels)
            value = value[0] if isinstance(value, tuple) else value.sum()
            if value.requires_grad:
                value.backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    assert torch.equal(results[0][0], results[1][0])
    for needed, ours, expected in zip(wanted, results[1][1:], results[0][1:], strict=True):
        assert torch.equal(ours, expected) if needed else ours is None
    assert bool(watched.made[70, 12]) == wanted[1]


@pytest.mark.parametrize("function", [linear_cross_entropy, token_log_probs])
def test_without_gradients_a_loss_makes_its_logits_alone(function):
    """An evaluation: neither the gradient of the states nor that of the head, though both could have one."""
    hidden, weight = torch.randn(50, 12, requires_grad=True), torch.randn(70, 12, requires_grad=True)
    with Watched() as watched, torch.no_grad():
        function(hidden, weight, torch.randint(0, 70, (50,)))
    assert watched.products == 1
    assert not watched.made[70, 12]
