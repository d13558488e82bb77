"""Adapters leave the house: llama.cpp with the base and the adapter computes what Hanlin does."""

from __future__ import annotations

import json
import shutil

import numpy
import pytest
import torch

from hanlin.cli import main
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import content_hash
from hanlin.export import export_gguf
from hanlin.export.adapter import export_gguf_adapter, export_peft_adapter
from hanlin.model import load_adapted, load_model
from hanlin.model.adapter_io import write_peft
from hanlin.model.lora import LoRA
from hanlin.model.low_rank import merge_low_rank
from hanlin.stages.base import write_model
from tests.adapters.bench import stir
from tests.llama import HAVE_LLAMA, WHY_NOT, LlamaServer
from tests.support import FAMILIES, tiny_model, tiny_tokenizer

needs_llama = pytest.mark.skipif(not HAVE_LLAMA, reason=WHY_NOT)
PROMPT = "小明在学校里"


def make(folder, family="qwen3", **adapter):
    """`base` and `low`, an adapter on it that adds something."""
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    model = tiny_model(family, tokenizer)
    write_model(folder / "base", model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    model = load_model(folder / "base")
    LoRA(r=4, alpha=24.0, **adapter).apply(model)
    (folder / "low").mkdir()
    write_peft(stir(model), folder / "low", folder / "base", content_hash(folder / "base"))
    tokenizer.save(folder / "low")
    return tokenizer


def command(monkeypatch, *arguments: str) -> None:
    """Run `hanlin ARGUMENTS`."""
    monkeypatch.setattr("sys.argv", ["hanlin", *arguments])
    main.main()


@needs_llama
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rslora", [False, True])
def test_llama_cpp_adds_what_we_add(tmp_path, family, rslora, monkeypatch):
    tokenizer = make(tmp_path, family, rslora=rslora)
    export_gguf(tmp_path / "base", tmp_path / "base.gguf")
    command(
        monkeypatch,
        "export",
        "adapter",
        str(tmp_path / "low"),
        "--to",
        "gguf",
        "--out",
        str(tmp_path / "low.gguf"),
    )
    ids = tokenizer.encode(PROMPT)
    server = LlamaServer(tmp_path / "base.gguf", size=tokenizer.vocab_size, adapters=(tmp_path / "low.gguf",))
    adapted = load_adapted(tmp_path / "low")
    with torch.no_grad():
        expected = adapted(torch.tensor([ids]))[0, -1].log_softmax(-1).numpy()
        without = load_model(tmp_path / "base")(torch.tensor([ids]))[0, -1].log_softmax(-1).numpy()
    found = server.log_probs(ids)
    known = ~numpy.isnan(found)
    assert known.sum() > tokenizer.vocab_size // 2
    numpy.testing.assert_allclose(found[known], expected[known], atol=1e-3)  # its GELU is a table
    assert abs(expected - without).max() > 0.05


def test_peft_opens_what_is_written_for_it(tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    import transformers

    make(tmp_path)
    command(monkeypatch, "export", "adapter", str(tmp_path / "low"), "--out", str(tmp_path / "theirs"))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    stock = peft.PeftModel.from_pretrained(base, tmp_path / "theirs")
    ids = torch.arange(12)[None]
    merged = load_adapted(tmp_path / "low")
    merge_low_rank(merged)
    with torch.no_grad():
        torch.testing.assert_close(stock(ids).logits, merged(ids), atol=1e-5, rtol=1e-5)


def test_the_directory_holds_what_peft_reads_and_names_the_base(tmp_path):
    make(tmp_path)
    export_peft_adapter(tmp_path / "low", tmp_path / "out", "someone/their-model")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "someone/their-model" and config["r"] == 4
    there = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"adapter_model.safetensors", "tokenizer.json"} <= there and "hanlin_adapter.json" not in there


def test_what_cannot_be_written_is_refused_and_nothing_is_lost(tmp_path):
    make(tmp_path, dora=True)
    with pytest.raises(HanlinError, match="DoRA"):
        export_gguf_adapter(tmp_path / "low", tmp_path / "low.gguf")
    assert not (tmp_path / "low.gguf").exists()
    make(tmp_path / "plain")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(HanlinError, match=r"no GGUF file"):
        export_gguf_adapter(tmp_path / "plain" / "low", tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    make(tmp_path / "other", "llama")
    for wrong, said in (("other/base", "another model"), ("nowhere", "not a model directory")):
        with pytest.raises(HanlinError, match=said):
            export_gguf_adapter(tmp_path / "plain" / "low", tmp_path / "x.gguf", tmp_path / wrong)
    weights = tmp_path / "plain" / "low" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    for write in (export_gguf_adapter, export_peft_adapter):
        with pytest.raises(HanlinError, match="cut short"):
            write(tmp_path / "plain" / "low", tmp_path / "cut")
    shutil.rmtree(tmp_path / "plain" / "low")
    with pytest.raises(HanlinError, match="no adapter directory"):
        export_gguf_adapter(tmp_path / "plain" / "low", tmp_path / "x.gguf")
