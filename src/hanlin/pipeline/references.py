"""`hanlin eval MODEL --references FILE`: answers held against reference answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing
from hanlin.evaluation import references as overlap
from hanlin.evaluation.likelihood import document_bits
from hanlin.evaluation.statistics import Metric
from hanlin.evaluation.tasks.generation import answer_prompts
from hanlin.inference import encode_prompt, load_chat_model
from hanlin.tokenizer.token_bytes import token_bytes

_PROMPTS, _REFERENCES = ("messages", "prompt", "question"), ("references", "reference", "answer")


def evaluate_references(
    model_path: Path, file: Path, *, max_new_tokens: int = 256, chat: bool = True
) -> dict[str, Any]:
    """Metrics of a model's answers to the prompts of a file, and how likely it finds the references.

    Args:
        file: JSON lines with `messages` or `prompt`, and `references` or `reference`; with `output` the text
            to judge is that one and the model writes none.
        chat: prompts that are plain text are asked through the chat template, else continued.

    Returns:
        {"metrics": name → Metric, "signatures": name → how it was computed, "outputs": texts}.

    Raises:
        HanlinError: no such file, a line that is no record, or one without the columns.
    """
    overlap.require_sacrebleu()
    rows = _rows(file)
    references = [_references_of(row, file, at) for at, row in enumerate(rows)]
    model, tokenizer = load_chat_model(model_path)
    prompts = [_prompt_of(row, chat) for row in rows]
    metrics: dict[str, Metric] = {}
    ended = None
    if all("output" in row for row in rows):
        outputs = [str(row["output"]) for row in rows]
    else:
        answers = answer_prompts(model, tokenizer, prompts, max_new_tokens=max_new_tokens)
        outputs = [answer.text.rpartition("</think>")[2].strip() for answer in answers]
        ended = [answer.ended for answer in answers]
        metrics["stop_rate"] = Metric.share(ended)
    signatures = {}
    for name, score in (("bleu", overlap.bleu), ("chrf", overlap.chrf)):
        metrics[name], signatures[name] = score(outputs, references)
    metrics["rouge_l"] = Metric.mean(
        [
            max(overlap.rouge_l(text, reference) for reference in given)
            for text, given in zip(outputs, references, strict=True)
        ]
    )
    signatures["rouge_l"] = "characters, F1, best of the references"
    metrics["repetition_4"] = Metric.mean(
        [overlap.repetition(text) for text in outputs], higher_is_better=False
    )
    metrics["repetition_4/references"] = Metric.mean(
        [overlap.repetition(given[0]) for given in references], higher_is_better=False
    )
    metrics |= _likelihood(model, tokenizer, prompts, [given[0] for given in references])
    varied = {f"distinct_{n}": overlap.distinct(outputs, n) for n in (1, 2, 4)}
    return {"metrics": metrics, "signatures": signatures, "distinct": varied, "outputs": outputs}


def _likelihood(
    model: Any, tokenizer: Any, prompts: Sequence[Any], references: Sequence[str]
) -> dict[str, Metric]:
    """Bits per byte and perplexity per token of the first reference after its prompt."""
    width = token_bytes(tokenizer).numpy()
    ids, masks = [], []
    for prompt, reference in zip(prompts, references, strict=True):
        head = encode_prompt(tokenizer, prompt, bos_id=model.config.bos_token_id)
        tail = tokenizer.encode(reference)
        ids.append(np.array([*head, *tail], dtype=np.int64))
        masks.append(np.arange(len(ids[-1])) >= len(head))
    bits = document_bits(model, ids, masks)
    sizes = np.array([width[row[mask]].sum() for row, mask in zip(ids, masks, strict=True)])
    tokens = np.array([mask.sum() for mask in masks])
    per_byte = Metric.ratio(bits, sizes, higher_is_better=False)
    per_token = Metric.ratio(bits * math.log(2), tokens, higher_is_better=False)
    perplexity = Metric(
        math.exp(per_token.value), math.exp(per_token.low), math.exp(per_token.high), len(ids), False
    )
    return {"reference_bits_per_byte": per_byte, "reference_perplexity": perplexity}


def _rows(file: Path) -> list[Mapping[str, Any]]:
    if not file.is_file():
        raise HanlinError("There is no file {file}.", file=file)
    rows = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise HanlinError(
                "{file}, line {line} is no JSON: {reason}.", file=file, line=number, reason=error
            ) from error
        rows.append(row if isinstance(row, dict) else {})
        _prompt_of(rows[-1], True, file, number)
    if not rows:
        raise HanlinError("{file} is empty.", file=file)
    return rows


def _prompt_of(row: Mapping[str, Any], chat: bool, file: Path | None = None, number: int = 0) -> Any:
    """Messages to answer, or text to continue."""
    key = next((key for key in _PROMPTS if row.get(key)), None)
    if key is None:
        raise HanlinError(
            "{file}, line {line} has no {wanted}; its keys are: {known}.",
            file=file,
            line=number,
            wanted=listing(_PROMPTS),
            known=listing(row),
        )
    if key == "messages" or not chat:
        return row[key]
    return [{"role": "user", "content": str(row[key])}]


def _references_of(row: Mapping[str, Any], file: Path, at: int) -> list[str]:
    key = next((key for key in _REFERENCES if row.get(key)), None)
    if key is None:
        raise HanlinError(
            "{file}, line {line} has no {wanted}; its keys are: {known}.",
            file=file,
            line=at + 1,
            wanted=listing(_REFERENCES),
            known=listing(row),
        )
    value = row[key]
    return [str(text) for text in value] if isinstance(value, list) else [str(value)]
