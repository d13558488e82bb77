"""Recipes as plain values, before they are built: stages by their ids, so that overrides and sizes address
them as `sft.train.steps`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.common.config import apply_overrides
from hanlin.common.errors import HanlinError

STAGES = "stages"


def by_id(values: Mapping[str, Any], where: str, reserved: Sequence[str]) -> dict[str, Any]:
    """The values with each stage as a section under its id, in the order of the list; `stages` becomes the
    list of ids.

    A stage without an id takes its kind's name.

    Raises:
        HanlinError: `stages` is no list of mappings, or an id occurs twice or is the name of a section.
    """
    stages = values.get(STAGES) or []
    if not isinstance(stages, (list, tuple)) or not all(isinstance(stage, Mapping) for stage in stages):
        raise HanlinError(
            "{where}: `stages` should be a list, each entry with a kind: - {{kind: pretrain, …}}", where=where
        )
    named = {name: value for name, value in values.items() if name != STAGES}
    order: list[str] = []
    for stage in stages:
        name = str(stage.get("id") or stage.get("kind") or "")
        if not name:
            raise HanlinError(
                "{where}: a stage has neither `kind` nor `id`: {stage}", where=where, stage=dict(stage)
            )
        if name in order:
            raise HanlinError(
                "{where}: two stages are called {name}. Give one of them another id: - {{id: {name}-2, "
                "kind: …}}",
                where=where,
                name=name,
            )
        if name in reserved or not all(part.isalnum() for part in name.replace("_", "-").split("-")):
            raise HanlinError(
                "{where}: a stage cannot be called {name!r}. An id has letters, digits, - and _, and is "
                "not the name of a section.",
                where=where,
                name=name,
            )
        order.append(name)
        named[name] = {"id": name, **stage}
    return named | {STAGES: order}


def as_list(named: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `by_id`; a stage that was set to nothing is left out, and with it its controls."""
    order = named[STAGES]
    values = {name: value for name, value in named.items() if name not in order and name != STAGES}
    gone = {name for name in order if named.get(name) is None}
    stages = [named[name] for name in order if name not in gone and named[name].get("of") not in gone]
    return values | {STAGES: stages}


def override(named: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted overrides on values by id; `stages.sft.seq_len` is `sft.seq_len`, and `sft=null` leaves a stage
    out."""
    plain = [item.removeprefix(f"{STAGES}.") for item in overrides]
    return apply_overrides(dict(named), plain)


def merge(section: Any, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A section with other entries in it, sections within sections."""
    merged = dict(section or {})
    for name, value in entries.items():
        merged[name] = merge(merged.get(name), value) if isinstance(value, Mapping) else value
    return merged


def put(named: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the sections on the way."""
    *path, last = key.split(".")
    node = named
    for part in path:
        node[part] = dict(node.get(part) or {})
        node = node[part]
    node[last] = value
