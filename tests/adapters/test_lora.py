"""Low-rank additions: the function and the gradients that they should have, what is kept for them, what is
refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.dataset import Batch
from hanlin.model import fused_ops, linear
from hanlin.model.adapters import ADAPTERS
from hanlin.model.linear import Conv1D, LowRankLinear
from hanlin.model.lora import LoRA
from hanlin.model.low_rank import low_rank_maps
from hanlin.model.nf4 import quantize_int8, quantize_nf4
from hanlin.model.quantized_linear import QuantizedLinear, dense_weight
from hanlin.stages.base import Job
from hanlin.stages.supervised import NextTokenLoss
from tests.adapters.bench import IDS, stir
from tests.support import FAMILIES, tiny_model

VARIANTS = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "nf4": {"base": "nf4"},
    "int8": {"base": "int8"},
    "nf4 dora": {"base": "nf4", "dora": True, "double_quant": False},
}
BATCH = Batch(
    IDS,
    torch.cat((IDS[:, 1:], torch.full((2, 1), -100)), 1),
    torch.arange(24).expand(2, 24),
    torch.arange(2)[:, None].expand(2, 24),
    [0, 1],
)


class Made(TorchDispatchMode):
    """Notes the shape of everything that is made; views are not."""

    def __init__(self):
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = {tensor.untyped_storage().data_ptr() for tensor in given}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in places:
                self.shapes.add(tuple(leaf.shape))
        return result


def loss_of(model) -> torch.Tensor:
    return NextTokenLoss(torch.ones(300, dtype=torch.int64), 1e-3)(model, BATCH)[0]


def gradients(model) -> dict[str, torch.Tensor]:
    loss_of(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def maps(model) -> dict[str, LowRankLinear]:
    return dict(low_rank_maps(model))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_step_zero_is_the_base_to_the_bit(family, variant):
    """A quantised one the base read back from its codes."""
    base, model = tiny_model(family), tiny_model(family)
    LoRA(r=4, **VARIANTS[variant]).apply(model)
    with torch.no_grad():
        for name, module in maps(model).items():
            if isinstance(module.base, QuantizedLinear):
                weight = base.get_submodule(name).weight
                read = dense_weight(module.base)
                weight.copy_(read.t() if isinstance(base.get_submodule(name), Conv1D) else read)
        if family == "gpt2" and "base" in VARIANTS[variant]:  # read back the other way round: other sums
            torch.testing.assert_close(model(IDS), base(IDS), rtol=0, atol=2e-6)
        else:
            assert torch.equal(model(IDS), base(IDS))


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("variant", ["lora", "rslora", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_dense_weight(family, variant, checkpoints):
    """W' = W + s·B·A as one matrix has the gradient G: dA = s·Bᵀ·G, dB = s·G·Aᵀ; nothing else has one."""
    model = tiny_model(family)
    LoRA(r=4, **VARIANTS[variant]).apply(model)
    stir(model)
    dense = copy.deepcopy(model)
    LoRA().merge(dense)
    model.checkpoint_activations = checkpoints
    found, expected = gradients(model), gradients(dense)
    assert found.keys() == {f"{name}.{part}" for name in maps(model) for part in ("lora_A", "lora_B")}
    for name, module in maps(model).items():
        whole = expected[f"{name}.weight"]
        whole = whole.t() if family == "gpt2" else whole
        size = float(whole.abs().max())
        grad_a = module.scale * module.lora_B.t() @ whole
        grad_b = module.scale * whole @ module.lora_A.t()
        torch.testing.assert_close(found[f"{name}.lora_A"], grad_a, rtol=1e-3, atol=1e-4 * size)
        torch.testing.assert_close(found[f"{name}.lora_B"], grad_b, rtol=1e-3, atol=1e-4 * size)


def test_dora_learns_with_the_norm_held_constant():
    """Against autograd through the formula with the norms detached (section 4.3 of Liu et al. 2024)."""
    model = tiny_model("llama")
    LoRA(r=4, dora=True, targets=("o_proj",)).apply(model)
    module = maps(stir(model))["model.layers.0.self_attn.o_proj"]
    x = torch.randn(5, 64, requires_grad=True)
    above = torch.randn(5, 64)
    a, b, m = (p.detach().clone().requires_grad_() for p in (module.lora_A, module.lora_B, module.magnitude))
    weight = module.base.weight + module.scale * b @ a
    expected = x @ (weight * (m / weight.norm(dim=1).detach())[:, None]).t()
    assert torch.allclose(module(x), expected, atol=1e-5)
    ours = torch.autograd.grad(module(x), (x, module.lora_A, module.lora_B, module.magnitude), above)
    theirs = torch.autograd.grad(expected, (x, a, b, m), above)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj", "up_proj", "down_proj"), ("gate_proj",)])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_the_fused_path_is_the_plain_one(family, targets, monkeypatch):
    model = tiny_model(family)
    LoRA(r=4, targets=targets).apply(model)
    plain = copy.deepcopy(stir(model))
    seen = []
    for name in ("fused_normed_low_rank", "fused_swiglu_low_rank"):
        fused = getattr(linear, name)

        def watched(*arguments, name=name, fused=fused):
            seen.append(name)
            return fused(*arguments)

        monkeypatch.setattr(linear, name, watched)
    found, loss = gradients(model), loss_of(model)
    assert "fused_normed_low_rank" in seen
    assert ("fused_swiglu_low_rank" in seen) == (targets != ("gate_proj",))
    refused = {(name, "cpu") for name in ("normed_low_rank", "swiglu_low_rank")}
    monkeypatch.setattr(fused_ops, "_refused", refused)
    expected = gradients(plain)
    assert float(loss.detach()) == pytest.approx(float(loss_of(plain).detach()), rel=1e-6)
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("base", ["", "nf4", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_matrices_cost_no_gradient_and_dequantised_ones_are_not_kept(family, base):
    """Nothing of a matrix's size is made in the backward pass but what is read back from codes, and nothing
    of that size is kept for it but the base's own storage."""
    model = tiny_model(family, intermediate_size=96)
    LoRA(r=4, base=base).apply(model)
    kept: list[torch.Tensor] = []
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {tuple(dense_weight(module.base).shape) for module in maps(model).values()}
    shapes |= {shape[::-1] for shape in shapes}
    shapes -= {(48, 64), (64, 48)}  # activations of 48 tokens
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        loss = loss_of(model)
    foreign = [t for t in kept if tuple(t.shape) in shapes and t.untyped_storage().data_ptr() not in own]
    assert foreign == []
    with Made() as made:
        loss.backward()
    if not base:
        assert shapes & made.shapes == set()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_is_unmerged(family, variant):
    names = list(tiny_model(family).state_dict())
    model = tiny_model(family)
    LoRA(r=4, **VARIANTS[variant]).apply(model)
    with torch.no_grad():
        unmerged = stir(model)(IDS)
        LoRA().merge(model)
        assert torch.allclose(model(IDS), unmerged, atol=1e-5)
    assert sorted(model.state_dict()) == sorted(names)
    assert all(p.requires_grad for p in model.parameters())


def test_merging_rounds_once():
    """Of a model in bfloat16: the sum is taken in float32."""
    model = tiny_model("llama").to(torch.bfloat16)
    LoRA(r=4).apply(model)
    module = maps(stir(model))["model.layers.1.mlp.up_proj"]
    expected = (module.base.weight.float() + module.delta()).to(torch.bfloat16)
    LoRA().merge(model)
    assert torch.equal(model.get_submodule("model.layers.1.mlp.up_proj").weight, expected)


def test_quantised_maps_that_are_no_targets_are_merged_too():
    model, base = tiny_model("qwen3"), tiny_model("qwen3")
    LoRA(r=2, base="nf4", targets=("q_proj",)).apply(model)
    quantized = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    assert len(quantized) == 14 and len(maps(model)) == 2
    assert torch.equal(model.model.embed_tokens.weight, base.model.embed_tokens.weight)
    with torch.no_grad():
        expected = model(IDS)
        LoRA().merge(model)
        assert torch.allclose(model(IDS), expected, atol=1e-5)
    assert model.state_dict().keys() == base.state_dict().keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_keeps_the_additions_of_then(family):
    model = tiny_model(family)
    LoRA(r=4, base="int8").apply(model)
    reference = copy.deepcopy(stir(model)).requires_grad_(False)
    with torch.no_grad():
        before = model(IDS)
        stir(model, seed=1)
        assert torch.equal(reference(IDS), before) and not torch.equal(model(IDS), before)


def test_the_first_a_depends_on_the_seed_alone():
    drawn = []
    for seed in (1, 1, 2):
        model = tiny_model("qwen3")
        torch.manual_seed(len(drawn))
        LoRA(r=4, seed=seed).apply(model)
        drawn.append(torch.cat([module.lora_A.flatten() for module in maps(model).values()]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    module = maps(model)["model.layers.0.mlp.down_proj"]
    bound = module.lora_A.shape[1] ** -0.5
    assert 0.9 * bound < float(module.lora_A.detach().abs().max()) <= bound


def test_what_cannot_be_is_refused():
    model = tiny_model("gpt2")
    with pytest.raises(HanlinError, match=r"'q_proj'.*c_attn, c_proj, c_fc"):
        LoRA(targets=("q_proj",)).apply(model)
    with pytest.raises(HanlinError, match=r"adapter\.r is 65, and .*\.c_attn is 192 × 64"):
        LoRA(r=65).apply(model)
    assert not maps(model) and all(p.requires_grad for p in model.parameters())
    with pytest.raises(HanlinError, match="r is 0"):
        LoRA(r=0)
    assert set(ADAPTERS) >= {"lora", "bias_norm"}


def test_targets_are_called_by_their_last_part_or_by_more():
    for targets, count in ((("c_proj",), 4), (("mlp.c_proj",), 2), (("h.0.mlp.c_proj", "c_attn"), 3)):
        model = tiny_model("gpt2")
        LoRA(r=2, targets=targets).apply(model)
        assert len(maps(model)) == count


def test_an_adapter_larger_than_half_the_model_is_warned_of(tmp_path):
    said = []

    class Heard(Progress):
        def warn(self, message, **fields):
            said.append(str(message))

    for r, expected in ((4, 0), (32, 1)):
        model = tiny_model("llama")
        adapter = LoRA(r=r)
        adapter.apply(model)
        Job(tmp_path, tmp_path, Heard(), adapter=adapter)._say_adapter(model)
        assert sum("next to nothing" in message for message in said) == expected


def test_read_back_codes_give_the_codes_again_and_little_is_lost():
    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(0)) * 0.02
    for made, bound in (
        (quantize_nf4(weight, False), 0.097),
        (quantize_nf4(weight), 0.098),
        (quantize_int8(weight), 0.01),
    ):
        read = made.dequantize()
        assert float((read - weight).norm() / weight.norm()) < bound
    once = quantize_nf4(weight, False)
    assert torch.equal(quantize_nf4(once.dequantize(), False).codes, once.codes)
    assert not bool(quantize_nf4(torch.zeros(3, 64)).dequantize().any())
    rows = quantize_int8(weight)
    assert bool(((rows.dequantize() - weight).abs() <= rows.absmax[:, None] / 254 * 1.001).all())
