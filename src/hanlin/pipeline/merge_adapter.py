"""`hanlin merge`: an adapter and its base as one plain model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hanlin.common.manifest import content_hash
from hanlin.corpus.readers.read import read_documents
from hanlin.evaluation.doctors.beside import read_beside
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.statistics import Metric
from hanlin.model import CausalLM, load_model
from hanlin.model.adapter_io import put_on
from hanlin.model.checkpoint_io import load_adapted
from hanlin.model.low_rank import merge_low_rank
from hanlin.model.peft_files import read_adapter
from hanlin.stages.base import write_model
from hanlin.tokenizer.files import TOKENIZER_JSON
from hanlin.tokenizer.foreign import open_any

Onto = Literal["trained", "original"]
TEXTS = 64  # that the divergence is measured on


def merge_adapter(
    adapter: Path, out: Path, onto: Onto = "trained", base: Path | None = None, text: Sequence[Path] = ()
) -> dict[str, Any]:
    """Publish the sum of an adapter and its base, in float32 and rounded once.

    Args:
        onto: `trained` adds to the weights that the adapter was trained on: of a quantised base the
            dequantised ones, which is the function that was trained. `original` adds to the base as it lies
            there, which differs from that by the error of the quantisation.
        base: directory of the model that it is for; where the adapter says, when absent.
        text: texts that neither has seen.

    Returns:
        `parameters`, `onto`, and with texts `divergence`: KL(adapter on its base ‖ merged model) in bits
        per token, and `agree`: share of places where both find the same token likeliest.

    Raises:
        HanlinError: no adapter there, damaged, or its base is missing or another model.
    """
    directory = read_adapter(adapter)
    below = directory.base() if base is None else base
    tokenizer = open_any(adapter if (adapter / TOKENIZER_JSON).is_file() else below)
    if onto == "trained":
        model = load_adapted(adapter, below)
    else:
        directory.require_base(below)
        model = load_model(below)
        put_on(model, dataclasses.replace(directory, quantization=""))
    merge_low_rank(model)
    found: dict[str, Any] = {"parameters": model.config.parameters(), "onto": onto}
    if text:
        documents = islice(read_documents([str(file) for file in text]), TEXTS)
        found |= _held_against(model, load_adapted(adapter, below), tokenizer, [d["text"] for d in documents])
    write_model(
        out,
        model,
        tokenizer,
        parents={"adapter": content_hash(adapter), "model": content_hash(below)},
        config={"kind": "merge", "onto": onto},
        seed=0,
        metrics={name: value for name, value in found.items() if not isinstance(value, Metric)},
    )
    return found


def _held_against(
    merged: CausalLM, adapted: CausalLM, tokenizer: Any, texts: Sequence[str]
) -> dict[str, Metric]:
    """How far the merged model is from what was trained."""
    beside = read_beside(DoctorContext(merged, tokenizer, documents=texts, chat=False), adapted)
    return {
        "divergence": Metric.ratio(np.maximum(beside.divergence, 0), beside.tokens, higher_is_better=False),
        "agree": Metric.ratio(beside.agree, beside.tokens),
    }
