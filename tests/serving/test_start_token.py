"""A text prompt is the beginning of a document; ids and conversations are taken as they are."""

from __future__ import annotations

import dataclasses

import pytest

from hanlin.serving.completion_api import prompts_of
from hanlin.serving.schemas import CompletionRequest
from tests.support import tiny_model, tiny_tokenizer


@pytest.mark.parametrize("learnt", [True, False])
def test_text_follows_the_start_token_that_the_model_learnt(tmp_path, learnt):
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    model = tiny_model("qwen3", tokenizer)
    bos_id = tokenizer.eos_id if learnt else None
    model.config = dataclasses.replace(model.config, bos_token_id=bos_id)
    engine = type("Engine", (), {"model": model})
    service = type("Service", (), {"engine": engine, "tokenizer": tokenizer})
    before = [tokenizer.eos_id] if learnt else []
    body = CompletionRequest(model="m", prompt=["小明去了", ""])
    assert prompts_of(service, body) == [[*before, *tokenizer.encode("小明去了")], [tokenizer.eos_id]]
    assert prompts_of(service, CompletionRequest(model="m", prompt=[5, 6])) == [[5, 6]]
