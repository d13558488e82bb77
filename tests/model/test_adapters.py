"""A class from outside takes the place of every linear map, as an adapter would: it trains, it is saved,
loaded and copied."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hanlin.common.errors import HanlinError
from hanlin.dataset import Batch
from hanlin.inference import Engine, SamplingParams
from hanlin.model import (
    CausalLM,
    RewardModel,
    detached_copy,
    init_weights,
    load_model,
    load_weights,
    save_weights,
)
from hanlin.model.checkpoint_io import WEIGHTS
from hanlin.model.linear import Conv1D, Linear
from hanlin.stages.supervised import NextTokenLoss
from hanlin.training.optim.optimizers import Optimizers
from tests.support import FAMILIES, tiny_model


class LowRank(nn.Module):
    """base(x) + x·Aᵀ·Bᵀ with a frozen base (Hu et al. 2021), dropout on the way to A."""

    def __init__(self, base: nn.Module, rank: int = 2, dropout: float = 0.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        out, width = base.weight.shape if isinstance(base, Linear) else tuple(reversed(base.weight.shape))
        self.lora_a = nn.Parameter(torch.randn(rank, width) * 0.1)
        self.lora_b = nn.Parameter(torch.zeros(out, rank))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + F.linear(F.linear(self.dropout(x), self.lora_a), self.lora_b)


def adapted(model, dropout: float = 0.0):
    """The model with every linear map wrapped, and everything else frozen; and how many there were."""
    torch.manual_seed(0)
    model.requires_grad_(False)
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, (Linear, Conv1D))
    ]
    for parent, name in places:
        setattr(parent, name, LowRank(getattr(parent, name), dropout=dropout))
    return model, len(places)


def file_name(name: str) -> str | None:
    """A weight's name without the wrapper; the low-rank ones are in no file."""
    return None if ".lora_" in name else name.replace(".base.", ".")


def rows() -> Batch:
    ids = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(0))
    labels = torch.cat((ids[:, 1:], torch.full((2, 1), -100)), 1)
    doc_ids = torch.arange(2)[:, None].expand(2, 24)
    return Batch(ids, labels, torch.arange(24).expand(2, 24), doc_ids, [0, 1])


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_trains_the_adapters_and_nothing_else(family, checkpoints, monkeypatch):
    plain, model = tiny_model(family), tiny_model(family)
    before = copy.deepcopy(model.state_dict())
    model, count = adapted(model)
    assert count == {"qwen3": 14, "llama": 15, "gpt2": 8}[family]
    model.checkpoint_activations = checkpoints
    keys = {file_name(name) for name in model.state_dict()} - {None}
    assert keys == set(plain.state_dict())
    assert sum(".lora_" in name for name in model.state_dict()) == 2 * count
    batch = rows()
    objective = NextTokenLoss(torch.ones(300, dtype=torch.int64), 1e-3)
    started_at = float(objective(plain, batch)[0].detach())
    for name in ("fused_normed_linears", "fused_swiglu"):  # nothing is left that they could serve
        monkeypatch.setattr(f"hanlin.model.linear.{name}", lambda *x: pytest.fail("fused"))
    loss, _ = objective(model, batch)
    assert float(loss.detach()) == pytest.approx(started_at, rel=1e-5)  # B is zero
    optimizers = Optimizers(model, learning_rate=1e-2, muon=False)
    for _ in range(2):
        loss, _ = objective(model, batch)
        loss.backward()
        trained = {name for name, p in model.named_parameters() if p.grad is not None}
        assert trained == {name for name, p in model.named_parameters() if ".lora_" in name}
        optimizers.step(1.0)
    assert float(objective(model, batch)[0].detach()) < started_at
    for name, tensor in model.state_dict().items():
        known = file_name(name)
        if known is not None:
            assert torch.equal(tensor, before[known]), name
        elif name.endswith("lora_b"):
            assert bool(tensor.any()), name


def test_with_checkpointing_dropout_drops_the_same_again():
    """A block that is recomputed has to see the mask of its forward pass, or its gradients are of another
    function."""
    found = []
    for again in (False, True):
        model, _ = adapted(tiny_model("qwen3"), dropout=0.5)
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                nn.init.ones_(parameter)
        model.train().checkpoint_activations = again
        torch.manual_seed(5)
        model.hidden(rows().ids).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, grad in found[0].items():
        assert torch.equal(found[1][name], grad), name


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_is_strict_unless_names_are_given(family, tmp_path):
    """A directory is written only with the stock architecture's weights; with the wrapper's names mapped it
    is the base, bit for bit."""
    plain = tiny_model(family)
    model, _ = adapted(tiny_model(family))
    with pytest.raises(HanlinError, match="merge it"):
        save_weights(model, tmp_path)
    assert not any(tmp_path.iterdir())
    save_weights(model, tmp_path, file_names=file_name)
    opened = load_model(tmp_path)
    assert type(opened) is CausalLM
    for name, tensor in plain.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor)
    whole = {file_name(name) or name: tensor for name, tensor in model.state_dict().items()}
    with pytest.raises(HanlinError, match="lora_a"):
        save_weights(model, tmp_path, weights=whole)
    short = dict(plain.state_dict())
    short.popitem()
    with pytest.raises(HanlinError, match="absent"):
        save_weights(plain, tmp_path, weights=short)


@pytest.mark.parametrize("family", FAMILIES)
def test_loading_is_strict_unless_names_are_given(family, tmp_path):
    plain = tiny_model(family, seed=1)
    save_weights(plain, tmp_path)
    model, _ = adapted(tiny_model(family))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.fill_(0.5)
    with pytest.raises(HanlinError, match="base"):
        load_weights(model, tmp_path / WEIGHTS)
    load_weights(model, tmp_path / WEIGHTS, file_names=file_name)
    for name, tensor in model.state_dict().items():
        known = file_name(name)
        assert torch.equal(tensor, plain.state_dict()[known]) if known else True
    assert all(bool((p == 0.5).all()) for n, p in model.named_parameters() if n.endswith("lora_b"))


def test_a_reward_model_is_adapted_and_saved_like_the_others(tmp_path):
    base = RewardModel(tiny_model("qwen3").config)
    init_weights(base, 0)
    model, count = adapted(base)
    assert count == 15
    ids = rows().ids
    model(ids).sum().backward()
    assert model.score.lora_b.grad is not None and model.score.base.weight.grad is None
    with pytest.raises(HanlinError):
        save_weights(model, tmp_path)
    save_weights(model, tmp_path, file_names=file_name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reference_keeps_the_adapters_of_then(family):
    """`copy.deepcopy`, as preference training makes it: equal now, and not moved by training."""
    model, _ = adapted(tiny_model(family))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_()
    reference = copy.deepcopy(model).requires_grad_(False)
    ids = rows().ids
    with torch.no_grad():
        before = model(ids)
        assert torch.equal(reference(ids), before)
        for parameter in model.parameters():
            parameter.mul_(1.5)
        assert torch.equal(reference(ids), before) and not torch.equal(model(ids), before)
    if reference.config.tie_word_embeddings:
        assert reference.head.projection is reference.decoder.embedding


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detached_copy_has_the_modules_and_the_given_weights(family):
    """What shards or watches the original stays behind; buffers are shared, weights are those that are
    given."""
    model, _ = adapted(tiny_model(family))
    torch.manual_seed(1)
    weights = {name: torch.randn_like(p) * 0.1 for name, p in model.named_parameters()}
    expected = copy.deepcopy(model)
    expected.load_state_dict(weights, strict=True)
    seen = []
    model.register_forward_hook(lambda m, i, o: seen.append("model"))
    model.decoder.blocks[0].register_forward_pre_hook(lambda m, i: seen.append("block"))
    model.compile_decoder(by_block=True)
    made = detached_copy(model, weights)
    assert (
        type(made) is CausalLM and not made.compiled and not any(p.requires_grad for p in made.parameters())
    )
    assert sum(isinstance(module, LowRank) for module in made.modules()) > 5
    ids = rows().ids
    with torch.no_grad():
        assert torch.equal(made(ids), expected(ids))
    assert seen == [] and model.compiled
    for ours, theirs in zip(made.buffers(), model.buffers(), strict=True):
        assert ours is theirs
    for name, parameter in made.named_parameters():
        assert parameter.data_ptr() == weights[name].data_ptr()
    [generated] = Engine(made, ()).generate([[1, 2]], SamplingParams(max_new_tokens=3, temperature=0.0))
    assert len(generated.ids) == 3
