"""What a run made, for its report and its model card: the model in figures, a sentence in tokens, an item of
each stage's data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST
from hanlin.common.messages import Text
from hanlin.corpus.builder.build import read_corpus
from hanlin.dataset import TokenDataset
from hanlin.model import ModelConfig
from hanlin.recipe.recipe import Recipe
from hanlin.tokenizer import Tokenizer, load_tokenizer
from hanlin.tokenizer.foreign import open_any

_SENTENCE = 60  # characters of the sentence that is cut into tokens
_EXAMPLE = 400  # tokens of an item of training data
_LONGEST = 8


def about_model(recipe: Recipe, out: Path, device: str) -> dict[str, Any]:
    """The published model in figures: shape, and where the recipe pretrains it, tokens, FLOP, where its text
    came from.

    Tokens read are those that pretraining logged; those of its settings where the log is gone.
    """
    shape = ModelConfig.from_hf(out / "model")
    about = about_shape(shape) | {"device": device}
    if not recipe.begins_from_text:
        return about
    corpus, dataset = (_notes(out, name) for name in ("corpus", "dataset"))
    section = recipe.pretrain
    logged = sum(line.get("tokens", 0) for line in _lines(out / "curves" / f"{section.id}.jsonl"))
    seen = logged or section.train.steps * section.rows * section.seq_len
    return about | {
        "training_tokens": dataset.get("tokens"),
        "tokens_seen": int(seen),
        "training_flops": shape.flops_per_token(section.seq_len) * seen,
        "documents": corpus.get("documents_kept"),
        "characters": corpus.get("characters_kept"),
        "sources": dataset.get("sources") or {},
    }


def about_shape(shape: ModelConfig) -> dict[str, Any]:
    """A model's shape in figures."""
    return {
        "family": shape.family,
        "parameters": shape.parameters(),
        "layers": shape.num_hidden_layers,
        "hidden_size": shape.hidden_size,
        "heads": shape.num_attention_heads,
        "key_value_heads": shape.num_key_value_heads,
        "vocab_size": shape.vocab_size,
        "context": shape.max_position_embeddings,
    }


def tokens_facts(out: Path) -> dict[str, Any]:
    """A sentence of the held-out text in tokens, and what the vocabulary makes of the training text."""
    tokenizer = load_tokenizer(out / "tokenizer")
    corpus, dataset = (_notes(out, name) for name in ("corpus", "dataset"))
    text = next(
        (document["text"] for document in islice(read_corpus(out / "corpus", "heldout"), 1)),
        "翰林学士读书写字。",
    )
    text = text.strip()[:_SENTENCE]
    words = [
        token.decode() for token in tokenizer.vocabulary.tokens if _is_text(token) and not token.isascii()
    ]
    facts = {
        "vocab_size": tokenizer.vocab_size,
        "text": text,
        "tokens": [_piece(tokenizer, token) for token in tokenizer.encode(text)],
        "longest": sorted(words, key=len, reverse=True)[:_LONGEST],
    }
    if corpus.get("characters_kept") and dataset.get("tokens"):
        facts["characters_per_token"] = corpus["characters_kept"] / dataset["tokens"]
    return facts


def examples(recipe: Recipe, out: Path, problems: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """One item of each stage's training data, as the model reads it: {stage: [{"label", "parts": [[text, is
    it learned], …]}]}.

    Args:
        problems: one of each stage on problems, which are not encoded.
    """
    tokenizer = open_any(out / "model")
    found: dict[str, list[dict[str, Any]]] = {}
    for stage in recipe.stages:
        folder = out / "dataset" if stage.stage.schema is None else out / "data" / stage.id
        if stage.id in problems:
            found[stage.id] = [_problem(problems[stage.id])]
        elif (folder / MANIFEST).is_file():
            data = TokenDataset(folder, verify=False)
            if stage.stage.schema == "preferences":
                labels = [Text("the better one"), Text("the worse one")]
                if data.manifest.config.get("labelled"):
                    labels = [Text("an answer that has a label")]
                found[stage.id] = [
                    {"label": {"zh": label.zh, "en": label.en}, "parts": _parts(data, tokenizer, side)}
                    for side, label in enumerate(labels)
                ]
            else:
                index = 0 if stage.stage.schema is None else _conversation(data)
                found[stage.id] = [{"label": None, "parts": _parts(data, tokenizer, index)}]
    return found


def _problem(problem: Any) -> dict[str, Any]:
    asked = next(message["content"] for message in problem["messages"] if message["role"] == "user")
    label = Text("a problem, and the answer that it is checked by")
    return {
        "label": {"zh": label.zh, "en": label.en},
        "parts": [[f"{asked}\n→ {problem.get('answer', '')}", False]],
    }


def _conversation(data: TokenDataset) -> int:
    """The first document that is not bare text, whose tokens are all learned."""
    assert data.mask is not None
    for index in range(min(len(data), 100)):
        if not data.mask[data.starts[index]]:
            return index
    return 0


def _parts(data: TokenDataset, tokenizer: Tokenizer, index: int) -> list[list[Any]]:
    """A document in runs of tokens that are learned or not; of bare text, where all are, none is marked."""
    ids = np.asarray(data.document(index))[:_EXAMPLE]
    mask = np.zeros(len(ids), dtype=bool)
    if data.mask is not None:
        mask = np.asarray(data.mask[data.starts[index] : data.starts[index] + len(ids)], dtype=bool)
    edges = [0, *(np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist(), len(ids)]
    parts = [
        [tokenizer.decode(ids[start:end]), bool(mask[start])]
        for start, end in zip(edges, edges[1:], strict=False)
        if end > start
    ]
    if len(ids) == _EXAMPLE:
        parts.append(["…", False])
    return parts


def _piece(tokenizer: Tokenizer, token: int) -> str:
    """A token as people read it; one that is part of a character by its bytes, `<E7>`."""
    raw = tokenizer.decode_bytes([token])
    return raw.decode() if _is_text(raw) else "".join(f"<{byte:02X}>" for byte in raw)


def _is_text(raw: bytes) -> bool:
    try:
        return bool(raw.decode())
    except UnicodeDecodeError:
        return False


def _notes(out: Path, step: str) -> Mapping[str, Any]:
    """What a step noted; nothing where its record is not to be read."""
    try:
        return read_json(out / "steps" / f"{step}.json").get("notes") or {}
    except HanlinError:
        return {}


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [orjson.loads(line) for line in file.read_bytes().splitlines() if line.endswith(b"}")]
