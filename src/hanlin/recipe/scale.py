"""`--scale`: a recipe in small, to try it from end to end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from hanlin.common.config import build
from hanlin.common.errors import HanlinError
from hanlin.model import ModelShape
from hanlin.recipe.patch import STAGES, put
from hanlin.stages.stage import STAGES as STAGE_KINDS

_WIDTH_POWER = 1 / 2.75  # parameters go with width² times depth, and depth with width^0.75
_SMALLEST_VOCABULARY = 512
_ONE_PASS = 8192  # tokens of a step in small that are computed at once


def scaled(values: Mapping[str, Any], factor: float, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe in small, to try it from end to end: `factor` of the parameters, of the steps and of the
    tokens in a step.

    Rows keep their length in tokens. The vocabulary is smaller, so that a text takes more of them, and some
    records that fit in the full recipe are too long here; they are counted as ever. Learning rates stay. It
    is no model to be used.

    Args:
        values: by stage id (`patch.by_id`), of a recipe that can be built.
        fixed: dotted keys that stand.

    Raises:
        HanlinError: a factor outside (0, 1].
    """
    if not 0 < factor <= 1:
        raise HanlinError("--scale {factor} should be above 0 and at most 1.", factor=factor)
    patched = dict(values)

    def set_to(key: str, value: Any) -> None:
        if key not in fixed:
            put(patched, key, value)

    if factor == 1:
        return patched
    model = build(ModelShape, values.get("model") or {}, "model", "model.")
    vocabulary = int((values.get("tokenizer") or {}).get("vocab_size", 6400))
    shape, small = scaled_shape(model, vocabulary, factor)
    for name, value in shape.items():
        set_to(f"model.{name}", value)
    set_to("tokenizer.vocab_size", small)
    documents = (values.get("corpus") or {}).get("documents")
    if documents:
        set_to("corpus.documents", max(300, round(documents * factor)))
    for name in values.get(STAGES, ()):
        stage = values.get(name)
        if stage is not None:
            for key, value in _scaled_stage(stage, factor).items():
                set_to(f"{name}.{key}", value)
    judged = values.get("evaluation") or {}
    set_to("evaluation.count", max(20, round(judged.get("count", 500) * factor)))
    set_to("evaluation.max_new_tokens", min(32, judged.get("max_new_tokens", 128)))
    return patched


def scaled_shape(model: ModelShape, vocabulary: int, factor: float) -> tuple[dict[str, int], int]:
    """Fields of the model nearest to `factor` of a model's parameters, and its vocabulary.

    The vocabulary shrinks as width does not, by factor^(1 - 1/2.75), so that the embedding keeps its share;
    a position's or a small vocabulary's share grows all the same, and the width is what makes up for it.
    """
    target = factor * model.config(vocabulary, 0).parameters()
    wanted = round(vocabulary * factor ** (1 - _WIDTH_POWER) / 64) * 64
    small = min(vocabulary, max(_SMALLEST_VOCABULARY, wanted))
    best: tuple[float, dict[str, int]] | None = None
    for step in range(41):  # from four thirds of the width that the power says down to a third of it
        fields = _narrowed(model, min(1.0, 4 / 3 * factor**_WIDTH_POWER * 4 ** (-step / 40)))
        count = dataclasses.replace(model, **fields).config(small, 0).parameters()
        off = abs(math.log(count / target))
        if best is None or off < best[0]:
            best = off, fields
    assert best is not None
    return best[1], small


def _narrowed(model: ModelShape, narrow: float) -> dict[str, int]:
    """Fields of a model of about `narrow` of the width, with heads of the usual size as far as they go."""
    heads = max(1, round(model.num_attention_heads * narrow))
    head_dim = max(16, round(model.hidden_size * narrow / heads / 16) * 16)
    groups = model.num_attention_heads // (model.num_key_value_heads or model.num_attention_heads)
    fields = {
        "hidden_size": heads * head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // groups if heads % groups == 0 else heads,
        "num_hidden_layers": max(2, round(model.num_hidden_layers * narrow**0.75)),
    }
    if model.intermediate_size:
        fields["intermediate_size"] = max(32, round(model.intermediate_size * narrow / 32) * 32)
    if model.head_dim:
        fields["head_dim"] = head_dim
    return fields


def _scaled_stage(stage: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Dotted keys of a stage in small; what it does not say is its kind's."""
    usual = _defaults(STAGE_KINDS.get(stage["kind"]).Config)
    said = usual | dict(stage)
    small: dict[str, Any] = {}
    if not said["equal_time"]:  # such a control stops by the clock
        steps = (stage.get("train") or {}).get("steps", usual["train"].steps)
        small["train.steps"] = max(2, round(steps * factor))
    if "batch_tokens" in said:
        row = said["seq_len"]
        batch = max(2 * row, round(said["batch_tokens"] * factor / row) * row)
        small["batch_tokens"] = batch
        if batch <= _ONE_PASS:
            small["micro_tokens"] = batch
    for key in ("pairs", "prompts"):
        if key in said:
            small[key] = max(2, round(said[key] * factor))
    if "group_size" in said:
        small["group_size"] = max(2, round(said["group_size"] * factor**0.5))
    if "max_new_tokens" in said:
        small["max_new_tokens"] = min(said["max_new_tokens"], 32)
    data = stage.get("data") or {}
    for key in ("examples", "limit"):
        if data.get(key):
            small[f"data.{key}"] = max(100, round(data[key] * factor))
    return small


def _defaults(config: type) -> dict[str, Any]:
    """Key → default of a configuration's fields that have one."""
    found = {}
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found
