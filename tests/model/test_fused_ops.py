"""Our own backward passes beside autograd's: attention over documents, norm with its linear maps, SwiGLU; the
compiled decoder."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.model import CausalLM, ModelConfig, init_weights
from hanlin.model.attention.backends import BACKENDS
from hanlin.model.attention.reference import TILE, attend, document_attention, packed_mask, tiles_of
from hanlin.model.fused_ops import fused_normed_linears, fused_swiglu, rms_norm
from hanlin.training import TrainConfig
from hanlin.training.step_estimate import StepSpec, trace_step
from tests.support import tiny_model


def rows_of_documents(lengths: list[list[int]]) -> torch.Tensor:
    """doc_ids (B, T) of rows that hold documents of these lengths."""
    numbers = iter(range(10**6))
    return torch.tensor(
        [[number for length in row for number in [next(numbers)] * length] for row in lengths]
    )


def gradients(function, *leaves):
    copies = [leaf.clone().requires_grad_() for leaf in leaves]
    result = function(*copies)
    outputs = result if isinstance(result, tuple) else (result,)
    torch.manual_seed(1)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    return [output.detach() for output in outputs] + [copy.grad for copy in copies]


def assert_equal(ours, theirs, tolerance=1e-10):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("heads,groups", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize(
    "lengths",
    [
        [[7], [7]],
        [[1, 1, 1, 4], [3, 4]],
        [[300], [299, 1]],  # longer than a tile
        [[TILE, TILE, 44], [TILE - 1, 2, 171]],
    ],
)
def test_attention_over_documents_is_masked_attention(heads, groups, lengths):
    """Outputs and gradients of PyTorch's attention with the mask written out, in float64."""
    doc_ids = rows_of_documents(lengths)
    shape = (*doc_ids.shape, heads, 6)
    torch.manual_seed(0)
    q, k, v = (torch.randn(*shape[:2], n, 6, dtype=torch.float64) for n in (heads, groups, groups))

    def masked(q, k, v):
        return attend(*(x.transpose(1, 2) for x in (q, k, v)), packed_mask(doc_ids, torch.float64)).transpose(
            1, 2
        )

    assert_equal(
        gradients(lambda q, k, v: document_attention(q, k, v, doc_ids), q, k, v), gradients(masked, q, k, v)
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 2 * TILE), min_size=1, max_size=8), min_size=1, max_size=3))
def test_tiles_cover_every_token_once_and_show_it_its_document(lengths):
    widest = max(map(sum, lengths))
    lengths = [row + [widest - sum(row)] if sum(row) < widest else row for row in lengths]
    doc_ids = rows_of_documents(lengths)
    flat = doc_ids.flatten()
    expected = (flat[:, None] == flat[None, :]).tril()
    seen = torch.zeros_like(expected)
    for tile in tiles_of(doc_ids):
        assert tile.last - tile.first <= TILE
        assert not seen[tile.first : tile.last].any()
        seen[tile.first : tile.last, tile.start : tile.first] = True
        seen[tile.first : tile.last, tile.first : tile.last] = tile.mask == 0
    assert torch.equal(seen, expected)


def test_attention_sees_a_batch_that_took_the_place_of_another():
    """The tiles of the last batch are kept; another batch in the same memory has its own."""
    doc_ids = rows_of_documents([[4, 4]])
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
    before = document_attention(q, k, v, doc_ids)
    doc_ids.zero_()
    after = document_attention(q, k, v, doc_ids)
    torch.testing.assert_close(after, attend(*(x.transpose(1, 2) for x in (q, k, v)), None).transpose(1, 2))
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize("documents", [True, False])
def test_a_model_learns_alike_with_every_attention_back_end(family, documents, monkeypatch):
    """Those of accelerators hand back gradients with heads before tokens; every backward pass must take them
    so."""
    doc_ids = rows_of_documents([[5, 11], [16]]) if documents else None
    ids, weights = torch.randint(0, 100, (2, 16)), torch.randn(2, 16, 64)
    results = {}
    for name, backend in BACKENDS.items():
        if backend.particular:
            continue
        monkeypatch.setattr("hanlin.model.context.backend_for", lambda *arguments, backend=backend: backend)
        model = tiny_model(family)
        (model.hidden(ids, doc_ids=doc_ids) * weights).sum().backward()
        results[name] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for backend, grads in results.items():
        for name, grad in results["tiles"].items():
            assert float((grads[name] - grad).abs().max()) <= 1e-4 * float(grad.abs().max()), (backend, name)


def test_norm_with_linear_maps():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 8, dtype=torch.float64), torch.rand(8, dtype=torch.float64) + 0.5
    matrices = [torch.randn(n, 8, dtype=torch.float64) for n in (5, 3, 3)]
    plain = lambda x, w, *m: tuple(F.linear(F.rms_norm(x, (8,), w, 1e-6), matrix) for matrix in m)  # noqa: E731
    # the norm itself works in float32, whatever it is given
    assert_equal(
        gradients(lambda x, w, *m: fused_normed_linears(x, w, 1e-6, *m), x, weight, *matrices),
        gradients(plain, x, weight, *matrices),
        1e-5,
    )


def test_swiglu():
    torch.manual_seed(0)
    gate, up, weight = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 12), (2, 3, 12), (8, 12))
    )
    assert_equal(
        gradients(fused_swiglu, gate, up, weight),
        gradients(lambda g, u, w: F.linear(F.silu(g) * u, w), gate, up, weight),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_products_take_its_type_and_weights_keep_theirs(dtype):
    x, weight, matrix = torch.randn(2, 3, 8), torch.ones(8), torch.randn(12, 8, requires_grad=True)
    down = torch.randn(8, 12, requires_grad=True)
    with torch.autocast("cpu", dtype):
        gate, up = fused_normed_linears(x, weight, 1e-6, matrix, matrix)
        out = fused_swiglu(gate, up, down)
    assert gate.dtype == up.dtype == out.dtype == dtype
    out.float().sum().backward()
    assert matrix.grad.dtype == down.grad.dtype == torch.float32


def test_what_a_layer_keeps_for_backward():
    """Per token: input, its scale, queries and keys before and after rotation, values, attention's output,
    and gate and up; no norms, no probabilities."""
    d, heads, f = 32, 4, 96
    model = CausalLM(
        ModelConfig(
            vocab_size=300, hidden_size=d, num_hidden_layers=1, num_attention_heads=heads, intermediate_size=f
        )
    )
    init_weights(model, 0)
    storages: dict[int, int] = {}
    ours = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = 2 * 64
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        model.hidden(torch.zeros(2, 64, dtype=torch.int64))
    # x; q, k twice and v; attention; x again; gate, up; scales
    layer = d + 5 * d + d + d + 2 * f + (2 + 2 * heads)
    # the last norm's input and scale; angles; ids and documents as int64
    outside = d + 1 + d // heads + 2 * 2
    assert sum(storages.values()) <= 4 * tokens * (layer + outside) * 1.02


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_checkpointed_activations_give_the_same_bits_and_keep_less(family):
    doc_ids = rows_of_documents([[5, 27], [32]])
    ids, weights = torch.randint(0, 100, (2, 32)), torch.randn(2, 32, 64)
    results, kept = [], []
    for again in (False, True):
        model = tiny_model(family, hidden_size=64, num_hidden_layers=4)
        model.checkpoint_activations = again
        sizes: dict[int, int] = {}

        def note(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            hidden = model.hidden(ids, doc_ids=doc_ids)
        (hidden * weights).sum().backward()
        kept.append(sum(sizes.values()))
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert kept[1] < kept[0] / 2
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.nightly
@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_the_compiled_decoder_computes_the_same(family):
    model = tiny_model(family)
    doc_ids = rows_of_documents([[5, 11], [16]])
    ids, weights = torch.randint(0, 100, (2, 16)), torch.randn(2, 16, model.config.hidden_size)
    results = []
    for compiled in (False, True):
        if compiled:
            model.compile_decoder()
        model.zero_grad()
        (model.hidden(ids, doc_ids=doc_ids) * weights).sum().backward()
        results.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert sorted(model.state_dict()) == sorted(tiny_model(family).state_dict())
    for name in results[0]:
        assert float((results[1][name] - results[0][name]).abs().max()) <= 1e-4 * float(
            results[0][name].abs().max()
        ), name


def test_rms_norm_of_nothing_is_nothing():
    assert not rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6).any()


def trained_step(monkeypatch, width, dtype=torch.float32, checkpoints=False):
    """Gradients of a step whose layers make queries and keys again from this width on."""
    monkeypatch.setattr("hanlin.model.transformer.RECOMPUTE_QK_WIDTH", width)
    config = ModelConfig(
        vocab_size=60,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
    )
    model = CausalLM(config)
    init_weights(model, 0)
    model.checkpoint_activations = checkpoints
    for parameter in model.parameters():
        parameter.data += (
            0.1  # residual projections start at zero, and everything below them would get no gradient
        )
    ids = torch.arange(2 * 48).view(2, 48) % 60
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(ids, doc_ids=rows_of_documents([[20, 28], [48]])).float().square().mean()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_recomputed_queries_and_keys_give_the_same_bits(monkeypatch, dtype, checkpoints):
    kept, again = (trained_step(monkeypatch, width, dtype, checkpoints) for width in (65, 64))
    assert all(bool(grad.any()) for grad in kept.values())
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_recomputed_queries_and_keys_are_not_kept(monkeypatch):
    config = ModelConfig(
        vocab_size=60,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
    )
    costs = {}
    for width in (65, 64):
        monkeypatch.setattr("hanlin.model.transformer.RECOMPUTE_QK_WIDTH", width)
        for checkpoints in (False, True):
            costs[width, checkpoints] = trace_step(
                config, TrainConfig(), StepSpec(seq_len=128, rows=2, checkpoint_activations=checkpoints)
            ).activations
    tokens, floats = 2 * 128, 64 + 32  # of a layer: queries and keys
    assert costs[65, False] - costs[64, False] == 3 * tokens * floats * 4
    assert costs[65, True] == costs[64, True]
    card = trace_step(config, TrainConfig(), StepSpec(seq_len=128, rows=2, recompute_qk=False)).activations
    assert card == costs[65, False], "an accelerator keeps them"
