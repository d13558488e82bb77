"""Stages that begin from a model of others: trained with its own tokenizer and template, and published so
that transformers opens the result as it opened the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from hanlin.common.errors import HanlinError
from hanlin.inference.generate import load_chat_model
from hanlin.pipeline.merge_adapter import merge_adapter
from hanlin.pipeline.stage_command import run_stage
from hanlin.tokenizer.foreign import ForeignTokenizer, open_any
from tests.adapters.bench import PAIRS, STAGES, TALKS, write_stage
from tests.tokenizer.foreign_models import foreign_model

TALK = [{"role": "user", "content": "小猫在河边吗？"}, {"role": "assistant", "content": "小猫在河边钓鱼。"}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    for family in ("qwen3", "llama3", "llama2", "gpt2"):
        foreign_model(root / family / "base", family)
        for name, records in (("talks", TALKS), ("pairs", PAIRS)):
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            (root / family / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def folder(made, tmp_path):
    def of(family: str) -> Path:
        shutil.copytree(made / family, tmp_path, dirs_exist_ok=True)
        return tmp_path

    return of


@pytest.mark.parametrize("family", ["qwen3", "llama3", "llama2"])
@pytest.mark.parametrize("kind", list(STAGES))
def test_what_is_published_opens_as_the_base_did(folder, family, kind):
    root = folder(family)
    run_stage(kind, write_stage(root, kind, {"kind": "lora", "r": 4}), root / "out")
    ours = open_any(root / "out")
    assert isinstance(ours, ForeignTokenizer)
    assert ours.content_hash == open_any(root / "base").content_hash
    if kind == "reward_model":
        transformers.AutoModelForSequenceClassification.from_pretrained(root / "out")
        return
    theirs = transformers.AutoTokenizer.from_pretrained(root / "out")
    rendered = theirs.apply_chat_template(TALK, tokenize=False)
    assert rendered == ours.render(TALK)
    ids = theirs(rendered, add_special_tokens=False)["input_ids"]
    if family != "llama2":  # its blank is before each piece
        assert ids == ours.encode_conversation(TALK)[0]
    stock = transformers.AutoModelForCausalLM.from_pretrained(root / "out", dtype=torch.float32)
    model, _ = load_chat_model(root / "out")
    with torch.no_grad():
        expected = stock(torch.tensor([ids])).logits
        torch.testing.assert_close(model(torch.tensor([ids])), expected, atol=1e-4, rtol=1e-4)
        base, _ = load_chat_model(root / "base")
        assert (base(torch.tensor([ids])) - expected).abs().max() > 1e-3  # it has learnt something
    merge_adapter(root / "out.adapter", root / "again")
    again, _ = load_chat_model(root / "again")
    with torch.no_grad():
        torch.testing.assert_close(again(torch.tensor([ids])), expected, atol=1e-4, rtol=1e-4)


def test_a_base_without_a_template_cannot_learn_to_converse(folder):
    root = folder("gpt2")
    with pytest.raises(HanlinError, match="no chat template"):
        run_stage("sft", write_stage(root, "sft", None), root / "out")
    assert not (root / "out").exists()


def test_ids_of_a_padded_vocabulary_spell_nothing(made):
    tokenizer = open_any(made / "qwen3" / "base")
    assert tokenizer.decode([tokenizer.vocab_size, *tokenizer.encode("小猫")]) == "小猫"
    with pytest.raises(HanlinError, match="not in the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size + 24])
