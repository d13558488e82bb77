"""`hanlin merge`, and an adapter's directory used as a model."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from hanlin.cli.main import main
from hanlin.common.errors import HanlinError
from hanlin.inference import load_chat_model
from hanlin.model import load_model
from hanlin.model.adapter_io import write_peft
from hanlin.model.lora import LoRA
from hanlin.model.peft_files import ADAPTER_WEIGHTS, read_adapter
from hanlin.pipeline.merge_adapter import merge_adapter
from hanlin.stages.base import content_hash, write_model
from tests.adapters.bench import stir
from tests.support import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A base, an adapter that was trained on it in 4 bits, and unseen texts."""
    folder = tmp_path_factory.mktemp("merge")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    base = tiny_model("qwen3", tokenizer)
    write_model(folder / "base", base, tokenizer, parents={}, config={}, seed=1, metrics={})
    LoRA(r=4, base="nf4").apply(base)
    (folder / "adapter").mkdir()
    write_peft(stir(base), folder / "adapter", folder / "base", content_hash(folder / "base"))
    lines = [json.dumps({"text": f"小明把第{n}本书给了小红。"}, ensure_ascii=False) for n in range(30)]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_what_was_trained_is_what_is_merged(places, tmp_path):
    trained = merge_adapter(places / "adapter", tmp_path / "a", "trained", text=[places / "texts.jsonl"])
    original = merge_adapter(places / "adapter", tmp_path / "b", "original", text=[places / "texts.jsonl"])
    assert trained["divergence"].value < 1e-6 and trained["agree"].value == 1
    assert original["divergence"].value > 100 * max(trained["divergence"].value, 1e-9)
    ids = torch.arange(24)[None]
    adapted, _ = load_chat_model(places / "adapter")
    assert torch.allclose(load_model(tmp_path / "a")(ids), adapted(ids), atol=1e-5)
    assert not torch.allclose(load_model(tmp_path / "b")(ids), adapted(ids), atol=1e-3)


def test_the_command(places, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    command = ["hanlin", "merge", str(places / "adapter"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [*command, "--text", str(places / "texts.jsonl")])
    main()
    assert "bits per token" in capsys.readouterr().out
    assert load_chat_model(tmp_path / "out")[0].config == load_model(places / "base").config


def test_another_base_and_a_file_cut_short_are_refused(places, tmp_path):
    _, tokenizer = load_chat_model(places / "base")
    other = tmp_path / "other"
    write_model(
        other, tiny_model("qwen3", tokenizer, seed=5), tokenizer, parents={}, config={}, seed=1, metrics={}
    )
    for onto in ("trained", "original"):
        with pytest.raises(HanlinError, match="another model"):
            merge_adapter(places / "adapter", tmp_path / "out", onto, base=other)
    short = tmp_path / "short"
    short.mkdir()
    for file in (places / "adapter").iterdir():
        content = file.read_bytes()
        (short / file.name).write_bytes(content[:-50] if file.name == ADAPTER_WEIGHTS else content)
    with pytest.raises(HanlinError, match="damaged or cut short"):
        merge_adapter(short, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert dataclasses.asdict(read_adapter(short))["quantization"] == "nf4"
