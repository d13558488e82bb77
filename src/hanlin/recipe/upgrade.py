"""Recipes and stage files of the shape before stages were a list: recognised, refused, and rewritten (`hanlin
recipe upgrade`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hanlin.common.config import RENAMED_KEYS, load_yaml
from hanlin.common.errors import HanlinError

_STAGES = ("pretrain", "sft", "distill", "dpo", "reward", "grpo")
_KINDS = {"distill": "sft", "dpo": "preference", "reward": "reward_model", "grpo": "rl"}
_WIDTH = 110
_TOP = ("name", "description", "seed", "device", "track", "params", "depth", "tokens")


def is_old_recipe(values: Mapping[str, Any]) -> bool:
    """Whether these are a recipe's values with stages as sections."""
    if "stages" in values:
        return False
    return any(isinstance(values.get(name), Mapping) for name in _STAGES) and (
        "corpus" in values or "evaluation" in values or "name" in values
    )


def is_old_stage_file(values: Mapping[str, Any]) -> bool:
    """Whether these are the values of a single stage's file with the section `config` or `pretrain` inside
    it."""
    return "stages" not in values and (
        isinstance(values.get("config"), Mapping)
        or ("files" in values and "data" not in values)
        or (isinstance(values.get("pretrain"), Mapping) and "dataset" in values)
    )


def refuse_old_shape(values: Mapping[str, Any], path: Path | str) -> None:
    """Refuse values of the old shape, with the new one for this very file.

    Raises:
        HanlinError: they are.
    """
    if is_old_recipe(values) or is_old_stage_file(values):
        raise HanlinError(
            "{path} has the shape of before: stages are a list now. The same in the new shape "
            "(hanlin recipe upgrade {path} writes it):\n\n{text}",
            path=path,
            text=to_yaml(upgraded(values)),
        )


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in the new shape; values of the new shape as they are."""
    if is_old_stage_file(values):
        return _upgraded_stage_file(values)
    if is_old_recipe(values):
        return _upgraded_recipe(values)
    return dict(values)


def upgrade_file(path: Path) -> str:
    """The text of a file in the new shape.

    Raises:
        HanlinError: it is no YAML mapping, or of the new shape already.
    """
    values = load_yaml(path)
    if not is_old_recipe(values) and not is_old_stage_file(values):
        raise HanlinError("{path} has the new shape already: there is nothing to do.", path=path)
    return to_yaml(upgraded(values))


def to_yaml(values: Mapping[str, Any]) -> str:
    """YAML as people write it: sections in braces where they fit a line, a stage an entry of the list."""
    lines = []
    for key, value in values.items():
        if key == "stages":
            lines.append("stages:")
            for stage in value:
                first, *rest = _block(stage, "    ")
                lines += [f"  - {first.strip()}", *rest]
        else:
            lines += _entry(key, value, "")
    return "\n".join(lines) + "\n"


def _block(section: Mapping[str, Any], indent: str) -> list[str]:
    """A stage: what it is in one line, then its sections."""
    named = {key: value for key, value in section.items() if not isinstance(value, (Mapping, list))}
    lines = []
    for key, value in named.items():
        lines += _entry(key, value, indent)
    for key, value in section.items():
        if key not in named:
            lines += _entry(key, value, indent)
    return lines


def _entry(key: str, value: Any, indent: str) -> list[str]:
    line = f"{indent}{key}: {_flow(value)}"
    if len(line) <= _WIDTH or not isinstance(value, Mapping):
        return [line]
    lines = [f"{indent}{key}:"]
    for name, item in value.items():
        lines += _entry(name, item, indent + "  ")
    return lines


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, allow_unicode=True, sort_keys=False, default_flow_style=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("\n...")


def _upgraded_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    new: dict[str, Any] = {key: values[key] for key in _TOP if key in values}
    corpus = dict(values.get("corpus") or {})
    tinyworld = not corpus.get("files")
    new["corpus"] = {"kind": "tinyworld", **corpus} if tinyworld and "documents" in corpus else corpus
    for key in ("tokenizer", "model"):
        if key in values:
            new[key] = values[key]
    stages = []
    for name in _STAGES:
        section = values.get(name)
        if isinstance(section, Mapping):
            stages += _upgraded_section(name, section, values, tinyworld)
        elif name == "pretrain" and name not in values:
            stages.append({"id": "pretrain", "kind": "pretrain"})
    new["stages"] = stages
    if "evaluation" in values:
        new["evaluation"] = values["evaluation"]
    new["export"] = [{"kind": "gguf"}]
    return new


def _upgraded_section(
    name: str, section: Mapping[str, Any], values: Mapping[str, Any], tinyworld: bool
) -> list[dict[str, Any]]:
    """A stage of the old shape as one of the new, with the controls that came with it."""
    rest = _train_renamed(section)
    data = _data_of(name, rest, tinyworld, isinstance(values.get("distill"), Mapping))
    stage: dict[str, Any] = {"id": name, "kind": _KINDS.get(name, name)}
    seeds = rest.pop("seeds", None)
    rate = rest.pop("control_learning_rate", None)
    if data:
        stage["data"] = data
    if seeds:
        stage["seeds"] = seeds
    elif name == "grpo":
        stage["seeds"] = 3
    stages = [stage | rest]
    if name == "distill" and data:
        control = {"id": "direct", "kind": "sft", "role": "control", "of": name}
        target = {"evaluate": {"target": "tinyworld/math_word_problems_direct"}} if tinyworld else {}
        stages.append(control | {"data": data | {"reasoning": "drop"}} | target | rest)
    if name == "grpo" and isinstance(values.get("distill"), Mapping):
        rehearsed = _train_renamed(values["distill"])
        control = {"id": "equal-time-sft", "kind": "sft", "role": "control", "of": name, "equal_time": True}
        train = {
            "steps": 100_000,
            "learning_rate": rate or 6e-5,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "decay_ratio": 0.0,
            "compile": False,
        }
        kept = {key: value for key, value in (rehearsed.get("train") or {}).items() if key not in train}
        control |= {"data": _data_of("distill", rehearsed, tinyworld), "seeds": stage["seeds"]}
        stages.append(control | rehearsed | {"train": kept | train})
    return stages


def _data_of(name: str, rest: dict[str, Any], tinyworld: bool, with_reasoning: bool = True) -> dict[str, Any]:
    """The entries of a section that say where its records come from, taken out of it."""
    if name == "pretrain":
        return {}
    files, limit = rest.pop("files", None), rest.pop("limit", None)
    examples, share = rest.pop("examples", None), rest.pop("think_share", None)
    if not tinyworld:
        return {"files": files or []} | ({"limit": limit} if limit else {})
    task = {"sft": "chat", "distill": "reasoning", "dpo": "manner", "reward": "manner", "grpo": "problems"}[
        name
    ]
    data: dict[str, Any] = {"kind": "tinyworld", "task": task}
    if examples is not None:
        data["examples"] = examples
    if share is not None:
        data["think_share"] = share
    if name == "dpo":
        data["anchors"] = "reasoning" if with_reasoning else "chat"
    if name == "reward":
        data["offset"] = 1
    return data


def _train_renamed(section: Mapping[str, Any]) -> dict[str, Any]:
    new = dict(section)
    if isinstance(new.get("train"), Mapping):
        new["train"] = {RENAMED_KEYS.get(key, key): value for key, value in new["train"].items()}
    return new


def _upgraded_stage_file(values: Mapping[str, Any]) -> dict[str, Any]:
    """A single stage's file: the section's entries stand beside `from` and `data` now."""
    new: dict[str, Any] = {}
    if isinstance(values.get("pretrain"), Mapping) or "dataset" in values:
        new |= {key: values[key] for key in ("dataset", "tokenizer", "model") if key in values}
        new |= _train_renamed(values.get("pretrain") or {})
    else:
        if "model" in values:
            new["from"] = values["model"]
        data = {"files": values.get("files", [])}
        if values.get("limit"):
            data["limit"] = values["limit"]
        new |= {"data": data} | _train_renamed(values.get("config") or {})
    return new | {key: values[key] for key in ("seed", "device", "track") if key in values}
