"""The GGUF of a model is the model: llama.cpp and transformers, which read it each in its own way, compute
what Hanlin does."""

from __future__ import annotations

import functools
import json
import math
import os
import random
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin.cli import main
from hanlin.common.errors import HanlinError
from hanlin.export import check_export, export_gguf
from hanlin.inference import Engine, SamplingParams
from hanlin.model import ModelConfig, load_model
from hanlin.stages.base import write_model
from hanlin.tokenizer import load_tokenizer
from tests.llama import HAVE_LLAMA, WHY_NOT, LlamaServer, LlamaVocabulary
from tests.support import FAMILIES, TEXTS, tiny_model, tiny_tokenizer

needs_llama = pytest.mark.skipif(not HAVE_LLAMA, reason=WHY_NOT)


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, tmp_path_factory) -> Path:
    """A directory with `model` and `model.gguf`."""
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The same of one family, for what knows no family."""
    return make("qwen3", tmp_path_factory.mktemp("one"))


def make(family: str, folder: Path) -> Path:
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    model = tiny_model(family, tokenizer)
    write_model(folder / "model", model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    export_gguf(folder / "model", folder / "model.gguf")
    return folder


@functools.cache
def _tokenizer(folder: Path):
    return load_tokenizer(folder / "model")


@functools.cache
def _vocabulary(folder: Path) -> LlamaVocabulary:
    return LlamaVocabulary(folder / "model.gguf")


@functools.cache
def _server(folder: Path) -> LlamaServer:
    return LlamaServer(folder / "model.gguf", size=_tokenizer(folder).vocab_size)


@needs_llama
def test_llama_cpp_gives_our_ids(exported):
    for text in TEXTS:
        assert _vocabulary(exported).ids(text.encode()).tolist() == _tokenizer(exported).encode(text), repr(
            text
        )


@needs_llama
@given(st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_llama_cpp_gives_our_ids_on_fuzz(exported, text):
    """All of Unicode but code points unassigned in Python's tables: newer ones are classed differently by
    llama.cpp's own."""
    assert _vocabulary(exported).ids(text.encode()).tolist() == _tokenizer(exported).encode(text)


@needs_llama
def test_llama_cpp_gives_our_probabilities(exported):
    """Of every token, after prompts of several lengths; the largest difference is far below what could
    change a choice that is no tie."""
    model, tokenizer = load_model(exported / "model"), _tokenizer(exported)
    for text in TEXTS[:4]:
        ids = tokenizer.encode(text)[:100]
        with torch.no_grad():
            ours = model(torch.tensor([ids]))[0].log_softmax(-1).numpy()
        for length in (1, 2, len(ids) // 2, len(ids)):
            theirs = _server(exported).log_probs(ids[:length])
            # llama.cpp looks GELU up in a half-precision table, so GPT-2 agrees less closely than the others.
            assert numpy.abs(ours[length - 1] - theirs).max() < (
                2e-3 if model.config.family == "gpt2" else 1e-4
            )


@needs_llama
def test_greedy_continuations_are_equal(exported):
    """Promised: at least 95 % of 200 prompts; what differs are ties within rounding. Neither may end its
    turn."""
    model, tokenizer = load_model(exported / "model"), _tokenizer(exported)
    rng = random.Random(7)
    alphabet = "小明红在学校公园读书给了一本，。12加等于"
    prompts = [
        tokenizer.encode("".join(rng.choice(alphabet) for _ in range(rng.randint(3, 20)))) for _ in range(200)
    ]
    never = {tokenizer.im_end_id: -math.inf, tokenizer.eos_id: -math.inf}
    ours = Engine(model, (), max_batch=64).generate(
        prompts, SamplingParams(temperature=0.0, max_new_tokens=12, logit_bias=never)
    )
    equal = sum(
        _server(exported).greedy(prompt, 12) == completion.ids
        for prompt, completion in zip(prompts, ours, strict=True)
    )
    assert equal >= 190, equal


@needs_llama
def test_llama_cpp_renders_our_template(exported):
    """Its Jinja is another one than transformers'; with the reasoning of the last turn, which is shown, and
    of one before."""
    messages = [
        {"role": "system", "content": "简短"},
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "二", "reasoning_content": "早先的想法"},
        {"role": "user", "content": "天气？<|im_end|>"},
    ]
    ours = {_tokenizer(exported).render(messages, True, thinking) for thinking in (None, True, False)}
    assert _server(exported).render(messages) in ours


def test_transformers_reads_the_same_model(exported):
    """Its GGUF reader puts weights and rotations back by rules of its own."""
    transformers = pytest.importorskip("transformers")
    read = pytest.importorskip("transformers.modeling_gguf_pytorch_utils").load_gguf_checkpoint
    config = read(str(exported / "model.gguf"))["config"]
    if config["model_type"] == "gpt2":  # these it leaves at their defaults
        config["n_positions"] = config["n_ctx"]
    else:
        config["head_dim"] = fields(exported / "model.gguf")[f"{config['model_type']}.attention.key_length"]
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config)).eval()
    tensors = read(str(exported / "model.gguf"), return_tensors=True, model_to_load=theirs)["tensors"]
    lacking, unknown = theirs.load_state_dict(
        {name: torch.as_tensor(tensor) for name, tensor in tensors.items()}, strict=False
    )
    assert set(lacking) <= {"lm_head.weight"} and not unknown
    theirs.tie_weights()
    ids = torch.tensor([_tokenizer(exported).encode("".join(TEXTS))[:100]])
    with torch.no_grad():
        assert (load_model(exported / "model")(ids) - theirs(ids).logits).abs().max() < 1e-4


def fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def test_control_tokens_and_their_roles(exported):
    """A turn ends with <|im_end|>; <|endoftext|> pads. All control tokens are of the kind that a text cannot
    spell."""
    tokenizer, found = _tokenizer(exported), fields(exported / "model.gguf")
    assert found["tokenizer.ggml.eos_token_id"] == found["tokenizer.ggml.eot_token_id"] == tokenizer.im_end_id
    assert (
        found["tokenizer.ggml.padding_token_id"] == found["tokenizer.ggml.bos_token_id"] == tokenizer.eos_id
    )
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.ggml.token_type"] == [1] * tokenizer.vocabulary.ordinary + [3] * len(
        tokenizer.special
    )


@pytest.mark.parametrize("dtype,kind", [("f32", "ALL_F32"), ("f16", "MOSTLY_F16"), ("q8_0", "MOSTLY_Q8_0")])
def test_the_file_says_what_its_weights_are(one, tmp_path, dtype, kind):
    """`general.file_type` names the type that most weights have, and quantised ones name the version of
    their blocks."""
    file = export_gguf(one / "model", tmp_path / "m.gguf", dtype)
    found = fields(file)
    assert found["general.file_type"] == gguf.LlamaFileType[kind]
    assert found.get("general.quantization_version") == (gguf.GGML_QUANT_VERSION if dtype == "q8_0" else None)
    count: dict[str, int] = {}
    for tensor in gguf.GGUFReader(file).tensors:
        count[tensor.tensor_type.name] = count.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    assert max(count, key=lambda name: count[name]) == dtype.upper()


# ------------------------------------------------------------------ refusals


def complaint(monkeypatch, capsys, *arguments: object) -> str:
    capsys.readouterr()
    monkeypatch.setenv("HANLIN_LANG", "en")
    monkeypatch.setattr("sys.argv", ["hanlin", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def _tensors(change):
    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = safetensors.torch.load_file(file)
        change(tensors)
        safetensors.torch.save_file(tensors, file)

    return apply


def _config(**change: Any):
    def apply(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))

    return apply


def _fifo(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


EMBEDDING = "model.embed_tokens.weight"
DAMAGE = {
    "missing": (_tensors(lambda t: t.pop(EMBEDDING)), EMBEDDING),
    "cut": (_tensors(lambda t: t.update({EMBEDDING: t[EMBEDDING][:10].clone()})), EMBEDDING),
    "extra": (_tensors(lambda t: t.update({"x": torch.zeros(1)})), "x should be absent"),
    "nan": (_tensors(lambda t: t["model.norm.weight"].fill_(float("nan"))), "model.norm.weight"),
    "infinite": (_tensors(lambda t: t[EMBEDDING][3, 3].fill_(float("inf"))), EMBEDDING),
    "integers": (_tensors(lambda t: t.update({EMBEDDING: t[EMBEDDING].to(torch.int8)})), EMBEDDING),
    "truncated": (lambda folder: os.truncate(folder / "model.safetensors", 1000), "model.safetensors"),
    "garbage": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100),
        "model.safetensors",
    ),
    "fifo": (_fifo, "model.safetensors"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "head_dim 0": (_config(head_dim=0), "head_dim"),
    "head_dim 12": (_config(head_dim=12), "head_dim"),
    "vocab": (_config(vocab_size=10**12), "vocab_size"),
    "vocab + 1": (_config(vocab_size=401), "vocab_size"),
    "eos": (_config(eos_token_id=3), "eos_token_id"),
    "hidden": (_config(hidden_size=40960), "config.json"),
    "layers": (_config(num_hidden_layers=2000), "layers.2."),
    "negative": (_config(intermediate_size=-5), "intermediate_size"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_model_that_does_not_fit_together_is_refused(one, tmp_path, monkeypatch, capsys, damage):
    """A directory without manifest, as edited or downloaded; what was at --out stays as it was."""
    shutil.copytree(one / "model", tmp_path / "m")
    (tmp_path / "m" / "manifest.json").unlink()
    (tmp_path / "m.gguf").write_bytes(b"GGUF before")
    apply, named = DAMAGE[damage]
    apply(tmp_path / "m")
    assert named in complaint(
        monkeypatch, capsys, "export", "gguf", tmp_path / "m", "--out", tmp_path / "m.gguf"
    )
    assert (tmp_path / "m.gguf").read_bytes() == b"GGUF before" and sorted(os.listdir(tmp_path)) == [
        "m",
        "m.gguf",
    ]


def test_only_a_gguf_is_replaced(one, tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.txt").write_text("thesis")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "device")
    for name in ("thesis.txt", "folder", "device"):
        assert name in complaint(
            monkeypatch, capsys, "export", "gguf", one / "model", "--out", tmp_path / name
        )
    assert (tmp_path / "thesis.txt").read_text() == "thesis" and len(os.listdir(tmp_path)) == 3
    for _ in range(2):
        main.app(["export", "gguf", str(one / "model"), "--out", str(tmp_path / "m.gguf")])
    assert (tmp_path / "m.gguf").read_bytes() == (one / "model.gguf").read_bytes()


def test_a_full_disk_is_named_with_the_file(one, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError("25600 requested and 22272 written")  # what numpy says

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    assert "m.gguf" in complaint(
        monkeypatch, capsys, "export", "gguf", one / "model", "--out", tmp_path / "m.gguf"
    )
    assert not os.listdir(tmp_path)


def test_impossible_shapes_are_refused_before_training(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    good: dict[str, Any] = dict(
        vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos_id, hidden_size=64, num_attention_heads=4
    )
    check_export(ModelConfig(**good), tokenizer)
    for change in (
        {"vocab_size": tokenizer.vocab_size + 1},
        {"eos_token_id": 3},
        {"head_dim": 12},
        {"family": "gpt2", "activation_function": "gelu"},
    ):
        with pytest.raises(HanlinError):
            check_export(ModelConfig(**(good | change)), tokenizer)
