"""Bits per byte: how many bits a model needs for each UTF-8 byte of text it has never seen. Comparable across
vocabularies.

What is counted, the same for the model and for its n-gram control:

* every token of a document given those before it, the end-of-document token included (its bits count, it has
  no bytes): knowing where a text ends is part of predicting it;
* the first token too, given the model's start token (`ModelConfig.bos_token_id`), where the model was trained
  to predict it. Convention `continuation` leaves the first token out, its bits and its bytes: that of models
  without a start token, whose first token nothing precedes;
* in documents longer than the context, each token is predicted from a sliding window, which moves on by half
  the context: all but a document's beginning sees at least half a context of preceding text;
* corpus totals, Σ bits / Σ bytes, with a bootstrap over documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hanlin.common.errors import ConfigError, HanlinError
from hanlin.common.manifest import MANIFEST, read_manifest
from hanlin.corpus.readers.read import read_documents
from hanlin.dataset import TokenDataset
from hanlin.evaluation.batches import batches_of
from hanlin.evaluation.item_scores import digest, item_ids
from hanlin.evaluation.ngram import NGramModel
from hanlin.evaluation.statistics import Metric
from hanlin.inference import resolve_model_dir
from hanlin.inference.generate import load_chat_model
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.token_bytes import token_bytes

Convention = Literal["document", "continuation"]
CONTROL_TOKENS = 10_000_000  # what an n-gram control counts at most: 2.2 GB and half a minute (measured here)


def bits_per_byte(
    model: CausalLM,
    tokenizer: Tokenizer,
    documents: Sequence[Mapping[str, Any]],
    *,
    context: int | None = None,
    convention: Convention | None = None,
    seed: int = 0,
) -> dict[str, Metric]:
    """Bits per byte of held-out documents, per source and of `all`.

    Args:
        documents: `{"text", "source"?}`.
        context: tokens the model sees at once; pass the length it was trained at when that is less than its
            positions.
        convention: `document` counts the first token, `continuation` does not; what the model was trained for
            when absent.

    Raises:
        HanlinError: `document`, of a model without a start token.
        ValueError: no document has two tokens or more.
    """
    bos_id = model.config.bos_token_id
    if convention == "document" and bos_id is None:
        raise HanlinError(
            "This model has no start token (bos_token_id of its config.json), so the first token of a text "
            "was never trained and can't be counted. Leave out --convention, or say continuation."
        )
    ids, sizes = encode_documents(tokenizer, documents, bos_id)
    masks = None
    if convention == "continuation" and bos_id is not None:
        width = token_bytes(tokenizer).numpy()
        sizes = sizes - np.array([width[row[1]] for row in ids], dtype=np.int64)
        masks = [np.arange(len(row)) != 1 for row in ids]
    bits = document_bits(model, ids, masks, context=context)
    counted: Convention = "continuation" if bos_id is None else convention or "document"
    sources = [document.get("source") for document in documents]
    return by_source(bits, sizes, sources, ids=_texts(documents), convention=counted, seed=seed)


def bits_per_byte_of_files(
    path: Path | str,
    files: Sequence[Path | str],
    count: int,
    *,
    convention: Convention | None = None,
    device: str | None = None,
) -> dict[str, Metric]:
    """Bits per byte of a model on the first `count` documents of files: `bits_per_byte`, and
    `bits_per_byte/SOURCE` where there are several.

    Args:
        path: of a model or a run. Text is seen in windows of the length that the model was trained at, where
            its manifest says so.
        convention: see `bits_per_byte`.

    Raises:
        HanlinError: no model, no text, `document` of a model without a start token, or a count that is not
            positive.
    """
    if count < 1:
        raise HanlinError("--count is at least 1, not {count}.", count=count)
    model, tokenizer = load_chat_model(path, device)
    folder = resolve_model_dir(path)
    trained = (
        read_manifest(folder, verify=False).config.get("seq_len") if (folder / MANIFEST).is_file() else None
    )
    documents = list(islice(read_documents([str(file) for file in files]), count))
    scores = bits_per_byte(model, tokenizer, documents, context=trained, convention=convention)
    named = {f"bits_per_byte/{name}": metric for name, metric in scores.items() if name != "all"}
    return {"bits_per_byte": scores["all"]} | (named if len(named) > 1 else {})


def ngram_bits_per_byte(
    training: TokenDataset,
    tokenizer: Tokenizer,
    documents: Sequence[Mapping[str, Any]],
    *,
    order: int = 5,
    convention: Convention = "document",
    seed: int = 0,
) -> Metric:
    """Bits per byte of the control: an n-gram model counted on the same training tokens, which knows where a
    document begins.

    Of more than `CONTROL_TOKENS` training tokens, documents at equal distances are counted; `ngram_name`
    then says so.

    Raises:
        HanlinError: the training tokens come from another tokenizer.
    """
    training.require_tokenizer(tokenizer)
    control = NGramModel(tokenizer.vocab_size, order).fit(
        [training.document(index) for index in _counted(training)]
    )
    counted = convention == "document"
    ids, sizes = encode_documents(tokenizer, documents, tokenizer.eos_id if counted else None)
    bits = control.bits([row[1:] for row in ids]) if counted else control.bits(ids, skip=1)
    names = _texts(documents)
    return by_source(bits, sizes, [None] * len(ids), ids=names, convention=convention, seed=seed)["all"]


def ngram_name(training: TokenDataset, order: int = 5) -> str:
    """Name of the control: `5-gram`, or `5-gram on 9.6M tokens` where it was not counted on all that the
    model was trained on."""
    counted = _counted(training)
    if len(counted) == len(training):
        return f"{order}-gram"
    tokens = int(training.lengths[counted.start : counted.stop : counted.step].sum())
    return (
        f"{order}-gram on {tokens / 1e6:.1f}M tokens" if tokens >= 1e5 else f"{order}-gram on {tokens} tokens"
    )


def _counted(training: TokenDataset) -> range:
    """Documents that an n-gram control counts."""
    return range(0, len(training), max(1, math.ceil(len(training.tokens) / CONTROL_TOKENS)))


def answer_bits_per_byte(
    model: CausalLM,
    tokenizer: Tokenizer,
    conversations: TokenDataset,
    *,
    context: int | None = None,
    seed: int = 0,
) -> Metric:
    """Bits per byte of what the assistant says, given all that was said before it; conversations are the
    items.

    Raises:
        HanlinError: the conversations were encoded by another tokenizer.
    """
    conversations.require_tokenizer(tokenizer)
    starts, mask = conversations.starts, conversations.mask
    if mask is None:
        raise ConfigError(
            "{path} has no loss mask: it holds texts, not conversations", path=conversations.path
        )
    ids = [np.asarray(conversations.document(index), dtype=np.int64) for index in range(len(conversations))]
    masks = [
        np.asarray(mask[starts[index] : starts[index + 1]], dtype=bool) for index in range(len(conversations))
    ]
    width = token_bytes(tokenizer).numpy()
    sizes = np.array([width[row[1:][said[1:]]].sum() for row, said in zip(ids, masks, strict=True)])
    bits = document_bits(model, ids, masks, context=context)
    names = conversation_ids(tokenizer, conversations)
    return Metric.ratio(bits, sizes, ids=names, higher_is_better=False, seed=seed)


def pairs_preferred(
    model: CausalLM, tokenizer: Tokenizer, pairs: TokenDataset, *, context: int | None = None
) -> Metric:
    """Share of preference pairs whose chosen answer has the higher mean log probability per token; equal
    ones count half.

    Args:
        pairs: as `build_pair_dataset` writes them: documents 2i and 2i+1 are the chosen and the rejected
            conversation of pair i.

    Raises:
        HanlinError: the pairs were encoded by another tokenizer.
    """
    pairs.require_tokenizer(tokenizer)
    starts, mask = pairs.starts, pairs.mask
    assert mask is not None
    ids = [np.asarray(pairs.document(index), dtype=np.int64) for index in range(len(pairs))]
    masks = [np.asarray(mask[starts[index] : starts[index + 1]], dtype=bool) for index in range(len(pairs))]
    mean = document_bits(model, ids, masks, context=context) / np.array(
        [max(1, row[1:].sum()) for row in masks]
    )
    chosen, rejected = mean[0::2], mean[1::2]
    hits = (chosen < rejected) + 0.5 * (chosen == rejected)
    return Metric.share(hits, ids=pair_ids(tokenizer, pairs), chance=0.5)


def conversation_ids(tokenizer: Tokenizer, conversations: TokenDataset) -> tuple[str, ...]:
    """Ids of encoded conversations, from their texts."""
    return item_ids(tokenizer.decode(conversations.document(index)) for index in range(len(conversations)))


def pair_ids(tokenizer: Tokenizer, pairs: TokenDataset) -> tuple[str, ...]:
    """Ids of encoded pairs, documents 2i and 2i+1 being the sides of pair i."""
    sides = conversation_ids(tokenizer, pairs)
    return item_ids(zip(sides[0::2], sides[1::2], strict=True))


def _texts(documents: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Ids of documents."""
    return item_ids(document["text"] for document in documents)


def by_source(
    bits: np.ndarray,
    sizes: np.ndarray,
    sources: Sequence[str | None],
    *,
    ids: Sequence[str],
    convention: Convention,
    seed: int = 0,
) -> dict[str, Metric]:
    """Per-document bits and bytes as one metric per named source, and `all`.

    Args:
        ids: of the documents.
        convention: what was counted; where it differs, bits are not compared document by document.
    """
    groups = {"all": np.ones(len(bits), dtype=bool)}
    for source in sorted({source for source in sources if source}):
        groups[source] = np.array([name == source for name in sources])
    found = {}
    for name, chosen in groups.items():
        if name == "all" or sizes[chosen].sum() > 0:
            names = [ids[int(at)] for at in np.flatnonzero(chosen)]
            found[name] = Metric.ratio(
                bits[chosen],
                sizes[chosen],
                ids=names,
                data=digest(names, convention),
                higher_is_better=False,
                seed=seed,
            )
    return found


def encode_documents(
    tokenizer: Tokenizer, documents: Sequence[Mapping[str, Any]], bos_id: int | None = None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Ids of each document with its end token, after `bos_id` where there is one, int64; and the bytes of all
    but the first id, (documents,)."""
    width = token_bytes(tokenizer).numpy()
    encoded = tokenizer.encode_batch([document["text"] for document in documents])
    before = [] if bos_id is None else [bos_id]
    ids = [np.array([*before, *row, tokenizer.eos_id], dtype=np.int64) for row in encoded]
    return ids, np.array([width[row[1:]].sum() for row in ids], dtype=np.int64)


@torch.inference_mode()
def document_bits(
    model: CausalLM,
    documents: Sequence[np.ndarray],
    masks: Sequence[np.ndarray] | None = None,
    *,
    context: int | None = None,
) -> np.ndarray:
    """-log2 probability of each document's tokens but the first, summed per document, (documents,) float64.

    Args:
        documents: token ids, int64.
        masks: which tokens count, bool; all when absent.
        context: see `bits_per_byte`; the model's positions when absent.
    """
    limit = min(context or model.config.max_position_embeddings, model.config.max_position_embeddings)
    device = model.device
    training = model.training
    model.eval()
    windows = [
        (index, *window) for index, row in enumerate(documents) for window in sliding_windows(len(row), limit)
    ]
    totals = np.zeros(len(documents))
    width_of = [end - first for _, first, _, end in windows]
    for group in batches_of(range(len(windows)), width_of.__getitem__, device):
        batch, width = [windows[at] for at in group], width_of[group[-1]]
        ids = np.zeros((len(batch), width), dtype=np.int64)
        labels = np.full((len(batch), width), -1, dtype=np.int64)
        for row, (index, first, scored, end) in enumerate(batch):
            document = documents[index]
            # padding comes after all real tokens, which cannot see it
            ids[row, : end - first] = document[first:end]
            wanted = document[scored + 1 : end + 1]
            labels[row, scored - first : end - first] = (
                wanted if masks is None else np.where(masks[index][scored + 1 : end + 1], wanted, -1)
            )
        hidden = model.hidden(torch.from_numpy(ids).to(device))
        kept = torch.from_numpy(labels >= 0).to(device)
        logs = model.head.token_log_probs(hidden[kept], torch.from_numpy(labels).to(device)[kept])
        owner = np.repeat([window[0] for window in batch], (labels >= 0).sum(axis=1))
        totals += np.bincount(
            owner, weights=-logs.double().cpu().numpy() / math.log(2), minlength=len(documents)
        )
    model.train(training)
    return totals


def sliding_windows(length: int, context: int) -> list[tuple[int, int, int]]:
    """(first, scored, end) of each window over a document: tokens first … end-1 are read, tokens scored+1 …
    end predicted.

    Every token but the document's first is predicted once; windows overlap by half a context.
    """
    if length < 2:
        return []
    windows = [(0, 0, min(context, length - 1))]
    while windows[-1][2] < length - 1:
        scored = windows[-1][2]
        end = min(scored + max(1, context // 2), length - 1)
        windows.append((max(0, end - context), scored, end))
    return windows
