"""The GGUF of a model is the model: llama.cpp gives the same ids and the same greedy continuations."""

from __future__ import annotations

import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.export import check_export, export_gguf
from hanlin.model import ModelConfig, load_model
from hanlin.stages.supervised import write_model
from hanlin.tokenizer import load_tokenizer
from tests.support import FAMILIES, TEXTS, tiny_model, tiny_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: the GGUF is not run here (pip install llama-cpp-python)")


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    model = tiny_model(request.param, tokenizer)
    write_model(folder / "model", model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    file = export_gguf(folder / "model", folder / "model.gguf")
    return folder / "model", llama_cpp.Llama(str(file), n_ctx=256, n_threads=2, logits_all=True, verbose=False, type_k=0, type_v=0)


def test_llama_cpp_gives_our_ids(exported):
    path, llama = exported
    tokenizer = load_tokenizer(path)
    for text in TEXTS:
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), repr(text)


def test_llama_cpp_gives_our_logits(exported):
    """The largest logit difference is far below what could change a greedy choice that is not a tie."""
    path, llama = exported
    model, tokenizer = load_model(path), load_tokenizer(path)
    for text in TEXTS[:6]:
        ids = tokenizer.encode(text)[:100] or [5]
        llama.reset()
        llama.eval(ids)
        theirs = torch.tensor(llama.scores[: len(ids)])
        with torch.no_grad():
            ours = model(torch.tensor([ids]))[0]
        # llama.cpp looks GELU up in a half-precision table, so GPT-2 agrees less closely than the others.
        assert (ours - theirs).abs().max() < (2e-3 if model.config.family == "gpt2" else 1e-4)


def test_impossible_shapes_are_refused_before_training(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    good = dict(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos_id, hidden_size=64, num_attention_heads=4)
    check_export(ModelConfig(**good), tokenizer)
    for change in ({"vocab_size": tokenizer.vocab_size + 1}, {"eos_token_id": 3}, {"head_dim": 12}):
        with pytest.raises(HanlinError):
            check_export(ModelConfig(**(good | change)), tokenizer)
