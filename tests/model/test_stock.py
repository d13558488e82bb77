"""Checkpoints and configurations that Hanlin did not write: the same logits as transformers', or a refusal
that names the option."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hanlin.common.errors import HanlinError
from hanlin.model import load_model, read_generation_config, save_weights
from tests.support import tiny_model

transformers = pytest.importorskip("transformers")
SMALL = dict(
    vocab_size=97,
    hidden_size=256,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=64,
    max_position_embeddings=64,
)
SHAPES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen3": SMALL,
    "gpt2": dict(vocab_size=97, n_embd=32, n_layer=2, n_head=2, n_positions=64),
}
CONFIGS = {"llama": "LlamaConfig", "qwen3": "Qwen3Config", "gpt2": "GPT2Config"}


def stock(family: str, folder: Path, **options: Any):
    """A checkpoint that transformers made, with weights large enough for every option to show; its model."""
    torch.manual_seed(0)
    config = getattr(transformers, CONFIGS[family])(**(SHAPES[family] | options))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name or "ln_" in name else 0.08))
    model.save_pretrained(folder)
    return model


MATTERS = {
    "attention_bias",
    "head_dim",
    "hidden_act",
    "layer_types",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
    "n_head",
    "n_inner",
    "n_layer",
    "activation_function",
    "layer_norm_epsilon",
    "scale_attn_weights",
    "eos_token_id",
    "pad_token_id",
}


def rewrite(folder: Path, change: dict[str, Any], remove: tuple[str, ...] = ()) -> dict[str, Any]:
    file = folder / "config.json"
    config = {key: value for key, value in json.loads(file.read_text()).items() if key not in remove} | change
    file.write_text(json.dumps(config))
    return config


def agrees(folder: Path) -> None:
    """Ours and theirs, both opened from the same directory, give the same logits."""
    ids = torch.randint(0, 97, (2, 30), generator=torch.Generator().manual_seed(1))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        ours, expected = load_model(folder)(ids), theirs(ids).logits
    assert expected.std() > 0.3
    assert (ours - expected).abs().max() < 1e-4


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"activation_function": "relu"}),
    ("gpt2", {"activation_function": "gelu"}),
    ("gpt2", {"activation_function": "gelu_pytorch_tanh"}),
    ("gpt2", {"layer_norm_epsilon": 1e-2}),
    ("gpt2", {"scale_attn_weights": False}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"reorder_and_upcast_attn": True}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("gpt2", {"n_inner": 48}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"rms_norm_eps": 1e-2}),
    ("llama", {"hidden_act": "gelu"}),
    ("llama", {"attention_bias": True}),
    ("llama", {"mlp_bias": True}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    ("llama", {"head_dim": 32}),
    ("qwen3", {"head_dim": 32}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}),
    (
        "qwen3",
        {
            "layer_types": ["full_attention", "sliding_attention"],
            "sliding_window": 4,
            "use_sliding_window": True,
        },
    ),
    ("qwen3", {"tie_word_embeddings": True}),
]
REFUSED = {
    "relu",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "hidden_act",
    "attention_bias",
    "mlp_bias",
    "linear",
    "use_sliding_window",
}


@pytest.mark.parametrize("family,options", OPTIONS, ids=str)
def test_an_option_is_computed_or_named(family, options, tmp_path):
    stock(family, tmp_path, **options)
    if (
        REFUSED & {*options, *(str(value) for value in options.values())}
        or "linear" in str(options)
        or (family, options) == ("gpt2", {"tie_word_embeddings": False})
    ):
        with pytest.raises(HanlinError, match="|".join(options)):
            load_model(tmp_path)
    else:
        agrees(tmp_path)


@pytest.mark.parametrize("family", SHAPES)
def test_what_a_config_leaves_out_is_what_transformers_takes(family, tmp_path):
    """Key by key: the model that transformers opens, or a refusal."""
    stock(family, tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    agrees(tmp_path)
    opened = 0
    for key in sorted(whole.keys() & MATTERS):
        (tmp_path / "config.json").write_text(
            json.dumps({name: value for name, value in whole.items() if name != key})
        )
        try:
            load_model(tmp_path)
        except HanlinError:
            continue
        agrees(tmp_path)
        opened += 1
    assert opened >= 3


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_heads_that_no_shape_shows(family, tmp_path):
    """Without these keys every tensor still has its shape; only the heads are cut otherwise."""
    stock(family, tmp_path, head_dim=128, num_attention_heads=32, num_key_value_heads=32)
    rewrite(tmp_path, {}, ("num_attention_heads", "num_key_value_heads"))
    agrees(tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_head_is_dropped_only_if_it_is_the_embedding(family, tmp_path):
    stock(family, tmp_path, tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    embedding = tensors["transformer.wte.weight" if family == "gpt2" else "model.embed_tokens.weight"]
    safetensors.torch.save_file(
        tensors | {"lm_head.weight": embedding.clone()}, file, metadata={"format": "pt"}
    )
    agrees(tmp_path)
    safetensors.torch.save_file(tensors | {"lm_head.weight": embedding + 1}, file, metadata={"format": "pt"})
    with pytest.raises(HanlinError, match="tie_word_embeddings"):
        load_model(tmp_path)


def test_what_a_checkpoint_computes_is_written_with_it(tmp_path):
    """A gpt2 of somebody's stays what it is when it is saved again here."""
    stock("gpt2", tmp_path, activation_function="gelu", layer_norm_epsilon=1e-2)
    (tmp_path / "again").mkdir()
    save_weights(load_model(tmp_path), tmp_path / "again")
    agrees(tmp_path / "again")


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(kind, tmp_path):
    save_weights(tiny_model("qwen3"), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"].to(kind)}, file)
    with pytest.raises(HanlinError, match=r"model\.norm\.weight"):
        load_model(tmp_path)


def test_half_precision_opens_as_float32_unless_asked(tmp_path):
    model = tiny_model("llama").to(torch.bfloat16)
    save_weights(model, tmp_path)
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}
    assert {p.dtype for p in load_model(tmp_path, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


INTEGERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)
WRONG: list[Any] = [
    *({name: value} for name in INTEGERS for value in (0, -1, 10**12, 10**30, "abc", 1.5, [], {}, True))
]
WRONG += [
    {"num_hidden_layers": 10**6},
    {"vocab_size": 2 * 10**7},
    {"hidden_size": 40960},
    {"max_position_embeddings": 10**9},
]
WRONG += [{name: value} for name in ("rms_norm_eps", "rope_theta") for value in (0, -1.0, "abc", [], True)]
WRONG += [
    {"architectures": value}
    for value in ("LlamaForCausalLM", [], [3], {}, ["Qwen3MoeForCausalLM"], ["LlamaModel"])
]
WRONG += [{"eos_token_id": value} for value in ([], "a", -1, [None])] + [
    {"tie_word_embeddings": "yes"},
    {"rope_parameters": [1]},
    {"layer_types": 3},
]


def test_a_malformed_config_is_refused_before_anything_is_allocated(tmp_path):
    """One directory, a hundred config.json: each is refused in words, and none costs memory."""
    model = tiny_model("llama", head_dim=16, tie_word_embeddings=False)
    save_weights(model, tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for change in [*WRONG, [], "a", 3, None]:
        (tmp_path / "config.json").write_text(
            json.dumps(whole | change if isinstance(change, dict) else change)
        )
        with pytest.raises(HanlinError) as refusal:
            load_model(tmp_path)
        assert "config.json" in refusal.value.en and "config.json" in refusal.value.zh, change
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize("family", ["gpt2"])
def test_a_malformed_gpt2_config_is_refused(family, tmp_path):
    save_weights(tiny_model(family), tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    for name in (
        "n_embd",
        "n_layer",
        "n_head",
        "n_inner",
        "n_positions",
        "layer_norm_epsilon",
        "activation_function",
    ):
        for value in (0, -1, "abc", [], {}, True, 10**30 if name.startswith("n_") else None):
            if value is None:  # as good as left out
                continue
            (tmp_path / "config.json").write_text(json.dumps(whole | {name: value}))
            with pytest.raises(HanlinError, match=r"config\.json"):
                load_model(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -1},
        {"top_p": 7},
        {"top_k": 1e308},
        {"top_k": 1.5},
        {"repetition_penalty": 0},
        {"min_p": "a"},
        {"temperature": True},
        [1],
        "a",
    ],
    ids=str,
)
def test_recommended_settings_out_of_range_are_known_when_the_model_is_opened(change, tmp_path):
    save_weights(tiny_model("qwen3"), tmp_path)
    assert read_generation_config(tmp_path) == {"temperature": 0.7, "top_p": 0.9}
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change if isinstance(change, dict) else change))
    for opens in (load_model, read_generation_config):
        with pytest.raises(HanlinError, match=r"generation_config\.json"):
            opens(tmp_path)


def test_settings_that_are_not_given(tmp_path):
    assert read_generation_config(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text(
        '{"do_sample": false, "temperature": 0.6, "top_k": null}'
    )
    assert read_generation_config(tmp_path) == {"temperature": 0.0}
