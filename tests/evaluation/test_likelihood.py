"""Bits per byte: equal to the chain rule token by token, however documents are batched, packed or
windowed."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.dataset import build_conversation_dataset, build_text_dataset
from hanlin.evaluation import (
    NGramModel,
    answer_bits_per_byte,
    batches,
    bits_per_byte,
    likelihood,
    ngram_bits_per_byte,
    ngram_name,
)
from hanlin.evaluation.likelihood import document_bits, encode_documents, sliding_windows
from tests.support import FAMILIES, TEXTS, tiny_model, tiny_tokenizer

torch.set_num_threads(1)  # at these sizes a second thread costs more than it brings
DOCUMENTS = [{"text": text * (1 + i % 3), "source": ("故事", "题目")[i % 2]} for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("t") / "tokenizer")


@torch.no_grad()
def chain_rule(model, ids: np.ndarray, context: int) -> float:
    """Bits of a document's tokens but the first, one forward pass for each, over the window that ought to be
    seen."""
    total = 0.0
    for at in range(1, len(ids)):
        # Beyond the first window, half a context at a time is scored from the window that ends with it.
        end = (
            at
            if at <= context
            else min(context + math.ceil((at - context) / (context // 2)) * (context // 2), len(ids) - 1)
        )
        first = max(0, end - context)
        logits = model(torch.from_numpy(ids[None, first:at]))[0, -1].double()
        total -= float(logits.log_softmax(-1)[ids[at]]) / math.log(2)
    return total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("context", [16, 64])
def test_equals_the_chain_rule(tokenizer, family, context):
    model = tiny_model(family, tokenizer)
    ids, _ = encode_documents(tokenizer, DOCUMENTS)
    assert max(map(len, ids)) > 2 * 16 and min(map(len, ids)) <= 3
    expected = [chain_rule(model, row, context) for row in ids]
    np.testing.assert_allclose(document_bits(model, ids, context=context), expected, rtol=2e-5)


def test_batches_and_neighbours_change_nothing(tokenizer, monkeypatch):
    model = tiny_model("qwen3", tokenizer)
    ids, _ = encode_documents(tokenizer, DOCUMENTS)
    together = document_bits(model, ids)
    alone = np.concatenate([document_bits(model, [row]) for row in ids])
    monkeypatch.setattr(batches, "CPU_TOKENS", 50)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_allclose(document_bits(model, ids), alone, rtol=1e-5)


@pytest.mark.parametrize("context", [1, 2, 7, 8, 100])
def test_windows_predict_every_token_but_the_first_once_with_half_a_context(context):
    for length in range(0, 60):
        windows = sliding_windows(length, context)
        predicted = [at for _, scored, end in windows for at in range(scored + 1, end + 1)]
        assert predicted == list(range(1, length))
        for first, scored, end in windows:
            assert 0 <= first <= scored < end < length and end - first <= context
            assert first == 0 or scored + 1 - first >= context // 2


def test_totals_are_bits_over_bytes_with_the_first_token_left_out(tokenizer):
    model = tiny_model("qwen3", tokenizer)
    scores = bits_per_byte(model, tokenizer, DOCUMENTS)
    ids, sizes = encode_documents(tokenizer, DOCUMENTS)
    for document, row, size in zip(DOCUMENTS, ids, sizes, strict=True):
        assert row[-1] == tokenizer.eos_id
        assert size == len(document["text"].encode()) - len(tokenizer.decode_bytes(row[:1].tolist()))
    bits = document_bits(model, ids)
    assert scores["all"].value == pytest.approx(bits.sum() / sizes.sum())
    assert set(scores) == {"all", "故事", "题目"}
    assert scores["故事"].n + scores["题目"].n == scores["all"].n == len(DOCUMENTS)
    assert not scores["all"].higher_is_better


def test_the_first_token_counts_where_the_model_was_trained_to_predict_it(tokenizer):
    model = tiny_model("qwen3", tokenizer)
    with pytest.raises(HanlinError, match="no start token"):
        bits_per_byte(model, tokenizer, DOCUMENTS, convention="document")
    model.config = dataclasses.replace(model.config, bos_token_id=tokenizer.eos_id)
    ids = [
        np.array([tokenizer.eos_id, *tokenizer.encode(document["text"]), tokenizer.eos_id])
        for document in DOCUMENTS
    ]
    size = sum(len(document["text"].encode()) for document in DOCUMENTS)
    with_first = sum(chain_rule(model, row, 512) for row in ids)
    assert bits_per_byte(model, tokenizer, DOCUMENTS)["all"].value == pytest.approx(with_first / size)
    assert bits_per_byte(model, tokenizer, DOCUMENTS, convention="document") == bits_per_byte(
        model, tokenizer, DOCUMENTS
    )
    first = sum(chain_rule(model, row[:2], 512) for row in ids)
    spared = sum(len(tokenizer.decode_bytes(row[1:2].tolist())) for row in ids)
    without = bits_per_byte(model, tokenizer, DOCUMENTS, convention="continuation")["all"]
    assert without.value == pytest.approx((with_first - first) / (size - spared))


def test_a_model_that_knows_nothing_needs_the_vocabulary_s_bits_for_every_token(tokenizer):
    model = tiny_model("qwen3", tokenizer)
    with torch.no_grad():
        model.head.weight.zero_()
    ids, sizes = encode_documents(tokenizer, DOCUMENTS)
    expected = sum(len(row) - 1 for row in ids) * math.log2(tokenizer.vocab_size) / sizes.sum()
    assert bits_per_byte(model, tokenizer, DOCUMENTS)["all"].value == pytest.approx(expected, rel=1e-6)


def test_the_control_counts_the_same_tokens_over_the_same_bytes(tokenizer, tmp_path, monkeypatch):
    training = build_text_dataset(DOCUMENTS * 5, tokenizer, tmp_path / "dataset")
    control = ngram_bits_per_byte(training, tokenizer, DOCUMENTS)
    ids, sizes = encode_documents(tokenizer, DOCUMENTS)
    fitted = NGramModel(tokenizer.vocab_size).fit(ids * 5)
    whole = sum(len(document["text"].encode()) for document in DOCUMENTS)
    assert control.value == pytest.approx(fitted.bits(ids).sum() / whole)
    without = ngram_bits_per_byte(training, tokenizer, DOCUMENTS, convention="continuation")
    assert without.value == pytest.approx(fitted.bits(ids, skip=1).sum() / sizes.sum())
    assert control.n == len(DOCUMENTS) and control.value < 1
    assert ngram_name(training) == "5-gram"
    monkeypatch.setattr(likelihood, "CONTROL_TOKENS", len(training.tokens) // 3)
    counted = sum(
        len(training.document(index))
        for index in range(0, len(training), math.ceil(len(training.tokens) / likelihood.CONTROL_TOKENS))
    )
    assert ngram_name(training) == f"5-gram on {counted} tokens"
    assert ngram_bits_per_byte(training, tokenizer, DOCUMENTS).value > control.value


def test_files_are_measured_as_their_documents_are(tokenizer, tmp_path):
    from hanlin.corpus.readers.read import read_documents
    from hanlin.evaluation.likelihood import bits_per_byte_of_files
    from hanlin.model.checkpoint_io import save_weights

    model = tiny_model("qwen3", tokenizer)
    (tmp_path / "model").mkdir()
    save_weights(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    file, whole = tmp_path / "texts.jsonl", [document for document in DOCUMENTS if document["text"].strip()]
    file.write_text(
        "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in whole), encoding="utf-8"
    )
    found = bits_per_byte_of_files(tmp_path / "model", [file], 500)
    whole = list(read_documents([str(file)]))  # as the reader hands them on
    assert len(whole) > 3
    wanted = bits_per_byte(model, tokenizer, whole)
    assert found["bits_per_byte"].value == pytest.approx(wanted["all"].value, rel=1e-5) and found[
        "bits_per_byte"
    ].n == len(whole)
    assert found["bits_per_byte/故事"].value == pytest.approx(wanted["故事"].value, rel=1e-5)
    assert bits_per_byte_of_files(tmp_path / "model", [file], 3)["bits_per_byte"].n == 3
    with pytest.raises(HanlinError, match="--count"):
        bits_per_byte_of_files(tmp_path / "model", [file], 0)


def test_answers_alone_are_counted(tokenizer, tmp_path):
    model = tiny_model("qwen3", tokenizer)
    records = [
        {"messages": [{"role": "user", "content": TEXTS[i]}, {"role": "assistant", "content": TEXTS[i + 1]}]}
        for i in range(4)
    ]
    dataset = build_conversation_dataset(records, tokenizer, tmp_path / "chats", max_length=200)
    bits = said = 0.0
    for record in records:
        ids, mask = tokenizer.encode_conversation(record["messages"])
        with torch.no_grad():
            logs = model(torch.tensor([ids]))[0].double().log_softmax(-1)
        bits -= sum(float(logs[at - 1, ids[at]]) for at in range(1, len(ids)) if mask[at]) / math.log(2)
        said += len(record["messages"][1]["content"].encode())
    metric = answer_bits_per_byte(model, tokenizer, dataset)
    assert metric.value == pytest.approx(bits / said, rel=1e-5) and metric.n == 4
    with pytest.raises(ValueError):
        answer_bits_per_byte(model, tokenizer, build_text_dataset(DOCUMENTS, tokenizer, tmp_path / "texts"))


def test_another_tokenizer_s_data_are_refused(tokenizer, tmp_path):
    other = tiny_tokenizer(tmp_path / "other", vocab_size=350)
    with pytest.raises(HanlinError):
        ngram_bits_per_byte(build_text_dataset(DOCUMENTS, other, tmp_path / "dataset"), tokenizer, DOCUMENTS)


def test_training_mode_is_given_back(tokenizer):
    model = tiny_model("qwen3", tokenizer).train()
    bits_per_byte(model, tokenizer, DOCUMENTS)
    assert model.training
