"""The family table: a family is one row, and a row may come from outside the package."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path

import pytest
import torch

import hanlin
from hanlin.common.config import build
from hanlin.common.errors import HanlinError
from hanlin.export.gguf import gguf_name
from hanlin.model import (
    CausalLM,
    ModelConfig,
    ModelShape,
    RewardModel,
    family,
    family_of,
    init_weights,
    load_model,
    register_family,
    save_weights,
)
from hanlin.model.family import ConfigField, families
from tests.support import FAMILIES, tiny_model

SOURCE = Path(hanlin.__file__).parent


@pytest.fixture
def outside():
    """A family of somebody else's: llama with a width of its own and other names in files; forgotten after
    the test."""
    llama = family_of("llama")
    spec = register_family(
        dataclasses.replace(
            llama,
            name="broad",
            intermediate_size=lambda width: 5 * width,
            hf=dataclasses.replace(
                llama.hf,
                architecture="BroadForCausalLM",
                scoring_architecture=None,
                config={**llama.hf.config, "ffn_dim": ConfigField("intermediate_size")}
                | {"intermediate_size": 0},
                defaults={**llama.hf.defaults, "hidden_size": 64},
            ),
            gguf=dataclasses.replace(llama.gguf, architecture="broad"),
            qk_norm_twin=None,
        )
    )
    yield spec
    del family._FAMILIES["broad"]


def test_a_family_from_outside_is_like_one_of_ours(outside, tmp_path):
    """Sizes, weights, a forward pass, a round trip through a model directory, and the names for llama.cpp."""
    shape = build(ModelShape, {"family": "broad", "hidden_size": 64, "num_hidden_layers": 2}, "recipe.yaml")
    config = shape.config(300, 0)
    assert config.intermediate_size == 320
    model = CausalLM(config)
    init_weights(model, 0)
    assert sum(p.numel() for p in model.parameters()) == config.parameters()
    save_weights(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["BroadForCausalLM"] and written["model_type"] == "broad"
    assert written["ffn_dim"] == 320
    opened = load_model(tmp_path)
    assert opened.config == dataclasses.replace(config, residual_init="zero")
    ids = torch.randint(0, 300, (1, 9))
    with torch.no_grad():
        assert torch.equal(opened(ids), model.eval()(ids))
    assert gguf_name("model.layers.1.mlp.up_proj.weight", outside) == "blk.1.ffn_up.weight"
    with pytest.raises(ValueError, match="broad"):
        RewardModel(config)
    with pytest.raises(ValueError, match="QK-norm"):
        dataclasses.replace(config, qk_norm=True)


def test_two_families_do_not_share_a_name_or_an_architecture(outside):
    for change in ({"name": "other"}, {"hf": dataclasses.replace(outside.hf, architecture="Other")}):
        with pytest.raises(ValueError, match="broad"):
            register_family(dataclasses.replace(outside, **change))
    assert register_family(outside) is outside


@pytest.mark.parametrize("name", ["qwen", "lama", "gpt-2", ""])
def test_an_unknown_family_is_an_error_that_lists_the_known(name):
    for make in (
        lambda: ModelShape(family=name),
        lambda: build(ModelShape, {"family": name}, "recipe.yaml"),
    ):
        with pytest.raises(HanlinError) as refused:
            make()
        for text in (refused.value.zh, refused.value.en):
            assert all(known in text for known in FAMILIES)
        assert repr(name) in refused.value.en
    assert "recipe.yaml" in refused.value.en and "family" in refused.value.en


@pytest.mark.parametrize("name", FAMILIES)
def test_the_names_of_a_row_are_those_of_the_module(name):
    """Each weight has a name in GGUF, and no name is of a weight that isn't there; ends of names in the rule
    of initialisation match."""
    spec = family_of(name)
    models = [tiny_model(name, num_hidden_layers=1)]
    if not spec.tied_only:
        models.append(tiny_model(name, num_hidden_layers=1, tie_word_embeddings=False))
    weights = {key: tensor for model in models for key, tensor in model.state_dict().items()}
    assert spec.hf.embedding_weight in weights
    given = {gguf_name(key, spec) for key in weights}
    known = {*spec.gguf.names.values(), *(f"blk.0.{rest}" for rest in spec.gguf.layer_names.values())}
    if not spec.qk_norm:
        known = {rest for rest in known if "q_norm" not in rest and "k_norm" not in rest}
    assert given == known
    ends = {*spec.init.residual, *spec.init.tables, *spec.init.transposed, *spec.gguf.transposed}
    assert all(any(key.endswith(end) for key in weights) for end in ends - {"score.weight"})


@pytest.mark.parametrize("name", FAMILIES)
def test_products_by_arithmetic_are_those_that_are_made(name):
    """6 FLOPs per token and matrix weight, by the counter of torch's own formulas; attention is counted
    apart."""
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny_model(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 8, dtype=torch.int64))
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counts.items() if "mm" in str(op))
    assert products == 2 * 8 * model.config.spec.matrix_parameters(model.config) - _vectors(model) * 2 * 8


def _vectors(model: CausalLM) -> int:
    return sum(p.numel() for p in model.parameters() if p.ndim == 1)


def test_sizes_of_a_configuration_are_plain_numbers():
    for name in FAMILIES:
        config = ModelConfig(vocab_size=300, family=name)
        for field in ("head_dim", "num_key_value_heads", "intermediate_size"):
            assert type(getattr(config, field)) is int
        for old in ("per_head", "key_value_heads", "feed_forward"):
            assert not hasattr(config, old)
    given = ModelConfig(vocab_size=300, num_key_value_heads=2, head_dim=16, intermediate_size=96)
    assert (given.num_key_value_heads, given.head_dim, given.intermediate_size) == (2, 16, 96)


def compared_families(tree: ast.AST) -> list[int]:
    """Lines that compare something with the name of a family."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(
            isinstance(part, ast.Constant) and part.value in families()
            for side in (node.left, *node.comparators)
            for part in ast.walk(side)
        )
    ]


def test_nothing_outside_the_table_asks_for_a_familys_name():
    for path in SOURCE.rglob("*.py"):
        assert compared_families(ast.parse(path.read_text(encoding="utf-8"))) == [], path
    assert compared_families(ast.parse("if config.family == 'gpt2': pass"))
    assert compared_families(ast.parse("x = family in ('llama', 'qwen3')"))
