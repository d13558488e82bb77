"""Nothing is lost and nothing padded: every token of every document is read once an epoch, in an order that
is arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact
from hanlin.dataset import (
    IGNORE_INDEX,
    Batch,
    ConversationRows,
    TextRows,
    TokenDataset,
    TokenDatasetWriter,
    build_conversation_dataset,
    build_text_dataset,
    pack_sequences,
    permutation,
    too_long_warning,
)
from hanlin.dataset.packing import pack_best_fit
from hanlin.tokenizer import texts
from tests.support import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "t")


def write(path, documents, masks=None, vocab_size=1000):
    with artifact(path, "dataset", config={"tokenizer": "t"}) as written:
        writer = TokenDatasetWriter(written.path, vocab_size, masked=masks is not None)
        for index, ids in enumerate(documents):
            writer.add(ids, None if masks is None else masks[index])
        writer.close()
    return TokenDataset(path)


@pytest.mark.parametrize("vocab_size", [1000, 1 << 17])
def test_the_index_is_megatrons(tmp_path, vocab_size):
    """Read back by the published layout, not by our reader."""
    documents = [[1, 2, 3], [4], [5, 6]]
    write(tmp_path / "d", documents, vocab_size=vocab_size)
    data = (tmp_path / "d" / "tokens.idx").read_bytes()
    assert data[:9] == b"MMIDIDX\x00\x00"
    version, code, count, docs = (
        np.frombuffer(data, t, 1, o)[0] for t, o in (("<u8", 9), ("u1", 17), ("<u8", 18), ("<u8", 26))
    )
    assert (version, code, count, docs) == (1, 8 if vocab_size <= 1 << 16 else 4, 3, 4)
    sizes = np.frombuffer(data, "<i4", 3, 34)
    pointers = np.frombuffer(data, "<i8", 3, 46)
    assert sizes.tolist() == [3, 1, 2]
    width = 2 if code == 8 else 4
    assert pointers.tolist() == [0, 3 * width, 4 * width]
    assert np.frombuffer(data, "<i8", 4, 70).tolist() == [0, 1, 2, 3]


def test_every_token_of_every_document_once_an_epoch(tmp_path):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 900, rng.integers(1, 90)).tolist() for _ in range(57)]
    rows = TextRows(write(tmp_path / "d", documents), seq_len=32, seed=7)
    for epoch in range(2):
        first = sum(rows.rows_in_epoch(e) for e in range(epoch))
        seen: dict[int, list[int]] = {}
        predicted = 0
        for sample in range(first, first + rows.rows_in_epoch(epoch)):
            batch = rows.batch([sample])
            predicted += batch.num_loss_tokens
            for place in range(32):
                owner = int(batch.doc_ids[0, place])
                if owner >= 0:
                    seen.setdefault(batch.documents[owner], []).append(int(batch.ids[0, place]))
        # the rows of a document longer than a row come in any order
        assert {document: sorted(tokens) for document, tokens in seen.items()} == {
            i: sorted(d) for i, d in enumerate(documents)
        }
        assert predicted == sum(len(d) - 1 for d in documents)  # all but each document's first token


def test_after_a_start_token_every_token_of_every_document_is_learnt(tmp_path):
    rng = np.random.default_rng(0)
    documents = [[*rng.integers(2, 900, rng.integers(1, 90)).tolist(), 1] for _ in range(57)]
    dataset = write(tmp_path / "d", documents)
    rows, plain = TextRows(dataset, seq_len=32, seed=7, bos_id=1), TextRows(dataset, seq_len=32, seed=7)
    assert rows.rows_in_epoch() == plain.rows_in_epoch()  # it takes the place of the end as an input
    assert rows.identity() != plain.identity()
    learnt: dict[int, list[int]] = {}
    for sample in range(rows.rows_in_epoch()):
        batch = rows.batch([sample])
        for place in range(32):
            owner = int(batch.doc_ids[0, place])
            if owner < 0:
                assert int(batch.labels[0, place]) == IGNORE_INDEX
                continue
            document, read = documents[batch.documents[owner]], int(batch.ids[0, place])
            label = int(batch.labels[0, place])
            learnt.setdefault(batch.documents[owner], []).append(label)
            if place and int(batch.doc_ids[0, place - 1]) == owner:
                assert read == int(batch.labels[0, place - 1])
            pairs = list(zip([1, *document], document, strict=False))
            assert (read, label) in pairs
    assert {document: sorted(tokens) for document, tokens in learnt.items()} == {
        i: sorted(d) for i, d in enumerate(documents)
    }


def test_a_long_document_does_not_fill_neighbouring_rows(tmp_path):
    documents = [[1] * 3200, *([2] * 10 for _ in range(320))]
    rows = TextRows(write(tmp_path / "d", documents), seq_len=32, seed=0)
    long = [bool((rows.batch([sample]).ids == 1).any()) for sample in range(rows.rows_in_epoch())]
    runs = max(len(run) for run in "".join("x" if is_long else " " for is_long in long).split())
    assert sum(long) >= 100 and runs < 20


def test_labels_are_the_next_token_of_the_same_document(tmp_path):
    documents = [list(range(i * 100, i * 100 + 40)) for i in range(9)]
    rows = TextRows(write(tmp_path / "d", documents), seq_len=64, seed=1)
    for sample in range(rows.rows_in_epoch()):
        batch = rows.batch([sample])
        learned = batch.labels != IGNORE_INDEX
        assert torch.equal(batch.labels[learned], batch.ids[learned] + 1)
        for place in range(64):
            if batch.labels[0, place] == IGNORE_INDEX and batch.doc_ids[0, place] >= 0:
                assert batch.ids[0, place] % 100 == 39


def test_conversations_stay_whole_and_only_answers_are_learned(tmp_path):
    rng = np.random.default_rng(1)
    lengths = rng.integers(2, 60, 300)
    documents = [[int(i)] * int(n) for i, n in enumerate(lengths)]
    masks = [rng.integers(0, 2, n).tolist() for n in lengths]
    data = write(tmp_path / "d", documents, masks)
    rows = ConversationRows(data, seq_len=64, seed=3)
    seen = []
    for sample in range(rows.rows_in_epoch()):
        batch = rows.batch([sample])
        for owner, document in enumerate(batch.documents):
            place = batch.doc_ids[0] == owner
            assert batch.ids[0][place].tolist() == documents[document]
            expected = [document if m else IGNORE_INDEX for m in masks[document][1:]] + [IGNORE_INDEX]
            assert batch.labels[0][place].tolist() == expected
            seen.append(document)
    assert sorted(seen) == list(range(300))
    assert rows.rows_in_epoch() <= 1.05 * np.ceil(lengths.sum() / 64)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200))
@settings(max_examples=50, deadline=None)
def test_best_fit_loses_nothing_and_overflows_nothing(lengths):
    bins = pack_best_fit(np.arange(len(lengths)), np.asarray(lengths), 50)
    assert sorted(i for members in bins for i in members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= 50 for members in bins)


@given(st.integers(1, 500), st.integers(0, 2**31), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_permutations_are_permutations(count, seed, epoch):
    order = permutation(count, seed, epoch)
    assert sorted(order.tolist()) == list(range(count))
    assert order.tolist() == permutation(count, seed, epoch).tolist()


def test_the_order_is_fixed_for_ever():
    """A change here changes what every resumed run would see."""
    assert permutation(10, 1, 0).tolist() == [8, 9, 3, 0, 7, 5, 4, 6, 2, 1]
    assert (
        permutation(1000, 1, 0).tolist()
        != permutation(1000, 1, 1).tolist()
        != permutation(1000, 2, 1).tolist()
    )


def said(tokenizer, data):
    """What each document teaches, and what precedes it."""
    found = []
    for index in range(len(data)):
        ids, mask = data.document(index).tolist(), data.mask[data.starts[index] : data.starts[index + 1]]
        first = int(np.flatnonzero(mask)[0])
        found.append(
            (
                tokenizer.decode(ids[:first]),
                tokenizer.decode([i for i, learn in zip(ids, mask, strict=True) if learn]),
            )
        )
    return found


def turns(*replies):
    """A conversation; a reply is its text, or (reasoning, text)."""
    messages = []
    for number, reply in enumerate(replies):
        messages.append({"role": "user", "content": f"问{number}"})
        both = (
            {"content": reply}
            if isinstance(reply, str)
            else {"reasoning_content": reply[0], "content": reply[1]}
        )
        messages.append({"role": "assistant", **both})
    return {"messages": messages}


def test_every_thought_of_a_conversation_is_learnt_before_its_answer(tmp_path, tokenizer):
    """As many documents as thoughts; no answer is learnt where its own thought is not shown."""
    data = build_conversation_dataset(
        [turns(("想0", "答0"), ("想1", "答1"), ("想2", "答2"))], tokenizer, tmp_path / "d", max_length=256
    )
    found = said(tokenizer, data)
    assert [learnt for _, learnt in found] == [f"<think>\n想{n}\n</think>\n答{n}<|im_end|>" for n in range(3)]
    # context as the template shows it
    assert "答0" in found[2][0] and "答1" in found[2][0] and "想0" not in found[2][0]
    metrics = data.manifest.metrics
    assert (metrics["conversations"], metrics["documents"], metrics["rounds_apart"]) == (1, 3, 2)


def test_rounds_without_thoughts_are_learnt_from_the_whole(tmp_path, tokenizer):
    data = build_conversation_dataset(
        [turns("答0", ("想1", "答1"), "答2")], tokenizer, tmp_path / "d", max_length=256
    )
    assert [learnt for _, learnt in said(tokenizer, data)] == [
        "<think>\n想1\n</think>\n答1<|im_end|>",
        "答0<|im_end|>答2<|im_end|>",
    ]


def test_conversations_without_thoughts_are_one_document_each(tmp_path, tokenizer):
    data = build_conversation_dataset(
        [turns("答0", "答1", "答2"), turns(("想", "答"))], tokenizer, tmp_path / "d", max_length=256
    )
    assert [learnt for _, learnt in said(tokenizer, data)] == [
        "答0<|im_end|>答1<|im_end|>答2<|im_end|>",
        "<think>\n想\n</think>\n答<|im_end|>",
    ]
    assert data.manifest.metrics["rounds_apart"] == 0


def test_a_round_is_learnt_with_its_calls_and_results(tmp_path, tokenizer):
    call = {"name": "f", "arguments": {}}
    record = turns("答0", ("后", "答1"))
    record["messages"][1:2] = [
        {"role": "assistant", "reasoning_content": "先想", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "晴"},
        {"role": "assistant", "content": "晴天"},
    ]
    data = build_conversation_dataset(
        [record | {"tools": [{"name": "f"}]}], tokenizer, tmp_path / "d", max_length=512
    )
    (before, first), (_, second) = said(tokenizer, data)
    assert (
        first.startswith("<think>\n先想")
        and first.endswith("晴天<|im_end|>")
        and second == "<think>\n后\n</think>\n答1<|im_end|>"
    )
    assert '{"name": "f"}' in before  # what the record says of its tools is shown


def test_another_tokenizer_is_refused(tmp_path, tokenizer):
    data = build_text_dataset([{"text": "小明在学校。"}], tokenizer, tmp_path / "d")
    data.require_tokenizer(tokenizer)
    other = tiny_tokenizer(tmp_path / "other", vocab_size=350)
    with pytest.raises(HanlinError, match=other.content_hash[:12]):
        data.require_tokenizer(other)


def test_too_long_conversations_are_counted_not_cut(tmp_path, tokenizer):
    chats = [
        [{"role": "user", "content": "小明" * n}, {"role": "assistant", "content": "好。"}] for n in (1, 200)
    ]
    data = build_conversation_dataset(
        [{"messages": m} for m in chats], tokenizer, tmp_path / "d", max_length=64
    )
    assert len(data) == 1 and data.manifest.metrics["too_long"] == 1
    (example,) = data.manifest.metrics["too_long_examples"]
    assert "小明" * 20 in example
    said = too_long_warning(data)
    assert "小明" in said.zh and "小明" in said.en and "seq_len=64" in said.en and example in said.en
    with pytest.raises(HanlinError, match="64"):
        build_conversation_dataset([{"messages": chats[1]}], tokenizer, tmp_path / "e", max_length=64)
    with pytest.raises(HanlinError):
        build_text_dataset([], tokenizer, tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("threads", [1, 3])
def test_text_is_encoded_in_order_whatever_the_threads(tmp_path, tokenizer, threads, monkeypatch):
    monkeypatch.setattr(texts, "BATCH_BYTES", 50)
    documents = [{"text": text} for text in ("小明在公园。", "", "你好" * 40, "a\ud800b", "好") * 5]
    data = build_text_dataset(documents, tokenizer, tmp_path / str(threads), threads=threads)
    assert [data.document(i).tolist() for i in range(len(data))] == [
        [*tokenizer.encode(d["text"]), tokenizer.eos_id] for d in documents
    ]
    assert data.manifest.metrics["bytes"] == sum(
        len(d["text"].encode("utf-8", "surrogatepass")) for d in documents
    )


def test_select_takes_the_tokens_to_predict():
    batch = pack_sequences([([1, 2, 3], [0, 1, 1]), ([4, 5], [1, 0])], 6)
    chosen = batch.labels != IGNORE_INDEX
    values = torch.arange(batch.labels.numel()).view(batch.labels.shape)
    assert batch.num_loss_tokens == int(chosen.sum()) == 2
    assert torch.equal(batch.gather_loss_tokens(values), values[chosen])
    assert torch.equal(
        batch.gather_loss_tokens(torch.stack([values, values], -1)), torch.stack([values, values], -1)[chosen]
    )


def test_bare_texts_are_mixed_in_and_learnt_whole(tmp_path):
    import itertools

    from hanlin.dataset import build_conversation_dataset

    tokenizer = tiny_tokenizer(tmp_path / "words")
    records = [
        {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": f"第{i}句"}]}
        for i in range(30)
    ]
    texts = itertools.cycle([np.arange(10, 15), np.arange(20, 90)])
    made = build_conversation_dataset(
        records, tokenizer, tmp_path / "data", max_length=64, text=texts, text_share=0.25
    )
    assert made.manifest.metrics["texts"] == 10 and len(made) == 40
    for index in range(len(made)):
        ids, mask = made.document(index), made.mask[made.starts[index] : made.starts[index + 1]]
        if ids[0] in (
            10,
            20,
        ):  # a text, cut to a row; all of it is learnt but its first token, which nothing precedes
            assert len(ids) == {10: 5, 20: 64}[int(ids[0])] and mask[0] == 0 and mask[1:].all()
    plain = build_conversation_dataset(records, tokenizer, tmp_path / "plain", max_length=64)
    assert plain.manifest.metrics["texts"] == 0 and len(plain) == 30


def test_an_empty_batch_has_no_rows_and_goes_anywhere():
    batch = Batch.empty(16)
    assert batch.ids.shape == batch.labels.shape == (0, 16) and batch.documents == []
    assert batch.num_loss_tokens == 0 and batch.split() == [batch]
    assert batch.to(torch.device("meta")).ids.device.type == "meta"
