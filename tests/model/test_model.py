"""Our transformer is the stock one: transformers gives the same logits; the cache, packing and losses change
nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hanlin.common.errors import HanlinError
from hanlin.model import (
    CausalLM,
    KVCache,
    ModelConfig,
    init_weights,
    linear_cross_entropy,
    load_model,
    save_weights,
    token_log_probs,
)
from hanlin.model.fused_ops import rms_norm, rotate
from tests.support import FAMILIES, tiny_model

transformers = pytest.importorskip("transformers")
SHAPES = [
    (family, shape) for family in FAMILIES for shape in ({}, {"hidden_size": 96, "num_hidden_layers": 3})
]
SHAPES += [
    ("qwen3", {"head_dim": 32, "num_key_value_heads": 1, "tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": True, "rope_theta": 500.0}),
]


@pytest.mark.parametrize("family,shape", SHAPES)
def test_transformers_opens_it_and_agrees(family, shape, tmp_path):
    model = tiny_model(family, **shape)
    save_weights(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (
        type(theirs).__name__
        == {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}[family]
    )
    ids = torch.randint(0, 300, (3, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (model(ids) - theirs(ids).logits).abs().max() < 1e-4
        assert torch.equal(load_model(tmp_path)(ids), model(ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_saved_by_transformers_open_here(family, tmp_path):
    save_weights(tiny_model(family), tmp_path / "ours") if (tmp_path / "ours").mkdir() is None else None
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ids = torch.randint(0, 300, (2, 20))
    with torch.no_grad():
        assert (load_model(tmp_path / "theirs")(ids) - theirs(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_in_pieces_through_the_cache_changes_nothing(family):
    model = tiny_model(family)
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(ids)
        cache, pieces = KVCache(model.config, 2, 64), []
        for start, stop in ((0, 17), (17, 18), (18, 30), (30, 40)):
            pieces.append(model(ids[:, start:stop], cache=cache))
            cache.advance(stop - start)
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_prefill_of_unequal_prompts_changes_nothing(family):
    model = tiny_model(family)
    ids = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(2))
    lengths = [12, 20]
    with torch.no_grad():
        cache = KVCache(model.config, 2, 32)
        model(ids, cache=cache)
        cache.advance(lengths)
        following = torch.tensor([[5], [7]])
        together = model(following, cache=cache)
        for row, length in enumerate(lengths):
            alone = model(torch.cat([ids[row : row + 1, :length], following[row : row + 1]], 1))[0, -1]
            assert (together[row, 0] - alone).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_never_see_each_other(family):
    model = tiny_model(family)
    first, second = torch.randint(0, 300, (1, 15)), torch.randint(0, 300, (1, 25))
    ids = torch.cat([first, second], 1)
    doc_ids = torch.tensor([[0] * 15 + [1] * 25])
    positions = torch.cat([torch.arange(15), torch.arange(25)])[None]
    with torch.no_grad():
        packed = model(ids, positions=positions, doc_ids=doc_ids)
        assert (packed[:, :15] - model(first)).abs().max() < 1e-4
        assert (packed[:, 15:] - model(second)).abs().max() < 1e-4


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_chunked_losses_equal_the_plain_formula(rows, monkeypatch):
    monkeypatch.setattr("hanlin.model.losses.CHUNK_ELEMENTS", 64 * 50)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(rows, 16, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(50, 16, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 50, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator)
    logits = hidden @ weight.t()
    expected = (F.cross_entropy(logits, labels, reduction="none") * weights).sum() + 0.1 * (
        logits.logsumexp(-1).square() * weights
    ).sum()
    grads = torch.autograd.grad(expected, (hidden, weight))
    loss, nll = linear_cross_entropy(hidden, weight, labels, weights=weights, z_loss=0.1)
    ours = torch.autograd.grad(loss, (hidden, weight))
    assert torch.allclose(loss.double(), expected, rtol=1e-5)
    assert torch.allclose(nll.double(), F.cross_entropy(logits, labels, reduction="none"), rtol=1e-5)
    for mine, theirs in zip(ours, grads, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    scale = torch.randn(rows, generator=generator)
    logits = hidden @ weight.t()
    log_probs = (torch.log_softmax(logits / 0.7, -1).gather(1, labels[:, None]).squeeze(1) * scale).sum()
    grads = torch.autograd.grad(log_probs, (hidden, weight))
    ours = torch.autograd.grad((token_log_probs(hidden, weight, labels, 0.7) * scale).sum(), (hidden, weight))
    for mine, theirs in zip(ours, grads, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 100, "num_attention_heads": 6},
        {"num_key_value_heads": 3},
        {"family": "gpt2", "num_key_value_heads": 2},
        {"head_dim": 15},
        {"vocab_size": 0},
    ],
)
def test_shapes_that_no_stock_architecture_loads_are_refused(change):
    with pytest.raises(ValueError):
        ModelConfig(**({"vocab_size": 100, "hidden_size": 64, "num_attention_heads": 4} | change))


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_damaged_weights_are_refused_with_the_file_named(damage, tmp_path):
    save_weights(tiny_model("qwen3"), tmp_path)
    file = tmp_path / "model.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        (tmp_path / "b").mkdir()
        save_weights(tiny_model("qwen3", hidden_size=32), tmp_path / "b")
        file.write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(HanlinError, match="model.safetensors"):
        load_model(tmp_path)


def test_parameter_arithmetic():
    for family in FAMILIES:
        model = tiny_model(family)
        assert sum(p.numel() for p in model.parameters()) == model.config.parameters()
        assert isinstance(model, CausalLM)


@pytest.mark.parametrize("shape", [(2, 5, 8), (2, 3, 4, 6)])
def test_rms_norm_and_its_gradients_are_torch_s(shape):
    x, weight, grad = torch.randn(shape, dtype=torch.float32), torch.rand(shape[-1]) + 0.5, torch.randn(shape)
    results = []
    for norm in (
        lambda x, w: rms_norm(x, w, 1e-6),
        lambda x, w: torch.nn.functional.rms_norm(x, w.shape, w, 1e-6),
    ):
        leaf, scale = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = norm(leaf, scale)
        y.backward(grad)
        results.append((y.detach(), leaf.grad, scale.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rotation_and_its_gradient_are_a_complex_product_s():
    x, grad, angles = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 1, 5, 4)
    turn = torch.polar(torch.ones_like(angles), angles)
    results = []
    for rotation in (
        lambda x: rotate(x, angles.cos(), angles.sin()),
        lambda x: torch.cat([(product := torch.complex(*x.chunk(2, -1)) * turn).real, product.imag], -1),
    ):
        leaf = x.clone().requires_grad_()
        y = rotation(leaf)
        y.backward(grad)
        results.append((y.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norm_and_rotation_keep_the_type(dtype):
    x = torch.randn(2, 3, 5, 8, dtype=dtype)
    assert (
        rms_norm(x, torch.ones(8), 1e-6).dtype
        == rotate(x, torch.ones(2, 1, 5, 4), torch.zeros(2, 1, 5, 4)).dtype
        == dtype
    )
    torch.testing.assert_close(rotate(x, torch.ones(2, 1, 5, 4), torch.zeros(2, 1, 5, 4)), x)


def test_residual_projections_start_as_asked():
    """zero: blocks are the identity; scaled: 1/sqrt(2·layers) of plain, from the same random numbers."""
    weights = {}
    for how in ("zero", "scaled", "plain"):
        model = CausalLM(
            ModelConfig(
                vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, residual_init=how
            )
        )
        init_weights(model, 3)
        weights[how] = model.model.layers[0].mlp.down_proj.weight.detach()
    assert not weights["zero"].any()
    assert weights["plain"].std() > 0
    torch.testing.assert_close(weights["scaled"], weights["plain"] / 2)


def test_qk_norm_chooses_the_family():
    assert ModelConfig(vocab_size=300, qk_norm=False).family == "llama"
    assert ModelConfig(vocab_size=300, family="llama", qk_norm=True).family == "qwen3"
    with pytest.raises(ValueError, match="QK-norm"):
        ModelConfig(vocab_size=300, family="gpt2", qk_norm=True)
