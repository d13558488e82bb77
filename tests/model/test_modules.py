"""The forward pass calls modules: what takes a module's place is called, and fused paths are left for exactly
that."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hanlin.common.messages import Text
from hanlin.model import fused_check, fused_ops
from hanlin.model.fused_check import OPERATIONS, check_fused_operations, fault_of_operation
from hanlin.model.head import Head
from hanlin.model.linear import Embedding, Linear, is_plain
from hanlin.model.norm import RMSNorm
from tests.support import tiny_model

CPU = torch.device("cpu")
IDS = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(0))


class Counted(nn.Module):
    """Calls another module and counts the calls."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base, self.calls = base, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.base(x)


@pytest.fixture
def fused_calls(monkeypatch):
    """Names of the fused operations that `linear` used, in order."""
    seen = []
    for name in ("fused_normed_linears", "fused_swiglu"):
        function = getattr(fused_ops, name)

        def noted(*arguments, name=name, function=function):
            seen.append(name)
            return function(*arguments)

        monkeypatch.setattr(f"hanlin.model.linear.{name}", noted)
    return seen


@pytest.fixture
def trust_restored():
    """What one test refuses is not refused in the next."""
    yield
    fused_ops._refused.clear()
    fault_of_operation.cache_clear()


def gradients(model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    hidden = model.hidden(IDS)
    model.head.cross_entropy(hidden[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())[0].backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_close(ours, theirs):
    for name, grad in theirs.items():
        assert float((ours[name] - grad).abs().max()) <= 2e-5 * float(grad.abs().max()), name


def test_a_plain_layer_is_fused(fused_calls):
    gradients(tiny_model("llama"))
    assert fused_calls == ["fused_normed_linears", "fused_normed_linears", "fused_swiglu"] * 2


@pytest.mark.parametrize(
    "replaced, left",
    [
        ("self_attn.q_proj", ["fused_normed_linears", "fused_swiglu"]),
        ("self_attn.v_proj", ["fused_normed_linears", "fused_swiglu"]),
        ("self_attn.o_proj", ["fused_normed_linears", "fused_normed_linears", "fused_swiglu"]),
        ("mlp.up_proj", ["fused_normed_linears", "fused_swiglu"]),
        ("mlp.down_proj", ["fused_normed_linears", "fused_normed_linears"]),
        ("input_layernorm", ["fused_normed_linears", "fused_swiglu"]),
    ],
)
def test_what_takes_a_modules_place_is_called_and_the_rest_stays_fused(replaced, left, fused_calls):
    model = tiny_model("qwen3", num_hidden_layers=1)
    expected = gradients(model)
    fused_calls.clear()
    holder, _, last = replaced.rpartition(".")
    block = model.model.layers[0]
    counted = Counted(block.get_submodule(replaced))
    setattr(block.get_submodule(holder), last, counted)
    found = {name.replace(".base.", "."): grad for name, grad in gradients(model).items()}
    assert counted.calls == 1
    assert fused_calls == left
    assert_close(found, expected)


@pytest.mark.parametrize(
    "how",
    [
        lambda m: m.register_forward_hook(lambda module, inputs, out: None),
        lambda m: m.register_forward_pre_hook(lambda module, inputs: None),
        lambda m: m.register_full_backward_hook(lambda module, grads, outs: None),
        lambda m: m.register_full_backward_pre_hook(lambda module, grads: None),
        lambda m: setattr(m, "forward", type(m).forward.__get__(m)),
        lambda m: setattr(m, "__class__", type("Another", (Linear,), {})),
    ],
)
def test_a_module_with_hooks_is_not_plain(how):
    module = Linear(4, 4)
    assert is_plain(Linear, module, Linear(4, 2))
    how(module)
    assert not is_plain(Linear, module) and not is_plain(Linear, Linear(4, 2), module)
    assert not is_plain(Linear, RMSNorm(4, 1e-6))


def test_a_hook_sees_what_the_module_makes():
    """A forward hook on a projection is called, though fused layers would pass it by."""
    model, seen = tiny_model("llama"), []
    model.model.layers[0].mlp.gate_proj.register_forward_hook(lambda m, i, out: seen.append(out.shape))
    model.hidden(IDS)
    assert seen == [(2, 24, model.config.intermediate_size)]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_another_head_gives_the_same_loss_and_gradients(family, monkeypatch):
    """A projection of another class, in several chunks, beside the fused loss; log-probabilities as well."""
    monkeypatch.setattr("hanlin.model.losses.CHUNK_ELEMENTS", 300 * 10)
    monkeypatch.setattr("hanlin.model.losses.CHUNK_ROWS", 10)

    class Other(Embedding):
        pass

    model = tiny_model(family)
    hidden = torch.randn(46, 64, requires_grad=True)
    labels = torch.randint(0, 300, (46,))
    plain = model.head
    other = Head(plain.projection, 300, tied=plain.tied)
    assert plain.is_plain
    if plain.tied:
        plain.projection.__class__ = Other
    else:
        other.projection = Counted(plain.projection)
    results = []
    for head in (Head(_plain_copy(plain), 300, tied=plain.tied), other):
        for loss in (
            head.cross_entropy(hidden, labels, weights=torch.linspace(0, 2, 46), z_loss=0.1)[0],
            (head.token_log_probs(hidden, labels, 0.7) * torch.linspace(-1, 1, 46)).sum(),
        ):
            weight = next(head.projection.parameters())
            results.append([loss.detach(), *torch.autograd.grad(loss, (hidden, weight))])
    assert not other.is_plain
    if not plain.tied:
        assert other.projection.calls == 5 + 5 + 5 + 5  # forward, and again in backward
    for ours, theirs in zip(results[2:], results[:2], strict=True):
        for one, another in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, another, rtol=1e-4, atol=1e-4)


def _plain_copy(head: Head) -> nn.Module:
    weight = next(head.projection.parameters())
    made = Embedding(*weight.shape) if head.tied else Linear(weight.shape[1], weight.shape[0])
    made.load_state_dict({"weight": weight.detach()})
    return made


# ---------------------------------------------------------------- the check of fused operations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_fused_operation_is_right_here(name, dtype):
    assert fault_of_operation(name, CPU, dtype) is None


def _scaled(operation):
    return lambda *x: tuple(out * 1.2 for out in operation.fused(*x))


def _no_gradient_of_the_first(operation):
    return lambda *x: tuple(out + 0 * x[0].sum() for out in operation.fused(x[0].detach(), *x[1:]))


def _not_finite(operation):
    return lambda *x: tuple(out / 0 for out in operation.fused(*x))


def _fails(operation):
    def run(*x):
        raise RuntimeError("no kernel here\nmore")

    return run


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    "spoil, says",
    [
        (_scaled, "the output off by"),
        (_no_gradient_of_the_first, "a gradient off by"),
        (_not_finite, "NaN or Inf in the output"),
        (_fails, "it failed: no kernel here"),
    ],
)
def test_a_wrong_operation_is_found_out_and_left(name, spoil, says, monkeypatch, trust_restored):
    operation = OPERATIONS[name]
    monkeypatch.setitem(OPERATIONS, name, dataclasses.replace(operation, fused=spoil(operation)))
    fault_of_operation.cache_clear()
    said = []
    assert check_fused_operations(CPU, torch.bfloat16, lambda *m, **f: said.append(Text(*m, **f))) == [name]
    [text] = said
    assert name in text.zh and "不用" in text.zh
    assert f"fused operation {name} is refused on cpu" in text.en and says in text.en
    assert not fused_ops.is_trusted(name, IDS)
    assert all(fused_ops.is_trusted(other, IDS) for other in OPERATIONS if other != name)


def test_with_every_operation_refused_a_model_learns_the_same(fused_calls, trust_restored):
    expected = gradients(tiny_model("qwen3"))
    assert fused_calls
    fused_calls.clear()
    for name in OPERATIONS:
        fused_ops.refuse(name, CPU)
    assert_close(gradients(tiny_model("qwen3")), expected)
    assert not fused_calls


def test_the_check_draws_nothing_from_the_generators():
    state = torch.get_rng_state()
    fault_of_operation.cache_clear()
    assert check_fused_operations(CPU, torch.float32, lambda *m, **f: pytest.fail(str(m))) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_the_check_compares_with_formulas_of_its_own():
    """The plain side is torch's, not the fused code by another name."""
    x, weight = torch.randn(3, 8), torch.rand(8)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    torch.testing.assert_close(fused_check.OPERATIONS["rms_norm"].plain(x, weight)[0], expected)
    hidden, head, labels = torch.randn(5, 8), torch.randn(9, 8), torch.randint(0, 9, (5,))
    torch.testing.assert_close(
        fused_check.OPERATIONS["token_log_probs"].plain(hidden, head, labels)[0],
        -F.cross_entropy(hidden @ head.t(), labels, reduction="none"),
    )
